"""Which server connection a request goes over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from appliance import http
from appliance.layers.http.pool import KEEP
from tests.harness import Events, Make, Peer, until
from tests.layers.http.httpkit import OK, Origin, ended, read_response, setting


def answers(text: bytes) -> Origin:
    return Origin(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


@pytest.mark.parametrize("event", ["requestheaders", "request"])
async def test_host_and_port_changed(rigs: Make, event: str) -> None:
    def elsewhere(flow: http.HTTPFlow) -> None:
        if flow.request.path == "/other":
            flow.request.host, flow.request.port = "localhost", other[1]

    s = await setting(rigs, OK, Events(**{event: elsewhere}))
    origin = answers(b"other")
    other = await s.rig.origin(origin)
    for _ in range(2):
        assert (await s.ask(path="/")).body == b"hello"
        assert (await s.ask(path="/other")).body == b"other"
    assert (s.origin.connections, origin.connections) == (1, 1)
    assert origin.requests[0].value("host") == f"localhost:{other[1]}"  # setting host rewrites it
    first, second, third, fourth = (flow.server_conn for flow in await ended(s, flows=4))
    assert (first.address, second.address) == (s.address, ("localhost", other[1]))
    assert (first, second) == (third, fourth)
    assert first.connected and second.connected


async def test_scheme_changed(rigs: Make) -> None:
    def secure(flow: http.HTTPFlow) -> None:
        flow.request.scheme, flow.request.host, flow.request.port = "https", "origin.test", other[1]

    s = await setting(rigs, OK, Events(request=secure))
    origin = answers(b"secret")
    other = await s.rig.origin(origin, tls=True)
    for _ in range(2):
        assert (await s.ask()).body == b"secret"
    server = s.events.of("response")[1].server_conn
    assert (server.tls, server.sni, server.address) == (True, "origin.test", ("origin.test", other[1]))
    assert origin.connections == 1
    assert s.origin.connections == 0


async def test_scheme_changed_inside_tls(rigs: Make) -> None:
    """A client that speaks TLS, a server that is made to get plain text."""

    def plain(flow: http.HTTPFlow) -> None:
        if flow.request.path == "/plain":
            flow.request.scheme, flow.request.port = "http", other[1]

    events = Events(request=plain)
    rig = await rigs(events)
    secret, open_ = answers(b"secret"), answers(b"plain")
    address, other = await rig.origin(secret, tls=True), await rig.origin(open_)
    client = await rig.tunnel(await rig.regular(), f"origin.test:{address[1]}")
    await client.start_tls("origin.test")
    for path, body in (("/", b"secret"), ("/plain", b"plain"), ("/", b"secret")):
        await client.say(f"GET {path} HTTP/1.1\r\nHost: origin.test\r\n\r\n".encode())
        assert (await read_response(client)).body == body
    assert (secret.connections, open_.connections) == (1, 1)


async def test_the_connection_that_is_open_is_used(rigs: Make) -> None:
    """Upstream TLS came first, to mirror the certificate: the request goes over that same connection."""
    events = Events()
    rig = await rigs(events)
    origin = answers(b"x")
    address = await rig.origin(origin, tls=True)
    client = await rig.connect(await rig.transparent(address))
    await client.start_tls("origin.test")
    for _ in range(2):
        await client.say(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        assert (await read_response(client)).status == 200
    assert origin.connections == 1
    flow = events.of("response")[0]
    assert flow.server_conn is events.of("server_connected")[0].server
    assert flow.client_conn is events.of("client_connected")[0]


async def test_server_closed_what_was_opened_first(rigs: Make) -> None:
    """The same, when its server has closed it before the first request."""
    count = 0

    async def impatient(peer: Peer) -> None:
        nonlocal count
        count += 1
        if count > 1:
            await peer.head()
            await peer.say(OK)
            await asyncio.sleep(5)

    events = Events()
    rig = await rigs(events)
    address = await rig.origin(impatient, tls=True, alpn=("http/1.1",))
    client = await rig.connect(await rig.transparent(address))
    await client.start_tls("origin.test", alpn=("http/1.1",))
    await asyncio.sleep(0.1)
    await client.say(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
    response = await read_response(client)
    assert response.status == 200
    assert count == 2
    assert [name for name in events.names if name in ("response", "error")] == ["response"]


@pytest.mark.parametrize(("method", "status", "connections"), [("GET", 200, 2), ("POST", 502, 1)])
async def test_server_drops_what_was_opened_first_as_the_request_comes(
    rigs: Make, method: str, status: int, connections: int
) -> None:
    """A connection opened early that dies under its first request counts as one kept for too long."""
    count = 0

    async def dropping(peer: Peer) -> None:
        nonlocal count
        count += 1
        await peer.head()
        if count > 1:
            await peer.say(OK)
            await asyncio.sleep(5)

    events = Events()
    rig = await rigs(events)
    address = await rig.origin(dropping, tls=True)
    client = await rig.connect(await rig.transparent(address))
    await client.start_tls("origin.test")
    await client.say(f"{method} / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 0\r\n\r\n".encode())
    assert (await read_response(client)).status == status
    assert count == connections
    assert [name for name in events.names if name in ("response", "error")] == [
        "response" if status == 200 else "error"
    ]


async def test_server_drops_what_was_opened_for_the_request(rigs: Make) -> None:
    """That one is not tried again: the server has had it, and did not want it."""

    async def dropping(peer: Peer) -> None:
        await peer.head()

    s = await setting(rigs)
    address = await s.rig.origin(dropping)
    served = s.rig.served
    await s.client.say(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % address[1])
    assert (await read_response(s.client)).status == 502
    assert s.rig.served == served + 1


async def test_so_many_are_kept(rigs: Make) -> None:
    s = await setting(rigs)
    origins = [answers(b"%d" % i) for i in range(KEEP + 3)]
    addresses = [await s.rig.origin(origin) for origin in origins]
    for _ in range(2):
        for i, address in enumerate(addresses):
            await s.client.say(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % address[1])
            assert (await read_response(s.client)).body == b"%d" % i
        connected, gone = len(s.events.of("server_connected")), len(s.events.of("server_disconnected"))
        assert connected - gone <= KEEP
    s.client.writer.close()
    await s.rig.idle()
    assert len(s.events.of("server_connected")) == len(s.events.of("server_disconnected"))


async def test_many_that_do_not_last(rigs: Make) -> None:
    """More connections one after another than may be open to one address at once."""
    s = await setting(rigs, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    for _ in range(12):
        assert (await s.ask()).status == 200
    assert s.origin.connections == 12
    await until(lambda: len(s.events.of("server_disconnected")) == 12)


async def test_clients_share_nothing(rigs: Make) -> None:
    s = await setting(rigs)
    assert (await s.ask()).status == 200
    other = await s.again()
    await other.say(s.head())
    assert (await read_response(other)).status == 200
    assert s.origin.connections == 2


async def test_killed_by_server_connect(rigs: Make) -> None:
    def refuse(data: object) -> None:
        data.server.error = "not there"  # type: ignore[attr-defined]

    s = await setting(rigs, OK, Events(server_connect=refuse))
    page = await s.ask()
    assert page.status == 502
    assert b"not there" in page.body
    assert s.origin.connections == 0
    assert [name for name in s.events.names if name.startswith("server_")] == ["server_connect", "server_connect_error"]


async def test_redirected_by_server_connect(rigs: Make) -> None:
    def redirect(data: object) -> None:
        data.server.address = other  # type: ignore[attr-defined]

    s = await setting(rigs, OK, Events(server_connect=redirect))
    other = await s.rig.origin(answers(b"other"))
    for _ in range(2):
        assert (await s.ask()).body == b"other"
    assert s.events.of("response")[1].server_conn.address == other
    assert len(s.events.of("server_connected")) == 1


# -- never ourselves


def to_literal(port: int) -> str:
    return f"127.0.0.1:{port}"


def to_name(port: int) -> str:
    return f"localhost:{port}"


def to_any(port: int) -> str:
    return f"0.0.0.0:{port}"


@pytest.mark.parametrize("name", [to_literal, to_name, to_any])
async def test_loop(rigs: Make, name: Callable[[int], str]) -> None:
    s = await setting(rigs)
    await s.client.say(f"GET http://{name(s.proxy[1])}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    page = await read_response(s.client)
    assert page.status == 502
    assert b"gateway" in page.body
    await ended(s)
    assert s.endings() == ["error"]
    assert len(s.events.of("client_connected")) == 1
    assert s.events.of("server_connected") == []


async def test_loop_made_by_an_addon(rigs: Make) -> None:
    def loop(flow: http.HTTPFlow) -> None:
        flow.request.host, flow.request.port = "127.0.0.1", s.proxy[1]

    s = await setting(rigs, OK, Events(request=loop))
    assert (await s.ask()).status == 502
    assert len(s.events.of("client_connected")) == 1


async def test_transparent_loop(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.rig.connect(await s.rig.transparent(s.proxy))
    await client.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await read_response(client)).status == 502
    assert len(s.events.of("client_connected")) == 2  # it, and the one that every setting has


async def test_metadata_address(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\n\r\n")
    page = await read_response(s.client)
    assert page.status == 502
    assert b"metadata" in page.body


async def test_unresolvable(rigs: Make) -> None:
    s = await setting(rigs)
    for name in ("nowhere.invalid", "x" * 70 + ".invalid"):
        await s.client.say(f"GET http://{name}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await read_response(s.client)).status == 502
    assert (await s.ask()).status == 200
