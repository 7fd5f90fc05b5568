"""A stream's bytes as DATA of one HTTP/2 stream: what CONNECT and extended CONNECT open (RFC 9113 §8.5, RFC 8441)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from appliance.layers.http.h2_session import Code
from appliance.layers.http.h2_stream import RESET
from appliance.net.reasons import CLOSED, Gone, Reason
from appliance.net.stream import Stream
from appliance.net.transport import HIGH_WATER, NOWHERE, Above, Buffer

if TYPE_CHECKING:
    from appliance.connection import Connection
    from appliance.layers.http.h2_stream import H2Stream
    from appliance.net.stream import Net


def tunnel_through(net: Net, stream: H2Stream, conn: Connection | None) -> Stream:
    """The stream whose bytes are `stream`'s DATA from here on. Nothing is read before somebody waits for it."""

    def carrier(above: Above) -> TunnelTransport:
        stream.carrier = made = TunnelTransport(net.loop, stream, above)
        return made

    return Stream.over(net, carrier, conn)


class TunnelTransport:
    """See net/transport.Transport. A reading task, and one that writes while there is something to write.

    What was handed up counts as consumed when more is asked for: a stream that is paused fills its own window, and no
    neighbour's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: H2Stream, above: Above) -> None:
        self.above = above
        self._loop = loop
        self._stream = stream
        self._out = bytearray()
        self._sending = 0  # bytes that the writer has in hand
        self._eof_asked = False
        self._closed = False
        self._paused: asyncio.Future[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    # -- reading

    def resume(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None:
            if not paused.done():
                paused.set_result(None)
        elif self._reader is None and not self._closed:
            self._reader = self._loop.create_task(self._read())

    def pause(self) -> None:
        if self._reader is not None and self._paused is None:
            self._paused = self._loop.create_future()

    def look(self) -> None:
        pass

    async def _read(self) -> None:
        try:
            while data := await self._stream.chunk():
                while self._paused is not None:
                    await self._paused
                self.above.received(memoryview(data))
                while self._paused is not None:
                    await self._paused
            self.above.ended()
        except Gone as e:
            self._lost(e.reason)

    # -- writing

    def write(self, data: Buffer) -> bool:
        if data and not (self._closed or self._eof_asked):
            self._out += data
            self._go()
        return self.room()

    def write_eof(self) -> None:
        if not self._eof_asked:
            self._eof_asked = True
            self._go()

    def _go(self) -> None:
        if self._writer is None:
            self._writer = self._loop.create_task(self._write())

    async def _write(self) -> None:
        stream = self._stream
        try:
            while self._out:
                data, self._out = self._out, bytearray()
                self._sending = len(data)
                await stream.send(data)
                self._sending = 0
                if not self._out:
                    self.above.drained()
            if self._eof_asked:
                await stream.finish(None)
        except Gone as e:
            self._sending = 0
            self._lost(e.reason)
        finally:
            self._writer = None

    def room(self) -> bool:
        return len(self._out) + self._sending < HIGH_WATER

    @property
    def free(self) -> bool:
        return not self._out and not self._sending

    # -- ending

    def close(self, linger: bool = False) -> None:
        if not self._closed:
            self._closed = True
            self._end_reading()
            if self._stream.why is None:
                self.write_eof()

    def abort(self, why: Reason = CLOSED) -> None:
        """RFC 9113 §8.5: a TCP connection that broke is a stream error of type CONNECT_ERROR."""
        self._closed = True
        self._end_reading()
        if self._writer is not None:
            self._writer.cancel()
        self._out.clear()
        if self._stream.why is None and not (self._stream.ended and self._stream.end_sent):
            detail = why.detail if why.detail.startswith(RESET) else f"{RESET}{int(Code.CONNECT_ERROR)}"
            self._stream.reset(Reason(why.kind, why.text, detail))

    def _end_reading(self) -> None:
        reader, self._reader, self._paused = self._reader, None, None
        if reader is not None:
            reader.cancel()
        self.above = NOWHERE

    def _lost(self, reason: Reason) -> None:
        above, self._closed = self.above, True
        self._out.clear()
        above.lost(reason)

    async def over(self) -> None:
        """Wait until what was queued at `close` has left, or cannot."""
        if self._writer is not None:
            await asyncio.wait([self._writer])
