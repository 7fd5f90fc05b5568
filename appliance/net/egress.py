"""The only owner of server connections: dials them, does TLS on them, fires the server's events, closes them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from OpenSSL import SSL

from appliance.connection import Client, ConnectionState, Server
from appliance.exceptions import CertificateError
from appliance.net import tls_context
from appliance.net.datagrams import Datagrams, SocketDatagrams, dial_udp
from appliance.net.dial import Attempt, DialError, dial
from appliance.net.reasons import Gone, Reason, TlsFailed
from appliance.net.stream import Stream
from appliance.net.tls_errors import FaultKind
from appliance.tls import TlsData

if TYPE_CHECKING:
    import socket

    from appliance.connection import Address
    from appliance.handler import ConnectionHandler

logger = logging.getLogger(__name__)

MAX_PER_ADDRESS = 5
"""Connections and attempts at once from one client connection to one address."""
MAX_FAULTS = 100
"""TLS faults remembered by one client connection."""


@dataclass(slots=True)
class ServerConnectionHookData:
    """Argument of the `server_*` events.

    Before the connection stands, `server.address`, `.via`, `.sockname` and `.error` may be set.
    """

    server: Server
    client: Client


class CannotConnect(Exception):
    """No usable connection to a server.

    `text` is for a person, `kind` for code: dial, refused, killed, tls, certificate, or gone (it was not wanted any
    more). `server`: the one that was tried. `fault`: of its certificate.
    """

    server: Server | None = None

    def __init__(self, text: str, kind: str = "dial", fault: FaultKind | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.kind = kind
        self.fault = fault


LISTEN_SECONDS = 0.2
"""So long a server may be dialled before a client who need not be read is read, to hear of its loss."""


@contextmanager
def wanted_by(client: Stream) -> Iterator[Attempt]:
    """An attempt for a client that is relayed: given up once that is lost. Its end may be a half-close.

    :raises Gone: it was lost, so there is no connection.
    """
    attempt = Attempt()
    client.on_gone = lambda reason: attempt.abandon("the client disconnected") if client.why is not None else None
    # Not at once: most are dialled sooner, and a socket that is spliced unread is cheaper by a tenth.
    listening = client.net.loop.call_later(LISTEN_SECONDS, client.listen)
    try:
        yield attempt
    except CannotConnect:
        if client.why is not None:
            raise client.why.error() from None
        raise
    finally:
        listening.cancel()
        client.on_gone = None


class _Slots(asyncio.Semaphore):
    """To one address, at once. users: those who have one of them, or wait for one."""

    def __init__(self, address: Address) -> None:
        super().__init__(MAX_PER_ADDRESS)
        self.address = address
        self.users = 0

    async def take(self, attempt: Attempt | None) -> None:
        """Wait for one. :raises CannotConnect: `attempt` was abandoned, and it would have to wait."""
        if attempt is None or not self.locked():
            await self.acquire()
            return
        waiting = asyncio.ensure_future(self.acquire())
        attempt.wake = waiting.cancel
        if attempt.why:
            waiting.cancel()
        try:
            await waiting
        except asyncio.CancelledError:
            if not attempt.why:
                raise
            raise CannotConnect(attempt.why, "gone") from None
        finally:
            attempt.wake = None


class Upstreams:
    """The server connections of one client connection."""

    def __init__(self, handler: ConnectionHandler) -> None:
        self._handler = handler
        self._open: dict[Server, Stream] = {}
        self._datagrams: dict[Server, Datagrams] = {}
        self._slots: dict[Address, _Slots] = {}
        self._held: dict[Server, _Slots] = {}
        self._faults: dict[tuple[Address, str | None], CannotConnect] = {}
        self._farewells: set[asyncio.Task[None]] = set()
        self._taken: set[Server] = set()

    def stream(self, server: Server) -> Stream | None:
        """The open stream to this very server connection, if there is one."""
        return self._open.get(server)

    async def open(self, server: Server, attempt: Attempt | None = None) -> Stream:
        """Connect to `server.address`, with TLS on top when `server.tls`; the stream there is when it is open already.

        :raises CannotConnect: refused, unreachable, killed by a hook, or TLS failed (which is remembered: see `fault`).
        """
        stream = self._open.get(server)
        if stream is not None and stream.eof and not stream.buf and server.tls and not server.tls_established:
            # Dialled early, for a client that then took its time: the server has given up meanwhile.
            await self.end(server)
            stream = None
        if stream is None:
            stream = await self._connect(server, attempt)
        if server.tls and not server.tls_established:
            await self._start_tls(server, stream, attempt)
        return stream

    async def raw(self, server: Server, attempt: Attempt | None = None, still: bool = False) -> Stream:
        """As `open`, but without TLS whatever `server.tls` says: for pass-through. still: see `Stream.over_socket`."""
        return self._open.get(server) or await self._connect(server, attempt, still)

    async def open_udp(self, server: Server) -> Datagrams:
        """A UDP flow to `server.address`; the one there is when it is open already. No packet leaves.

        :raises CannotConnect: no route, or killed by a hook.
        """
        datagrams = self._datagrams.get(server)
        if datagrams is None:
            server.transport_protocol = "udp"
            sock, data = await self._dial(server)
            datagrams = self._datagrams[server] = SocketDatagrams(self._handler.worker.loop, sock, server)
            await self._connected(server, sock, datagrams, data)
        return datagrams

    def free(self, server: Server) -> bool:
        """Whether nobody has taken this connection for their own yet."""
        return server not in self._taken

    def take(self, server: Server) -> None:
        """From now on this connection is the caller's, until `end`."""
        self._taken.add(server)
        if (stream := self._open.get(server)) is not None:
            stream.on_gone = None

    def fault(self, server: Server) -> CannotConnect | None:
        """The TLS fault that earlier attempts at this address and name ended with: the next would end the same way."""
        return self._faults.get((server.address, server.sni)) if server.address else None

    # -- connecting

    async def _connect(self, server: Server, attempt: Attempt | None, still: bool = False) -> Stream:
        sock, data = await self._dial(server, attempt)
        stream = self._open[server] = Stream.over_socket(self._handler.worker.net, sock, server, still)
        server.timestamp_tcp_setup = time.time()
        await self._connected(server, sock, stream, data)
        return stream

    async def _dial(
        self, server: Server, attempt: Attempt | None = None
    ) -> tuple[socket.socket, ServerConnectionHookData]:
        handler = self._handler
        hooks, settings = handler.worker.hooks, handler.worker.settings
        data = ServerConnectionHookData(server, handler.client)
        if server.address is None:
            raise CannotConnect("the destination is not known")
        slots = self._slots.get(server.address)
        if slots is None:
            slots = self._slots[server.address] = _Slots(server.address)
        slots.users += 1
        try:
            await slots.take(attempt)
        except BaseException:
            self._leave(slots)
            raise
        try:
            server.error = None  # of an earlier attempt
            if hooks.table["server_connect"]:
                await handler.fire("server_connect", data)
            if server.error:
                raise CannotConnect(f"Connection killed: {server.error}", "killed")
            server.timestamp_start = time.time()
            try:
                # What an add-on has set; not what the kernel chose for an earlier connection.
                asked = server.sockname[0] if server.sockname and not server.peername else None
                source = asked or settings.connect_addr
                client = handler.client.peername if settings.spoof and asked is None else None
                loop, guard, seconds = handler.worker.loop, handler.worker.guard, settings.connect_timeout
                if server.transport_protocol == "udp":
                    sock = await dial_udp(loop, server.address, guard, seconds, source, client)
                else:
                    sock = await dial(loop, server.address, guard, seconds, source, attempt, client)
            except DialError as e:
                raise CannotConnect(str(e), "gone" if attempt is not None and attempt.why else "dial") from None
            try:
                server.peername, server.sockname = sock.getpeername(), sock.getsockname()
            except OSError:
                sock.close()
                raise CannotConnect(f"{server.address[0]}:{server.address[1]}: connection reset by peer") from None
        except BaseException as e:
            slots.release()
            self._leave(slots)
            if isinstance(e, CannotConnect):
                server.error = server.error or e.text
                if hooks.table["server_connect_error"]:
                    await handler.fire("server_connect_error", data)
            raise
        self._held[server] = slots
        return sock, data

    def _leave(self, slots: _Slots) -> None:
        slots.users -= 1
        if not slots.users:
            del self._slots[slots.address]

    async def _connected(
        self, server: Server, sock: socket.socket, stream: Stream | Datagrams, data: ServerConnectionHookData
    ) -> None:
        handler = self._handler
        server.state = ConnectionState.OPEN
        handler.streams.add(stream)
        if handler.worker.hooks.table["server_connected"]:
            await handler.fire("server_connected", data)

    async def _start_tls(self, server: Server, stream: Stream, attempt: Attempt | None) -> None:
        handler = self._handler
        worker = handler.worker
        data = TlsData(server, handler.context)
        if server.sni is None and server.address is not None:
            server.sni = handler.client.sni or server.address[0]
        if worker.hooks.table["tls_start_server"]:
            await handler.fire("tls_start_server", data)
        fault: str | None = None
        kind, wrong = "tls", None
        try:
            if data.ssl_conn is None:
                data.ssl_conn = worker.tls.connect(server, sni=server.sni, alpn_offers=server.alpn_offers)
            stream.limit(worker.settings.handshake_timeout, "the server did not finish the TLS handshake in time")
            if attempt is not None:
                attempt.wake = lambda: stream.abort(Reason("closed", attempt.why))
                if attempt.why:
                    attempt.wake()
            await stream.start_tls(data.ssl_conn, arrived=partial(worker.tls.remember, data.ssl_conn))
            stream.deadline = 0.0
        except TlsFailed as e:
            fault = e.reason.text
        except (Gone, CertificateError, ValueError, TypeError) as e:
            fault = f"TLS with the server failed: {e}"
        finally:
            if attempt is not None:
                attempt.wake = None
        if fault is not None:
            conn = data.ssl_conn  # an add-on may have set it to anything
            if isinstance(conn, SSL.Connection) and (verify := tls_context.verify_fault(conn)):
                fault, kind, wrong = f"the certificate of {server.sni} {verify.text}", "certificate", verify.kind
                server.chain = tls_context.certificates(conn)
            server.error = fault
            if worker.hooks.table["tls_failed_server"]:
                await handler.fire("tls_failed_server", data)
            if attempt is not None and attempt.why:
                kind = "gone"
            else:
                self._remember(server, CannotConnect(fault, kind, wrong))
            await self.end(server, Reason("tls", fault))
            raise CannotConnect(fault, kind, wrong)
        assert data.ssl_conn is not None
        tls_context.describe(data.ssl_conn, server)
        if worker.hooks.table["tls_established_server"]:
            await handler.fire("tls_established_server", data)

    async def refused(self, server: Server, why: Reason) -> None:
        """The server has refused us behind its handshake: remembered like one that failed."""
        server.error = why.text
        self._remember(server, CannotConnect(why.text, "tls"))
        await self.end(server)

    def _remember(self, server: Server, fault: CannotConnect) -> None:
        assert server.address is not None
        if len(self._faults) >= MAX_FAULTS:
            del self._faults[next(iter(self._faults))]
        self._faults[server.address, server.sni] = fault

    # -- ending

    async def end(self, server: Server, why: Reason | None = None) -> None:
        """Close this connection, if it is open; fires `server_disconnected` once."""
        stream = self._open.pop(server, None) or self._datagrams.pop(server, None)
        if stream is None:
            return
        self._handler.streams.discard(stream)
        if why is None:
            stream.close()
        else:
            stream.abort(why)
        await self._ended(server)

    async def _ended(self, server: Server) -> None:
        handler = self._handler
        server.state = ConnectionState.CLOSED
        server.timestamp_end = time.time()
        slots = self._held.pop(server)
        slots.release()
        self._leave(slots)
        if server is not handler.context.server:
            self._taken.discard(server)
        if handler.worker.hooks.table["server_disconnected"]:
            await handler.fire("server_disconnected", ServerConnectionHookData(server, handler.client))

    def ended(self, server: Server, reason: Reason) -> None:
        """A connection that rests unused was closed by its server."""
        task = self._handler.worker.loop.create_task(self.end(server))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    def detach(self, server: Server) -> tuple[socket.socket, bytes] | None:
        """Hand out the raw socket and its unread bytes, to be spliced; the caller closes it, then calls `detached`."""
        stream = self._open[server]
        taken = stream.detach()
        if taken is not None:
            self._handler.streams.discard(stream)
        return taken

    async def detached(self, server: Server) -> None:
        """A socket handed out by `detach` has been closed."""
        if self._open.pop(server, None) is not None:
            await self._ended(server)

    async def close(self) -> None:
        """End them all."""
        for server in [*self._open, *self._datagrams]:
            await self.end(server)
        if self._farewells:
            await asyncio.gather(*self._farewells, return_exceptions=True)
