"""Add-ons in mitmproxy's idiom below HTTP: connections, TLS, layers, TCP, UDP, DNS, WebSocket. A package."""

from . import raw
from .connections import Authorities, Destinations, Fingerprint, OwnTls, Passed, Tunnels

addons = [
    Authorities(),
    Destinations(),
    Fingerprint(),
    OwnTls(),
    Passed(),
    Tunnels(),
    raw.Layers(),
    raw.Injector(),
    raw.Datagrams(),
    raw.Names(),
    raw.Sockets(),
]
