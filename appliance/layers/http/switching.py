"""After a 101 both sides are raw bytes: a TCP conversation, on a connection of its own or on a stream of HTTP/2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import appliance.layers.tcp as tcp  # as a module: they import each other

if TYPE_CHECKING:
    from appliance.layers.http.layer import HttpLayer
    from appliance.layers.http.pool import Link
    from appliance.layers.http.wire import Inbound, Outbound


async def carry(layer: HttpLayer, inbound: Inbound, outbound: Outbound, link: Link) -> None:
    """Carry it to its end; then the server's side of it is over as well."""
    upstream = outbound.tunnel()
    try:
        await tcp.TCPLayer(layer.context).carry(inbound.tunnel(), upstream, link.server)
    finally:
        upstream.close()
        if link.client.shared:
            await outbound.tunnelled()
        else:
            await layer.pool.switched(link)
