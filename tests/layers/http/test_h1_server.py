"""HTTP/1 towards clients: connections kept and closed, pipelining, versions, forms of the target, upgrades."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from appliance import http
from appliance.layers.http import h1_server
from tests.harness import Events, Make, Peer, until
from tests.layers.http.httpkit import OK, Message, Origin, ended, read_body, read_response, setting

# -- keep-alive


async def test_one_connection_for_many(rigs: Make) -> None:
    s = await setting(rigs)
    for i in range(5):
        response = await s.ask("POST" if i % 2 else "GET", f"/{i}", body=b"x" * i)
        assert (response.status, response.value("connection")) == (200, None)
    assert [request.start.split()[1] for request in s.origin.requests] == [b"/%d" % i for i in range(5)]
    assert s.origin.connections == 1
    await ended(s, flows=5)


@pytest.mark.parametrize("option", ["close", "Close", "x, close", "keep-alive, close"])
async def test_client_asks_to_close(rigs: Make, option: str) -> None:
    s = await setting(rigs)
    response = await s.ask("GET", "/", f"Connection: {option}")
    assert (response.status, response.value("connection")) == (200, "close")
    assert await s.client.rest() == b""
    assert s.origin.requests[0].value("connection") is None


async def test_server_closes_the_client_stays(rigs: Make) -> None:
    s = await setting(rigs, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    for _ in range(2):
        assert (await s.ask()).value("connection") is None
    assert s.origin.connections == 2


@pytest.mark.parametrize(
    ("wanted", "kept"), [("", False), ("Connection: keep-alive", True), ("Connection: Keep-Alive, x", True)]
)
async def test_http10(rigs: Make, wanted: str, kept: bool) -> None:
    s = await setting(rigs)
    await s.client.say(s.head("GET", "/", *([wanted] if wanted else []), version="HTTP/1.0"))
    response = await read_response(s.client)
    assert response.value("connection") == ("keep-alive" if kept else "close")
    assert response.body == b"hello"
    if kept:
        assert (await s.ask()).status == 200
    else:
        assert await s.client.rest() == b""
    assert s.origin.requests[0].start.endswith(b"HTTP/1.1")


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("framing", ["chunked", "eof"])
async def test_length_unknown(rigs: Make, version: str, stream: bool, framing: str) -> None:
    async def script(peer: Peer, request: Message) -> None:
        if framing == "eof":
            await peer.say(b"HTTP/1.1 200 OK\r\n\r\nhello")
            await peer.close()
        else:
            await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    def streams(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = stream

    s = await setting(rigs, script, Events(responseheaders=streams))
    await s.client.say(s.head("GET", "/", "Connection: keep-alive", version=version))
    response = await read_response(s.client)
    assert response.body == b"hello"
    old = version == "HTTP/1.0"
    if old and stream:
        assert (response.value("content-length"), response.value("connection")) == (None, "close")
    elif not stream and (old or framing == "eof"):
        assert response.value("content-length") == "5"
    else:
        assert response.value("transfer-encoding") == "chunked"
    if old:
        assert response.value("transfer-encoding") is None


@pytest.mark.parametrize(
    ("method", "wire"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_body(rigs: Make, method: str, wire: bytes, stream: bool) -> None:
    def streams(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = stream

    s = await setting(rigs, wire, Events(responseheaders=streams))
    for _ in range(3):
        response = await s.ask(method)
        assert response.start == wire.partition(b"\r\n")[0]
        assert response.values("content-length") == (["500"] if b"500" in wire else [])
    assert s.origin.connections == 1
    await ended(s, flows=3)


# -- pipelining


async def test_pipelined(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        path = request.start.split()[1]
        await asyncio.sleep(0.03 if path == b"/0" else 0)
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    s = await setting(rigs, script)
    asked = [
        s.head("GET", f"/{i}") if i % 2 else s.head("POST", f"/{i}", "Content-Length: 3") + b"abc" for i in range(20)
    ]
    await s.client.say(b"\r\n".join(asked))  # empty lines between them are ignored
    for i in range(20):
        assert (await read_response(s.client)).body == b"/%d" % i
    assert [request.body for request in s.origin.requests] == [b"", b"abc"][::-1] * 10
    await ended(s, flows=20)


async def test_pipelined_byte_by_byte(rigs: Make) -> None:
    s = await setting(rigs)
    for byte in s.head("POST", "/", "Content-Length: 3") + b"abc" + s.head():
        await s.client.say(bytes((byte,)))
        await asyncio.sleep(0)
    for _ in range(2):
        assert (await read_response(s.client)).status == 200
    assert s.origin.requests[0].body == b"abc"


async def test_pipelining_is_bounded(rigs: Make) -> None:
    hang = asyncio.Event()

    async def script(peer: Peer, request: Message) -> None:
        await hang.wait()
        await peer.say(OK)

    s = await setting(rigs, script)
    sending = asyncio.ensure_future(s.client.say(s.head() * 400_000))
    await until(lambda: s.origin.requests)
    await asyncio.sleep(0.3)
    handler = next(iter(s.rig.worker.handlers))
    assert len(handler.arrival.transport.buf) < 1 << 20  # type: ignore[union-attr]
    assert len(s.events.of("request")) == 1
    sending.cancel()
    s.client.reset()
    hang.set()
    await s.rig.idle()
    assert len(s.endings()) < 3


async def test_nothing_pipelined_is_served_after_a_close(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(s.head("GET", "/", "Connection: close") + s.head("GET", "/never"))
    assert (await read_response(s.client)).status == 200
    with contextlib.suppress(ConnectionError):
        assert await s.client.rest() == b""
    assert len(s.origin.requests) == 1


async def test_nothing_pipelined_is_served_after_the_end(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        await asyncio.sleep(10)

    s = await setting(rigs, script)
    await s.client.say(s.head() + s.head("GET", "/never"))
    await until(lambda: s.origin.requests)
    await s.rig.worker.stop(0.3)
    assert len(s.events.of("requestheaders")) == 1
    assert s.endings() == ["error"]


# -- forms of the target, Host


async def test_host_is_written_anew_from_the_target(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(b"GET http://127.0.0.1:%d/a?b#c HTTP/1.1\r\nHost: x\r\n\r\n" % s.address[1])
    assert (await read_response(s.client)).status == 400  # a fragment
    client = await s.again()
    await client.say(b"GET HTTP://127.0.0.1:%d/a?b HTTP/1.1\r\nA: 1\r\nHoSt: elsewhere\r\n\r\n" % s.address[1])
    assert (await read_response(client)).status == 200
    assert s.origin.requests[0].head == b"GET /a?b HTTP/1.1\r\nA: 1\r\nHoSt: 127.0.0.1:%d\r\n\r\n" % s.address[1]
    flow = s.events.of("request")[0]
    assert (flow.request.host, flow.request.port, flow.request.scheme) == (*s.address, "http")
    assert flow.request.url == f"{s.url}/a?b"


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        (b"GET http://127.0.0.1:%d HTTP/1.1", b"GET / HTTP/1.1"),
        (b"GET http://127.0.0.1:%d?q HTTP/1.1", b"GET /?q HTTP/1.1"),
        (b"OPTIONS http://127.0.0.1:%d HTTP/1.1", b"OPTIONS * HTTP/1.1"),
        (b"OPTIONS http://127.0.0.1:%d/ HTTP/1.1", b"OPTIONS / HTTP/1.1"),
        (b"X-METHOD http://127.0.0.1:%d//a/../b HTTP/1.1", b"X-METHOD //a/../b HTTP/1.1"),
    ],
)
async def test_absolute_form(rigs: Make, line: bytes, sent: bytes) -> None:
    s = await setting(rigs)
    await s.client.say(line % s.address[1] + b"\r\nHost: 127.0.0.1:%d\r\n\r\n" % s.address[1])
    assert (await read_response(s.client)).status == 200
    assert s.origin.requests[0].start == sent


async def test_asterisk_to_a_server(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.rig.connect(await s.rig.transparent(s.address))
    await client.say(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await read_response(client)).status == 200
    assert s.origin.requests[0].start == b"OPTIONS * HTTP/1.1"


async def test_hop_by_hop_fields(rigs: Make) -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\nConnection: X-Theirs\r\nX-Theirs: 1\r\nKeep-Alive: 5\r\nX-Kept: 1\r\n\r\n")
    s = await setting(rigs, answer)
    response = await s.ask(
        "GET", "/", "Connection: X-Ours, keep-alive", "X-Ours: 1", "Keep-Alive: 5", "Proxy-Connection: x", "X-Kept: 1"
    )
    for message in (s.origin.requests[0], response):
        assert message.value("x-kept") == "1"
        for name in ("connection", "x-ours", "x-theirs", "keep-alive", "proxy-connection"):
            assert message.value(name) is None, name


# -- last words


@pytest.mark.parametrize("kind", ["body", "chunks", "head"])
async def test_the_page_arrives_though_the_client_still_sends(rigs: Make, kind: str) -> None:
    s = await setting(rigs, body_size_limit="1k")
    head = {
        "body": s.head("POST", "/", "Content-Length: 600000"),
        "chunks": s.head("POST", "/", "Transfer-Encoding: chunked") + b"927c0\r\n",
        "head": s.head()[:-2] + b"X: ",
    }[kind]

    def talk() -> bytes:
        """A client that reads only when all is said."""
        with socket.create_connection(s.proxy[:2], timeout=5) as sock:
            sock.sendall(head + b"x" * 100_000)
            for _ in range(10):
                sock.sendall(b"x" * 50_000)
            got = b""
            while data := sock.recv(65536):
                got += data
            return got

    page = await asyncio.to_thread(talk)
    assert page.startswith(b"HTTP/1.1 431" if kind == "head" else b"HTTP/1.1 413")
    assert b"Connection: close" in page
    assert page.rstrip().endswith(b"</html>")
    s.client.writer.close()
    await s.rig.idle()
    assert s.origin.requests == []


async def test_timeouts_are_told(rigs: Make) -> None:
    s = await setting(rigs, client_header_timeout=1)
    assert (await s.ask()).status == 200
    await s.client.say(b"GET http://a")  # in the second request of a connection
    page = await read_response(s.client)
    assert (page.status, page.value("connection")) == (408, "close")
    await ended(s, flows=2)


async def test_idle_between_requests_is_no_timeout(rigs: Make) -> None:
    s = await setting(rigs, client_header_timeout=1)
    await s.ask()
    await asyncio.sleep(1.8)
    assert (await s.ask()).status == 200


async def test_a_bad_second_request(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(s.head() + b"GARBAGE\n\n")
    assert (await read_response(s.client)).status == 200
    assert (await read_response(s.client)).status == 400
    flow = (await ended(s, flows=2))[1]
    assert s.endings() == ["response", "error"]
    assert flow.request.path != "/"  # not the one before


# -- upgrades

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"
UPGRADE = ("Connection: Upgrade, X-Mine", "Upgrade: chat", "X-Mine: 1")


@pytest.mark.parametrize("listens", [True, False])
async def test_upgrade(rigs: Make, listens: bool) -> None:
    async def script(peer: Peer, request: Message) -> None:
        assert (request.value("upgrade"), request.value("x-mine")) == ("chat", None)
        await peer.say(SWITCH + b"server first")
        while data := await peer.reader.read(65536):
            await peer.say(data.upper())
        await peer.say(b"bye")
        await peer.close()

    events = Events() if not listens else Events(tcp_message=lambda flow: None)
    s = await setting(rigs, script, events)
    await s.client.say(s.head("GET", "/", *UPGRADE) + b"client first")
    head = Message(await s.client.head())
    assert (head.status, head.value("upgrade"), head.value("connection")) == (101, "chat", "Upgrade")
    said = await s.client.exactly(24)
    assert said == b"server firstCLIENT FIRST"
    await s.client.say(b"GET / HTTP/1.1\r\n\r\n")
    assert await s.client.exactly(18) == b"GET / HTTP/1.1\r\n\r\n"
    s.client.eof()
    assert await s.client.rest() == b"bye"
    await s.rig.idle()
    assert s.endings() == ["response"]
    names = [name for name in s.events.names if name.startswith(("re", "tcp_")) and name != "tcp_message"]
    assert names == ["requestheaders", "request", "responseheaders", "response", "tcp_start", "tcp_end"]
    assert not any(flow.live for flow in (*s.events.of("response"), *s.events.of("tcp_end")))


async def test_upgrade_declined(rigs: Make) -> None:
    s = await setting(rigs)
    for _ in range(2):
        assert (await s.ask("GET", "/", *UPGRADE)).status == 200


async def test_upgrade_is_not_for_http10(rigs: Make) -> None:
    s = await setting(rigs, SWITCH)
    await s.client.say(s.head("GET", "/", *UPGRADE, version="HTTP/1.0"))
    assert (await read_response(s.client)).status == 502
    assert s.origin.requests[0].value("upgrade") is None


@pytest.mark.parametrize("hook", ["responseheaders", "response"])
async def test_upgrade_killed(rigs: Make, hook: str) -> None:
    s = await setting(rigs, SWITCH, Events(**{hook: lambda flow: flow.kill()}))
    await s.client.say(s.head("GET", "/", *UPGRADE))
    with pytest.raises(ConnectionResetError):
        await s.client.rest()
    await s.rig.idle()
    assert s.endings() == ["response" if hook == "response" else "error"]


# -- through TLS


async def test_all_of_it_through_tls(rigs: Make) -> None:
    events = Events()
    rig = await rigs(events)
    body = bytes(range(256)) * 4000
    origin = Origin(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    address = await rig.origin(origin, tls=True)
    client = await rig.tunnel(await rig.regular(), f"origin.test:{address[1]}")
    await client.start_tls("origin.test")
    for _ in range(2):
        await client.say(b"PUT /x HTTP/1.1\r\nHost: origin.test\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        got = await read_body(client, Message(await client.head()))
        assert got.body == body
    assert [request.body for request in origin.requests] == [body, body]
    flow: Any = events.of("response")[1]
    assert (flow.request.scheme, flow.request.host, flow.server_conn.sni) == ("https", "origin.test", "origin.test")
    assert origin.connections == 1


async def test_pipelined_requests_that_need_no_server_do_not_hold_the_loop(rigs: Make) -> None:
    """Half a megabyte of them took 0.6 s at a stretch: with a few connections the firewall's heartbeat went out."""
    turn, taken = 0, []

    def answer(flow: http.HTTPFlow) -> None:
        taken.append(turn)
        flow.response = http.Response.make(403, b"no")

    rig = await rigs(Events(request=answer))
    near, task = rig.memory()
    near.write(b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n" * 1000)
    while len(taken) < 1000:
        await asyncio.sleep(0)
        turn += 1
        near.take(1 << 20)
    assert max(taken.count(one) for one in set(taken)) <= 2 * h1_server.TURN
    near.abort()
    await asyncio.wait_for(task, 5)
