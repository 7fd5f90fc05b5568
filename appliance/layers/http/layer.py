"""The HTTP layer: a codec towards the client, and an exchange for each of its requests."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import Enum
from typing import TYPE_CHECKING

from appliance.layers.base import Context, Layer
from appliance.layers.http import connect, pages
from appliance.layers.http.exchange import Exchange
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.h1_server import H1Server
from appliance.layers.http.h2_server import H2Server
from appliance.layers.http.h2_session import PREFACE
from appliance.layers.http.pool import HttpPool
from appliance.net.stream import Stream
from appliance.url import hostport

if TYPE_CHECKING:
    from appliance.layers.http.wire import Inbound
    from appliance.net.datagrams import Datagrams


class HTTPMode(Enum):
    """How requests name their destination: `regular`, in the request (explicit proxy); `transparent`, they do not."""

    regular = 1
    transparent = 2


class HttpLayer(Layer):
    """Every request on one client connection."""

    def __init__(self, context: Context, mode: HTTPMode) -> None:
        super().__init__(context)
        self.mode = mode
        self.explicit = mode is HTTPMode.regular
        """Requests are addressed to us, as a proxy."""
        self.pool = HttpPool(context)

    async def run(self, client: Stream | Datagrams) -> None:
        assert isinstance(client, Stream)
        worker = self.context.handler.worker
        settings = worker.settings
        if await self._is_http2(client):
            await self._http2(client)
            return
        codec = H1Server(client, settings.max_head, settings.header_timeout, settings.strict)
        # In a task of its own, or whatever comes in would go through all the layers below to get here, each time.
        await worker.loop.create_task(codec.serve(self.handle))

    async def _is_http2(self, client: Stream) -> bool:
        """By ALPN, or because the client begins with the preface (RFC 9113 §3.3, prior knowledge)."""
        conn = self.context.client
        if conn.alpn == b"h2" and client.tls is not None:
            return True
        buf = client.buf
        if buf[:3] != b"PRI" or not self.context.handler.worker.settings.http2:
            return False
        settings = self.context.handler.worker.settings
        if len(buf) < len(PREFACE) and PREFACE.startswith(buf):
            client.limit(settings.header_timeout, "the HTTP/2 preface did not come in time")
            while len(client.buf) < len(PREFACE) and PREFACE.startswith(client.buf) and await client.more():
                pass
            client.deadline = 0.0
        return client.buf.startswith(PREFACE)

    async def _http2(self, client: Stream) -> None:
        worker = self.context.handler.worker
        self.pool.prior_knowledge = client.tls is None and self.mode is HTTPMode.transparent
        codec = H2Server(client, worker.loop, worker.settings)
        await codec.serve(self.handle)

    def handle(self, inbound: Inbound) -> Awaitable[None]:
        """One request: fill in where it goes, and run it."""
        request = inbound.request
        if self.explicit:
            if request.raw_method == b"CONNECT" and inbound.refused is None:
                if request.raw_http_version == b"HTTP/2.0":
                    return connect.nested(self, inbound)
                return connect.run(self.context, inbound)
            if inbound.refused is None and not request.raw_host:
                self._direct(inbound)
                if request.raw_path == b"*":
                    exchange = Exchange(self, inbound)
                    exchange.flow.response = pages.able()
                    return exchange.run()
            elif request.raw_authority and request.raw_http_version != b"HTTP/2.0":
                self._host_from_target(inbound)
                request.raw_authority = b""  # that was said to us: add-ons see the request as the server will
        else:
            server = self.context.server
            proxied = self._proxy_form(inbound) if request.raw_host and inbound.refused is None else b""
            if server.address is not None:
                request.raw_host, request.raw_port = server.address[:2]
            request.raw_scheme = b"https" if server.tls else b"http"
            if request.raw_http_version == b"HTTP/1.0" and "host" not in request.headers and inbound.refused is None:
                # It goes on as HTTP/1.1, which wants one.
                name = self.context.client.sni or request.raw_host
                request.headers.insert(0, "Host", hostport(request.raw_scheme, name, request.raw_port))
            return Exchange(self, inbound, proxied).run()
        return Exchange(self, inbound).run()

    def _direct(self, inbound: Inbound) -> None:
        """A request to the proxy itself: `OPTIONS *`, or somebody typed the proxy's address into a browser."""
        address = self.context.client.sockname
        request = inbound.request
        request.raw_scheme = b"http"
        if address is not None:
            request.raw_host, request.raw_port = address[0], address[1]
        if request.raw_path != b"*":
            onboarding = self.context.options.onboarding_host
            inbound.refused = Refused(
                400,
                "this is a proxy, not a web server: enter it as the HTTP proxy of your device, "
                f"then open http://{onboarding}/ for its certificate",
            )

    def _proxy_form(self, inbound: Inbound) -> bytes:
        """What one says to a proxy, said to a server: the connection tells where it goes, and nothing else does.

        Returns the scheme of an absolute form: the server is a proxy, or takes it as one does (RFC 9112 §3.2.2).
        """
        if inbound.request.raw_method == b"CONNECT":
            inbound.refused = Refused(400, "CONNECT was sent to a server, and the gateway is no proxy here")
        elif inbound.request.raw_http_version != b"HTTP/2.0":
            self._host_from_target(inbound)
            return inbound.request.raw_scheme
        return b""

    def _host_from_target(self, inbound: Inbound) -> None:
        """In absolute form the target counts, and Host is written anew from it (RFC 9112 §3.2.2)."""
        request = inbound.request
        headers, authority = request.headers, request.raw_authority
        names = headers.names()
        if b"host" not in names:
            headers.insert(0, "Host", authority)
        elif headers.fields[names.index(b"host")][1] != authority:
            headers["host"] = authority
