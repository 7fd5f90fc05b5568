"""Looking for a ClientHello at the start of a byte stream (RFC 8446 section 5.1; sans-I/O).

A hello may be cut into any number of records and segments. All that comes before its last byte is bounded to 64 kB, and
a `HelloScanner` goes on where it stopped, so a byte at a time costs no more than the whole at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.tls import ClientHello

LIMIT = 1 << 16
"""Bytes that a hello may take with its record headers."""
_MAX_FRAGMENT = 1 << 14


@dataclass(frozen=True, slots=True)
class NeedMore:
    """No answer yet: ask again when at least `total` bytes (counted from the stream's start) are there."""

    total: int


@dataclass(frozen=True, slots=True)
class NotTls:
    """This is no TLS that we could read, and more bytes would not change it."""

    reason: str


class HelloScanner:
    """Reads one growing buffer: each call of `scan` gets all bytes from the stream's start."""

    __slots__ = ("_at", "_end", "_message", "_size")

    def __init__(self) -> None:
        self._at = 0  # the first byte not looked at
        self._end = 0  # end of the current record's fragment; == _at between records
        self._message = bytearray()  # the handshake message so far, its 4-byte header included
        self._size = 4  # length of the message with its header, as far as it is known

    def scan(self, data: bytes | bytearray | memoryview) -> ClientHello | NeedMore | NotTls:
        have = len(data)
        message = self._message
        while True:
            if self._at == self._end and (answer := self._record(data, have)) is not None:
                return answer
            stop = min(have, self._end, self._at + self._size - len(message))
            message += data[self._at : stop]
            self._at = stop
            if message and message[0] != 1:
                return NotTls(f"handshake message of type {message[0]} instead of a ClientHello")
            if len(message) >= 4 and self._size == 4:
                self._size = 4 + int.from_bytes(message[1:4])
            missing = self._size - len(message)
            if self._at + missing > LIMIT:
                return NotTls(f"ClientHello longer than {LIMIT} bytes")
            if not missing:
                if self._size == 4:
                    return NotTls("empty ClientHello")
                try:
                    return ClientHello(bytes(message[4:]))
                except ValueError as e:
                    return NotTls(f"malformed ClientHello: {e}")
            if self._at < self._end and self._at == have:
                return NeedMore(min(self._end, self._at + missing))

    def _record(self, data: bytes | bytearray | memoryview, have: int) -> NeedMore | NotTls | None:
        """Take the record header at `_at`; None when it has been taken."""
        at = self._at
        if at < have and data[at] != 22:
            if at:
                return NotTls(f"record of type {data[at]} inside the ClientHello")
            if data[0] & 0x80 and have >= 3 and data[2] == 1:
                return NotTls("an SSLv2 hello")
            return NotTls("does not start with a handshake record")
        if (at + 1 < have and data[at + 1] != 3) or (at + 2 < have and data[at + 2] > 3):
            return NotTls("not a TLS version")
        if at + 5 > have:
            # While nothing proves TLS, one more byte may prove that it is something else.
            return NeedMore(at + 5 if at else have + 1)
        length = data[at + 3] << 8 | data[at + 4]
        if not 0 < length <= _MAX_FRAGMENT:
            return NotTls(f"handshake record of {length} bytes")
        self._at = at + 5
        self._end = at + 5 + length
        return None


def scan(data: bytes | bytearray | memoryview) -> ClientHello | NeedMore | NotTls:
    """What the bytes at the start of a connection are, in one go; for a growing buffer keep a `HelloScanner`."""
    return HelloScanner().scan(data)
