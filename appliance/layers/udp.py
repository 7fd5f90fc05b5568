"""UDP: datagrams both ways, with hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.layers.base import Layer

if TYPE_CHECKING:
    from appliance.net.datagrams import Datagrams
    from appliance.net.stream import Stream


class UDPLayer(Layer):
    """A UDP conversation."""

    async def run(self, client: Stream | Datagrams) -> None:
        raise NotImplementedError
