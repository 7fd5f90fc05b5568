"""Every event an add-on can listen to, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Event:
    """One event. A listener is a function of this name that takes `args`."""

    name: str
    args: tuple[str, ...]
    when: str
    may: str
    """What a listener may change, and what follows from it."""
    flow: bool = False
    """The argument is a Flow: `update` follows, then the wait if it was intercepted."""
    sync_only: bool = False
    yet: bool = True
    """Fired by this release."""


def _flow(name: str, when: str, may: str = "", *, yet: bool = True) -> Event:
    return Event(name, ("flow",), when, may, flow=True, yet=yet)


def _data(name: str, when: str, may: str = "", *, yet: bool = True) -> Event:
    return Event(name, ("data",), when, may, yet=yet)


_ALL: Final = (
    # -- life of an add-on
    Event(
        "load",
        ("loader",),
        "The add-on was added; options are not read yet.",
        "loader.add_option, loader.add_command",
        sync_only=True,
    ),
    Event(
        "configure",
        ("updated",),
        "Options changed; `updated` is the set of their names, all of them at the start.",
        "raise OptionsError to refuse: the whole change is undone",
        sync_only=True,
    ),
    Event("running", (), "The gateway is up: listeners bound, options set.", ""),
    Event("done", (), "The add-on was removed or replaced, or the gateway stops. Nothing follows.", ""),
    # -- connections
    Event(
        "client_connected", ("client",), "A client was accepted; nothing is read yet.", "client.error: closed at once"
    ),
    Event("client_disconnected", ("client",), "The client's side has ended.", ""),
    _data(
        "server_connect",
        "A server is about to be dialled.",
        "server.error: not dialled; server.address, .sockname, .via",
    ),
    _data("server_connected", "The server's TCP or UDP side stands; address and via are fixed from here."),
    _data("server_connect_error", "Dialling failed or was refused; server.error says why."),
    _data("server_disconnected", "The server's side has ended; once for each server_connected."),
    # -- HTTP
    _flow("requestheaders", "The request's head was read.", "request.stream, head, response (no upstream), kill"),
    _flow("request", "The request is whole, or its body has been streamed.", "anything; response (no upstream), kill"),
    _flow("responseheaders", "The response's head was read.", "response.stream, head, kill"),
    _flow("response", "The response is whole, streamed, or an add-on's own.", "anything; kill"),
    _flow("error", "The exchange failed; flow.error says why. A flow has either `response` or `error`."),
    _flow("http_connect", "A CONNECT request was read.", "request.host, .port; response other than 2xx: refused; kill"),
    _flow("http_connected", "CONNECT is about to be answered with success.", "response.headers"),
    _flow("http_connect_error", "CONNECT is about to be answered with a failure.", "response"),
    _flow(
        "http_connect_upstream", "Our own CONNECT is about to go to an upstream proxy.", "request.headers", yet=False
    ),
    # -- DNS
    _flow("dns_request", "A query was read.", "response: answered here; server_conn.address; kill"),
    _flow(
        "dns_response", "An answer is there, a server's or an add-on's own.", "response (None: dropped), kill: SERVFAIL"
    ),
    _flow("dns_error", "It failed; the client gets SERVFAIL. A flow has either `dns_response` or `dns_error`."),
    # -- TCP, UDP
    _flow("tcp_start", "A raw TCP conversation begins.", "kill"),
    _flow("tcp_message", "A chunk of it: flow.messages[-1].", "messages[-1].content (b'' drops it), kill"),
    _flow("tcp_end", "It has ended."),
    _flow("tcp_error", "It failed. A flow has either `tcp_end` or `tcp_error`."),
    _flow("udp_start", "A UDP conversation begins.", "kill"),
    _flow("udp_message", "A datagram of it: flow.messages[-1].", "messages[-1].content, kill"),
    _flow("udp_end", "It has ended or gone idle."),
    _flow("udp_error", "It failed. A flow has either `udp_end` or `udp_error`."),
    # -- QUIC
    _data("quic_start_client", "QUIC with a client is about to begin.", "data.settings", yet=False),
    _data("quic_start_server", "QUIC with a server is about to begin.", "data.settings", yet=False),
    # -- TLS
    _data(
        "tls_clienthello",
        "A ClientHello was read.",
        "ignore_connection: passed untouched; establish_server_tls_first; context.client.alpn; context.server",
    ),
    _data("tls_start_client", "TLS with a client is about to begin.", "ssl_conn (accept state)"),
    _data(
        "tls_start_server", "TLS with a server is about to begin.", "ssl_conn (connect state); conn.sni, .alpn_offers"
    ),
    _data("tls_established_client", "TLS with a client stands."),
    _data("tls_established_server", "TLS with a server stands."),
    _data("tls_failed_client", "TLS with a client failed; conn.error says why."),
    _data("tls_failed_server", "TLS with a server failed; conn.error says why."),
    # -- WebSocket
    _flow("websocket_start", "The connection was upgraded.", "kill"),
    _flow("websocket_message", "A message: flow.websocket.messages[-1].", "its content, drop(), kill"),
    _flow("websocket_end", "It has ended; flow.websocket.close_code says how."),
    # -- SOCKS
    _data("socks5_auth", "A SOCKS client gave a name and password.", "valid", yet=False),
    # -- advanced
    _data("next_layer", "The protocol of the bytes to come is to be decided.", "layer"),
    Event("update", ("flows",), "An add-on or a command may have changed these flows.", ""),
    Event("add_log", ("entry",), "Something was logged. What is logged in here is not given to add_log.", ""),
)

#: By name, in the order of a connection's life.
EVENTS: Final[Mapping[str, Event]] = MappingProxyType({event.name: event for event in _ALL})
