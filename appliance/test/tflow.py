"""Flows for tests of add-ons. `True` stands for the usual one, None or False for none."""

from __future__ import annotations

from typing import Any

from appliance.connection import Client, ConnectionState, Server
from appliance.dns import DNSFlow, DNSMessage
from appliance.flow import Error, Flow
from appliance.http import HTTPFlow, Request, Response
from appliance.tcp import TCPFlow, TCPMessage
from appliance.test.tutils import tdnsreq, tdnsresp, treq, tresp
from appliance.udp import UDPFlow, UDPMessage
from appliance.websocket import Opcode, WebSocketData, WebSocketMessage

__all__ = [
    "DummyFlow",
    "tclient_conn",
    "tdnsflow",
    "tdnsreq",
    "tdnsresp",
    "tdummyflow",
    "terr",
    "tflow",
    "tflows",
    "treq",
    "tresp",
    "tserver_conn",
    "ttcpflow",
    "tudpflow",
    "twebsocketflow",
]


def tclient_conn() -> Client:
    return Client(
        peername=("127.0.0.1", 22),
        sockname=("", 0),
        timestamp_start=946681200.0,
        state=ConnectionState.OPEN,
        tls=True,
        sni="address",
        cipher="cipher",
        alpn=b"http/1.1",
        alpn_offers=[b"http/1.1"],
        tls_version="TLSv1.2",
        timestamp_tls_setup=946681201.0,
        timestamp_end=946681206.0,
    )


def tserver_conn() -> Server:
    return Server(
        address=("address", 22),
        peername=("192.168.0.1", 22),
        sockname=("address", 22),
        state=ConnectionState.OPEN,
        tls=True,
        sni="address",
        tls_version="TLSv1.2",
        timestamp_start=946681202.0,
        timestamp_tcp_setup=946681203.0,
        timestamp_tls_setup=946681204.0,
        timestamp_end=946681205.0,
    )


def terr(content: str = "error") -> Error:
    return Error(content, 946681207.0)


def _common(flow: Flow, err: Error | bool | None) -> None:
    flow.timestamp_created = 946681200.0
    if err:
        flow.error = terr() if err is True else err


def tflow(
    *,
    client_conn: Client | None = None,
    server_conn: Server | None = None,
    req: Request | None = None,
    resp: Response | bool | None = None,
    err: Error | bool | None = None,
    ws: Any = None,
    live: bool = True,
) -> HTTPFlow:
    """A flow of HTTP, live unless told otherwise."""
    flow = HTTPFlow(client_conn or tclient_conn(), server_conn or tserver_conn(), live)
    flow.request = req or treq()
    if resp:
        flow.response = tresp() if resp is True else resp
    if ws:
        flow.websocket = twebsocket() if ws is True else ws
    _common(flow, err)
    return flow


def ttcpflow(
    client_conn: Client | None = None,
    server_conn: Server | None = None,
    messages: list[TCPMessage] | bool = True,
    err: Error | bool | None = None,
) -> TCPFlow:
    flow = TCPFlow(client_conn or tclient_conn(), server_conn or tserver_conn(), True)
    if messages is True:
        messages = [TCPMessage(True, b"hello", 946681204.2), TCPMessage(False, b"it's me", 946681204.5)]
    flow.messages = messages or []
    _common(flow, err)
    return flow


def tudpflow(
    client_conn: Client | None = None,
    server_conn: Server | None = None,
    messages: list[UDPMessage] | bool = True,
    err: Error | bool | None = None,
) -> UDPFlow:
    flow = UDPFlow(client_conn or tclient_conn(), server_conn or tserver_conn(), True)
    flow.client_conn.transport_protocol = flow.server_conn.transport_protocol = "udp"
    if messages is True:
        messages = [UDPMessage(True, b"hello", 946681204.2), UDPMessage(False, b"it's me", 946681204.5)]
    flow.messages = messages or []
    _common(flow, err)
    return flow


def twebsocket() -> WebSocketData:
    """A binary message and two texts, and how it was closed."""
    messages = [
        WebSocketMessage(Opcode.BINARY, True, b"hello binary", 946681203.0),
        WebSocketMessage(Opcode.TEXT, True, b"hello text", 946681204.0),
        WebSocketMessage(Opcode.TEXT, False, b"it's me", 946681205.0),
    ]
    return WebSocketData(messages, False, 1000, "Close Reason", 946681205.0)


def twebsocketflow(messages: bool = True, err: Error | bool | None = None) -> HTTPFlow:
    flow = tflow(resp=tresp(status_code=101, reason=b"Switching Protocols"), err=err, ws=True)
    flow.request.headers["upgrade"] = "websocket"
    if not messages and flow.websocket is not None:
        flow.websocket.messages = []
    return flow


def tdnsflow(
    *,
    client_conn: Client | None = None,
    server_conn: Server | None = None,
    req: DNSMessage | None = None,
    resp: DNSMessage | bool | None = None,
    err: Error | bool | None = None,
    live: bool = True,
) -> DNSFlow:
    """A query for dns.google, and what it resolves to."""
    flow = DNSFlow(client_conn or tclient_conn(), server_conn or tserver_conn(), live)
    flow.request = req or tdnsreq()
    if resp:
        flow.response = tdnsresp() if resp is True else resp
    _common(flow, err)
    return flow


def tdummyflow(
    client_conn: Client | None = None, server_conn: Server | None = None, err: Error | bool | None = None
) -> DummyFlow:
    """A flow of no protocol that there is."""
    flow = DummyFlow(client_conn or tclient_conn(), server_conn or tserver_conn(), True)
    _common(flow, err)
    return flow


class DummyFlow(Flow):
    type = "dummy"


def tflows() -> list[Flow]:
    """One of each kind, well and failed."""
    return [
        tflow(resp=True),
        tflow(err=True),
        twebsocketflow(),
        ttcpflow(),
        ttcpflow(err=True),
        tudpflow(),
        tudpflow(err=True),
        tdnsflow(resp=True),
        tdnsflow(err=True),
    ]
