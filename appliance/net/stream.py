"""A byte stream with look-ahead: TCP, TLS over it, or an in-memory pair. What every layer reads and writes.

One object from accept to the end: TLS is a state of it (`start_tls`), not another stream with a queue between. Codecs
on the hot path read `buf` directly and wait with `more()`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.net.memory import MemoryTransport
from appliance.net.reasons import CLOSED, Gone, Reason
from appliance.net.splice import Pipes
from appliance.net.tls_transport import TlsScratch, TlsTransport
from appliance.net.transport import HIGH_WATER, NOWHERE, Buffer, Scratch, SocketTransport, Transport

if TYPE_CHECKING:
    from OpenSSL import SSL

    from appliance.connection import Connection


TLS_DEPTH = 8
"""Layers of TLS in each other. Each costs the event loop buffers of its own, and Python's stack."""


class Net:
    """What the streams of one event loop share: its fixed buffers and its pipes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.scratch = Scratch()
        self._tls = [TlsScratch()]
        self.pipes = Pipes(loop)

    def tls_scratch(self, below: Transport) -> TlsScratch:
        """The buffers for TLS over `below`: over TLS others, for what comes up and goes down lies in those.

        :raises TlsFailed: that would be over `TLS_DEPTH` layers.
        """
        depth = below.depth if isinstance(below, TlsTransport) else 0
        if depth == TLS_DEPTH:
            raise Reason("tls", f"TLS in TLS in TLS, {depth} layers deep").error()
        if depth == len(self._tls):
            self._tls.append(TlsScratch())
        return self._tls[depth]


class Stream:
    """See `interfaces.md`. Reads raise a `Gone` (`Reset`, `Killed`, `TimedOut`, `TlsFailed`) once the stream is lost.

    buf: bytes read and not yet consumed. eof: the peer sends no more. why: set once the stream is lost.
    on_gone: called once when the peer ends or is lost; for whoever works for it. farewell: what is said before we
    close.
    stirred: set by every byte in, and when what was queued has left; the sweep clears it. deadline: loop
    time by which what is awaited must be there, 0 = none.
    """

    __slots__ = (
        "_drain",
        "_interrupt",
        "_net",
        "_paused",
        "_sink",
        "_waiter",
        "below",
        "buf",
        "conn",
        "deadline",
        "eof",
        "farewell",
        "on_gone",
        "overdue",
        "stirred",
        "why",
    )

    def __init__(self, net: Net, conn: Connection | None = None) -> None:
        self._net = net
        self.conn = conn
        self.buf = bytearray()
        self.eof = False
        self.why: Reason | None = None
        self.on_gone: Callable[[Reason], None] | None = None
        self.farewell: Callable[[], Buffer] | None = None
        self.below: Transport
        self.stirred = True
        self.deadline = 0.0
        self.overdue = ""
        self._waiter: asyncio.Future[None] | None = None
        self._drain: asyncio.Future[None] | None = None
        self._interrupt: Reason | None = None
        self._paused = False
        self._sink: Callable[[memoryview], bool] | None = None

    @classmethod
    def over_socket(cls, net: Net, sock: socket.socket, conn: Connection | None = None, still: bool = False) -> Stream:
        """A stream over a connected, non-blocking socket, which it owns from now on.

        Reading starts at once; still: only when somebody waits for bytes, so that a socket that is spliced unread costs
        the loop nothing.
        """
        self = cls(net, conn)
        self.below = SocketTransport(net.loop, net.scratch, sock, self)
        self._paused = still
        if not still:
            self.below.resume()
        return self

    @classmethod
    def over(cls, net: Net, carrier: Callable[[Stream], Transport], conn: Connection | None = None) -> Stream:
        """A stream over a transport of another kind. Nothing is read before somebody waits for bytes."""
        self = cls(net, conn)
        self.below = carrier(self)
        self._paused = True
        return self

    @classmethod
    def pair(cls, net: Net, a: Connection | None = None, b: Connection | None = None) -> tuple[Stream, Stream]:
        """Two connected streams in memory."""
        left, right = cls(net, a), cls(net, b)
        below_left, below_right = MemoryTransport(left), MemoryTransport(right)
        below_left.peer, below_right.peer = below_right, below_left
        left.below, right.below = below_left, below_right
        below_left.resume()
        below_right.resume()
        return left, right

    @property
    def net(self) -> Net:
        return self._net

    # -- pushed up by the transport

    def received(self, data: memoryview) -> None:
        self.stirred = True
        sink = self._sink
        if sink is not None:
            if sink(data):
                return
            self._sink = None
            self._pause()
        else:
            self.buf += data
            if len(self.buf) > HIGH_WATER:
                self._pause()
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def ended(self) -> None:
        self.eof = True
        self._wake()
        if self.on_gone is not None:
            self.on_gone(CLOSED)

    def lost(self, reason: Reason) -> None:
        if self.why is not None:
            return
        self.why = reason
        self.eof = True
        self._wake()
        self.drained()
        if self.on_gone is not None:
            self.on_gone(reason)
        # Nobody refers to anybody in a circle any more, so the memory goes now and not at the next collection.
        self.below, self.on_gone, self.farewell = NOWHERE, None, None

    def drained(self) -> None:
        self.stirred = True
        drain, self._drain = self._drain, None
        if drain is not None and not drain.done():
            drain.set_result(None)

    def _pause(self) -> None:
        self._paused = True
        self.below.pause()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- reading

    async def more(self) -> bool:
        """Wait until `buf` has grown; False when the peer has ended instead.

        :raises Gone: the stream is lost, or was interrupted.
        """
        have = len(self.buf)
        while (waiter := self.wait(have)) is not None:
            await waiter
            self.woken()
        return len(self.buf) > have

    def wait(self, have: int) -> asyncio.Future[None] | None:
        """`more` in two halves, where a coroutine less counts: what is to be awaited before `buf` can be longer than
        `have`, then call `woken` and ask again. None: it is longer, or the peer has ended.

        :raises Gone: the stream is lost.
        """
        if len(self.buf) > have:
            return None
        if self.why is not None:
            raise self.why.error()
        if self.eof:
            return None
        if self._paused:
            self._paused = False
            self.below.resume()
            if self.eof or len(self.buf) > have:
                return self.wait(have)
        self._waiter = waiter = self._net.loop.create_future()
        return waiter

    def woken(self) -> None:
        """:raises Gone: what was waited for was interrupted."""
        if self._interrupt is not None:
            why, self._interrupt = self._interrupt, None
            raise why.error()

    def listen(self) -> None:
        """Read although nobody waits for bytes, so that a loss is heard of."""
        if self._paused and not self.eof and len(self.buf) <= HIGH_WATER:
            self._paused = False
            self.below.resume()

    async def push(self, sink: Callable[[memoryview], bool]) -> bool:
        """Hand all that arrives straight to `sink`, without a copy or a wake-up.

        Until it returns False (then True) or EOF (False).

        The view is valid during the call only; what the sink leaves it puts back into `buf`.

        :raises Gone: the stream is lost, or was interrupted.
        """
        if self.buf and not sink(memoryview(self.take(len(self.buf)))):
            return True
        if self.why is not None:
            raise self.why.error()
        if self.eof:
            return False
        self._sink = sink
        try:
            if self._paused:
                self._paused = False
                self.below.resume()
            if self._sink is not None and not self.eof:
                self._waiter = waiter = self._net.loop.create_future()
                await waiter
                if self._interrupt is not None:
                    why, self._interrupt = self._interrupt, None
                    raise why.error()
            if self.why is not None:
                raise self.why.error()
            return self._sink is None
        finally:
            self._sink = None

    def pushing(self, sink: Callable[[memoryview], bool], turn: asyncio.Future[None]) -> bool | None:
        """`push` for who waits for several things: False, and `turn` is resolved when there is something to be seen
        to; True: EOF; None: the sink has returned False.

        :raises Gone: the stream is lost, or was interrupted.
        """
        if self._interrupt is not None:
            why, self._interrupt = self._interrupt, None
            raise why.error()
        if self.buf and not sink(memoryview(self.take(len(self.buf)))):
            return None
        if self.why is not None:
            raise self.why.error()
        if self.eof:
            return True
        self._sink, self._waiter = sink, turn
        if self._paused:
            self._paused = False
            self.below.resume()
        return False

    def push_no_more(self) -> None:
        """After `pushing`."""
        self._sink = self._waiter = None

    async def peek(self, n: int = 1) -> bytearray:
        """The unread bytes, at least `n` of them unless the peer ended; consumes nothing. Do not keep or change it."""
        while len(self.buf) < n and await self.more():
            pass
        return self.buf

    async def read(self, limit: int = 65536) -> bytes:
        """Up to `limit` bytes; b"" = EOF. :raises Gone: lost."""
        if not self.buf and not await self.more():
            return b""
        return self.take(limit)

    def take(self, limit: int) -> bytes:
        """Consume up to `limit` of the unread bytes."""
        buf = self.buf
        if len(buf) <= limit:
            self.buf = bytearray()
            return bytes(buf)
        data = bytes(memoryview(buf)[:limit])
        del buf[:limit]
        return data

    def interrupt(self, reason: Reason) -> None:
        """Wake whoever waits for bytes with `reason`, once; the stream itself stays usable."""
        if self._waiter is not None and not self._waiter.done():  # done: its task was cancelled, or is on its way
            self._interrupt = reason
            self._wake()

    def limit(self, seconds: float, what: str) -> None:
        """What is awaited now must be there within `seconds`, or the waiter gets a `TimedOut` that says `what`."""
        self.deadline = self._net.loop.time() + seconds
        self.overdue = what

    def expire(self) -> None:
        """The deadline has passed (called by the sweep)."""
        self.deadline = 0.0
        reason = Reason("timeout", self.overdue)
        if self._waiter is not None and not self._waiter.done():
            self.interrupt(reason)
        elif not self.buf:  # else bytes came in this very turn of the loop, and whoever waited has yet to see them
            self.abort(reason)

    # -- writing

    def write(self, data: Buffer) -> bool:
        """Send or queue; False: above high water, `await drain()` before more. Never raises."""
        return self.below.write(data)

    async def drain(self) -> None:
        """Wait until what is queued has left. :raises Gone: lost."""
        if self.why is not None:
            raise self.why.error()
        if self.below.room():
            return
        if self._drain is None:
            self._drain = self._net.loop.create_future()
        await asyncio.shield(self._drain)
        if self.why is not None:
            raise self.why.error()

    def full(self) -> asyncio.Future[None] | None:
        """None: what is queued is not above high water. Else what is resolved when it has left, or the stream is lost;
        it stays the same until then. Not to be cancelled.
        """
        if self.below.room():
            return None
        if self._drain is None:
            self._drain = self._net.loop.create_future()
        return self._drain

    async def flush(self) -> None:
        """Wait until nothing is queued at all. :raises Gone: lost."""
        while not self.below.free:
            if self.why is not None:
                raise self.why.error()
            if self._drain is None:
                self._drain = self._net.loop.create_future()
            await asyncio.shield(self._drain)
        if self.why is not None:
            raise self.why.error()

    def write_eof(self) -> None:
        """FIN, close_notify."""
        self.below.write_eof()

    def pass_end(self, source: Stream) -> None:
        """The end that `source` has said. Where that was cut off as far as TLS can tell, this is: it could be an
        attacker's (RFC 8446 §6.1), and it is for the peer to say what that means to it.
        """
        theirs, ours = source.tls, self.tls
        if theirs is not None and not theirs.clean_eof and ours is not None:
            ours.silent = True
        self.write_eof()

    # -- ending

    def close(self, linger: bool = False, why: Reason = CLOSED) -> None:
        """Close after what is queued has left; idempotent. Wakes every waiter, who sees `why`."""
        farewell, self.farewell = self.farewell, None
        if farewell is not None and (words := farewell()):
            self.below.write(words)
        self.below.close(linger)
        self.lost(why)

    def abort(self, why: Reason = CLOSED) -> None:
        """Close at once, with a reset, dropping what is unread; idempotent. Wakes every waiter, who sees `why`."""
        self.buf = bytearray()
        self.below.abort(why)
        self.lost(why)

    def detach(self) -> tuple[socket.socket, bytes] | None:
        """(socket, unread bytes) for splicing; None where TLS or framing lies below or writes are queued."""
        below = self.below
        if not isinstance(below, SocketTransport) or self.why is not None:
            return None
        sock = below.detach()
        if sock is None:
            return None
        self.below = below.above = NOWHERE
        unread, self.buf = bytes(self.buf), bytearray()
        return sock, unread

    # -- TLS

    async def start_tls(
        self, conn: SSL.Connection, accepting: bool = False, arrived: Callable[[], None] | None = None
    ) -> None:
        """From here on the stream is TLS over what it was. Unread bytes become its first ciphertext.

        accepting: `conn` is in accept state. arrived: called when the first data has been read.

        :raises TlsFailed: the handshake failed; every other `Gone`: the connection was lost meanwhile.
        :raises ValueError, TypeError: `conn` cannot be used.
        """
        if self.why is not None:
            raise self.why.error()
        tls = TlsTransport(conn, self._net.tls_scratch(self.below), self.below, self)
        tls.arrived = arrived
        unread, self.buf = self.buf, bytearray()
        ended, self.eof = self.eof, False
        self.below = tls
        self._paused = False
        done = tls.begin(self._net.loop, memoryview(unread), accepting)
        if ended:
            tls.ended()
        await done

    @property
    def tls(self) -> TlsTransport | None:
        """The TLS state on top, None when the stream is plain."""
        return self.below if isinstance(self.below, TlsTransport) else None


__all__ = ["Buffer", "Gone", "Net", "Reason", "Stream"]
