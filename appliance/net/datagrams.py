"""One UDP flow, seen from one peer: over a connected socket, over a listener's shared socket, or in memory.

What arrives waits in an inbox that is bounded in datagrams and bytes. What finds no room, there or in the kernel's send
queue, is dropped and counted, as a router would do it: nothing queues without end, and no sender is made to wait.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from appliance.net.dial import DialError, Refused, literal_family
from appliance.net.reasons import CLOSED, Reason
from appliance.net.spoof import open_as

if TYPE_CHECKING:
    from appliance.connection import Address, Connection
    from appliance.net.guard import LoopGuard

MAX_DATAGRAMS = 512
MAX_BYTES = 1 << 20
"""What one inbox holds at most."""
READS_AT_ONCE = 64
"""Datagrams taken from one socket in one turn of the loop, so that a flood on it does not starve the others."""
LARGEST = 65535
REFUSED = Reason("reset", "the port is unreachable (ICMP)")


class Datagrams:
    """See `interfaces.md`. A flow has no half-close: it is there until one of its ends is gone.

    conn: Client or Server, as add-ons see it. why: set once the flow is lost to this side.
    received, dropped: datagrams since the start. stirred: set by every datagram in or out; the sweep clears it.
    deadline: as in a Stream. on_gone: called once when the flow is lost.
    """

    __slots__ = (
        "_ended",
        "_held",
        "_inbox",
        "_loop",
        "_waiter",
        "conn",
        "deadline",
        "dropped",
        "on_gone",
        "overdue",
        "received",
        "stirred",
        "why",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, conn: Connection | None = None) -> None:
        self.conn = conn
        self.why: Reason | None = None
        self.on_gone: Callable[[Reason], None] | None = None
        self.received = 0
        self.dropped = 0
        self.stirred = True
        self.deadline = 0.0
        self.overdue = ""
        self._loop = loop
        self._inbox: list[bytes] = []
        self._held = 0  # bytes in it
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    # -- pushed up by what carries it

    def arrived(self, data: bytes) -> None:
        """One datagram from the peer."""
        if self.why is not None:
            return
        self.stirred = True
        self.received += 1
        held = self._held + len(data)
        if len(self._inbox) >= MAX_DATAGRAMS or held > MAX_BYTES:
            self.dropped += 1
            return
        self._held = held
        self._inbox.append(data)
        if self._waiter is not None:
            self._wake()

    def put(self, data: bytes) -> bool:
        """As if the peer had sent it. False: there is no room."""
        received, dropped = self.received, self.dropped
        self.arrived(data)
        self.received = received
        if self.dropped > dropped:
            self.dropped = dropped
            return False
        return True

    def ended(self) -> None:
        """The peer says nothing more, in good order."""
        self._ended = True
        self._wake()

    def lost(self, why: Reason) -> None:
        """Nothing more comes or goes; idempotent. What had arrived before can still be received."""
        if self.why is None:
            self.why = why
            self._shut(why)
            self._wake()
            if self.on_gone is not None:
                self.on_gone(why)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _shut(self, why: Reason) -> None:
        """Let go of what carries it. Called once."""
        raise NotImplementedError

    # -- for layers

    async def receive(self) -> list[bytes]:
        """All that has arrived, at least one datagram (which may be empty); [] = ended. :raises Gone: lost."""
        while not self._inbox:
            if self.why is not None:
                raise self.why.error()
            if self._ended:
                return []
            self._waiter = waiter = self._loop.create_future()
            await waiter
        batch, self._inbox, self._held = self._inbox, [], 0
        return batch

    @property
    def waiting(self) -> Sequence[bytes]:
        """What has arrived and was not received yet. Do not keep or change it."""
        return self._inbox

    def unread(self, batch: Sequence[bytes]) -> None:
        """Put back, at the front, what was received and only looked at."""
        self._inbox[:0] = batch
        self._held += sum(map(len, batch))
        self._wake()

    def send(self, batch: Sequence[bytes]) -> None:
        """Send each as one datagram, or drop it. Never raises."""
        raise NotImplementedError

    def reject(self) -> None:
        """Tell the peer, if it can be told, that nobody is here: ICMP port unreachable. Does not close."""
        raise NotImplementedError

    def limit(self, seconds: float, what: str) -> None:
        """What is awaited now must be there within `seconds`, or the flow ends as `TimedOut` that says `what`."""
        self.deadline = self._loop.time() + seconds
        self.overdue = what

    def expire(self) -> None:
        """The deadline has passed (called by the sweep)."""
        self.deadline = 0.0
        self.lost(Reason("timeout", self.overdue))

    def close(self, linger: bool = False, why: Reason = CLOSED) -> None:
        """End it; idempotent. Wakes the waiter, who sees `why`. Nothing is queued, so nothing lingers."""
        self.lost(why)

    def abort(self, why: Reason = CLOSED) -> None:
        """The same, and what had arrived is dropped."""
        self._inbox, self._held = [], 0
        self.lost(why)


class SocketDatagrams(Datagrams):
    """Over a connected, non-blocking UDP socket, which it owns from now on."""

    __slots__ = ("_recv", "_send", "_sock")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, conn: Connection | None = None) -> None:
        super().__init__(loop, conn)
        self._sock = sock
        self._recv = sock.recv
        self._send = sock.send
        loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        recv, arrived = self._recv, self.arrived
        try:
            for _ in range(READS_AT_ONCE):
                arrived(recv(LARGEST))
        except (BlockingIOError, InterruptedError):
            pass
        except ConnectionRefusedError:
            self.lost(REFUSED)
        except OSError as e:
            if e.errno == errno.EMSGSIZE:
                self._loop.call_soon(self._narrower)
            else:
                self.lost(Reason("reset", e.strerror or str(e)))

    def _narrower(self) -> None:
        """The path takes smaller packets than thought (RFC 1191); the kernel fragments what comes next. libuv has
        stopped looking at the socket for the error, so begin anew.
        """
        if self.why is None:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def send(self, batch: Sequence[bytes]) -> None:
        if self.why is not None:
            return
        self.stirred = True
        for data in batch:
            try:
                self._send(data)
            except ConnectionRefusedError:  # the answer to an earlier one
                self.lost(REFUSED)
                return
            except OSError as e:  # no room in the send queue, no route for now, too long
                self.dropped += 1
                if e.errno == errno.EMSGSIZE:  # perhaps of an earlier one
                    self._loop.call_soon(self._narrower)

    def reject(self) -> None:
        """Nothing to do: the kernel answers so itself for a socket that is closed."""

    def _shut(self, why: Reason) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


class SharedDatagrams(Datagrams):
    """One client's flow on a socket that a listener shares among many; the listener calls `arrived`."""

    __slots__ = ("_over", "_refuse", "reply")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        conn: Connection | None,
        reply: Callable[[bytes], object],
        refuse: Callable[[], object],
        over: Callable[[Reason], None],
    ) -> None:
        """reply: sends one datagram to the client, or raises OSError; may be replaced. refuse: see `reject`.
        over: called at the end.
        """
        super().__init__(loop, conn)
        self.reply = reply
        self._refuse = refuse
        self._over = over

    def send(self, batch: Sequence[bytes]) -> None:
        if self.why is not None:
            return
        self.stirred = True
        for data in batch:
            try:
                self.reply(data)
            except OSError:
                self.dropped += 1

    def reject(self) -> None:
        self._refuse()

    def _shut(self, why: Reason) -> None:
        self._over(why)


