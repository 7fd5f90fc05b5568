"""The chunked transfer coding (RFC 9112 §7.1), both ways, with bounds on everything that is not payload."""

from __future__ import annotations

import re
from typing import Final

from appliance.layers.http.h1_fields import TCHAR, Fields, Refused, check_characters, quoted, unusual_fields

MAX_SIZE_LINE: Final = 4096
MAX_TRAILERS: Final = 65536
# Extension bytes of one message beyond this may not outweigh its payload.
FREE_EXTENSIONS: Final = 16384

_BWS: Final = rb"[ \t]*+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_EXTENSION: Final = (
    _BWS + rb";" + _BWS + TCHAR + rb"++(?:" + _BWS + rb"=" + _BWS + rb"(?:" + TCHAR + rb"++|" + _QUOTED + rb"))?+"
)
_PLAIN: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)\r\n")
_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)((?:" + _EXTENSION + rb")*+)(" + _BWS + rb")")
_PARTIAL: Final = re.compile(rb"[0-9A-Fa-f]{0,16}+(?:(?<=[0-9A-Fa-f])(?:\r|[ \t;][^\r\n\x00]*+\r?))?")

# RFC 9110 §6.5.1: what frames, routes, authenticates, conditions or describes the message cannot come behind it.
FORBIDDEN_TRAILERS: Final = frozenset(
    b"transfer-encoding content-length host connection keep-alive proxy-connection te trailer upgrade expect "
    b"max-forwards range if-match if-none-match if-modified-since if-unmodified-since if-range cache-control pragma "
    b"authorization proxy-authorization www-authenticate proxy-authenticate authentication-info "
    b"proxy-authentication-info cookie set-cookie content-encoding content-type content-range location age expires "
    b"date vary retry-after forwarded x-forwarded-for x-forwarded-host x-forwarded-proto via".split()
)


class ChunkedDecoder:
    """Takes chunked coding from the front of a bytearray and gives back the payload.

    Size lines are at most 4096 bytes with their extensions, sizes below 2**63 in at most 16 digits, trailers at most
    64 kB. Trailer fields that would frame, route or authenticate (FORBIDDEN_TRAILERS) are dropped, so they reach
    nobody who might honour them. `padding` tolerates blanks behind a size, as some old servers send.
    """

    __slots__ = ("_extensions", "_left", "_limit", "_padding", "_seen", "_state", "trailers")

    def __init__(self, *, padding: bool = False, max_trailers: int = MAX_TRAILERS) -> None:
        self.trailers: Fields = ()
        self._padding = padding
        self._limit = max_trailers
        self._state = _SIZE
        self._left = 0
        self._seen = 0
        self._extensions = 0

    @property
    def done(self) -> bool:
        """The last chunk and the trailers have been read; what is left in the buffer is not ours."""
        return self._state == _DONE

    def feed(self, buf: bytearray) -> bytes:
        """Consume what can be from the front of `buf`; the payload it held, b"" if none. Raises Refused (400, 431)."""
        state, left, pos, end = self._state, self._left, 0, len(buf)
        spans: list[tuple[int, int]] = []
        while True:
            if state == _SIZE:
                match = _PLAIN.match(buf, pos)
                if match is not None:
                    left = int(match[1], 16)
                    pos = match.end()
                    if left >> 63:
                        raise Refused(400, "chunk size overflow")
                else:
                    line_end = self._size_line(buf, pos)
                    if line_end < 0:
                        break
                    left, pos = self._left, line_end
                self._seen += left
                state = _DATA if left else _TRAILERS
            if state == _DATA:
                stop = pos + left
                if stop > end:
                    if pos < end:
                        spans.append((pos, end))
                        left -= end - pos
                        pos = end
                    break
                spans.append((pos, stop))
                pos = stop
                state = _DATA_END
            if state == _DATA_END:
                mark = buf[pos : pos + 2]
                if mark != b"\r\n":
                    if mark and mark != b"\r":
                        raise Refused(400, "chunk data is longer than its size")
                    left = 0
                    break
                pos += 2
                state = _SIZE
                continue
            if state == _TRAILERS:
                stop = self._trailer_end(buf, pos)
                if stop < 0:
                    break
                pos, state = stop, _DONE
            break  # _DONE
        self._state, self._left = state, left
        if len(spans) == 1 and spans[0][1] - spans[0][0] < 4096:
            data = bytes(buf[spans[0][0] : spans[0][1]])
        else:  # one copy, however many chunks; no view outlives it, or `buf` could not shrink
            with memoryview(buf) as view:
                data = b"".join([view[start:stop] for start, stop in spans])
        if pos:
            del buf[:pos]
        return data

    def _size_line(self, buf: bytearray, pos: int) -> int:
        """Read a size line that is not just digits into _left: its end, or -1 if it has not all come."""
        line_end = buf.find(b"\r\n", pos, pos + MAX_SIZE_LINE)
        if line_end < 0:
            part = bytes(buf[pos : pos + MAX_SIZE_LINE])
            if not _PARTIAL.fullmatch(part):
                raise Refused(400, f"bad chunk size line: {quoted(part)}")
            if len(part) == MAX_SIZE_LINE:
                raise Refused(400, "chunk size line is too long")
            return -1
        line = bytes(buf[pos:line_end])
        match = _LINE.fullmatch(line)
        if match is None or (match[3] and not self._padding):
            raise Refused(400, f"bad chunk size line: {quoted(line)}")
        self._left = int(match[1], 16)
        if self._left >> 63:
            raise Refused(400, "chunk size overflow")
        self._extensions += len(line) - len(match[1])
        if self._extensions > FREE_EXTENSIONS + self._seen:
            raise Refused(400, "more chunk extensions than payload")
        return line_end + 2

    def _trailer_end(self, buf: bytearray, pos: int) -> int:
        """Read the trailers: the end of their empty line, or -1 if it has not come."""
        if buf.startswith(b"\r\n", pos):
            return pos + 2
        stop = buf.find(b"\r\n\r\n", pos, pos + self._limit)
        if stop < 0:
            check_characters(buf[pos : pos + self._limit], whole=False)
            if len(buf) - pos >= self._limit:
                raise Refused(431, "trailers are too large")
            return -1
        block = b"\r\n" + buf[pos : stop + 4]
        check_characters(block)
        found = unusual_fields(block, 2)
        self.trailers = tuple([field for field in found if field[0].lower() not in FORBIDDEN_TRAILERS])
        return stop + 4


_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


def encode_chunk(data: bytes | bytearray | memoryview) -> bytes:
    """One chunk; b"" for no data, since an empty chunk would end the body."""
    return b"".join((b"%x\r\n" % len(data), data, b"\r\n")) if data else b""


def last_chunk(trailers: Fields = ()) -> bytes:
    """The end of the body. Trailers that may not be trailers are left out; a broken one raises Refused (500)."""
    if not trailers:
        return b"0\r\n\r\n"
    sent = [field for field in trailers if field[0].lower() not in FORBIDDEN_TRAILERS]
    block = b"\r\n".join([b"", *map(b": ".join, sent), b"", b""]) if sent else b"\r\n\r\n"
    try:
        check_characters(block, strict=False)
        found = unusual_fields(block, 2)
    except Refused as error:
        raise Refused(500, f"bad trailers to send: {error.why}") from None
    if len(found) != len(sent):
        raise Refused(500, "bad trailers to send: a line break inside a field")
    return b"0" + block
