"""The mode layers: the bottom of each connection's stack, named as in mitmproxy so that add-ons recognise them."""

from __future__ import annotations

import appliance.layers.next_layer as deciding  # as a module: these import each other
import appliance.layers.udp as udp
from appliance.layers.base import Layer
from appliance.net.datagrams import Datagrams
from appliance.net.stream import Stream


class HttpProxy(Layer):
    """An explicit proxy: the client says in HTTP where it wants to go."""

    async def run(self, client: Stream | Datagrams) -> None:
        assert isinstance(client, Stream)
        await deciding.inside(self, client)


class TransparentProxy(Layer):
    """The client believes it talks to the server itself; `context.server.address` is its original destination."""

    async def run(self, client: Stream | Datagrams) -> None:
        if isinstance(client, Stream):
            await deciding.inside(self, client)
        else:
            await udp.next_layer(self.context, client)
