"""Flows for tests of add-ons. `True` stands for the usual one, None or False for none."""

from __future__ import annotations

from typing import Any

from appliance.connection import Client, ConnectionState, Server
from appliance.flow import Error, Flow
from appliance.http import HTTPFlow, Request, Response
from appliance.tcp import TCPFlow, TCPMessage
from appliance.test.tutils import treq, tresp
from appliance.udp import UDPFlow, UDPMessage

__all__ = [
    "tclient_conn",
    "tdnsflow",
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


def twebsocket() -> Any:
    """Two texts and a binary message, and how it was closed. Raises ImportError while this release has no WebSocket."""
    from importlib import import_module

    model = import_module("appliance.websocket")
    data = model.WebSocketData()
    data.messages = [
        model.WebSocketMessage(2, True, b"hello binary", 946681203.0),
        model.WebSocketMessage(1, True, b"hello text", 946681204.0),
        model.WebSocketMessage(1, False, b"it's me", 946681205.0),
    ]
    data.close_reason = "Close Reason"
    data.close_code = 1000
    data.closed_by_client = False
    data.timestamp_end = 946681205.0
    return data


def twebsocketflow(messages: bool = True, err: Error | bool | None = None) -> HTTPFlow:
    flow = tflow(resp=tresp(status_code=101, reason=b"Switching Protocols"), err=err, ws=True)
    flow.request.headers["upgrade"] = "websocket"
    if not messages and flow.websocket is not None:
        flow.websocket.messages = []
    return flow


def tdnsflow(*, req: Any = None, resp: Any = None, err: Error | bool | None = None) -> Any:
    """A query for dns.google. Raises ImportError while this release has no DNS."""
    from importlib import import_module

    dns = import_module("appliance.dns")
    flow = dns.DNSFlow(tclient_conn(), tserver_conn(), True)
    if req is None:
        question = dns.Question("dns.google", 1, 1)
        req = dns.DNSMessage(
            timestamp=946681200.0, id=42, query=True, op_code=0, authoritative_answer=False, truncation=False,
            recursion_desired=True, recursion_available=False, reserved=0, response_code=0,
            questions=[question], answers=[], authorities=[], additionals=[],
        )  # fmt: skip
    flow.request = req
    if resp:
        flow.response = req.succeed([dns.ResourceRecord.A("dns.google", "8.8.8.8")]) if resp is True else resp
    _common(flow, err)
    return flow


def tflows() -> list[Flow]:
    """One of each kind that needs no further module."""
    return [tflow(resp=True), tflow(err=True), ttcpflow(), ttcpflow(err=True), tudpflow(), tudpflow(err=True)]
