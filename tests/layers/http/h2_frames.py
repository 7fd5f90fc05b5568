"""HTTP/2 frames as bytes (RFC 9113 §4, §6), made by hand so that wrong ones can be made too.

Header blocks are stateless: literals that are not indexed (RFC 7541 §6.2.2), so any frame can stand in any table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_WINDOW = (1 << 31) - 1


class T(IntEnum):
    """Frame types."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Error codes (§7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class S(IntEnum):
    """Settings (§6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8


END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 0x20


class Frame(NamedTuple):
    """One frame as it came."""

    type: int
    flags: int
    stream: int
    payload: bytes

    def number(self, at: int = 0) -> int:
        """31 bits of the payload."""
        return int.from_bytes(self.payload[at : at + 4], "big") & MAX_WINDOW


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """length: what the frame says of itself, should it lie."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")


# -- header blocks

Fields = Sequence[tuple[bytes, bytes]]


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541 §5.1. first: what stands in the octet's other bits."""
    top = (1 << bits) - 1
    if value < top:
        return bytes((first | value,))
    out, value = bytearray((first | top,)), value - top
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(text: bytes) -> bytes:
    return integer(len(text), 7) + text


def literal(name: bytes, value: bytes, first: int = 0) -> bytes:
    """first: 0 = not indexed, 0x10 = never indexed, 0x40 = goes into the dynamic table."""
    return bytes((first,)) + string(name) + string(value)


def block(fields: Iterable[tuple[bytes, bytes]], first: int = 0) -> bytes:
    return b"".join(literal(name, value, first) for name, value in fields)


HOST = b"origin.test"


def request(
    path: bytes = b"/", *more: tuple[bytes, bytes], method: bytes = b"GET", scheme: bytes = b"http"
) -> list[tuple[bytes, bytes]]:
    """The fields of a good request."""
    return [(b":method", method), (b":scheme", scheme), (b":authority", HOST), (b":path", path), *more]


# -- frames


def headers(stream: int, fields: Fields | bytes, end: bool = True, flags: int = END_HEADERS) -> bytes:
    """fields: or a header block. end: with END_STREAM."""
    payload = fields if isinstance(fields, bytes) else block(fields)
    return frame(T.HEADERS, flags | (END_STREAM if end else 0), stream, payload)


def get(stream: int, path: bytes = b"/", *more: tuple[bytes, bytes]) -> bytes:
    return headers(stream, request(path, *more))


def post(stream: int, path: bytes = b"/echo", *more: tuple[bytes, bytes]) -> bytes:
    """Its head; the body is to come."""
    return headers(stream, request(path, *more, method=b"POST"), end=False)


def continuation(stream: int, payload: bytes, end: bool = True) -> bytes:
    return frame(T.CONTINUATION, END_HEADERS if end else 0, stream, payload)


def data(stream: int, payload: bytes = b"", end: bool = False) -> bytes:
    return frame(T.DATA, END_STREAM if end else 0, stream, payload)


def padded(stream: int, payload: bytes, padding: int, end: bool = False) -> bytes:
    return frame(T.DATA, PADDED | (END_STREAM if end else 0), stream, bytes((padding,)) + payload + bytes(padding))


def priority(stream: int, on: int, weight: int = 15) -> bytes:
    return frame(T.PRIORITY, 0, stream, number(on) + bytes((weight,)))


def rst(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(T.RST_STREAM, 0, stream, number(code))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(T.SETTINGS, 0, 0, b"".join(number(name, 2) + number(value) for name, value in pairs))


SETTINGS_ACK = frame(T.SETTINGS, ACK, 0)


def ping(opaque: bytes = b"12345678", flags: int = 0) -> bytes:
    return frame(T.PING, flags, 0, opaque)


def goaway(last: int = 0, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(T.GOAWAY, 0, 0, number(last) + number(code) + debug)


def window(stream: int, increment: int) -> bytes:
    return frame(T.WINDOW_UPDATE, 0, stream, number(increment))


def push_promise(stream: int, promised: int, fields: Fields) -> bytes:
    return frame(T.PUSH_PROMISE, END_HEADERS, stream, number(promised) + block(fields))
