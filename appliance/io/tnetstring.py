"""Typed netstrings, the container of flow files: ``LENGTH:PAYLOAD TAG``, nested for lists and dictionaries.

Tags: ``,`` bytes, ``;`` text in UTF-8, ``#`` integer, ``^`` float, ``!`` true or false, ``~`` nothing, ``]`` list,
``}`` dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import IO, Any, Final

MAX_LENGTH: Final = 1 << 30
"""Bytes of one value: a longer one is taken for a corrupt length, so that no file makes us ask for all memory."""
MAX_DEPTH: Final = 64
_DIGITS = 12
_CHUNK = 1 << 20
_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,11}):")
_INTEGER = re.compile(rb"[+-]?[0-9]{1,100}")


def dumps(value: object) -> bytes:
    """Raises TypeError for a value that is not plain, ValueError for one that is nested too deep."""
    parts: list[bytes] = []
    _dump(value, parts, MAX_DEPTH)
    parts.reverse()
    return b"".join(parts)


def _dump(value: object, parts: list[bytes], depth: int) -> int:
    """Append the pieces last first (a length is known only after its payload); returns how many bytes they are."""
    payload: bytes
    if depth < 0:
        raise ValueError("too deep a value")
    if value is None:
        payload, tag = b"", b"~"
    elif value is True or value is False:
        payload, tag = (b"true" if value else b"false"), b"!"
    elif isinstance(value, int):
        payload, tag = b"%d" % value, b"#"
    elif isinstance(value, float):
        payload, tag = repr(value).encode(), b"^"
    elif isinstance(value, str):
        payload, tag = value.encode("utf-8", "surrogateescape"), b";"
    elif isinstance(value, (bytes, bytearray, memoryview)):
        payload, tag = bytes(value), b","
    elif isinstance(value, (list, tuple, Mapping)):
        mapping = isinstance(value, Mapping)
        parts.append(b"}" if mapping else b"]")
        size = 0
        for item in reversed(list(value.items() if isinstance(value, Mapping) else value)):
            if mapping:
                if not isinstance(item[0], (str, bytes)):
                    raise TypeError(f"a key must be text, not {item[0]!r}")
                size += _dump(item[1], parts, depth - 1) + _dump(item[0], parts, depth - 1)
            else:
                size += _dump(item, parts, depth - 1)
        head = b"%d:" % size
        parts.append(head)
        return size + len(head) + 1
    else:
        raise TypeError(f"{type(value).__name__} is no plain value: {value!r:.80}")
    whole = b"%d:%b%b" % (len(payload), payload, tag)
    parts.append(whole)
    return len(whole)


def loads(data: bytes) -> Any:
    """The one value in `data`. Raises ValueError when there is none, or something after it."""
    value, end = _parse(data, 0, len(data), MAX_DEPTH)
    if end != len(data):
        raise ValueError("bytes follow the value")
    return value


class Truncated(ValueError):
    """The file ends inside a value."""


def load(file: IO[bytes]) -> Any:
    """The next value of `file`; EOFError at its end. Raises Truncated, ValueError.

    After Malformed the file stands behind the value.
    """
    head = b""
    while not head.endswith(b":"):
        byte = file.read(1)
        if not byte:
            if head:
                raise Truncated("the file ends in the middle of it")
            raise EOFError
        head += byte
        if not (byte.isdigit() or byte == b":") or len(head) > _DIGITS + 1:
            raise ValueError(f"a length was expected, not {head!r}")
    if _LENGTH.fullmatch(head) is None:
        raise ValueError(f"a length was expected, not {head!r}")
    left = int(head[:-1]) + 1
    if left > MAX_LENGTH:
        raise ValueError(f"a length of {left - 1} bytes is over the bound of {MAX_LENGTH}")
    pieces = [head]
    while left:  # in pieces: what a corrupt length promises is not asked for at once
        piece = file.read(min(left, _CHUNK))
        if not piece:
            raise Truncated("the file ends in the middle of it")
        pieces.append(piece)
        left -= len(piece)
    try:
        return loads(b"".join(pieces))
    except ValueError as error:
        raise Malformed(str(error)) from None


class Malformed(ValueError):
    """A value with its length intact and its content broken: the next one can be read."""


def _parse(data: bytes, at: int, end: int, depth: int) -> tuple[Any, int]:
    found = _LENGTH.match(data, at, min(end, at + _DIGITS + 1))
    if found is None:
        raise ValueError(f"a length was expected at byte {at}")
    begin = found.end()
    stop = begin + int(found[1])
    if stop >= end:
        raise ValueError(f"the length at byte {at} reaches over the end")
    return _value(data, begin, stop, data[stop : stop + 1], depth), stop + 1


def _value(data: bytes, begin: int, stop: int, tag: bytes, depth: int) -> Any:
    if tag == b",":
        return data[begin:stop]
    if tag == b";":
        return data[begin:stop].decode("utf-8", "surrogateescape")
    if tag == b"#":
        if _INTEGER.fullmatch(data, begin, stop) is None:
            raise ValueError(f"no integer at byte {begin}")
        return int(data[begin:stop])
    if tag == b"^":
        return float(data[begin:stop])
    if tag == b"!":
        if data[begin:stop] not in (b"true", b"false"):
            raise ValueError(f"neither true nor false at byte {begin}")
        return data[begin:stop] == b"true"
    if tag == b"~":
        if begin != stop:
            raise ValueError(f"nothing was expected at byte {begin}")
        return None
    if depth <= 0:
        raise ValueError("too deep a value")
    if tag == b"]":
        items = []
        while begin < stop:
            item, begin = _parse(data, begin, stop, depth - 1)
            items.append(item)
        return items
    if tag == b"}":
        pairs = {}
        while begin < stop:
            key, begin = _parse(data, begin, stop, depth - 1)
            if not isinstance(key, (str, bytes)):
                raise ValueError(f"a key that is no text before byte {begin}")
            pairs[key], begin = _parse(data, begin, stop, depth - 1)
        return pairs
    raise ValueError(f"unknown tag {tag!r} at byte {stop}")
