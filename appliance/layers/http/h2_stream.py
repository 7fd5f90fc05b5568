"""One stream of an HTTP/2 connection: its body each way, flow control, its end (RFC 9113 §5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from appliance.headers import Headers
from appliance.layers.http.h2_fields import Malformed, read_trailers, write_trailers
from appliance.layers.http.h2_priority import Turn, turn
from appliance.layers.http.h2_session import STREAM_WINDOW, STREAM_WINDOW_MOST, Code, Field, code_name
from appliance.net.reasons import Reason
from appliance.net.stream import Buffer

if TYPE_CHECKING:
    from appliance.layers.http.h2_connection import H2Connection
    from appliance.layers.http.h2_tunnel import TunnelTransport

PIECE = 64 * 1024
"""Bytes a stream may put into the connection at a time, so that its neighbours get their turn."""
SMALL = 512
"""Bytes under which what waits to be read gets what follows it: an object of its own for each octet costs far more."""
RESET = "h2:"
"""Prefix of Reason.detail: the error code of a stream that was reset, to be carried to the other side."""
NOT_PROCESSED = f"{RESET}{int(Code.REFUSED_STREAM)}"
"""Detail of a reason: a client that speaks HTTP/2, too, may safely try again (RFC 9113 §8.7)."""


def reset_reason(who: str, code: int) -> Reason:
    """Why a stream ended that the peer has reset."""
    return Reason("reset", f"the {who} reset the stream ({code_name(code)})", f"{RESET}{code}")


def code_of(why: Reason, otherwise: Code) -> int:
    """The error code to reset a stream with; never NO_ERROR, which a message that is cut off does not deserve."""
    return (int(why.detail[len(RESET) :]) if why.detail.startswith(RESET) else 0) or otherwise


class H2Stream:
    """One request and its response, as far as both ends of the gateway have it in common.

    why: set once it is lost. trailers: what came behind the body. left: bytes of body still to come by
    content-length, None = not said. carrier: its DATA are the bytes of a tunnel. priority: what the peer said of it
    last (PRIORITY_UPDATE), b"" = nothing.
    """

    __slots__ = (
        "_blocked",
        "_on_gone",
        "_owed",
        "_parts",
        "_reader",
        "_taken",
        "_window",
        "carrier",
        "conn",
        "end_sent",
        "ended",
        "left",
        "number",
        "patient_for",
        "priority",
        "trailers",
        "why",
    )

    def __init__(self, conn: H2Connection, number: int) -> None:
        self.conn = conn
        self.number = number
        self.why: Reason | None = None
        self.ended = False
        self.end_sent = False
        self.left: int | None = None
        self.trailers: Headers | None = None
        self.patient_for = 0.0
        self.carrier: TunnelTransport | None = None
        self.priority = b""
        self._parts: list[bytes] = []
        self._taken = 0  # handed out, and on its way to the other side
        self._owed = 0  # taken, and not yet given back to the peer's window
        self._window = STREAM_WINDOW
        self._reader: asyncio.Future[None] | None = None
        self._blocked: asyncio.Future[None] | None = None
        self._on_gone: Callable[[Reason], None] | None = None

    # -- from the pump

    def feed(self, data: bytes, length: int, end: bool) -> None:
        """DATA has come. length: as flow control counts it."""
        if self.why is not None:
            self.conn.consumed(length)
            return
        size = len(data)
        if length != size:  # padding
            self.conn.consumed(length - size)
            self._owed += length - size
        if self.left is not None:
            self.left -= size
            if self.left < 0 or (end and self.left):
                self.conn.consumed(size)
                self.malformed("the body is not as long as content-length says")
                return
        if size:
            parts = self._parts
            if parts and len(parts[-1]) < SMALL:
                parts[-1] += data
            else:
                parts.append(data)
        self.ended = end
        self._wake()

    def finish_with(self, fields: Sequence[Field]) -> None:
        """Trailers have come."""
        if self.carrier is not None:
            self.malformed("HEADERS in a tunnel")  # RFC 9113 §8.5
            return
        if self.left:
            self.malformed("the body is not as long as content-length says")
            return
        try:
            self.trailers = read_trailers(fields, self.conn.strict)
        except Malformed as e:
            self.malformed(str(e))
            return
        self.ended = True
        self._wake()

    def malformed(self, text: str) -> None:
        """RFC 9113 §8.1.1."""
        self.conn.session.reset(self.number, Code.PROTOCOL_ERROR)
        self.conn.wrote()
        self.lost(Reason("protocol", f"malformed message: {text}"))

    def lost(self, why: Reason) -> None:
        """Nothing more comes or goes. Wakes every waiter."""
        if self.why is not None:
            return
        self.why = why
        self._wake()
        self.unblock()
        gone, self._on_gone = self._on_gone, None
        if gone is not None:
            gone(why)

    def unblock(self) -> None:
        """There may be room to send."""
        blocked, self._blocked = self._blocked, None
        if blocked is not None and not blocked.done():
            blocked.set_result(None)

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    # -- reading

    @property
    def whole(self) -> bool:
        return self.ended and not self._parts

    @property
    def declared(self) -> int | None:
        if self.ended:
            return sum([len(part) for part in self._parts])
        return None if self.left is None else self.left + sum([len(part) for part in self._parts])

    def patience(self, seconds: float) -> None:
        self.patient_for = seconds

    async def chunk(self, limit: int = PIECE) -> bytes:
        """What has come of the body since; b"" = end. What was handed out before has left by now, and is given back.

        :raises Gone: lost, or nothing came in time.
        """
        if self._taken:
            self._give_back()
        while True:
            if self._parts:
                return self._take()
            if self.ended:
                return b""
            await self._more()

    def _take(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._taken += len(data)
        return data

    def take_whole(self) -> bytes | None:
        """The whole body when it is here, else None."""
        if not self.ended:
            return None
        if not self._parts:
            return b""
        data = self._take()
        self._give_back()
        return data

    async def _more(self) -> None:
        """Wait for the pump. :raises Gone: as chunk()."""
        if self.why is not None:
            raise self.why.error()
        loop = self.conn.loop
        self._reader = reader = loop.create_future()
        if not self.patient_for:
            await reader
            return
        timer = loop.call_later(self.patient_for, self._silent, reader)
        try:
            await reader
        finally:
            timer.cancel()

    def _silent(self, reader: asyncio.Future[None]) -> None:
        if not reader.done():
            reader.set_exception(Reason("timeout", "silent").error())

    def _give_back(self) -> None:
        taken, self._taken = self._taken, 0
        conn = self.conn
        conn.consumed(taken)
        if self.ended:
            return
        self._owed += taken
        if self._owed * 2 < self._window:
            return
        more = 0
        if not self._parts:  # taken as quickly as it comes: the window is what limits it
            more = min(self._window, STREAM_WINDOW_MOST - self._window, conn.spare)
            conn.spare -= more
            self._window += more
        owed, self._owed = self._owed, 0
        conn.session.credit(self.number, owed + more)
        conn.wrote()

    # -- writing

    def place(self) -> Turn:
        """Its place among streams that wait to send: the least goes first."""
        return turn(self.number, (self.priority,))

    async def send(self, data: Buffer) -> None:
        """Send it as far as the peer lets us, then wait. :raises Gone: lost, or the peer does not open its window."""
        await self._send(data, False)

    async def _send(self, data: Buffer, end: bool) -> None:
        conn, session = self.conn, self.conn.session
        left = len(data)
        view = memoryview(data)
        while left:
            if self.why is not None:
                raise self.why.error()
            if self.end_sent:
                return  # the peer said that it wants no more
            if conn.full():
                await conn.space(self)
                continue
            room = session.window(self.number)
            if room <= 0:
                await self._window_opens()
                continue
            size = min(left, room, PIECE)
            left -= size
            last = end and not left
            if last:
                self.end_sent = True
            session.data(self.number, view[:size], last)
            view = view[size:]
            conn.wrote()

    async def send_rest(self, content: bytes, trailers: list[Field] | None) -> None:
        """The whole body and what follows it, as the windows allow."""
        await self._send(content, not trailers)
        if trailers:
            self.end_sent = True
            self.conn.session.headers(self.number, trailers, True)
            self.conn.wrote()

    async def _window_opens(self) -> None:
        conn = self.conn
        timer = conn.loop.call_later(conn.stall, self._stalled)
        try:
            await self.wait_in(conn.blocked)
        finally:
            timer.cancel()

    async def wait_in(self, waiting: dict[H2Stream, None]) -> None:
        """Wait there for `unblock`."""
        self._blocked = blocked = self.conn.loop.create_future()
        waiting[self] = None
        try:
            await blocked
        finally:
            waiting.pop(self, None)

    def _stalled(self) -> None:
        self.reset(Reason("timeout", f"the peer took nothing for {self.conn.stall:.0f} s"))

    async def finish(self, trailers: Headers | None) -> None:
        """The end of the body."""
        if self.why is not None:
            raise self.why.error()
        if self.end_sent:
            return
        self.end_sent = True
        if trailers and (fields := write_trailers(trailers)):
            self.conn.session.headers(self.number, fields, True)
        else:
            self.conn.session.data(self.number, b"", True)
        self.conn.wrote()

    def reset(self, why: Reason) -> None:
        """End it at once."""
        raise NotImplementedError

    def discard(self) -> None:
        """Nobody will read what has come: the connection's window gets it back."""
        self.conn.consumed(sum([len(part) for part in self._parts]))
        self._parts = []

    def over(self) -> None:
        """The exchange is through with it: nothing of it stays behind."""
        conn = self.conn
        if conn.streams.get(self.number) is not self:
            return
        del conn.streams[self.number]
        self.discard()
        conn.consumed(self._taken)
        self._taken = 0
        conn.spare += self._window - STREAM_WINDOW
        self._window = STREAM_WINDOW
