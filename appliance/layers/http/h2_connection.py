"""One HTTP/2 connection: one pump that reads and dispatches, and its streams, whose writes go out together.

Both ends of the gateway use it; what a head means is theirs (h2_server.py, h2_client.py).
"""

from __future__ import annotations

import asyncio
import logging

from appliance.layers.http.h2_priority import SAID_MOST, Turn
from appliance.layers.http.h2_session import CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW, Code, Fault, Session
from appliance.layers.http.h2_stream import PIECE, RESET, H2Stream, reset_reason
from appliance.net.reasons import Gone, Reason
from appliance.net.stream import Stream

logger = logging.getLogger(__name__)

UNREAD_MOST = 4 * 1024 * 1024
"""Bytes of answers (PING, SETTINGS, resets) queued for a peer that does not read: then it is gone."""


class H2Connection:
    """The connection's pump, and what its streams share. Subclassed by what hears the heads.

    spare: bytes of the connection's window that no stream may count on, for those that are quick. blocked: streams
    that wait for a window; crowded: for room in the connection. peer: who is at the other end. last_words: why it
    ended.
    """

    peer = "peer"

    def __init__(self, stream: Stream, loop: asyncio.AbstractEventLoop, stall: float, strict: bool) -> None:
        self.stream = stream
        self.loop = loop
        self.stall = stall
        self.strict = strict
        self.session: Session
        self.streams: dict[int, H2Stream] = {}
        self.blocked: dict[H2Stream, None] = {}
        self.crowded: dict[H2Stream, None] = {}
        self.spare = CONNECTION_WINDOW - MAX_STREAMS * STREAM_WINDOW
        self.over = False
        self._owed = 0
        self._flushing = False
        self._drainer: asyncio.Task[None] | None = None
        self._unread = 0
        self._fault: str | None = None
        self.last_words = Reason("closed", f"the {self.peer} closed the connection")

    async def run(self) -> None:
        """Pump until the connection ends; then every stream is lost with the reason. Never raises."""
        stream = self.stream
        stream.farewell = self._farewell
        try:
            self.flush()
            await stream.push(self._received)
            if self._fault is not None:
                self.last_words = Reason("protocol", f"HTTP/2: {self._fault}")
        except Gone as e:
            self.last_words = e.reason
        finally:
            self.over = True
            self.flush()
            for open_ in list(self.streams.values()):
                open_.lost(self.last_words)
            stream.close(linger=self._fault is not None and not stream.eof)

    def _received(self, data: memoryview) -> bool:
        try:
            self.session.receive(data)
        except Fault as e:
            # Its text alone: the traceback holds `data`, and CPython 3.11 crashes when its collector meets a memoryview
            # in a circle.
            self._fault = e.text
            return False
        except Exception as e:
            logger.exception("fault in an HTTP/2 connection")
            self.session.goaway(Code.INTERNAL_ERROR, "")
            self._fault = f"fault in the gateway: {e!r}"
            return False
        if self.session.pending:
            self.wrote()
        return True

    # -- out

    def wrote(self) -> None:
        """There is output: it goes with what else comes in this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flushing = False
        data = self.session.output()
        if not data:
            return
        if self.stream.write(data):
            self._unread = 0
            return
        self._unread += len(data)
        if self._unread > UNREAD_MOST:
            self.stream.abort(Reason("protocol", "the peer does not read what it asks for"))

    def _farewell(self) -> bytes:
        """The connection is being closed, by whomever (RFC 9113 §5.4.1, §6.8)."""
        self.session.goaway(Code.NO_ERROR, "")
        return self.session.output()

    def full(self) -> bool:
        """Whether a stream should wait before it sends more."""
        if self.session.pending >= PIECE * 2:
            self.flush()
        return not self.stream.below.room()

    async def space(self, stream: H2Stream) -> None:
        """Wait until the connection takes more, the most urgent first. :raises Gone: lost."""
        if self._drainer is None:
            self._drainer = self.loop.create_task(self._drained())
        await stream.wait_in(self.crowded)
        if self.stream.why is not None:
            raise self.stream.why.error()

    async def _drained(self) -> None:
        try:
            await self.stream.drain()
        except Gone:
            pass
        finally:
            self._drainer = None
        _wake(self.crowded)

    def consumed(self, count: int) -> None:
        """So many bytes have left us: the peer may send more."""
        self._owed += count
        if self._owed >= CONNECTION_WINDOW // 4:
            owed, self._owed = self._owed, 0
            self.session.credit(0, owed)
            self.wrote()

    # -- Listener, what both ends have in common

    def data(self, stream: int, data: bytes, length: int, end: bool) -> None:
        found = self.streams.get(stream)
        if found is None:
            self.consumed(length)
        else:
            found.feed(data, length, end)

    def was_reset(self, stream: int, code: int) -> None:
        found = self.streams.get(stream)
        if found is not None:
            found.lost(reset_reason(self.peer, code))

    def failed(self, stream: int, code: int, text: str) -> None:
        found = self.streams.get(stream)
        if found is not None:
            found.lost(Reason("protocol", f"HTTP/2: {text}", f"{RESET}{code}"))

    def opened(self, stream: int) -> None:
        if not self.blocked:
            return
        if stream:
            found = self.streams.get(stream)
            if found is not None:
                found.unblock()
            return
        _wake(self.blocked)

    def reprioritized(self, stream: int, value: bytes) -> None:
        found = self.streams.get(stream)
        if found is not None:
            found.priority = value[:SAID_MOST]

    def settled(self) -> None:
        """SETTINGS took effect; windows are told apart, by opened(0)."""


def _wake(waiting: dict[H2Stream, None]) -> None:
    """Each in turn looks whether there is something for it, and waits again if not."""
    for stream in sorted(waiting, key=_place) if len(waiting) > 1 else list(waiting):
        stream.unblock()


def _place(stream: H2Stream) -> Turn:
    return stream.place()
