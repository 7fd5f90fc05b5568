"""CONNECT: granted, refused, redirected, killed; and what is no business of a server."""

from __future__ import annotations

import asyncio

import pytest

from appliance import http
from tests.harness import Events, Make, Peer, Rig, answering, echo, until
from tests.layers.http.httpkit import Origin, read_response


def ask(to: str, *lines: str, more: bytes = b"") -> bytes:
    return (
        f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode()
        + more
    )


async def start(rigs: Make, events: Events, **options: object) -> tuple[Rig, Peer, str]:
    """A rig, a client of its proxy, and an echoing origin's address."""
    rig = await rigs(events, **options)
    origin = await rig.origin(echo)
    return rig, await rig.connect(await rig.regular()), f"127.0.0.1:{origin[1]}"


def http_events(events: Events) -> list[str]:
    return [name for name in events.names if name.startswith("http_") or name in ("error", "request", "response")]


@pytest.mark.parametrize("strategy", ["eager", "lazy"])
async def test_tunnel(rigs: Make, strategy: str) -> None:
    events = Events()
    _rig, client, to = await start(rigs, events, connection_strategy=strategy)
    await client.say(ask(to, more=b"\x00first"))  # together with the head
    head = await client.head()
    assert head == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert await client.exactly(6) == b"\x00first"
    await client.say(b"more")
    assert await client.exactly(4) == b"more"
    assert http_events(events) == ["http_connect", "http_connected"]
    flow = events.of("http_connect")[0]
    assert flow.request.method == "CONNECT"
    assert f"{flow.request.host}:{flow.request.port}" == to
    assert not flow.live


async def test_lazy_dials_on_the_first_bytes(rigs: Make) -> None:
    events = Events()
    _rig, client, to = await start(rigs, events, connection_strategy="lazy", server_greeting_wait_ms=5000)
    await client.say(ask(to))
    await client.head()
    assert events.of("server_connect") == []
    await client.say(b"\x00x")
    assert await client.exactly(2) == b"\x00x"


async def test_plain_http_inside(rigs: Make) -> None:
    events = Events()
    rig = await rigs(events)
    origin = await rig.origin(answering(b"inner"))
    client = await rig.tunnel(await rig.regular(), f"127.0.0.1:{origin[1]}")
    for _ in range(2):
        await client.say(b"GET /x HTTP/1.1\r\nHost: whatever\r\n\r\n")
        assert (await read_response(client)).body == b"inner"
    assert events.of("request")[0].server_conn.address == ("127.0.0.1", origin[1])
    assert rig.served == 1


async def test_refused(rigs: Make) -> None:
    events = Events()
    _rig, client, _to = await start(rigs, events)
    await client.say(ask("127.0.0.1:1"))
    page = await read_response(client)
    assert (page.status, page.value("connection")) == (502, "close")
    assert b"127.0.0.1:1" in page.body
    assert await client.rest() == b""
    assert http_events(events) == ["http_connect", "http_connect_error"]
    flow = events.of("http_connect_error")[0]
    assert flow.error is not None and "refused" in flow.error.msg
    assert not flow.live


@pytest.mark.parametrize("strategy", ["eager", "lazy"])
async def test_to_the_proxy_itself(rigs: Make, strategy: str) -> None:
    events = Events()
    rig = await rigs(events, connection_strategy=strategy)
    proxy = await rig.regular()
    client = await rig.connect(proxy)
    await client.say(ask(f"127.0.0.1:{proxy[1]}"))
    if strategy == "eager":
        assert (await read_response(client)).status == 502
    else:
        await client.head()
        await client.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await read_response(client)).status == 502
    assert len(events.of("client_connected")) == 1
    assert "server_connected" not in events.names


