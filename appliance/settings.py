"""The options as the hot path wants them: sizes in bytes, expressions compiled. Made anew at each change."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from appliance.net.hosts import parse_server
from appliance.policy import HostPolicy

if TYPE_CHECKING:
    from appliance.options import Options

RESERVED_DESCRIPTORS = 64
DESCRIPTORS_PER_CONNECTION = 3  # client, server, and room for pipes


class Settings:
    """One snapshot of the options, in base units (bytes, seconds)."""

    __slots__ = (
        "add_chain",
        "allow_metadata",
        "body_limit",
        "connect_addr",
        "connect_timeout",
        "eager",
        "greeting_wait",
        "handshake_timeout",
        "header_timeout",
        "http2",
        "http2_codec",
        "http2_keepalive",
        "idle_timeout",
        "insecure",
        "invalid",
        "max_connections",
        "max_head",
        "name_servers",
        "policy",
        "rawtcp",
        "show_ignored",
        "spoof",
        "stream_messages",
        "stream_over",
        "strict",
        "strip_ech",
        "udp_timeout",
        "upstream_cert",
        "use_hosts_file",
        "websocket",
    )

    def __init__(self, options: Options) -> None:
        self.body_limit = options.size("body_size_limit")
        self.stream_over = options.size("stream_large_bodies")
        self.stream_messages = options.size("stream_large_messages")
        self.websocket = options.websocket
        self.max_head = options.size("max_header_size") or 65536
        self.idle_timeout = float(options.tcp_timeout)
        self.udp_timeout = float(options.udp_timeout)
        self.connect_timeout = float(options.connect_timeout)
        self.http2 = options.http2
        self.http2_codec = options.http2_codec
        self.http2_keepalive = float(options.http2_ping_keepalive)
        self.header_timeout = float(options.client_header_timeout)
        self.handshake_timeout = float(options.tls_handshake_timeout)
        self.greeting_wait = options.server_greeting_wait_ms / 1000
        self.eager = options.connection_strategy == "eager"
        self.add_chain = options.add_upstream_certs_to_client_chain
        self.upstream_cert = options.upstream_cert
        self.insecure = options.ssl_insecure
        self.invalid = options.upstream_cert_invalid
        self.strict = options.validate_inbound_headers
        self.rawtcp = options.rawtcp
        self.show_ignored = options.show_ignored_hosts
        self.connect_addr = options.connect_addr
        self.spoof = options.spoof_source_address
        self.allow_metadata = options.allow_metadata_addresses
        self.policy = HostPolicy(options.ignore_hosts, options.allow_hosts, options.tcp_hosts, options.udp_hosts)
        self.name_servers = tuple(parse_server(text) for text in options.dns_name_servers)
        self.strip_ech = options.strip_ech
        self.use_hosts_file = options.dns_use_hosts_file
        self.max_connections = options.max_connections or default_connections()


def default_connections() -> int:
    """As many connections as the descriptor limit can carry."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 100_000
    return max(8, (soft - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)
