"""The sending half of our own HTTP/2 framing: frames into one buffer, both windows, the streams and how they closed."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.layers.http.h2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER,
    HEADERS,
    PING,
    RST_STREAM,
    TWO,
    WINDOW_MOST,
    WINDOW_UPDATE,
    StreamState,
)
from appliance.layers.http.h2_hpack import Encoder
from appliance.layers.http.h2_session import CONNECTION_WINDOW, THEIR_FAULT, Clock, Field, Patience

REMEMBERED = 256
"""Closed streams whose end is known, to tell what is late from what is wrong (§5.1)."""
RESET_BY_US, RESET_BY_PEER, ENDED = range(3)


class Sending:
    """client: whether we are."""

    def __init__(self, client: bool, clock: Clock) -> None:
        self._client = client
        self._patience = Patience(clock)
        self._encoder = Encoder()
        self._out = bytearray()
        self._gone = False
        self._streams: dict[int, StreamState] = {}
        self._closed: dict[int, int] = {}
        self._highest = -1 if client else 0  # of the streams that the client opened
        self._sends = 65535
        self._receives = CONNECTION_WINDOW
        self._first_sends = 65535
        self._frame_most = 16384

    def output(self) -> bytes:
        out = self._out
        if not out:
            return b""
        self._out = bytearray()
        return bytes(out)

    @property
    def pending(self) -> int:
        return len(self._out)

    def open(self) -> int:
        return self._highest + 2 if self._highest < WINDOW_MOST - 1 else 0

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        found = self._streams.get(stream)
        if found is None:
            if not self._client or stream <= self._highest or self._gone:
                return
            self._highest = stream
            found = self._streams[stream] = StreamState(stream, self._first_sends, False)
        block = self._encoder.encode(fields)
        flags, size, most = (END_STREAM if end else 0), len(block), self._frame_most
        if size <= most:
            self._out += HEADER.pack(size >> 8, size & 255, HEADERS, flags | END_HEADERS, stream) + block
        else:
            kind = HEADERS
            for at in range(0, size, most):
                piece = block[at : at + most]
                self._send(kind, flags | (END_HEADERS if at + most >= size else 0), stream, piece)
                kind, flags = CONTINUATION, 0
        if end:
            self._said_all(found)

    def window(self, stream: int) -> int:
        found = self._streams.get(stream)
        if found is None:
            return 0
        return found.sends if found.sends < self._sends else self._sends

    def data(self, stream: int, data: bytes | memoryview, end: bool) -> None:
        found = self._streams.get(stream)
        if found is None or found.ours:
            return
        out, size, most = self._out, len(data), self._frame_most
        found.sends -= size
        self._sends -= size
        self._patience.earn(4)
        if size <= most:
            out += HEADER.pack(size >> 8, size & 255, DATA, END_STREAM if end else 0, stream)
            out += data
        else:
            view = memoryview(data)
            for at in range(0, size, most):
                piece = view[at : at + most]
                last = end and at + most >= size
                out += HEADER.pack(len(piece) >> 8, len(piece) & 255, DATA, END_STREAM if last else 0, stream)
                out += piece
                self._patience.earn(4)
        if end:
            self._said_all(found)

    def _said_all(self, stream: StreamState) -> None:
        stream.ours = True
        if stream.ended:
            self._close(stream, ENDED)

    def credit(self, stream: int, count: int) -> None:
        if count <= 0 or self._gone:
            return
        if stream:
            found = self._streams.get(stream)
            if found is None:
                return
            found.receives += count
        else:
            self._receives += count
        self._send(WINDOW_UPDATE, 0, stream, count.to_bytes(4, "big"))

    def reset(self, stream: int, code: int) -> None:
        found = self._streams.get(stream)
        if found is not None:
            self._rst(stream, code)
            self._close(found, RESET_BY_US)
            if code in THEIR_FAULT and not self._client:
                self._patience.left -= 5  # CVE-2025-8671: rapid reset, and we are made to do it

    def ping(self) -> None:
        self._send(PING, 0, 0, bytes(8))

    def goaway(self, code: int, text: str) -> None:
        if not self._gone:
            self._gone = True
            last = 0 if self._client else self._highest
            self._send(GOAWAY, 0, 0, TWO.pack(last, code) + text.encode()[:200])

    def _rst(self, stream: int, code: int) -> None:
        self._send(RST_STREAM, 0, stream, code.to_bytes(4, "big"))

    def _send(self, kind: int, flags: int, stream: int, data: bytes) -> None:
        size = len(data)
        self._out += HEADER.pack(size >> 8, size & 255, kind, flags, stream) + data

    def _close(self, stream: StreamState, how: int) -> None:
        if self._streams.pop(stream.number, None) is not None:
            self._remember(stream.number, how)

    def _remember(self, number: int, how: int) -> None:
        closed = self._closed
        closed[number] = how
        if len(closed) > REMEMBERED:
            del closed[next(iter(closed))]