async def test_answered_by_an_addon(rigs: Make) -> None:
    def deny(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(407, b"who?", {"Proxy-Authenticate": "Basic"})

    events = Events(http_connect=deny)
    _rig, client, to = await start(rigs, events)
    await client.say(ask(to))
    page = await read_response(client)
    assert (page.status, page.body, page.value("proxy-authenticate")) == (407, b"who?", "Basic")
    assert http_events(events) == ["http_connect", "http_connect_error"]
    assert events.of("server_connect") == []


async def test_a_success_of_its_own(rigs: Make) -> None:
    def grant(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(201, b"ignored", {"X-Mine": "1"})

    events = Events(http_connect=grant)
    _rig, client, to = await start(rigs, events)
    await client.say(ask(to))
    assert await client.head() == b"HTTP/1.1 201 Created\r\nX-Mine: 1\r\n\r\n"
    await client.say(b"\x00through")
    assert await client.exactly(8) == b"\x00through"


async def test_redirected(rigs: Make) -> None:
    async def redirect(flow: http.HTTPFlow) -> None:
        await asyncio.sleep(0.01)
        flow.request.host, flow.request.port = "127.0.0.1", port

    events = Events(http_connect=redirect)
    _rig, client, to = await start(rigs, events)
    port = int(to.partition(":")[2])
    await client.say(ask("nowhere.invalid:9"))
    assert b" 200 " in await client.head()
    await client.say(b"\x00through")
    assert await client.exactly(8) == b"\x00through"
    assert events.of("server_connected")[0].server.address == ("127.0.0.1", port)


def header_edit(flow: http.HTTPFlow) -> None:
    flow.response.headers["x-edit"] = "1"


def header_smuggled(flow: http.HTTPFlow) -> None:
    flow.response.headers["x-edit"] = "1\r\nX-Evil: 1"


def colon_in_a_name(flow: http.HTTPFlow) -> None:
    flow.response.headers["X-Evil: 1, x"] = "1"


def turned_down(flow: http.HTTPFlow) -> None:
    flow.response = http.Response.make(403, b"on second thoughts")


def odd_status(flow: http.HTTPFlow) -> None:
    flow.response.status_code = "ok"


@pytest.mark.parametrize(
    ("hook", "status"),
    [(header_edit, 200), (header_smuggled, 500), (colon_in_a_name, 500), (turned_down, 403), (odd_status, 500)],
)
async def test_edited_in_http_connected(rigs: Make, hook: object, status: int) -> None:
    events = Events(http_connected=hook)  # type: ignore[arg-type]
    rig, client, to = await start(rigs, events)
    await client.say(ask(to))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"X-Evil" not in head
    if status == 200:
        assert b"x-edit: 1\r\n" in head
    else:
        await client.rest()
        client.writer.close()
        await rig.idle()
    assert http_events(events) == ["http_connect", "http_connected"]


async def test_killed(rigs: Make) -> None:
    events = Events(http_connect=lambda flow: flow.kill())
    _rig, client, to = await start(rigs, events)
    await client.say(ask(to))
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert http_events(events) == ["http_connect"]
    assert not events.of("http_connect")[0].live
    assert events.of("server_connect") == []


@pytest.mark.parametrize("port", ["1", ""])
async def test_killed_while_dialling(rigs: Make, port: str) -> None:
    events = Events(server_connect=lambda data: asyncio.sleep(0.1))
    rig, client, to = await start(rigs, events)
    await client.say(ask("127.0.0.1:1" if port else to))
    await events.wait("server_connect")
    flow = events.of("http_connect")[0]
    flow.kill()
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await rig.idle()
    assert flow.error.msg == "Connection killed."
    assert not flow.live
    assert http_events(events) == ["http_connect"]


async def test_client_leaves_while_a_hook_waits(rigs: Make) -> None:
    told: list[str] = []

    async def slow(flow: http.HTTPFlow) -> None:
        await asyncio.sleep(0.1)

    async def tell(flow: http.HTTPFlow) -> None:
        await asyncio.sleep(0.01)
        told.append(flow.error.msg)

    events = Events(http_connect=slow, http_connect_error=tell)
    rig, client, to = await start(rigs, events)
    await client.say(ask(to))
    await events.wait("http_connect")
    client.reset()
    await rig.idle()
    assert len(told) == 1
    assert http_events(events) == ["http_connect", "http_connect_error"]
    assert events.of("server_connect") == []


@pytest.mark.parametrize(
    "line",
    [b"CONNECT origin.test HTTP/1.1", b"CONNECT http://origin.test:1/ HTTP/1.1", b"CONNECT a:1@b:1 HTTP/1.1"],
)
async def test_no_authority(rigs: Make, line: bytes) -> None:
    events = Events()
    _rig, client, _to = await start(rigs, events)
    await client.say(line + b"\r\nHost: origin.test\r\n\r\n")
    assert (await read_response(client)).status == 400
    assert http_events(events) == ["error"]


async def test_with_a_body(rigs: Make) -> None:
    events = Events()
    _rig, client, to = await start(rigs, events)
    await client.say(ask(to, "Content-Length: 3", more=b"abc"))
    assert (await read_response(client)).status == 400
    assert http_events(events) == ["error"]


# -- said to a server, not to a proxy


async def other_proxy(peer: Peer) -> None:
    """A proxy beyond the gateway, to which devices speak CONNECT; it wants a password, and what it reaches echoes."""
    assert b"Proxy-Authorization" not in await peer.head()
    await peer.say(b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
    assert b"Proxy-Authorization: Basic eDp5" in await peer.head()
    await peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
    await echo(peer)


async def test_connect_to_another_proxy(rigs: Make) -> None:
    """A device that has an explicit proxy of its own, beyond the gateway: it is relayed as it is."""
    events = Events()
    rig = await rigs(events)
    client = await rig.connect(await rig.transparent(await rig.origin(other_proxy)))
    await client.say(ask("somewhere.test:1"))
    assert b"Proxy-Authenticate" in await client.head()
    await client.say(ask("somewhere.test:1", "Proxy-Authorization: Basic eDp5"))
    assert await client.head() == b"HTTP/1.1 200 OK\r\n\r\n"
    await client.say(b"\x16\x03\x01 hello")
    assert await client.exactly(9) == b"\x16\x03\x01 hello"
    client.eof()
    assert await client.rest() == b""
    await rig.idle()
    (flow,) = events.of("tcp_end")
    assert flow.client_conn.verdict.reason == "raw TCP: CONNECT, said to another proxy than this one"
    assert http_events(events) == []


async def test_connect_to_another_proxy_without_rawtcp(rigs: Make) -> None:
    rig = await rigs(rawtcp=False)
    origin = Origin(b"HTTP/1.1 200 OK\r\n\r\n")
    client = await rig.connect(await rig.transparent(await rig.origin(origin)))
    await client.say(ask("somewhere.test:1"))
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert (origin.requests, origin.raw) == ([], b"")


async def test_connect_in_the_middle_of_requests(rigs: Make) -> None:
    """Whom a connection carries requests to is a server."""
    events = Events()
    rig = await rigs(events)
    origin = Origin(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client = await rig.connect(await rig.transparent(await rig.origin(origin)))
    await client.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + ask("127.0.0.1:1"))
    assert (await read_response(client)).status == 200
    assert (await read_response(client)).status == 400
    await until(lambda: "error" in events.names)
    assert http_events(events) == ["request", "response", "error"]
    assert (len(origin.requests), origin.raw) == (1, b"")


async def test_absolute_form_to_another_proxy(rigs: Make) -> None:
    """It stays what it is, since a proxy answers 400 to the other form, and a server must take it (RFC 9112 §3.2.2)."""
    events = Events()
    rig = await rigs(events)
    origin = Origin(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    address = await rig.origin(origin)
    client = await rig.connect(await rig.transparent(address))
    await client.say(b"GET http://127.0.0.1:1/x?y HTTP/1.1\r\nHost: other\r\n\r\n")
    assert (await read_response(client)).status == 200
    assert origin.requests[0].start == b"GET http://127.0.0.1:1/x?y HTTP/1.1"
    assert origin.requests[0].value("host") == "127.0.0.1:1"
    assert events.of("request")[0].server_conn.address == address
    for target in (b"https://A.test:444", b"http://a.test/"):
        await client.say(b"OPTIONS %b HTTP/1.1\r\nHost: other\r\nProxy-Authorization: x\r\n\r\n" % target)
        assert (await read_response(client)).status == 200
        assert origin.requests[-1].start == b"OPTIONS %b HTTP/1.1" % target
        assert origin.requests[-1].value("proxy-authorization") == "x"
    await client.say(b"POST http://a.test/y HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a.test\r\n\r\n0\r\n\r\n")
    assert (await read_response(client)).status == 200
    assert origin.requests[-1].start == b"POST http://a.test/y HTTP/1.1"


async def test_absolute_form_that_an_addon_sends_elsewhere(rigs: Make) -> None:
    """There it is a server's, as if it had been said to us."""
    servers = [Origin(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") for _ in range(2)]

    class Elsewhere:
        def request(self, flow: http.HTTPFlow) -> None:
            if "new" in flow.request.path:
                flow.request.path = "/changed"
            else:
                flow.request.host, flow.request.port = elsewhere

    rig = await rigs(Elsewhere())
    address, elsewhere = [await rig.origin(server) for server in servers]
    client = await rig.connect(await rig.transparent(address))
    for path in (b"old", b"new"):
        await client.say(b"GET http://a.test/%b HTTP/1.1\r\nHost: a.test\r\n\r\n" % path)
        assert (await read_response(client)).status == 200
    assert servers[0].requests[0].start == b"GET http://a.test/changed HTTP/1.1"
    assert servers[1].requests[0].start == b"GET /old HTTP/1.1"
    assert servers[1].requests[0].value("host") == ":".join(map(str, elsewhere[:2]))


async def test_http10_without_host(rigs: Make) -> None:
    rig = await rigs(Events())
    origin = Origin(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    address = await rig.origin(origin)
    client = await rig.connect(await rig.transparent(address))
    await client.say(b"GET / HTTP/1.0\r\n\r\n")
    assert (await read_response(client)).status == 200
    assert origin.requests[0].value("host") == f"127.0.0.1:{address[1]}"
