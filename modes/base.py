"""What all modes have in common: a specification, a start, a stop. And the TCP listener most of them are made of."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from appliance.arrival import Arrival, Arrive, Host
from appliance.connection import Client, ConnectionState
from appliance.exceptions import ModeError
from appliance.log import RateLimited
from appliance.net.stream import Stream
from modes.spec import DEFAULT_PORT, DEFAULT_PORTS, ModeSpec

if TYPE_CHECKING:
    from appliance.connection import Address
    from appliance.layers.base import Context, Layer

logger = logging.getLogger(__name__)

BACKLOG = 4096
ACCEPTS_AT_ONCE = 64
"""Connections accepted in one turn of the loop, so that a flood of new ones does not starve the old."""
_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
RETRY_SECONDS = 0.5
PROBE_SECONDS = 1.0


class Mode(ABC):
    """One way in."""

    def __init__(self, spec: ModeSpec, host: Host, listen_host: str, listen_port: int | None) -> None:
        self.spec = spec
        self.host = host
        self.listen_host = listen_host if spec.host is None else spec.host
        default = DEFAULT_PORTS.get(spec.type_name, DEFAULT_PORT) if listen_port is None else listen_port
        self.listen_port = spec.port if spec.port is not None else default
        self.addresses: list[Address] = []
        self.hello = ""  # what the first screen says besides

    @abstractmethod
    async def start(self, arrive: Arrive) -> list[Address]:
        """Bind and accept. Returns the bound addresses. :raises ModeError: cannot be bound."""

    @abstractmethod
    async def stop(self) -> None:
        """Accept no more; idempotent."""

    def facts(self) -> dict[str, Any]:
        """What `lockgate status` says besides where it listens: texts, numbers, and counts by name."""
        return {}

    async def probe(self) -> bool:
        """Whether new connections are accepted and answered: a connection to the own listener says so."""
        return True


class TcpMode(Mode):
    """Accepts TCP connections and hands each over with `top` as the bottom of its stack."""

    def __init__(self, spec: ModeSpec, host: Host, listen_host: str, listen_port: int | None) -> None:
        super().__init__(spec, host, listen_host, listen_port)
        self._listeners: list[socket.socket] = []
        self._arrive: Arrive | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._probing: set[tuple[str, int]] = set()  # whence probe() connects
        self._coming = 0  # accepted in this turn of the loop; their tasks have not begun
        self._warn = RateLimited(logger, 2)

    @staticmethod
    @abstractmethod
    def top(context: Context) -> Layer:
        """The mode layer."""

    @abstractmethod
    def wanted(self, sock: socket.socket, peer: Address) -> Address | None:
        """Where the client wanted to go. :raises Unwanted: it must not be served."""

    def prepare(self, sock: socket.socket) -> None:
        """Set options on a listener before it is bound."""

    async def start(self, arrive: Arrive) -> list[Address]:
        self._arrive = arrive
        self._listeners = self._bind()
        loop = self.host.net.loop
        for sock in self._listeners:
            address = sock.getsockname()
            self.addresses.append(address)
            self.host.listening(address)
            loop.add_reader(sock.fileno(), self._accept, sock)
        return self.addresses

    def _bind(self) -> list[socket.socket]:
        bound: list[socket.socket] = []
        port = self.listen_port
        try:
            for family, host in self._hosts():
                try:
                    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                except OSError:
                    continue  # a host without IPv6
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self.prepare(sock)
                try:
                    sock.bind((host, port))
                    sock.listen(BACKLOG)
                except OSError as e:
                    sock.close()
                    if bound and e.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        continue  # no IPv6 here
                    raise ModeError(self._cannot(host, port, e)) from None
                port = sock.getsockname()[1]  # one free port for both families
                bound.append(sock)
        except BaseException:
            for sock in bound:
                sock.close()
            raise
        if not bound:
            raise ModeError(f"{self.spec.full_spec}: no usable address {self.listen_host!r}")
        return bound

    def _hosts(self) -> list[tuple[socket.AddressFamily, str]]:
        if not self.listen_host:
            return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
        try:
            infos = socket.getaddrinfo(
                self.listen_host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
            )
        except OSError as e:
            raise ModeError(f"{self.spec.full_spec}: {self.listen_host}: {e.strerror}") from None
        return list(dict.fromkeys((info[0], str(info[4][0])) for info in infos))

    def _cannot(self, host: str, port: int, e: OSError) -> str:
        from appliance.net.portholder import who_holds

        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if e.errno == errno.EADDRINUSE:
            holder = who_holds(host, port)
            by = f" by {holder}" if holder else ""
            return f"{where} is in use{by}; choose another port with -p, or end that program"
        if e.errno == errno.EACCES:
            return f"{where}: ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with -p"
        return f"{where}: {e.strerror}"

    def _accept(self, listener: socket.socket) -> None:
        host, loop = self.host, self.host.net.loop
        for _ in range(ACCEPTS_AT_ONCE):
            if host.full(self._coming):
                loop.remove_reader(listener.fileno())
                host.when_room(lambda: self._resume(listener))
                return
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as e:
                if e.errno in _OUT_OF:
                    self._warn.log(
                        logging.ERROR,
                        e.errno,
                        "cannot accept connections: %s; trying again every %g s (ulimit -n)",
                        e.strerror,
                        RETRY_SECONDS,
                    )
                    loop.remove_reader(listener.fileno())
                    loop.call_later(RETRY_SECONDS, self._resume, listener)
                    return
                continue  # that one connection was gone before we took it
            try:
                self._take(sock, peer)
            except OSError:
                sock.close()

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self.host.net.loop.add_reader(listener.fileno(), self._accept, listener)

    def _take(self, sock: socket.socket, peer: Address) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._probing and peer[:2] in self._probing:
            sock.close()
            return
        try:
            wanted = self.wanted(sock, peer)
        except Unwanted as e:
            self._warn.log(logging.WARNING, (peer[0], "unwanted"), "%s: %s", peer[0], e)
            sock.close()
            return
        client = Client(peername=peer, sockname=wanted or sock.getsockname(), timestamp_start=time.time())
        client.state = ConnectionState.OPEN
        client.proxy_mode = self.spec
        stream = Stream.over_socket(self.host.net, sock, client, still=True)
        task = self.host.net.loop.create_task(self._run(self.arrival(client, stream, wanted)))
        self._coming += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def arrival(self, client: Client, stream: Stream, wanted: Address | None) -> Arrival:
        """What is handed over."""
        return Arrival(client, stream, wanted, self.spec.full_spec, self.top)

    async def probe(self) -> bool:
        if self.host.full():
            return True  # new ones wait, as max_connections says; that is not a hang
        host, port = self.addresses[0][:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        loop = self.host.net.loop
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    sock.bind((host, 0))
                    source = sock.getsockname()[:2]
                    self._probing.add(source)
                    try:
                        await loop.sock_connect(sock, (host, port))
                        return await loop.sock_recv(sock, 1) == b""
                    finally:
                        self._probing.discard(source)
            except (OSError, TimeoutError):
                return False

    async def _run(self, arrival: Arrival) -> None:
        assert self._arrive is not None
        self._coming -= 1
        await self._arrive(arrival)

    async def stop(self) -> None:
        for sock in self._listeners:
            self.host.net.loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()


class Unwanted(Exception):
    """A connection that must not be served; the text says why."""
