"""A request that nobody sends: an `Inbound` without a codec, carried by the same exchange as any other.

The client is a copy of the one that the flow had, under a handler of its own. It opened no connection, so
`client_connected` and `client_disconnected` are not fired; all other events are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from appliance.arrival import Arrival
from appliance.connection import Client, ConnectionState
from appliance.flow import Error
from appliance.handler import ConnectionHandler
from appliance.layers.base import Context, Layer
from appliance.layers.http.bodies import is_streaming_kind
from appliance.layers.http.exchange import Exchange
from appliance.layers.http.layer import HttpLayer, HTTPMode
from appliance.net.reasons import SHUTDOWN, Reason
from appliance.net.stream import Stream
from appliance.url import hostport
from appliance.verdict import Verdict

if TYPE_CHECKING:
    from appliance.headers import Headers
    from appliance.http import HTTPFlow
    from appliance.layers.http.h1_fields import Refused
    from appliance.net.datagrams import Datagrams
    from appliance.net.stream import Buffer
    from appliance.request import Request
    from appliance.response import Response
    from appliance.worker import Worker

logger = logging.getLogger(__name__)

PIECE: Final = 1 << 20
"""Bytes of a body that are given at a time."""
_EXPLICIT: Final = frozenset({"regular", "upstream"})


class Recorded:
    """A request out of a flow, and nobody who waits for its response. See wire.Inbound.

    `head_sent` from the beginning: no page is written for nobody.
    """

    head_sent = True

    def __init__(self, request: Request) -> None:
        self.request = request
        self.refused: Refused | None = None
        self.expects_continue = False
        self.upgrade_to: bytes | None = None
        self.persistent = self.until_close = False
        self.why: Reason | None = None
        self._content = request.raw_content or b""
        self._at = 0
        self._gone: Callable[[Reason], None] | None = None

    @property
    def whole(self) -> bool:
        return self._at >= len(self._content)

    @property
    def declared(self) -> int | None:
        return len(self._content) - self._at

    async def chunk(self) -> bytes:
        piece = self._content[self._at : self._at + PIECE]
        self._at += len(piece)
        return piece

    def patience(self, seconds: float) -> None:
        pass

    def watch(self, gone: Callable[[Reason], None] | None) -> None:
        self._gone = gone

    def inform(self, response: Response) -> None:
        pass

    def respond(self, response: Response, content: bytes) -> Awaitable[None] | None:
        return None

    async def head(self, response: Response) -> None:
        pass

    async def send(self, data: Buffer) -> None:
        pass

    async def finish(self, trailers: Headers | None) -> None:
        pass

    def cut(self) -> None:
        pass

    def grant(self, response: Response) -> None:
        raise NotImplementedError("a CONNECT is not replayed")

    def tunnel(self) -> Stream:
        raise NotImplementedError("what switches protocols is not replayed")

    def carries(self, why: Reason) -> bool:
        return False

    def raw_sink(self) -> Stream | None:
        return None

    def sent_raw(self, count: int) -> None:
        pass

    def reset(self, why: Reason) -> None:
        if self.why is None:
            self.why = why
            if why.kind == "killed" and self._gone is not None:
                self._gone(why)


class Replay(Exchange):
    """The exchange of a flow that there is already. The response is held for it, whoever listens."""

    __slots__ = ()

    def __init__(self, layer: HttpLayer, flow: HTTPFlow) -> None:
        super().__init__(layer, Recorded(flow.request))
        flow.client_conn, flow.server_conn = layer.context.client, layer.context.server
        self.flow._live = None
        self.flow = flow
        flow._live = self

    async def _response(self, response: Response) -> None:
        if not is_streaming_kind(response.headers):
            response.stream = False  # hold it; a hook may still say otherwise
        await super()._response(response)


class ReplayLayer(Layer):
    """The bottom of the stack of one replay."""

    def __init__(self, context: Context, flow: HTTPFlow) -> None:
        super().__init__(context)
        self._flow = flow

    async def run(self, client: Stream | Datagrams) -> None:
        context, request = self.context, self._flow.request
        server, before = context.server, self._flow.server_conn
        h2 = request.raw_http_version == b"HTTP/2.0"
        server.address = address = request.raw_host, request.raw_port
        server.tls = request.raw_scheme == b"https"
        if address == before.address:  # else its name is that of where an edit sends it
            server.sni = before.sni if server.tls else None
        else:
            context.client.sni = None
        if server.tls:
            server.alpn_offers = (b"h2", b"http/1.1") if h2 and context.options.http2 else (b"http/1.1",)
        explicit = context.client.proxy_mode.type_name in _EXPLICIT and not server.tls
        layer = HttpLayer(context, HTTPMode.regular if explicit else HTTPMode.transparent)
        layer.pool.prior_knowledge = h2 and not explicit and not server.tls
        await Replay(layer, self._flow).run()


class ReplayHandler(ConnectionHandler):
    """Owner of one replay's server connections."""

    __slots__ = ()

    async def run(self) -> None:
        try:
            await self.arrival.top(self.context).run(self.arrival.transport)
        finally:
            self.client.state = ConnectionState.CLOSED
            self.client.timestamp_end = time.time()
            try:
                await self.upstreams.close()
            finally:
                for stream in self.streams:
                    stream.close()
                self._dissolve()


async def replay(worker: Worker, flow: HTTPFlow) -> None:
    """Send the flow's request again and wait for its end: the response, or the error, is the flow's.

    Never raises, but for cancellation. Waits while the gateway carries as many connections as it may.
    """
    while worker.full() and not worker.ending:
        turn: asyncio.Future[None] = worker.loop.create_future()
        worker.when_room(lambda turn=turn: None if turn.done() else turn.set_result(None))  # type: ignore[misc]
        await turn
    if worker.ending:
        flow.error = Error(SHUTDOWN.text)
        return
    _prepare(flow.request)
    client = _client(flow.client_conn)
    transport, _ = Stream.pair(worker.net, client)
    arrival = Arrival(client, transport, None, "replay", lambda context: ReplayLayer(context, flow))
    handler = ReplayHandler(worker, arrival)
    handler.decide(Verdict("decrypt", "client replay"))
    worker.handlers.add(handler)
    try:
        await handler.run()
    except asyncio.CancelledError:
        if not handler.closing:
            raise
    except Exception as error:
        logger.exception("%s: unexpected fault in a replay", flow)
        flow.error = flow.error or Error(f"fault in the gateway: {error!r}")
    finally:
        flow._live = None
        worker.handlers.discard(handler)
        worker._make_room()


def _prepare(request: Request) -> None:
    """What the request says of its first journey and would mislead on this one."""
    request.timestamp_start = request.timestamp_end = time.time()
    request.stream = False  # the body is here
    request.moved = None
    if request.raw_http_version == b"HTTP/3":
        request.raw_http_version = b"HTTP/2.0"
    if request.raw_http_version != b"HTTP/2.0" and "host" not in request.headers:
        request.headers.insert(0, "Host", hostport(request.raw_scheme, request.raw_host, request.raw_port))


def _client(before: Client) -> Client:
    """As the flow had it, so that filters and add-ons know it again, but open and with an id of its own."""
    client = before.copy()
    client.state = ConnectionState.OPEN
    client.timestamp_start, client.timestamp_end, client.error = time.time(), None, None
    return client
