"""After a 101 both sides are a WebSocket, or raw bytes, on a connection of its own or on a stream of HTTP/2."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import appliance.layers.tcp as tcp  # as modules: they import each other
import appliance.layers.websocket as websocket
from appliance.layers.websocket_deflate import Unknown, agreed
from appliance.log import RateLimited

if TYPE_CHECKING:
    from appliance.headers import Headers
    from appliance.http import HTTPFlow
    from appliance.layers.http.layer import HttpLayer
    from appliance.layers.http.pool import Link
    from appliance.layers.http.wire import Inbound, Outbound
    from appliance.layers.websocket_deflate import Deflate
    from appliance.response import Response

logger = logging.getLogger(__name__)
_told = RateLimited(logger, 2)

EXTENSIONS = "sec-websocket-extensions"
VERSIONS = frozenset({"13", "8"})
"""Those whose frames are RFC 6455's."""


def is_websocket(layer: HttpLayer, asked: bytes | None, flow: HTTPFlow, response: Response) -> bool:
    """Whether this 101 begins a WebSocket that can be read. asked: the protocols the client wanted to switch to."""
    if not layer.context.handler.worker.settings.websocket:
        return False
    request = flow.request
    if (
        asked is None
        or asked.strip().lower() != b"websocket"
        or response.headers.get("upgrade", "").strip().lower() != "websocket"
        or request.headers.get("sec-websocket-version", "").strip() not in VERSIONS
    ):
        return False
    try:
        agreed(response.headers.get(EXTENSIONS))
    except Unknown as e:
        _told.log(logging.WARNING, request.host, "%s: the WebSocket of %s is relayed as raw TCP, for its frames cannot "
                  "be read: %s", layer.context.client, request.pretty_url, e)  # fmt: skip
        return False
    return True


def compression(headers: Headers) -> Deflate | None:
    """What was agreed to, as far as it can be known."""
    try:
        return agreed(headers.get(EXTENSIONS))
    except Unknown:  # an add-on wrote it
        return None


async def carry(
    layer: HttpLayer, inbound: Inbound, outbound: Outbound, link: Link, flow: HTTPFlow, far: Deflate | None
) -> None:
    """Carry it to its end; then the server's side of it is over as well. far: the compression its server agreed to."""
    upstream = outbound.tunnel()
    try:
        if flow.websocket is not None:
            near = compression(flow.response.headers) if flow.response is not None else far
            await websocket.WebsocketLayer(layer.context, flow).carry(inbound.tunnel(), upstream, near, far)
        else:
            await tcp.TCPLayer(layer.context).carry(inbound.tunnel(), upstream, link.server)
    finally:
        upstream.close()
        if link.client.shared:
            await outbound.tunnelled()
        else:
            await layer.pool.switched(link)
