"""The decision which layer comes next, carried out: look ahead, propose, let add-ons have their say, run the layer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Literal

import appliance.layers.dns as dns  # as modules: these ask for their own next layer
import appliance.layers.http.layer as http
import appliance.layers.modes as modes
import appliance.layers.tcp as tcp
import appliance.layers.tls as tls
from appliance.layers import passthrough
from appliance.layers.base import Context, Layer
from appliance.layers.decide import MAX_HEAD, SERVER_FIRST, Facts, Kind, Proposal, decide, looks_like_http
from appliance.net import clienthello
from appliance.net.datagrams import Datagrams
from appliance.net.egress import CannotConnect, wanted_by
from appliance.net.reasons import Gone, Reason, TimedOut, TlsFailed
from appliance.net.stream import Stream
from appliance.tls import ClientHello
from appliance.verdict import NeedMore, Verdict

logger = logging.getLogger(__name__)


@dataclass  # without slots: tests of add-ons put their own `data_client` there
class NextLayer:
    """Argument of the `next_layer` hook: set `layer` to have it instead of what `verdict` proposes.

    verdict: what would be done without you, None while more bytes are needed.
    """

    context: Context
    client: Stream | Datagrams | None = None
    server: Stream | None = None
    layer: Layer | None = None
    verdict: Verdict | None = None

    def data_client(self) -> bytes:
        """What the client has sent and no layer has read; of UDP the datagrams so far, joined."""
        client = self.client
        if client is None:
            return b""
        return b"".join(client.waiting) if isinstance(client, Datagrams) else bytes(client.buf)

    def data_server(self) -> bytes:
        """The same of the server."""
        return bytes(self.server.buf) if self.server is not None else b""


async def next_layer(context: Context, client: Stream) -> None:
    """Decide on what lies in `client`'s look-ahead, and run that layer to its end.

    :raises Gone: the client was lost before or in it.
    """
    chosen, verdict = await _choose(context, client)
    handler = context.handler
    if chosen == "pass":
        handler.decide(verdict)
        if handler.worker.settings.show_ignored:
            await _make("tcp", context).run(client)
        else:
            await passthrough.run(context, client)
    elif chosen == "block":
        handler.decide(verdict)
        client.abort(Reason("blocked", verdict.reason))
    elif isinstance(chosen, Layer):
        handler.decide(verdict)
        await chosen.run(client)
    else:
        if handler.client.verdict is None or chosen == "tls":
            handler.decide(verdict)
        await _make(chosen, context).run(client)


async def inside(layer: Layer, client: Stream) -> None:
    """Run what is inside `layer`: what an add-on has put there, or what the bytes say. :raises Gone: it was lost."""
    child = layer.child_layer
    if child is None:
        await next_layer(layer.context, client)
    else:
        layer.context.handler.decide(chosen_by_addon(child))
        await child.run(client)


def _make(kind: Kind, context: Context) -> Layer:
    if kind == "tls":
        made = tls.ClientTLSLayer(context)
        if not made.outer:
            context.server.tls = True
        return made
    if kind == "dns":
        return dns.DNSLayer(context)
    if kind == "http":
        return http.HttpLayer(context, http.HTTPMode.regular if _explicit(context) else http.HTTPMode.transparent)
    return tcp.TCPLayer(context)


async def _choose(context: Context, client: Stream) -> tuple[Kind | Layer, Verdict]:
    handler = context.handler
    worker = handler.worker
    settings = worker.settings
    asked = worker.hooks.table["next_layer"]
    proxy = _explicit(context)
    silent = False
    if proxy:
        client.limit(settings.header_timeout, "the client sent no request in time")
    while True:
        data = client.buf
        have = len(data)  # more than this is news, however long the hook or the dialling below takes
        server = _server(context)
        if server is not None and server.why is not None and server.why.kind == "tls" and not server.buf:
            # It wants a certificate of us, say, which TLS 1.3 lets it refuse us for when the handshake is over.
            await handler.upstreams.refused(context.server, server.why)
            server = None
        spoke = server is not None and not data and (bool(server.buf) or server.eof)
        facts = Facts(
            data=data,
            final=silent or client.eof or len(data) > MAX_HEAD,
            proxy=proxy,
            addresses=_addresses(context) if settings.policy.active else (),
            sni=handler.client.sni,
            port=context.server.address[1] if context.server.address else 0,
            alpn=handler.client.alpn,
            server_spoke=spoke,
            rawtcp=settings.rawtcp,
            host=context.server.address[0] if context.server.address else None,
        )
        proposal = decide(facts, settings.policy)
        empty = not (data or spoke or facts.final)
        if asked and empty and isinstance(proposal, Proposal) and proposal.kind == "http":
            # Add-ons judge by bytes, and with HTTP agreed on in the handshake the first ones are the client's.
            await client.peek(1)
            continue
        if asked and not (empty and isinstance(proposal, NeedMore)):
            about = NextLayer(context, client, server)
            about.verdict = proposal.verdict if isinstance(proposal, Proposal) else None
            await handler.fire("next_layer", about)
            if about.layer is not None:
                client.deadline = 0.0
                return about.layer, chosen_by_addon(about.layer)
        if isinstance(proposal, Proposal):
            client.deadline = 0.0
            if proposal.kind in ("pass", "block") and handler.client.sni is None:
                handler.client.sni = proposal.sni or _name_in(data)
            return proposal.kind, proposal.verdict
        if facts.final:
            client.deadline = 0.0
            return "block", Verdict("block", "not enough data for a decision")
        if proxy or data[:1] == b"\x16" or looks_like_http(data):
            if not client.deadline:
                client.limit(settings.header_timeout, "the client did not say in time what it wants")
            await client.peek(have + 1)
        elif not await _race(context, client, have, settings.greeting_wait):
            silent = True


def _name_in(data: bytearray) -> str | None:
    """The SNI of a ClientHello that nobody has to look at any more, but who reads what was passed."""
    hello = clienthello.scan(data) if data[:1] == b"\x16" else None
    return hello.sni if isinstance(hello, ClientHello) else None


def chosen_by_addon(layer: Layer) -> Verdict:
    """The verdict that goes with a layer which a `next_layer` hook has set."""
    action: Literal["decrypt", "pass"] = "pass" if getattr(layer, "ignore", False) else "decrypt"
    return Verdict(action, f"an add-on chose {type(layer).__name__}", "next_layer", "hook")


async def _race(context: Context, client: Stream, have: int, wait: float) -> bool:
    """Wait for more than `have` bytes of the client; when it is silent, dial the server and see whether that speaks.
    To a port of `SERVER_FIRST` without waiting.

    False: both are silent, after the client has said something at least; while neither has, both may take their time.
    """
    loop = context.handler.worker.loop
    server = _server(context)
    address = context.server.address
    if server is None:
        if have or address is None or address[1] not in SERVER_FIRST:
            timer = loop.call_later(wait, client.interrupt, Reason("timeout", "silent"))
            try:
                await client.peek(have + 1)
                return True
            except TimedOut:
                pass
            finally:
                timer.cancel()
        if have:
            return False
        upstreams = context.handler.upstreams
        try:
            if address is not None and upstreams.fault(context.server) is None:
                with wanted_by(client) as attempt:
                    server = await upstreams.open(context.server, attempt)
        except CannotConnect as e:
            logger.info("%s: %s", context.client, e.text)
            if not context.server.tls:
                client.abort(Reason("reset", e.text))
                raise Gone(Reason("reset", e.text)) from None
        if server is None:  # the client's first request will be told
            await client.peek(1)
            return True
    sides: list[asyncio.Future[object]] = [asyncio.ensure_future(client.peek(have + 1))]
    if not have:  # a server that speaks, or ends, after the client has begun decides nothing
        sides.append(asyncio.ensure_future(_heard(server)))
    try:
        done, _ = await asyncio.wait(sides, timeout=wait if have else None, return_when=asyncio.FIRST_COMPLETED)
        return any([side.result() is not None for side in done])  # a list: every lost side is to raise
    finally:
        for side in sides:
            side.cancel()
        await asyncio.gather(*sides, return_exceptions=True)


async def _heard(server: Stream) -> bool:
    with contextlib.suppress(TlsFailed):  # whoever looks next finds out
        await server.peek(1)
    return True


def _explicit(context: Context) -> bool:
    """Whether the client speaks to us as to its proxy: below is only that mode, and perhaps TLS to the proxy itself."""
    layers = context.layers
    return isinstance(layers[0], modes.HttpProxy) and not any([isinstance(layer, http.HttpLayer) for layer in layers])


def _server(context: Context) -> Stream | None:
    """The open stream to the context's server, if any."""
    return context.handler.upstreams.stream(context.server)


def _addresses(context: Context) -> list[str]:
    server = context.server
    found = []
    for address in (server.peername, server.address):
        if address is not None:
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            text = f"{host}:{address[1]}"
            if text not in found:
                found.append(text)
    return found
