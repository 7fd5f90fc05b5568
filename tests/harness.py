"""A gateway in the test's own process: a Worker over loopback sockets or memory, real TLS on both sides, fake add-ons.

Fixtures (tests/conftest.py): `rigs` makes Rigs and ends them with the test; `pki`: the origins' root and certificates.

    async def test_it(rigs):
        events = Events()
        rig = await rigs(events, connection_strategy="lazy")
        origin = await rig.origin(hello, tls=True)
        client = await rig.connect(await rig.transparent(origin))
        await client.start_tls("origin.test")
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import modes
from appliance.addonmanager import AddonManager
from appliance.arrival import Arrival
from appliance.connection import Address, Client, ConnectionState
from appliance.events import EVENTS
from appliance.hooks import Hooks
from appliance.layers.base import Context, Layer
from appliance.layers.modes import HttpProxy, TransparentProxy
from appliance.net.certs import CertificateAuthority, Minter
from appliance.net.stream import Stream
from appliance.net.tls_context import TlsContexts
from appliance.options import Options
from appliance.worker import Worker
from modes.transparent import Transparent
from tests.lab.pki import Pair, Pki

ORIGIN = "origin.test"
NAMES = (ORIGIN, "*.origin.test", "other.test", "localhost", "127.0.0.1", "::1")
"""What the origins' certificates are for. Names under .test resolve to 127.0.0.1 in a Rig."""
QUIET = frozenset({"add_log", "configure", "load", "running", "done", "next_layer", "update", "tcp_message"})
"""Events that `Events()` does not listen to: it would change what the gateway does, or flood the list."""


class Events:
    """An add-on that writes down what is fired. `Events("tcp_message", ...)` listens to these alone.

    on: more hooks by name; they run after the event was written down, and may be async.
    """

    def __init__(self, *names: str, **on: Callable[..., Any]) -> None:
        self.fired: list[tuple[str, Any]] = []
        for name in names or [name for name, event in EVENTS.items() if event.yet and name not in QUIET]:
            self._listen(name, on.pop(name, None))
        for name, hook in on.items():
            self._listen(name, hook)

    def _listen(self, name: str, hook: Callable[..., Any] | None) -> None:
        def note(*args: Any) -> Any:
            self.fired.append((name, args[0] if args else None))
            return hook(*args) if hook is not None else None

        arity = len(EVENTS[name].args)
        setattr(self, name, (lambda: note()) if arity == 0 else (lambda argument: note(argument)))

    @property
    def names(self) -> list[str]:
        """The names of the events in order."""
        return [name for name, _ in self.fired]

    def of(self, name: str) -> list[Any]:
        """The arguments of every event of this name."""
        return [argument for fired, argument in self.fired if fired == name]

    async def wait(self, name: str, count: int = 1, seconds: float = 5.0) -> Any:
        """The argument of the `count`th event of this name, once it is fired."""
        await until(lambda: len(self.of(name)) >= count, seconds, f"{count} x {name}; fired: {self.names}")
        return self.of(name)[count - 1]


class Peer:
    """A plain client (or an origin's end of a connection) over asyncio's own streams: none of our code."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pki: Pki) -> None:
        self.reader = reader
        self.writer = writer
        self._pki = pki
        self._trust: bytes = b""

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), 10)

    async def until(self, mark: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(mark), 10)

    async def some(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(65536), 10)

    async def rest(self) -> bytes:
        """All to the end. :raises ConnectionResetError: it was reset."""
        return await asyncio.wait_for(self.reader.read(), 10)

    async def head(self) -> bytes:
        """A response or request head."""
        return await self.until(b"\r\n\r\n")

    async def start_tls(
        self,
        name: str | None = ORIGIN,
        *,
        trust: bool = True,
        verify: bool = True,
        alpn: tuple[str, ...] = (),
        version: str = "",
    ) -> ssl.SSLObject:
        """A client's handshake, trusting the gateway's CA and the origins' root, or (trust=False) nobody.

        verify: False takes any certificate. version: "1.2" or "1.3" and no other. :raises ssl.SSLError: it failed.
        """
        context = ssl.create_default_context(cadata=self._trust.decode() if trust else self._pki.bad_root())
        context.check_hostname = name is not None
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if version:
            context.minimum_version = context.maximum_version = {
                "1.2": ssl.TLSVersion.TLSv1_2,
                "1.3": ssl.TLSVersion.TLSv1_3,
            }[version]
        await asyncio.wait_for(self.writer.start_tls(context, server_hostname=name), 10)
        found = self.writer.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found

    def eof(self) -> None:
        with contextlib.suppress(OSError):  # gone already
            self.writer.write_eof()

    def reset(self) -> None:
        """End it with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.TimeoutError):
            await asyncio.wait_for(self.writer.wait_closed(), 2)


Handle = Callable[[Peer], Coroutine[Any, Any, None]]


class _Fixed(Transparent):
    """The transparent mode, with a destination that no firewall needs to tell."""

    destination: Address

    def wanted(self, sock: socket.socket, peer: Address) -> Address | None:
        return self.destination


class TestPki(Pki):
    """The origins' root and certificates: see tests/lab/pki.py."""

    __test__ = False

    def bad_root(self) -> str:
        """A root that signed nothing here."""
        from tests.lab.pki import authority

        return authority("a client's only friend").pem.decode()


