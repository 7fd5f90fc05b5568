"""Pass-through inside the kernel: bytes go from socket to socket through a pipe and never into Python.

Pipes are pooled: taken when bytes arrive, given back when they have left, so an idle passed connection holds two
descriptors only.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct

from appliance.net.reasons import CLOSED, Reason
from appliance.net.transport import FAREWELL_SECONDS, queued, reason_of

PIPE_SIZE = 1 << 20
ROUNDS = 4
"""How often one direction may go on before the loop gets to see the others."""
BULK = 128 * 1024
"""Bytes moved in one turn from which a direction counts as bulk."""
BULK_REST = 0.004
"""Seconds for which bulk then gathers in the socket: most of what splicing costs is waking for each few packets."""
RESET_LOOK = 0.1
"""Seconds between two looks whether a peer has all that was sent to it before a reset."""
_TCP_CLOSE = 7
_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_F_SETPIPE_SZ = 1031
_RST_ON_CLOSE = struct.pack("ii", 1, 0)

Pipe = tuple[int, int]


class Pipes:
    """A bounded pool of empty pipes (read end, write end)."""

    KEEP = 32

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._free: list[Pipe] = []

    def take(self) -> Pipe:
        """An empty pipe. :raises OSError: out of descriptors."""
        if self._free:
            return self._free.pop()
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A user without privileges has 16,384 pipe pages in all; past them the kernel says no and the pipe keeps 64 kB.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_SIZE)
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Back into the pool; only an empty pipe."""
        if len(self._free) < self.KEEP:
            self._free.append(pipe)
        else:
            self.drop(pipe)

    @staticmethod
    def drop(pipe: Pipe) -> None:
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        while self._free:
            self.drop(self._free.pop())


