"""The layers of a connection. All are loaded with the first: a late import fails once there are no files left."""

from appliance.layers import next_layer, passthrough
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
