"""Connect a TCP socket: literal addresses at once, names by the resolver and happy eyeballs (RFC 8305)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohappyeyeballs

from appliance.net.guard import LoopGuard
from appliance.net.spoof import literal, open_as

if TYPE_CHECKING:
    from appliance.connection import Address


class DialError(Exception):
    """The connection could not be made; the text names address and cause."""


class Attempt:
    """A wish for a connection, which may be given up while it is being made. why: set once it was, for a person.

    wake: ends whatever is being waited for just now; set by those who wait.
    """

    __slots__ = ("wake", "why")

    def __init__(self) -> None:
        self.why = ""
        self.wake: Callable[[], object] | None = None

    def abandon(self, why: str) -> None:
        """It is not wanted any more: whoever works on it stops at once."""
        if not self.why:
            self.why = why
            if self.wake is not None:
                self.wake()


class Refused(DialError):
    """We do not dial this address: it is the gateway itself, or a metadata address."""


async def dial(
    loop: asyncio.AbstractEventLoop,
    address: Address,
    guard: LoopGuard,
    seconds: float,
    source: str | None = None,
    attempt: Attempt | None = None,
    client: Address | None = None,
) -> socket.socket:
    """A connected, non-blocking socket to `address` (host name or literal, port) within `seconds`.

    source: local address to bind. client: bind to its address instead, and take only its IP version.

    :raises DialError: it cannot be had, or `attempt` was abandoned.
    """
    host, port = address[0], address[1]
    if attempt is not None and attempt.why:
        raise DialError(attempt.why)
    if not 0 < port < 65536:
        raise DialError(f"{host}: {port} is not a port")
    family = literal_family(host)
    if family is not None:
        if why := guard.refuse(host, port):
            raise Refused(why)
        return await _connect(loop, family, host, port, seconds, source, attempt, client)
    try:
        async with asyncio.timeout(seconds) as clock:
            if attempt is not None:
                attempt.wake = lambda: None if clock.expired() else clock.reschedule(0.0)
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            allowed = [info for info in infos if not guard.refuse(str(info[4][0]), port)]
            if not allowed:
                raise Refused(guard.refuse(str(infos[0][4][0]), port) or f"{host}: no address")
            if client is not None:
                allowed = [info for info in allowed if info[0] == literal(client)[0]][:1] or allowed[:1]
            if len(allowed) == 1:
                found = allowed[0]
                return await _connect(loop, found[0], str(found[4][0]), port, seconds, source, attempt, client)
            local = await loop.getaddrinfo(source, 0, type=socket.SOCK_STREAM) if source else None
            sock = await aiohappyeyeballs.start_connection(
                allowed, local_addr_infos=local, happy_eyeballs_delay=0.25, interleave=1, loop=loop
            )
    except TimeoutError:
        raise _too_late(f"{host}:{port}", seconds, attempt) from None
    except (socket.gaierror, UnicodeError) as e:
        raise DialError(
            f"{host}: the name cannot be resolved ({e.strerror if isinstance(e, OSError) else e})"
        ) from None
    except OSError as e:
        raise DialError(f"{host}:{port}: {e.strerror or e}") from None
    finally:
        if attempt is not None:
            attempt.wake = None
    _no_delay(sock)
    return sock


def _too_late(where: str, seconds: float, attempt: Attempt | None) -> DialError:
    if attempt is not None and attempt.why:
        return DialError(attempt.why)
    return DialError(f"{where}: no connection within {seconds:g} s (option connect_timeout)")


def has_route(address: str) -> bool:
    """Whether this machine knows a way to an IP address. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))
    except OSError as error:
        return error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True


def literal_family(host: str) -> socket.AddressFamily | None:
    """The family of an IP literal, None for a name."""
    if ":" in host:
        return socket.AF_INET6
    if host[-1:].isdigit():
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            return None
        return socket.AF_INET
    return None


async def _connect(
    loop: asyncio.AbstractEventLoop,
    family: int,
    host: str,
    port: int,
    seconds: float,
    source: str | None,
    attempt: Attempt | None,
    client: Address | None,
) -> socket.socket:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if client is not None:
            sock = open_as(client, family, socket.SOCK_STREAM)
        else:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as e:
        raise DialError(f"{where}: {e.strerror}") from None
    try:
        _no_delay(sock)
        if family == socket.AF_INET6:
            socket.inet_pton(family, host.partition("%")[0])  # else connect() would go and ask the resolver, blocking
        if source and client is None:
            sock.bind((source, 0))
        scope = socket.if_nametoindex(host.partition("%")[2]) if "%" in host else 0
        error = sock.connect_ex((host.partition("%")[0], port, 0, scope) if family == socket.AF_INET6 else (host, port))
        if error == errno.EINPROGRESS:
            error = await _established(loop, sock, seconds, attempt)
        if error:
            raise OSError(error, os.strerror(error))
    except TimeoutError:
        sock.close()
        raise _too_late(where, seconds, attempt) from None
    except OSError as e:
        sock.close()
        raise DialError(f"{where}: {e.strerror or e}") from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _established(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, seconds: float, attempt: Attempt | None
) -> int:
    """Wait for a connect under way; its error number, 0 = connected. Cheaper than sock_connect inside a timeout."""
    done: asyncio.Future[None] = loop.create_future()

    def writable() -> None:
        if not done.done():
            done.set_result(None)

    def late() -> None:
        if not done.done():
            done.set_exception(TimeoutError())

    timer = loop.call_later(seconds, late)
    loop.add_writer(sock.fileno(), writable)
    if attempt is not None:
        attempt.wake = late
    try:
        await done
    finally:
        timer.cancel()
        loop.remove_writer(sock.fileno())
        if attempt is not None:
            attempt.wake = None
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _no_delay(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
