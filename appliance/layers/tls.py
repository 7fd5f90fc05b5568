"""TLS towards the client: read its hello, look at the server first, show a leaf that mirrors it, decrypt."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import appliance.layers.next_layer as deciding  # as a module: they import each other
from appliance.exceptions import CertificateError
from appliance.layers import passthrough
from appliance.layers.base import Context, Layer
from appliance.layers.decide import MAX_HEAD
from appliance.net import clienthello, tls_context
from appliance.net.certs import LeafSpec
from appliance.net.clienthello import HelloScanner, NotTls
from appliance.net.dial import Attempt
from appliance.net.egress import CannotConnect
from appliance.net.reasons import Gone, Reason, TlsFailed
from appliance.net.stream import Stream
from appliance.tls import ClientHello, ClientHelloData, TlsData
from appliance.verdict import Verdict

if TYPE_CHECKING:
    from appliance.net.datagrams import Datagrams
    from appliance.net.leaf import LeafFault, LeafKeyKind
    from appliance.net.tls_errors import FaultKind

logger = logging.getLogger(__name__)

DISTRUST = frozenset({"unknown_ca", "bad_certificate", "certificate_unknown"})
_MIRRORED: dict[FaultKind | None, LeafFault] = {
    "expired": "expired",
    "not_yet_valid": "not_yet_valid",
    "name_mismatch": "name_mismatch",
}
HTTP1_ALPNS = (b"http/1.1", b"http/1.0", b"http/0.9")
HTTP2_ALPN = b"h2"
HTTP3_ALPN = b"h3"
HTTP_ALPNS = (HTTP3_ALPN, HTTP2_ALPN, *HTTP1_ALPNS)
"""For add-ons."""
_NOT_SPOKEN = frozenset({b"h3"})  # what we cannot speak yet is not offered on


def parse_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello that a connection begins with, for add-ons; None while some of it is missing. Raises ValueError
    if this is none.
    """
    found = clienthello.scan(data)
    if isinstance(found, NotTls):
        raise ValueError(f"no ClientHello: {found.reason}")
    return found if isinstance(found, ClientHello) else None


class ServerTLSLayer(Layer):
    """Marks that the server is to be spoken to in TLS; the handshake itself is `Upstreams`'."""

    async def run(self, client: Stream | Datagrams) -> None:
        assert isinstance(client, Stream)
        self.context.server.tls = True
        await deciding.inside(self, client)


