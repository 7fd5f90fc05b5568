"""Message bodies on a stream, as HTTP/1 delimits them (RFC 9112 §6, §7): read in pieces, never more than there is."""

from __future__ import annotations

from appliance.headers import Headers
from appliance.layers.http.h1_grammar import CHUNKED, EOF, ChunkedDecoder, Refused
from appliance.net.reasons import Gone, Reason
from appliance.net.stream import Stream

PIECE = 64 * 1024


class Body:
    """One body being read. left: bytes to come, CHUNKED or EOF. whole: nothing is outstanding."""

    __slots__ = ("_decoder", "_stream", "left", "patience", "trailers", "whole")

    def __init__(self, stream: Stream, kind: int) -> None:
        self._stream = stream
        self.left = kind
        self.whole = kind == 0
        self.trailers: Headers | None = None
        self.patience = 0.0
        self._decoder = ChunkedDecoder() if kind == CHUNKED else None

    def ready(self) -> bytes | None:
        """The whole body when its length is known and all of it has arrived; None otherwise."""
        left = self.left
        if self.whole:
            return b""
        if left < 0 or len(self._stream.buf) < left:
            return None
        self.left, self.whole = 0, True
        return self._stream.take(left)

    async def chunk(self, limit: int = PIECE) -> bytes:
        """The next piece, at most `limit` bytes for a known length; b"" = end.

        :raises Refused: malformed chunks. :raises Gone: truncated, lost, or nothing came for `patience` seconds.
        """
        if self.whole:
            return b""
        stream = self._stream
        while True:
            buf = stream.buf
            if self._decoder is not None:
                data = self._decoder.feed(buf)
                if self._decoder.done:
                    self.whole = True
                    if self._decoder.trailers:
                        self.trailers = Headers.trusted(self._decoder.trailers)
                    return data
                if data:
                    return data
            elif buf:
                if self.left == EOF:
                    return stream.take(limit)
                data = stream.take(limit if limit < self.left else self.left)
                self.left -= len(data)
                self.whole = not self.left
                return data
            if self.patience:
                stream.limit(self.patience, "silent")
            if not await stream.more():
                if self.left == EOF:
                    self.whole = True
                    return b""
                raise Gone(Reason("closed", "the connection was closed in the middle of the body"))

    def took(self, count: int) -> None:
        """So many bytes were read past this object (relay)."""
        if self.left >= 0:
            self.left -= count
            self.whole = not self.left
        elif self.left == EOF:
            self.whole = True


__all__ = ["CHUNKED", "EOF", "Body", "Refused"]
