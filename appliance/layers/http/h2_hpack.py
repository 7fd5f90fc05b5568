"""HPACK (RFC 7541) for the hot path: a field that is in a table costs one dictionary look-up on either side.

Strings are sent as they are, for Huffman coding costs more here than it saves; received ones are decoded by hpack's
tables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

STATIC: Final[tuple[Field, ...]] = tuple([(name, value) for name, value in HeaderTable.STATIC_TABLE])
_STATIC_INDEX: Final = {field: at for at, field in reversed(list(enumerate(STATIC, 1)))}
_STATIC_NAME: Final = {name: at for at, (name, _) in reversed(list(enumerate(STATIC, 1)))}
_FIRST: Final = len(STATIC) + 1
_OVERHEAD: Final = 32
TABLE: Final = 4096
"""Bytes of dynamic table, ours and the most we use of a peer's."""
_PASSING: Final = frozenset(
    {
        b":path",
        b"age",
        b"content-length",
        b"etag",
        b"if-modified-since",
        b"if-none-match",
        b"location",
        b"set-cookie",
    }
)
"""Fields whose values seldom come twice: not worth a place in the table."""
_SECRET: Final = frozenset({b"authorization", b"proxy-authorization"})
_SHORT_SECRET = 20
"""A cookie shorter than this could be guessed byte by byte through the table's size (RFC 7541 §7.1)."""


class HpackError(Exception):
    """COMPRESSION_ERROR."""


class TooLarge(Exception):
    """The list is over the hard limit; the table is out of step from here on."""


class NeverIndexed(tuple[bytes, bytes]):
    """A field that no intermediary may put into a table (RFC 7541 §7.1.3). Otherwise a field like any other."""

    __slots__ = ()


def _integer(first: int, bits: int, value: int) -> bytes:
    """RFC 7541 §5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Encoder:
    """limit: bytes that the peer lets our table have."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Field, int]] = deque()
        self._places: dict[Field, int] = {}  # of the latest entry with this field, counted from the first ever
        self._made = 0
        self._size = 0
        self._limit = TABLE
        self._say: list[int] = []  # the least size, and the last, since a block was encoded

    def resize(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE."""
        size = min(size, TABLE)
        if size != self._limit:
            self._limit = size
            self._say = [min(self._say[0], size), size] if self._say else [size]
            self._evict(0)

    def encode(self, fields: Iterable[Field]) -> bytes:
        out = bytearray()
        if self._say:
            # The smallest on the way has emptied the peer's table too (§4.2).
            for size in dict.fromkeys(self._say):
                out += _integer(0x20, 5, size)
            self._say.clear()
        places = self._places
        for field in fields:
            at = _STATIC_INDEX.get(field)
            if at is not None:
                out.append(0x80 | at)
                continue
            place = places.get(field)
            if place is not None:
                at = _FIRST + self._made - place
                if at < 127:
                    out.append(0x80 | at)
                else:
                    out += _integer(0x80, 7, at)
                continue
            self._literal(out, field)
        return bytes(out)

    def _literal(self, out: bytearray, field: Field) -> None:
        name, value = field
        named = _STATIC_NAME.get(name, 0)
        if type(field) is NeverIndexed or name in _SECRET or (name == b"cookie" and len(value) < _SHORT_SECRET):
            out += _integer(0x10, 4, named)
        elif name in _PASSING or len(value) > TABLE // 4:
            out += _integer(0x00, 4, named)
        else:
            out += _integer(0x40, 6, named)
            self._insert(field)
        if not named:
            out += _integer(0, 7, len(name))
            out += name
        size = len(value)
        if size < 127:
            out.append(size)
        else:
            out += _integer(0, 7, size)
        out += value

    def _insert(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + _OVERHEAD
        self._evict(size)
        if size > self._limit:
            return
        self._made += 1
        self._entries.append((field, self._made))
        self._places[field] = self._made
        self._size += size

    def _evict(self, coming: int) -> None:
        entries, places = self._entries, self._places
        while entries and self._size + coming > self._limit:
            field, place = entries.popleft()
            self._size -= len(field[0]) + len(field[1]) + _OVERHEAD
            if places.get(field) == place:
                del places[field]


class Decoder:
    """hard_limit: bytes of a field list (RFC 9113 §6.5.2) over which it is not even decoded."""

    def __init__(self, hard_limit: int) -> None:
        self._hard = hard_limit
        self._table: deque[Field] = deque()  # the latest first
        self._size = 0
        self._limit = TABLE

    def decode(self, block: bytes) -> tuple[list[Field], int]:
        """(fields, their size). :raises HpackError: malformed. :raises TooLarge: as it says."""
        fields: list[Field] = []
        at, end, total = 0, len(block), 0
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index = first & 0x7F
                    at += 1
                    if index == 0x7F:
                        index, at = self._integer(block, at, 0x7F)
                    field = self._entry(index)
                elif first & 0xE0 == 0x20:
                    if fields:
                        raise HpackError("a table size update behind a field")
                    size, at = (first & 0x1F, at + 1) if first & 0x1F != 0x1F else self._integer(block, at + 1, 0x1F)
                    if size > TABLE:
                        raise HpackError("a table larger than allowed")
                    self._limit = size
                    self._evict(0)
                    continue
                else:
                    field, at = self._literal(block, at, first)
                fields.append(field)
                total += len(field[0]) + len(field[1]) + _OVERHEAD
                if total > self._hard:
                    raise TooLarge
        except IndexError:
            raise HpackError("a truncated field block") from None
        return fields, total

    def _entry(self, index: int) -> Field:
        if 0 < index < _FIRST:
            return STATIC[index - 1]
        index -= _FIRST
        if not 0 <= index < len(self._table):
            raise HpackError("an index outside the tables")
        return self._table[index]

    def _literal(self, block: bytes, at: int, first: int) -> tuple[Field, int]:
        bits = 0x3F if first & 0x40 else 0x0F
        index = first & bits
        at += 1
        if index == bits:
            index, at = self._integer(block, at, bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = self._string(block, at)
        value, at = self._string(block, at)
        if first & 0x40:
            field = name, value
            size = len(name) + len(value) + _OVERHEAD
            self._evict(size)
            if size <= self._limit:
                self._table.appendleft(field)
                self._size += size
            return field, at
        return (NeverIndexed((name, value)) if first & 0x10 else (name, value)), at

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        first = block[at]
        size = first & 0x7F
        at += 1
        if size == 0x7F:
            size, at = self._integer(block, at, 0x7F)
        end = at + size
        if end > len(block):
            raise HpackError("a truncated string")
        data = block[at:end]
        if first & 0x80:
            try:
                data = bytes(decode_huffman(data))
            except HPACKError as e:
                raise HpackError(str(e)) from None
        return data, end

    def _integer(self, block: bytes, at: int, value: int) -> tuple[int, int]:
        shift = 0
        while True:
            byte = block[at]
            at += 1
            value += (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
            if shift > 28:
                raise HpackError("an integer too large")

    def _evict(self, coming: int) -> None:
        table = self._table
        while table and self._size + coming > self._limit:
            name, value = table.pop()
            self._size -= len(name) + len(value) + _OVERHEAD
