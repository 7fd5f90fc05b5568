"""The layers of a connection. All are loaded with the first: a late import fails once there are no files left."""

from types import ModuleType
from typing import Any

from appliance.layers import dns, http, modes, next_layer, passthrough, tcp, tls, udp, websocket
from appliance.layers.base import Context, Layer
from appliance.layers.dns import DNSLayer
from appliance.layers.http import HttpLayer, HTTPMode
from appliance.layers.tcp import TCPLayer
from appliance.layers.tls import ClientTLSLayer, ServerTLSLayer
from appliance.layers.udp import UDPLayer
from appliance.layers.websocket import WebsocketLayer

__all__ = [
    "ClientTLSLayer",
    "Context",
    "DNSLayer",
    "HTTPMode",
    "HttpLayer",
    "Layer",
    "ServerTLSLayer",
    "TCPLayer",
    "UDPLayer",
    "WebsocketLayer",
    "next_layer",
    "passthrough",
]


def _events_of(module: ModuleType) -> None:
    """Events as classes, in the layer that fires them: `layers.http.HttpRequestHook`. Made when one is asked for."""

    def find(name: str) -> Any:
        if name.endswith("Hook"):
            from appliance import hookclasses

            return hookclasses.find(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__dict__["__getattr__"] = find


for _module in (dns, http, modes, tcp, tls, udp, websocket):
    _events_of(_module)
