"""What moves the bytes of a stream: a socket, or a pair in memory. TLS is the third kind (tls_transport.py).

A transport pushes what arrives to the `Above` it carries and takes writes. It never queues on the way up; on the way
down it keeps only what the kernel would not take. Sockets are used directly (one reader callback, `recv_into` a shared
buffer, `send`): as fast as uvloop's own transports here, the same on stdlib asyncio, and the socket stays free to be
spliced.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import Protocol

from appliance.net.reasons import CLOSED, Reason

HIGH_WATER = 256 * 1024
"""Bytes queued (towards a peer) or held unread (from one) before the other side is made to wait."""
LINGER_SECONDS = 2.0
FAREWELL_SECONDS = 30.0
"""How long a closed connection may stand still before what is queued for it is given up."""
LAST_WORDS = 64
"""Reads that are still made after a write failed, of up to 256 kB each."""
_RST_ON_CLOSE = struct.pack("ii", 1, 0)

Buffer = bytes | bytearray | memoryview


class Above(Protocol):
    """Who a transport carries: a stream, or TLS over it."""

    def received(self, data: memoryview) -> None: ...  # a view of a shared buffer: copy what is kept
    def ended(self) -> None: ...  # the peer sends no more
    def lost(self, reason: Reason) -> None: ...  # broken; nothing more comes or goes
    def drained(self) -> None: ...  # all that was queued has left


class Transport(Protocol):
    """The bytes' carrier as a stream sees it. No method raises: failures go up through `Above.lost`."""

    above: Above

    def write(self, data: Buffer) -> bool: ...  # False: above high water, wait for drained()
    def write_eof(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def look(self) -> None: ...  # see SocketTransport
    def close(self, linger: bool = False) -> None: ...  # after what is queued has left
    def abort(self, why: Reason = CLOSED) -> None: ...
    def room(self) -> bool: ...  # False: above high water
    @property
    def free(self) -> bool: ...  # nothing is queued


class Scratch:
    """The fixed buffers of one event loop, shared by all its transports: nothing in them outlives a callback."""

    SIZE = 256 * 1024

    def __init__(self) -> None:
        self.raw = bytearray(self.SIZE)
        self.raw_view = memoryview(self.raw)


class SocketTransport:
    """A connected, non-blocking stream socket."""

    __slots__ = (
        "_broken",
        "_close_asked",
        "_eof_asked",
        "_fd",
        "_loop",
        "_out",
        "_reading",
        "_recv",
        "_scratch",
        "_send",
        "above",
        "sock",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, scratch: Scratch, sock: socket.socket, above: Above) -> None:
        self.above = above
        self.sock: socket.socket | None = sock
        self._loop = loop
        self._scratch = scratch
        self._fd = sock.fileno()
        self._recv = sock.recv_into
        self._send = sock.send
        self._out: bytearray | None = None
        self._broken: OSError | None = None  # what the first write that failed said
        self._reading = False
        self._eof_asked = False
        self._close_asked = False

    # -- reading

    def resume(self) -> None:
        if not self._reading and self.sock is not None:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def look(self) -> None:
        """Make sure that an end is heard of. Called now and then after bytes came.

        When a reset comes along with the last bytes, uvloop calls the reader once, for the bytes, and then never again.
        """
        if self._reading:
            self.pause()
            self.resume()

    def hear(self) -> None:
        """The same, in the next turn of the loop."""
        self._loop.call_soon(self.look)

    def _readable(self) -> None:
        try:
            n = self._recv(self._scratch.raw)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self._fail(e)
            return
        if n:
            self.above.received(self._scratch.raw_view[:n])
        else:
            self.pause()  # an EOF stays readable for ever
            self.above.ended()

    # -- writing

    def write(self, data: Buffer) -> bool:
        out = self._out
        if out is not None:
            out += data
            return len(out) < HIGH_WATER
        if self.sock is None or self._broken is not None:
            return True
        try:
            n = self._send(data)
        except (BlockingIOError, InterruptedError):
            n = 0
        except OSError as e:
            self._break(e)
            return True
        if n == len(data):
            return True
        self._out = out = bytearray(memoryview(data)[n:])
        self._loop.add_writer(self._fd, self._writable)
        return len(out) < HIGH_WATER

    def _writable(self) -> None:
        out = self._out
        assert out is not None
        try:
            with memoryview(out) as view:
                n = self._send(view[: Scratch.SIZE])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:
            self._out = None
            self._loop.remove_writer(self._fd)
            self._break(e)
            return
        del out[:n]
        if out:
            return
        self._out = None
        self._loop.remove_writer(self._fd)
        if self._close_asked:
            self._really_close()
            return
        if self._eof_asked:
            self._shutdown_write()
        self.above.drained()

    def _break(self, e: OSError) -> None:
        # Not lost at once: a server may have answered before it reset what we were still sending (RFC 9112 §9.5). Nor
        # within write(): its caller may be in the middle of somebody else's bytes.
        self._broken = e.with_traceback(None)  # its frames hold views: see H2Connection._received
        self._loop.call_soon(self._last_words)

    def _last_words(self) -> None:
        try:
            for _ in range(LAST_WORDS):
                if self.sock is None or not (n := self._recv(self._scratch.raw)):
                    break
                self.above.received(self._scratch.raw_view[:n])
        except OSError:
            pass
        if self.sock is not None and self._broken is not None:
            self._fail(self._broken)

    def room(self) -> bool:
        return self._out is None or len(self._out) < HIGH_WATER

    def write_eof(self) -> None:
        self._eof_asked = True
        if self._out is None:
            self._shutdown_write()

    def _shutdown_write(self) -> None:
        if self.sock is not None:
            with suppress(OSError):  # the peer is gone already; reads will say so
                self.sock.shutdown(socket.SHUT_WR)

    # -- ending

    def close(self, linger: bool = False) -> None:
        """Close once everything queued has left.

        linger: half-close first and swallow what the peer still sends for a while, so that the kernel does not answer
        it with a reset that would destroy our last words (RFC 9112 §9.6).
        """
        if self.sock is None or self._close_asked or isinstance(self.above, _Drain):
            return
        if linger:
            self.write_eof()
            self.above = _Drain(self)
            self.resume()
            self._loop.call_later(LINGER_SECONDS, self._farewell, None)
            return
        self._end()
        if self.sock is not None:
            self.pause()
            self._loop.call_later(LINGER_SECONDS, self._farewell, None)

    def _end(self) -> None:
        self._close_asked = True
        if self._out is None:
            self._really_close()

    def _farewell(self, before: int | None) -> None:
        """End it, unless a slow peer is still taking what we said. before: bytes it had not taken the last time."""
        if self.sock is None:
            return
        left = queued(self.sock) + len(self._out or b"")
        if left and (before is None or left < before):
            self._loop.call_later(FAREWELL_SECONDS, self._farewell, left)
        else:
            self.abort()

    def abort(self, why: Reason = CLOSED) -> None:
        """Close now, with a reset, dropping what is queued."""
        if self.sock is not None:
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            self._really_close()

    @property
    def free(self) -> bool:
        return self._out is None

    def detach(self) -> socket.socket | None:
        """Hand the socket out, for splicing; None when writes are still queued or it is closed."""
        if self._out is not None or self.sock is None or self._broken is not None:
            return None
        self.pause()
        sock, self.sock = self.sock, None
        return sock

    def _really_close(self) -> None:
        sock = self.sock
        if sock is None:
            return
        self.pause()
        if self._out is not None:
            self._out = None
            self._loop.remove_writer(self._fd)
        self.sock = None
        sock.close()
        self.above = NOWHERE

    def _fail(self, e: OSError) -> None:
        above = self.above
        self._really_close()
        above.lost(reason_of(e))


class _Nobody:
    """Above a transport that is closed, and below a stream that is lost: takes everything, does nothing."""

    def received(self, data: memoryview) -> None: ...
    def ended(self) -> None: ...
    def lost(self, reason: Reason) -> None: ...
    def drained(self) -> None: ...
    def write(self, data: Buffer) -> bool:
        return True

    def write_eof(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self, linger: bool = False) -> None: ...
    def abort(self, why: Reason = CLOSED) -> None: ...
    def look(self) -> None: ...
    def room(self) -> bool:
        return True

    @property
    def free(self) -> bool:
        return True

    @property
    def above(self) -> Above:
        return self

    @above.setter
    def above(self, value: Above) -> None: ...


NOWHERE = _Nobody()


class _Drain:
    """Takes the stream's place once it has closed politely: swallows what the peer still sends, so that the kernel has
    no reason to answer with a reset that would overtake our last words (RFC 9112 §9.6).

    It ends with the peer's own end, with `SocketTransport._farewell`'s patience, or when a megabyte has come: who sends
    that much after our FIN does not listen.
    """

    __slots__ = ("_left", "_transport")

    def __init__(self, transport: SocketTransport) -> None:
        self._transport = transport
        self._left = 1 << 20

    def received(self, data: memoryview) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()
        else:
            self._transport.hear()

    def ended(self) -> None:
        self._transport._end()

    def lost(self, reason: Reason) -> None:
        pass

    def drained(self) -> None:
        pass


def queued(sock: socket.socket) -> int:
    """Bytes that the kernel holds for the peer, sent or not, and it has not acknowledged. A reset throws them away."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0


def reason_of(e: OSError) -> Reason:
    """Name a socket error in one line."""
    match e.errno:
        case errno.ECONNRESET | errno.EPIPE:
            return Reason("reset", "connection reset by peer")
        case errno.ETIMEDOUT:
            return Reason("timeout", "the network timed out")
        case errno.EBADF:
            return CLOSED
    return Reason("reset", e.strerror or str(e))
