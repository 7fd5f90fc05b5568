"""The sockets that name servers are asked from: a few for each server, and only so many in all.

A socket counts for the client that had it opened. When there are as many as there may be, whoever has the most gives
one up: a client that asks hundreds of servers which never answer takes from itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.net.datagrams import connected
from appliance.net.dial import DialError, literal_family

if TYPE_CHECKING:
    from appliance.connection import Address
    from appliance.net.guard import LoopGuard
    from appliance.net.nameservers import Ask

PORTS = 8
"""Sockets, and so source ports, in use at once for one server."""
PORT_QUERIES = 256
PORT_SECONDS = 20.0
"""After so many queries or so long a port is left for a new one."""

Server = tuple["Address", str | None]
"""A name server, and the local address it is asked from (None: the kernel's choice)."""


class Port:
    """One connected socket, and the questions on it by id. opener: whose it is. answered: it has had an answer."""

    __slots__ = ("answered", "born", "opener", "pending", "sent", "server", "sock")

    def __init__(self, sock: socket.socket, server: Server, opener: str, now: float) -> None:
        self.sock = sock
        self.server = server
        self.opener = opener
        self.born = now
        self.sent = 0
        self.answered = False
        self.pending: dict[int, Ask] = {}


class Ports:
    """most: sockets in all; with so many, a server gets along with one. readable: called with a port that is."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, guard: LoopGuard, most: int, readable: Callable[[Port], None]
    ) -> None:
        self._loop = loop
        self._guard = guard
        self._most = most
        self._readable = readable
        self._in_use: dict[Server, list[Port]] = {}
        self._open: dict[Port, None] = {}  # those in use, and those that only wait for answers; the oldest first
        self._opened: dict[str, int] = {}  # how many, by opener

    def __len__(self) -> int:
        return len(self._open)

    def take(self, server: Server, opener: str, random: Callable[[], int]) -> Port:
        """A random one of those in use for this server, or a new one while there are few.

        :raises DialError: it is the gateway itself. :raises OSError: no socket to it can be had.
        """
        ports = self._in_use.get(server)
        if ports is not None and (len(ports) >= PORTS or len(self._open) >= self._most):
            port = ports[random() % len(ports)]
            if port.sent < PORT_QUERIES and self._loop.time() - port.born < PORT_SECONDS:
                return port
            self._leave(port)
        (host, number), source = server[0][:2], server[1]
        if why := self._guard.refuse(host, number):
            raise DialError(why)
        family = literal_family(host)
        if family is None or not 0 < number < 65536:
            raise DialError(f"{host}:{number} is no address of a name server")
        scope = host.partition("%")[2]
        index = socket.if_nametoindex(scope) if scope else 0
        target: Address = (host.partition("%")[0], number, 0, index) if family == socket.AF_INET6 else (host, number)
        if len(self._open) >= self._most:
            self._close(min(self._open, key=self._worth))
        sock = connected(family, target, source)  # the kernel chooses a random port
        port = Port(sock, server, opener, self._loop.time())
        self._loop.add_reader(sock.fileno(), self._readable, port)
        self._open[port] = None
        self._opened[opener] = self._opened.get(opener, 0) + 1
        self._in_use.setdefault(server, []).append(port)
        return port

    def _worth(self, port: Port) -> tuple[int, bool, bool]:
        """The least is given up first, of equals the oldest: of whoever has the most, no server's only one if it
        answers, rather an idle one.
        """
        only = port.answered and self._in_use.get(port.server) == [port]
        return -self._opened[port.opener], only, bool(port.pending)

    def tidy(self) -> None:
        """Close those that are left and wait for nothing any more, and leave those that have become old."""
        now = self._loop.time()
        for port in list(self._open):
            if now - port.born >= PORT_SECONDS and port in self._in_use.get(port.server, ()):
                self._leave(port)
            elif not port.pending and port not in self._in_use.get(port.server, ()):
                self._close(port)

    def _leave(self, port: Port) -> None:
        """Send nothing more from it; it closes when nothing is awaited on it any more."""
        self._out_of_use(port)
        if not port.pending:
            self._close(port)

    def _out_of_use(self, port: Port) -> None:
        ports = self._in_use.get(port.server, [])
        if port in ports:
            ports.remove(port)
            if not ports:
                del self._in_use[port.server]

    def _close(self, port: Port) -> None:
        """The questions on it are as good as lost on the way: they are asked again when their time has come."""
        for ask in list(port.pending.values()):
            ask.leave()
        self._out_of_use(port)
        del self._open[port]
        left = self._opened[port.opener] - 1
        if left:
            self._opened[port.opener] = left
        else:
            del self._opened[port.opener]
        self._loop.remove_reader(port.sock.fileno())
        port.sock.close()

    def close(self) -> None:
        """All of them."""
        for port in list(self._open):
            self._close(port)
