"""Flows made by hand, for tests of what works on flows."""

from __future__ import annotations

from typing import TypeVar

from appliance.connection import Client, Server
from appliance.flow import Error, Flow
from appliance.http import HTTPFlow, Request, Response
from appliance.tcp import TCPFlow, TCPMessage
from appliance.udp import UDPFlow, UDPMessage
from appliance.verdict import Verdict
from appliance.websocket import WebSocketData, WebSocketMessage

F = TypeVar("F", bound=Flow)


def ends(kind: type[F], live: bool = False) -> F:
    client = Client(peername=("10.61.1.2", 40000), sockname=("10.61.1.1", 8080), timestamp_start=100.0)
    client.verdict = Verdict("decrypt", "TLS")
    server = Server(address=("srv.example", 443), peername=("2001:db8::1", 443, 0, 0), timestamp_start=100.5)
    return kind(client, server, live)


def http(
    url: str = "http://example.com/foo?q=1",
    method: str = "GET",
    body: bytes | None = b"",
    status: int | None = 200,
    answer: bytes | None = b"hello",
    live: bool = False,
    **headers: str,
) -> HTTPFlow:
    """`headers` are the response's; `status` None: there is no response."""
    flow = ends(HTTPFlow, live)
    flow.request = Request.make(method, url, body, {"Host": "pretty.example", "X-One": "quux"})
    if status is not None:
        flow.response = Response.make(
            status, answer, {name.replace("_", "-"): value for name, value in headers.items()}
        )
    return flow


def websocket() -> HTTPFlow:
    flow = http(status=101, answer=b"")
    said = [WebSocketMessage(1, True, "grüße".encode()), WebSocketMessage(2, False, b"\x00\xff", dropped=True)]
    flow.websocket = WebSocketData(said, False, 1000, "bye", 200.0)
    return flow


def tcp() -> TCPFlow:
    flow = ends(TCPFlow)
    flow.messages = [TCPMessage(True, b"foo"), TCPMessage(False, b"BAR\xff")]
    return flow


def udp() -> UDPFlow:
    flow = ends(UDPFlow)
    flow.messages = [UDPMessage(True, b"ping")]
    return flow


def failed() -> HTTPFlow:
    flow = http(status=None)
    flow.error = Error("it failed")
    flow.comment, flow.marked = "a foo comment", ":red:"
    flow.metadata["key"] = ["plain", 1, None]
    return flow


def several() -> list[Flow]:
    return [http(), websocket(), tcp(), udp(), failed(), http(answer=None, method="POST", body=b"\x00\x01")]