class MemoryDatagrams(Datagrams):
    """One end of a pair in memory."""

    __slots__ = ("peer",)
    peer: MemoryDatagrams

    @classmethod
    def pair(
        cls, loop: asyncio.AbstractEventLoop, a: Connection | None = None, b: Connection | None = None
    ) -> tuple[MemoryDatagrams, MemoryDatagrams]:
        """Two connected ends: one's close ends the other, one's reject is the other's reset."""
        left, right = cls(loop, a), cls(loop, b)
        left.peer, right.peer = right, left
        return left, right

    def send(self, batch: Sequence[bytes]) -> None:
        if self.why is None:
            self.stirred = True
            for data in batch:
                self.peer.arrived(bytes(data))

    def reject(self) -> None:
        self.peer.lost(REFUSED)

    def _shut(self, why: Reason) -> None:
        self.peer.ended()


async def dial_udp(
    loop: asyncio.AbstractEventLoop,
    address: Address,
    guard: LoopGuard,
    seconds: float,
    source: str | None = None,
    client: Address | None = None,
) -> socket.socket:
    """A non-blocking UDP socket connected to `address` (host name or literal, port); no packet leaves.

    seconds: for resolving a name. source: local address to bind. client: bind to its address instead.

    :raises DialError: it cannot be had.
    """
    host, port = address[0], address[1]
    infos: Sequence[tuple[int, Address]]
    if family := literal_family(host):
        scope = host.partition("%")[2]
        try:
            index = socket.if_nametoindex(scope) if scope else 0
        except OSError as e:
            raise DialError(f"{host}: {e.strerror or e}") from None
        infos = [(family, (host.partition("%")[0], port, 0, index) if family == socket.AF_INET6 else (host, port))]
    else:
        try:
            async with asyncio.timeout(seconds):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except TimeoutError:
            raise DialError(
                f"{host}: the name was not resolved within {seconds:g} s (option connect_timeout)"
            ) from None
        except (OSError, UnicodeError) as e:
            raise DialError(f"{host}: the name cannot be resolved ({getattr(e, 'strerror', None) or e})") from None
        infos = [(info[0], (str(info[4][0]), port, *info[4][2:])) for info in found]
    fault: DialError = DialError(f"{host}: no address")
    for number, target in infos:
        if why := guard.refuse(target[0], port):
            fault = Refused(why)
            continue
        try:
            return connected(number, target, source, client)
        except OSError as e:
            where = f"[{target[0]}]:{port}" if ":" in target[0] else f"{target[0]}:{port}"
            fault = DialError(f"{where}: {e.strerror or os.strerror(e.errno or errno.EIO)}")
    raise fault


def connected(family: int, target: Address, source: str | None, client: Address | None = None) -> socket.socket:
    """A non-blocking UDP socket. client: bind to its address. :raises OSError: no route, or `source` is not ours."""
    if client is not None:
        sock = open_as(client, family, socket.SOCK_DGRAM)
    else:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if source and client is None:
            sock.bind((source, 0))
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock
