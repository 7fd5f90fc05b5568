"""What a client says to its proxy, and a proxy to its client: credentials stay on this hop, `OPTIONS *` is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance import http
from tests.harness import Events, Make, Peer
from tests.layers.http.httpkit import OK, Message, Origin, ended, read_response, setting

SECRET = "Proxy-Authorization: Basic dXNlcjpwYXNz"


async def wants_us(peer: Peer, request: Message) -> None:
    """An origin that plays the proxy."""
    await peer.say(
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nX-Kept: 1\r\n"
        b"Content-Length: 5\r\n\r\nhello"
    )


@pytest.mark.parametrize("line", [SECRET, SECRET.lower(), SECRET.upper()])
@pytest.mark.parametrize("streams", [False, True])
async def test_credentials_for_the_proxy_go_no_further(rigs: Make, line: str, streams: bool) -> None:
    def stream(flow: http.HTTPFlow) -> None:
        flow.request.stream = streams

    s = await setting(rigs, OK, Events(requestheaders=stream))
    for method, body in (("GET", b""), ("POST", b"12345")):
        assert (await s.ask(method, "/", line, "X-Kept: 1", body=body)).status == 200
        request = s.origin.requests[-1]
        assert request.value("proxy-authorization") is None
        assert (request.value("x-kept"), request.body) == ("1", body)
    for flow in await ended(s, flows=2):
        assert flow.request.headers["proxy-authorization"].lower().startswith("basic")


async def test_a_tunnel_is_no_business_of_the_proxy(rigs: Make) -> None:
    """Inside CONNECT, and where the gateway is not seen, they are meant for the server."""
    events = Events()
    rig = await rigs(events)
    origin = Origin(wants_us)
    address = await rig.origin(origin)
    tunnel = await rig.tunnel(await rig.regular(), f"origin.test:{address[1]}")
    for client in (tunnel, await rig.connect(await rig.transparent(address))):
        await client.say(f"GET / HTTP/1.1\r\nHost: x\r\n{SECRET}\r\n\r\n".encode())
        assert (await read_response(client)).value("proxy-authenticate") == "Basic realm=x"
        assert origin.requests[-1].value("proxy-authorization") is not None


@pytest.mark.parametrize("streams", [False, True])
async def test_an_origin_cannot_ask_for_them(rigs: Make, streams: bool) -> None:
    def stream(flow: http.HTTPFlow) -> None:
        flow.response.stream = streams  # type: ignore[union-attr]

    s = await setting(rigs, wants_us, Events(responseheaders=stream))
    response = await s.ask()
    assert (response.status, response.body) == (407, b"hello")
    assert (response.value("proxy-authenticate"), response.value("x-kept")) == (None, "1")
    (flow,) = await ended(s)
    assert flow.response.headers["proxy-authenticate"] == "Basic realm=x"


@pytest.mark.parametrize("event", ["requestheaders", "request", "responseheaders", "response"])
async def test_an_addon_can(rigs: Make, event: str) -> None:
    def challenge(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(407, b"who?", {"Proxy-Authenticate": "Basic realm=gateway"})

    s = await setting(rigs, wants_us, Events(**{event: challenge}))
    response = await s.ask()
    assert (response.status, response.body) == (407, b"who?")
    assert response.value("proxy-authenticate") == "Basic realm=gateway"


@pytest.mark.parametrize("body", [b"", b"ping"])
async def test_options_asterisk(rigs: Make, body: bytes) -> None:
    s = await setting(rigs)
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    for _ in range(2):
        await s.client.say(b"OPTIONS * HTTP/1.1\r\nHost: proxy\r\n%b\r\n" % length + body)
        response = await read_response(s.client, "OPTIONS")
        assert (response.status, response.body) == (200, b"")
        assert "CONNECT" in (response.value("allow") or "")
    flows: list[Any] = await ended(s, flows=2)
    assert [flow.request.raw_content for flow in flows] == [body, body]
    assert s.endings() == ["response", "response"]
    assert s.events.of("server_connect") == []
    assert (await s.ask()).status == 200


async def test_options_asterisk_and_hooks(rigs: Make) -> None:
    async def slow(flow: http.HTTPFlow) -> None:
        await asyncio.sleep(0)
        assert flow.response is not None
        flow.response.headers["x-seen"] = "1"

    s = await setting(rigs, OK, Events(request=slow))
    await s.client.say(b"OPTIONS * HTTP/1.1\r\nHost: proxy\r\n\r\n")
    assert (await read_response(s.client, "OPTIONS")).value("x-seen") == "1"