class ClientTLSLayer(Layer):
    """TLS with the client; what is inside is decided anew. The server is spoken to in TLS if `context.server.tls` says
    so: an add-on that makes this layer alone has it in plain.
    """

    def __init__(self, context: Context) -> None:
        self.outer = len(context.layers) == 1 and context.server.address is None
        """TLS to the proxy itself (a secure web proxy): there is no server yet."""
        self._fault: LeafFault | None = None
        """Of the server's certificate, when it is to be seen on ours."""
        super().__init__(context)

    async def run(self, client: Stream | Datagrams) -> None:
        assert isinstance(client, Stream)
        context, conn = self.context, self.context.client
        conn.tls = True
        hello = await self._hello(client)
        if hello is None:
            return
        conn.sni = hello.sni
        conn.hello = hello.raw_bytes(wrap_in_record=False)
        conn.alpn_offers = tuple(hello.alpn_protocols)
        data = ClientHelloData(context, hello)
        settings = context.handler.worker.settings
        data.establish_server_tls_first = settings.eager and settings.upstream_cert and not self.outer
        if context.handler.worker.hooks.table["tls_clienthello"]:
            await context.handler.fire("tls_clienthello", data)
        if data.ignore_connection:
            await self._ignore(client)
            return
        if not self.outer and not await self._server(data, client):
            return
        if not await self._handshake(client, hello):
            return
        try:
            if self.outer:
                # What the proxy's own TLS said is not to be taken for the tunnel's.
                conn.sni, conn.alpn_offers, conn.alpn = None, (), None
            await deciding.inside(self, client)
        finally:
            why = client.why
            if why is not None and why.kind == "tls" and why.detail in DISTRUST:
                self._distrusted(why, hello)

    async def _hello(self, client: Stream) -> ClientHello | None:
        try:
            return await self._look(client)
        except Gone as e:
            await self._failed(client, TlsData(self.context.client, self.context), e.reason.text)
            return None

    async def _look(self, client: Stream) -> ClientHello | None:
        settings = self.context.handler.worker.settings
        scanner = HelloScanner()
        client.limit(settings.handshake_timeout, "the client did not finish its ClientHello in time")
        while True:
            found = scanner.scan(client.buf)
            if isinstance(found, ClientHello):
                client.deadline = 0.0
                return found
            if isinstance(found, NotTls):
                await self._failed(
                    client, TlsData(self.context.client, self.context), f"no TLS ClientHello: {found.reason}"
                )
                return None
            if len(client.buf) > MAX_HEAD or not await client.more():
                await self._failed(
                    client, TlsData(self.context.client, self.context), "the connection ended inside the ClientHello"
                )
                return None

    async def _ignore(self, client: Stream) -> None:
        handler = self.context.handler
        handler.decide(Verdict("pass", "an add-on set ignore_connection", "tls_clienthello", "hook"))
        self.context.server.tls = False
        await passthrough.run(self.context, client)

    async def _server(self, data: ClientHelloData, client: Stream) -> bool:
        """Prepare the server's side, and with the eager strategy connect it; False: the client was refused."""
        context, handler = self.context, self.context.handler
        server = context.server
        hello = data.client_hello
        if server.sni is None and hello.sni:
            server.sni = hello.sni
        if not server.alpn_offers:
            server.alpn_offers = self._offers(hello)
        if not data.establish_server_tls_first or server.address is None:
            return True
        attempt = Attempt()
        client.on_gone = lambda reason: attempt.abandon("the client disconnected")
        try:
            await handler.upstreams.open(server, attempt)
        except CannotConnect as e:
            invalid = handler.worker.settings.invalid
            if invalid == "reset" and e.kind == "certificate":
                handler.decide(Verdict("block", e.text, "upstream_cert_invalid", "certificate"))
                client.abort(Reason("blocked", e.text))
                return False
            if invalid == "mirror" and e.kind == "certificate":
                self._fault = _MIRRORED.get(e.fault, "untrusted")
            # Each request is told so, on our own leaf; not a byte of it reaches the server.
            logger.info("%s: %s", handler.client, e.text)
        finally:
            client.on_gone = None
        return True

    async def _handshake(self, client: Stream, hello: ClientHello) -> bool:
        context, handler = self.context, self.context.handler
        worker, conn, server = handler.worker, context.client, context.server
        data = TlsData(conn, context)
        if worker.hooks.table["tls_start_client"]:
            await handler.fire("tls_start_client", data)
        try:
            if data.ssl_conn is None:
                asked = self._asked(hello)
                leaf = None if self._fault else worker.minter.custom(asked)
                if leaf is None:
                    spec = self._leaf(hello, asked)
                    leaf = worker.minter.cached(spec) or await worker.minter.leaf(spec)
                more = server.chain if worker.settings.add_chain and server.tls_established else ()
                data.ssl_conn = worker.tls.accept(leaf, hello, self._alpn(hello), more)
            client.limit(worker.settings.handshake_timeout, "the client did not finish the TLS handshake in time")
            await client.start_tls(data.ssl_conn, accepting=True)
            client.deadline = 0.0
        except TlsFailed as e:
            distrusted = e.reason.detail in DISTRUST
            await self._failed(client, data, e.reason.text, told=distrusted)
            if distrusted:
                self._distrusted(e.reason, hello)
            return False
        except Gone as e:
            await self._failed(client, data, e.reason.text)
            return False
        except (CertificateError, ValueError, TypeError) as e:
            logger.warning("%s: no TLS with the client for %s: %s", conn, hello.sni or server.address, e)
            await self._failed(client, data, str(e))
            return False
        tls_context.describe(data.ssl_conn, conn)
        if worker.hooks.table["tls_established_client"]:
            await handler.fire("tls_established_client", data)
        return True

    def _asked(self, hello: ClientHello) -> tuple[str, ...]:
        """The names under which the client knows whom it talks to."""
        context = self.context
        address = context.server.address
        asked = tuple([name for name in (hello.sni, address[0] if address else None) if name])
        if not asked and context.client.sockname:
            asked = (context.client.sockname[0],)
        return asked

    def _leaf(self, hello: ClientHello, asked: tuple[str, ...]) -> LeafSpec:
        """Names of the leaf: the server's own when its certificate was seen, and what the client asked for."""
        server = self.context.server
        key: LeafKeyKind = "rsa" if hello.wants_rsa else "ec"
        if server.chain and (server.tls_established or self._fault):
            return self.context.handler.worker.mirror(server.chain, asked, key, self._fault)
        return LeafSpec.mirroring(None, *asked, key=key, fault=self._fault)

    def _offers(self, hello: ClientHello) -> tuple[bytes, ...]:
        """The client's own, without what is not spoken here; with h2 comes http/1.1, for it can be translated."""
        http2 = self.context.handler.worker.settings.http2
        offers = [p for p in hello.alpn_protocols if p not in _NOT_SPOKEN and (http2 or p != b"h2")]
        if b"h2" in offers and b"http/1.1" not in offers:
            offers.append(b"http/1.1")
        return tuple(offers)

    def _alpn(self, hello: ClientHello) -> bytes | None:
        """What to pick of the client's offers: an add-on's choice, what the server picked, or the best we speak."""
        context = self.context
        offered = hello.alpn_protocols
        if context.client.alpn is not None:
            return context.client.alpn
        http2 = context.handler.worker.settings.http2 and b"h2" in offered
        if context.server.tls_established:
            picked = context.server.alpn
            if http2 and picked not in offered and not {b"http/1.1", b"http/1.0"} & set(offered):
                return b"h2"  # the client can nothing else, and it can be translated
            return picked
        if http2:
            return b"h2"
        return next((p for p in offered if p in (b"http/1.1", b"http/1.0")), None)

    async def _failed(self, client: Stream, data: TlsData, text: str, told: bool = False) -> None:
        """told: somebody else says so on the terminal."""
        handler = self.context.handler
        self.context.client.error = text
        logger.log(logging.DEBUG if told else logging.INFO, "%s: TLS with the client failed: %s", handler.client, text)
        if handler.worker.hooks.table["tls_failed_client"]:
            await handler.fire("tls_failed_client", data)
        client.close(linger=client.why is None)

    def _distrusted(self, why: Reason, hello: ClientHello) -> None:
        context = self.context
        if self._fault is not None:
            logger.info(
                "%s refuses a certificate that mirrors the server's (upstream_cert_invalid): %s",
                context.client,
                why.text,
            )
            return
        name = hello.sni or (context.server.address[0] if context.server.address else "this gateway")
        context.handler.worker.distrusted(context.client, name, why.text)
