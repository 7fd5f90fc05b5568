"""CONNECT (RFC 9110 §9.3.6): a tunnel through the proxy, in which the next layer is decided anew."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import appliance.layers.next_layer as deciding  # as a module: they import each other
from appliance.arrival import Arrival
from appliance.connection import Client, ConnectionState
from appliance.flow import Error
from appliance.http import HTTPFlow
from appliance.layers.base import Context, Layer
from appliance.layers.gate import gate
from appliance.layers.http import pages
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.h2_stream import NOT_PROCESSED
from appliance.net.dial import Attempt
from appliance.net.egress import CannotConnect
from appliance.net.reasons import KILLED, Gone, Killed, Reason
from appliance.net.stream import Stream

if TYPE_CHECKING:
    from appliance.layers.http.layer import HttpLayer
    from appliance.layers.http.wire import Inbound
    from appliance.net.datagrams import Datagrams
    from appliance.response import Response

logger = logging.getLogger(__name__)


class _Live:
    """`flow.kill()` of a CONNECT."""

    def __init__(self, inbound: Inbound) -> None:
        self._inbound = inbound

    def kill(self) -> None:
        self._inbound.reset(KILLED)


class ConnectTunnel(Layer):
    """The bottom of what one CONNECT inside HTTP/2 opens, on top of the layers that carry it.

    It has a handler, a client, server connections and a verdict of its own, for there may be many on one connection.
    """

    def __init__(self, context: Context, outer: HttpLayer, inbound: Inbound) -> None:
        context.layers.extend(outer.context.layers)
        super().__init__(context)
        self._inbound = inbound

    async def run(self, client: Stream | Datagrams) -> None:
        await run(self.context, self._inbound, client)


async def nested(outer: HttpLayer, inbound: Inbound) -> None:
    """A CONNECT that is one of many on its connection: the tunnel arrives as a connection of its own."""
    worker, around = outer.context.handler.worker, outer.context.client
    if worker.full():
        inbound.reset(Reason("blocked", "the gateway carries as many connections as it may", NOT_PROCESSED))
        return
    client = Client(peername=around.peername, sockname=around.sockname, timestamp_start=time.time())
    client.state = ConnectionState.OPEN
    client.proxy_mode = around.proxy_mode
    stream = inbound.tunnel()
    stream.conn = client
    mode = outer.context.handler.arrival.mode
    await worker.arrive(Arrival(client, stream, None, mode, lambda context: ConnectTunnel(context, outer, inbound)))


async def run(context: Context, inbound: Inbound, tunnel: Stream | Datagrams | None = None) -> None:
    """Answer the CONNECT, and when it is granted carry what goes through the tunnel."""
    handler = context.handler
    request = inbound.request
    flow = HTTPFlow(handler.client, context.server)
    flow.request = request
    flow._live = _Live(inbound)
    request.raw_content = b""
    told = False  # http_connected or http_connect_error has been fired
    try:
        if (wait := gate(handler, "http_connect", flow, inbound)) is not None:
            await wait
        context.server.address = (flow.request.raw_host, flow.request.raw_port)
        if flow.response is None:
            await _dial(context, flow, inbound)
        response = flow.response
        assert response is not None
        told = True
        event = "http_connected" if _grants(response) else "http_connect_error"
        if (wait := gate(handler, event, flow, inbound)) is not None:
            await wait
        response = flow.response or response
        if not _grants(response):
            inbound.persistent = False
            wait = inbound.respond(response, response.raw_content or b"")
            if wait is not None:
                await wait
            return
        inbound.grant(response)
    except Killed:
        inbound.reset(KILLED)
        return
    except Gone as e:
        flow.error = Error(e.reason.text)
        if not told:
            await handler.fire("http_connect_error", flow)
        inbound.reset(e.reason)
        return
    except Exception as e:  # what an add-on set cannot be used
        logger.exception("fault in a CONNECT")
        inbound.persistent = False
        page = pages.error(500, e.why if isinstance(e, Refused) else f"fault in the gateway: {e!r}", "", flow)
        if (wait := inbound.respond(page, page.raw_content or b"")) is not None:
            await wait
        return
    finally:
        flow._live = None
        if (recorder := handler.worker.recorder) is not None and not (
            told and flow.response and _grants(flow.response)
        ):
            handler.told = True
            recorder.end(flow)
    stream = inbound.tunnel() if tunnel is None else tunnel
    assert isinstance(stream, Stream)
    await deciding.next_layer(context, stream)


def _grants(response: Response) -> bool:
    return 200 <= response.status_code < 300


async def _dial(context: Context, flow: HTTPFlow, inbound: Inbound) -> None:
    """With the eager strategy the server is dialled before the answer, so that a failure can be told."""
    handler = context.handler
    if handler.worker.settings.eager:
        attempt = Attempt()
        inbound.watch(lambda reason: attempt.abandon("the client disconnected"))
        try:
            await handler.upstreams.raw(context.server, attempt)
        except CannotConnect as e:
            if inbound.why is not None:
                raise inbound.why.error() from None
            if e.kind == "killed":
                logger.info("%s: %s", handler.client, e.text)
            flow.error = Error(e.text)
            flow.response = pages.error(502, e.text, e.kind, flow)
            return
        finally:
            inbound.watch(None)
        if inbound.why is not None:
            raise inbound.why.error()
    flow.response = pages.established()