class Way:
    """One direction. moved: bytes handed to the receiver so far."""

    __slots__ = ("_dst", "_held", "_pipe", "_reading", "_resting", "_src", "_writing", "eof", "moved", "relay")

    def __init__(self, relay: Splice, src: socket.socket, dst: socket.socket) -> None:
        self.relay = relay
        self._src = src.fileno()
        self._dst = dst.fileno()
        self._pipe: Pipe | None = None
        self._held = 0
        self._reading = False
        self._writing = False
        self._resting: asyncio.TimerHandle | None = None
        self.moved = 0
        self.eof = False

    def start(self) -> None:
        self._resting = None
        if self.eof:
            self.relay.half(self)
        elif not (self._reading or self._writing):
            self._reading = True
            self.relay.pipes.loop.add_reader(self._src, self.readable)

    def readable(self) -> None:
        pipes = self.relay.pipes
        before = self.moved
        try:
            for _ in range(ROUNDS):
                if self._pipe is None:
                    self._pipe = pipes.take()
                n = os.splice(self._src, self._pipe[1], PIPE_SIZE, flags=_FLAGS)
                if n == 0:
                    self.eof = True
                    self._stop_reading()
                    if not self._writing:
                        self.relay.half(self)
                    break
                self._held += n
                if not self._push():
                    return
                if n < 65536:
                    break
        except BlockingIOError:
            pass
        except OSError as e:
            self.relay.fail(reason_of(e))
            return
        self._give_back()
        if self.moved - before >= BULK and self._reading:
            self._stop_reading()
            self._resting = pipes.loop.call_later(BULK_REST, self.start)

    def _push(self) -> bool:
        """Move what the pipe holds on; False when the receiver takes no more, for now or at all."""
        assert self._pipe is not None
        while self._held:
            try:
                n = os.splice(self._pipe[0], self._dst, self._held, flags=_FLAGS)
            except BlockingIOError:
                if not self._writing:
                    self._stop_reading()
                    self._writing = True
                    self.relay.pipes.loop.add_writer(self._dst, self.writable)
                return False
            except OSError as e:
                self.relay.broken(self, reason_of(e))
                return False
            self._held -= n
            self.moved += n
        return True

    def writable(self) -> None:
        if not self._push():
            return
        self._writing = False
        self.relay.pipes.loop.remove_writer(self._dst)
        self._give_back()
        self.start()

    def look(self) -> None:
        if self._reading:
            self._stop_reading()
            self.start()

    def _give_back(self) -> None:
        if self._pipe is not None and not self._held:
            self.relay.pipes.give(self._pipe)
            self._pipe = None

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self.relay.pipes.loop.remove_reader(self._src)

    def part(self) -> None:
        """Leave the relay, when it has ended: two that refer to each other would wait for a collection."""
        if hasattr(self, "relay"):
            del self.relay

    def stop(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
        self._stop_reading()
        if self._writing:
            self._writing = False
            self.relay.pipes.loop.remove_writer(self._dst)
        if self._held:
            assert self._pipe is not None
            self.relay.pipes.drop(self._pipe)
            self._pipe, self._held = None, 0
        self._give_back()


class Splice:
    """Both directions between two connected sockets, which it owns and closes. Half-closes are passed on."""

    def __init__(self, pipes: Pipes, client: socket.socket, server: socket.socket) -> None:
        self.pipes = pipes
        self._socks = client, server
        self.up = Way(self, client, server)
        self.down = Way(self, server, client)
        self._why = CLOSED
        self.done: asyncio.Future[Reason] = pipes.loop.create_future()

    async def run(self, client_eof: bool = False, server_eof: bool = False) -> Reason:
        """Until both sides are done; the reason is CLOSED for an orderly end. *_eof: that side has ended already."""
        self.up.eof, self.down.eof = client_eof, server_eof
        self.up.start()
        if not self.done.done():  # both had ended before
            self.down.start()
        try:
            return await self.done
        finally:
            self.fail(CLOSED)

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes (client to server, server to client) so far."""
        return self.up.moved, self.down.moved

    def half(self, way: Way) -> None:
        """One direction is through: pass the FIN on, or end."""
        if self.up.eof and self.down.eof:
            self.fail(self._why)
            return
        with contextlib.suppress(OSError):
            self._socks[1 if way is self.up else 0].shutdown(socket.SHUT_WR)

    def broken(self, way: Way, reason: Reason) -> None:
        """The receiver of `way` takes no more. What it had said before, such as why, is still brought across."""
        self._why = reason
        way.stop()
        way.eof = True
        other = self.down if way is self.up else self.up
        if other.eof:
            self.fail(reason)
        else:
            other.start()
            self.pipes.loop.call_soon(self.look)

    def look(self) -> None:
        """See `SocketTransport.look`."""
        self.up.look()
        self.down.look()

    def fail(self, reason: Reason) -> None:
        """End both at once; idempotent. A reset on one side is a reset on the other, behind what was sent before it."""
        if self.done.done() and self._socks[0].fileno() < 0:
            return
        if reason is not CLOSED:
            for sock in self._socks:
                with contextlib.suppress(OSError):
                    if reason.kind == "reset" and (left := _awaited(sock)):
                        _reset_behind(self.pipes.loop, sock.dup(), left)
                    else:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self._finish(reason)

    def _finish(self, reason: Reason) -> None:
        self.up.stop()
        self.down.stop()
        for sock in self._socks:
            sock.close()
        if not self.done.done():
            self.done.set_result(reason)
        self.up.part()
        self.down.part()


def _reset_behind(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, left: int, patience: float = FAREWELL_SECONDS
) -> None:
    """Reset a connection once its peer has what was sent before, or takes no more of it for a while. (A FIN would say
    that this was all.) left: bytes it had not taken the last time.
    """
    now = _awaited(sock)
    if now and patience > 0:
        patience = FAREWELL_SECONDS if now < left else patience - RESET_LOOK
        loop.call_later(RESET_LOOK, _reset_behind, loop, sock, now, patience)
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    sock.close()


def _awaited(sock: socket.socket) -> int:
    """Bytes that the peer may still take."""
    gone = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    return 0 if gone else queued(sock)