class Rig:
    """A Worker with its listeners, and origins for it to talk to."""

    def __init__(self, addons: tuple[object, ...], options: dict[str, Any], ca: CertificateAuthority, pki: TestPki):
        self.pki = pki
        self.options = Options(**{"ssl_verify_upstream_trusted_ca": str(pki.root)} | options)
        self.hooks = Hooks()
        self.addons = AddonManager(self, self.options, self.hooks)
        self.addons.add(*addons)
        loop = asyncio.get_running_loop()
        minter = Minter(ca, self.options.leaf_cache_size, self.options.certs)
        self.worker = Worker(self.options, self.hooks, ca, minter, TlsContexts(self.options), loop)
        self.options.subscribe(lambda options, updated: self.worker.configure())
        self.modes: list[modes.Mode] = []
        self.served = 0
        self._origins: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: list[Peer] = []
        resolve = loop.getaddrinfo

        async def getaddrinfo(host: Any, *args: Any, **kw: Any) -> Any:
            return await resolve("127.0.0.1" if str(host).endswith(".test") else host, *args, **kw)

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
        self.worker.start()

    # -- the gateway

    async def regular(self) -> Address:
        """A listener of the explicit proxy."""
        return await self.listen(modes.make(modes.ModeSpec.parse("regular@127.0.0.1:0"), self.worker, "", None))

    async def transparent(self, destination: Address) -> Address:
        """A transparent listener whose clients all wanted to go to `destination`."""
        mode = _Fixed(modes.ModeSpec.parse("transparent@127.0.0.1:0"), self.worker, "", None)
        mode.destination = destination[0], destination[1]
        return await self.listen(mode)

    async def listen(self, mode: modes.Mode) -> Address:
        self.modes.append(mode)
        address: Address = (await mode.start(self.worker.arrive))[0]
        return address

    def memory(
        self, wanted: Address | None = None, top: Callable[[Context], Layer] | None = None
    ) -> tuple[Stream, asyncio.Task[None]]:
        """A client without a socket: its own end, and the task that serves it. wanted: as if it came transparently."""
        client = Client(
            peername=("192.0.2.7", 4321), sockname=wanted or ("192.0.2.1", 8080), timestamp_start=time.time()
        )
        client.state = ConnectionState.OPEN
        near, far = Stream.pair(self.worker.net, None, client)
        top = top or (TransparentProxy if wanted else HttpProxy)
        mode = "transparent" if wanted else "regular"
        task = asyncio.ensure_future(self.worker.arrive(Arrival(client, far, wanted, mode, top)))
        self._tasks.add(task)
        return near, task

    async def idle(self, seconds: float = 5.0) -> None:
        """Until no connection is left."""
        await until(lambda: not self.worker.handlers, seconds, f"{len(self.worker.handlers)} connections are left")

    # -- who talks to it

    async def connect(self, address: Address) -> Peer:
        reader, writer = await asyncio.open_connection(address[0], address[1], limit=1 << 24)
        peer = Peer(reader, writer, self.pki)
        peer._trust = self.worker.ca.pem + self.pki.root.read_bytes()
        self._peers.append(peer)
        return peer

    async def tunnel(self, proxy: Address, to: str) -> Peer:
        """A client that has sent CONNECT and had its 200."""
        peer = await self.connect(proxy)
        await peer.say(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n".encode())
        head = await peer.head()
        assert b" 200 " in head, head
        return peer

    # -- whom it talks to

    async def origin(
        self,
        handle: Handle,
        tls: Pair | ssl.SSLContext | bool = False,
        *,
        alpn: tuple[str, ...] = (),
        host: str = "127.0.0.1",
    ) -> Address:
        """A server that runs `handle` for each connection and then closes it.

        tls: its certificate (True = a good one), or a context of your own.

        served: counts the connections of all origins (with TLS: after the handshake).
        """
        context = tls if isinstance(tls, ssl.SSLContext) else None
        if tls and not isinstance(tls, ssl.SSLContext):
            pair = self.pki.good if isinstance(tls, bool) else tls
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.cert, pair.key)
            if alpn:
                context.set_alpn_protocols(list(alpn))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.served += 1
            peer = Peer(reader, writer, self.pki)
            try:
                await handle(peer)
            except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
                pass
            finally:
                await peer.close()

        server = await asyncio.start_server(serve, host, 0, ssl=context, limit=1 << 24)
        self._origins.append(server)
        address: Address = server.sockets[0].getsockname()[:2]
        return address

    # -- the end

    async def close(self) -> None:
        for peer in self._peers:
            peer.writer.transport.abort()
        for mode in self.modes:
            await mode.stop()
        await self.worker.stop(0.5)
        for origin in self._origins:
            origin.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.worker.tls.close()
        assert not self.worker.handlers, "a connection did not end"


async def until(true: Callable[[], Any], seconds: float = 5.0, what: str = "it did not come to pass") -> None:
    """Wait until `true()`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.005)


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def echo(peer: Peer) -> None:
    """An origin that says what it hears, and ends when the other side does."""
    while data := await peer.reader.read(65536):
        await peer.say(data)
    with contextlib.suppress(NotImplementedError):
        peer.eof()


def answering(body: bytes = b"hello", more: bytes = b"") -> Handle:
    """An origin that answers every HTTP/1 request (without a body) with `body`."""

    async def handle(peer: Peer) -> None:
        while True:
            await peer.head()
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), more, body))

    return handle


@contextlib.contextmanager
def cpu() -> Iterator[Callable[[], float]]:
    """Processor seconds this process has used since the start of the block."""
    start = time.process_time()
    yield lambda: time.process_time() - start


Make = Callable[..., Awaitable[Rig]]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a loopback TCP connection, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def rst(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


async def recv_all(sock: socket.socket) -> bytes:
    """Everything to the end. :raises ConnectionResetError: as it says."""
    loop, parts = asyncio.get_running_loop(), []
    while data := await asyncio.wait_for(loop.sock_recv(sock, 1 << 18), 10):
        parts.append(data)
    return b"".join(parts)
