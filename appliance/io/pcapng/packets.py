"""Flows as packets of what was said in the clear: a connection of its own for each, with handshake and end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from appliance.dns import DNSFlow
from appliance.http import HTTPFlow
from appliance.io.pcapng import render
from appliance.io.pcapng.blocks import packet
from appliance.io.pcapng.wire import MAX_DATAGRAM, Address, Path, TcpConnection, address
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.io.pcapng.render import Said

NOBODY: tuple[Address, Address] = (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
"""Client and server where no address is known (RFC 5737)."""
PLAIN_PORTS = {443: 80, 853: 53}
"""What was in TLS on these ports is written to those: nobody looks for plain text where TLS belongs."""


def packets(flow: Flow) -> Iterator[bytes]:
    """Packet blocks of one flow, in order of time; none for a flow in which nothing was said.

    The first packet has a comment that names the flow. Ports are the real ones, but 443 and 853 where TLS was taken
    off. Sequence numbers follow from the flow's id: the same flow gives the same packets, and only a WebSocket's masks
    are new each time.
    """
    said = _said(flow)
    first = next(said, None)
    if first is None:
        return
    path = _path(flow)
    comment = _comment(flow)
    if _is_udp(flow):
        yield from _datagrams(path, first, said, comment)
    else:
        yield from _connection(flow, TcpConnection(path, zlib.crc32(flow.id.encode())), first, said, comment)


def _datagrams(path: Path, first: Said, said: Iterator[Said], comment: str) -> Iterator[bytes]:
    at, from_client, data = first
    yield packet(path.datagram(from_client, data[:MAX_DATAGRAM]), at, comment)
    for time, from_client, data in said:
        at = max(at, time)
        yield packet(path.datagram(from_client, data[:MAX_DATAGRAM]), at)


def _connection(
    flow: Flow, connection: TcpConnection, first: Said, said: Iterator[Said], comment: str
) -> Iterator[bytes]:
    at, from_client, data = first
    for segment in connection.open():
        yield packet(segment, at, comment)
        comment = ""
    for segment in connection.say(from_client, data):
        yield packet(segment, at)
    for time, from_client, data in said:
        at = max(at, time)
        for segment in connection.say(from_client, data):
            yield packet(segment, at)
    if flow.error is not None:
        at = max(at, flow.error.timestamp)
        ending = connection.reset(by_client=False)
    else:
        ending = connection.close(by_client=False)
    for segment in ending:
        yield packet(segment, at)


def _said(flow: Flow) -> Iterator[Said]:
    if isinstance(flow, HTTPFlow):
        return render.http(flow)
    if isinstance(flow, TCPFlow | UDPFlow):
        return render.conversation(flow)
    if isinstance(flow, DNSFlow):
        return render.dns(flow, framed=not _is_udp(flow))
    return iter(())


def _is_udp(flow: Flow) -> bool:
    return flow.type == "udp" or (flow.type == "dns" and flow.client_conn.transport_protocol == "udp")


def _path(flow: Flow) -> Path:
    client, server = flow.client_conn, flow.server_conn
    source, source_port = address(client.peername[0] if client.peername else None), 0
    if client.peername:
        source_port = client.peername[1]
    target: Address | None = None
    port = 0
    for end in (server.peername, server.address, client.sockname):
        if end is None:
            continue
        port = port or end[1]
        target = address(end[0])
        if target is not None:
            break
    if isinstance(flow, HTTPFlow) and flow.request is not None:
        port = port or flow.request.port
    if server.tls or (isinstance(flow, HTTPFlow) and flow.request is not None and flow.request.raw_scheme == b"https"):
        port = PLAIN_PORTS.get(port, port)
    return Path(source or NOBODY[0], source_port, target or NOBODY[1], port)


def _comment(flow: Flow) -> str:
    """One line about where it comes from."""
    client, server = flow.client_conn, flow.server_conn
    words = [f"lockgate {flow.type} flow {flow.id}"]
    if isinstance(flow, HTTPFlow) and flow.request is not None:
        words.append(f"{flow.request.method} {flow.request.pretty_url}, {flow.request.http_version}")
    for name, end in (("client", client), ("server", server)):
        if end.tls:
            words.append(f"{end.tls_version or 'TLS'} with the {name}")
    if flow.error is not None:
        words.append(f"error: {flow.error.msg}")
    return "; ".join(words)
