"""An exchange as its hooks see it; and whatever is sent through the engine arrives as it was."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import http
from tests.harness import Events, Make, Peer, until
from tests.layers.http.httpkit import OK, Message, Setting, ended, read_response, setting

ORDER = ["requestheaders", "request", "responseheaders", "response"]


def order(s: Setting) -> list[str]:
    return [name for name in s.events.names if name in (*ORDER, "error")]


async def test_what_hooks_see(rigs: Make) -> None:
    seen: list[Any] = []

    def requestheaders(flow: http.HTTPFlow) -> None:
        seen.append((flow.live, flow.request.raw_content, flow.response, flow.request.timestamp_end))

    def request(flow: http.HTTPFlow) -> None:
        seen.append((flow.live, flow.request.content, flow.response, flow.server_conn.address))

    def responseheaders(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        seen.append((flow.live, flow.response.status_code, flow.response.raw_content, flow.server_conn.connected))

    def response(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        seen.append((flow.live, flow.response.content, flow.error))

    s = await setting(
        rigs,
        OK,
        Events(requestheaders=requestheaders, request=request, responseheaders=responseheaders, response=response),
    )
    before = time.time()
    assert (await s.ask("POST", "/p", body=b"body")).body == b"hello"
    flow = (await ended(s))[0]
    assert seen == [
        (True, None, None, None),
        (True, b"body", None, None),
        (True, 200, None, True),
        (True, b"hello", None),
    ]
    assert order(s) == ORDER
    assert flow.client_conn is s.events.of("client_connected")[0]
    assert flow.server_conn is s.events.of("server_connected")[0].server
    times = [
        before,
        flow.request.timestamp_start,
        flow.request.timestamp_end,
        flow.response.timestamp_start,
        flow.response.timestamp_end,
        time.time(),
    ]
    assert times == sorted(times)
    assert s.rig.worker.totals.flows == 1
    assert s.rig.worker.totals.errors == 0


async def test_everything_may_be_changed(rigs: Make) -> None:
    async def request(flow: http.HTTPFlow) -> None:
        await asyncio.sleep(0.01)
        flow.request.method = "PUT"
        flow.request.path = "/changed?x=1"
        flow.request.headers["x-new"] = "1"
        flow.request.text = "changed"

    def response(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.status_code = 418
        flow.response.reason = "Tea"
        flow.response.headers["x-new"] = "2"
        flow.response.content = b"changed too"

    s = await setting(rigs, OK, Events(request=request, response=response))
    got = await s.ask("POST", "/", body=b"x")
    assert (got.start, got.value("x-new"), got.body) == (b"HTTP/1.1 418 Tea", "2", b"changed too")
    sent = s.origin.requests[0]
    assert (sent.start, sent.value("x-new"), sent.body) == (b"PUT /changed?x=1 HTTP/1.1", "1", b"changed")


async def test_headers_may_be_changed_early(rigs: Make) -> None:
    def requestheaders(flow: http.HTTPFlow) -> None:
        flow.request.headers["x-early"] = "1"

    def responseheaders(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.headers["x-early"] = "2"
        flow.response.status_code = 201

    s = await setting(rigs, OK, Events(requestheaders=requestheaders, responseheaders=responseheaders))
    got = await s.ask()
    assert (got.status, got.value("x-early"), got.body) == (201, "2", b"hello")
    assert s.origin.requests[0].value("x-early") == "1"


@pytest.mark.parametrize("event", ["requestheaders", "request"])
async def test_answered_without_a_server(rigs: Make, event: str) -> None:
    def answer(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(200, b"mine", {"X-Mine": "1"})

    seen: list[Any] = []
    events = Events(**{event: answer}, response=lambda flow: seen.append((flow.request.content, flow.response.content)))
    s = await setting(rigs, OK, events)
    for _ in range(2):
        got = await s.ask("POST", body=b"body")
        assert (got.body, got.value("x-mine")) == (b"mine", "1")
    assert order(s) == ORDER * 2
    assert seen == [(b"body", b"mine")] * 2
    assert s.events.of("server_connect") == []


async def test_answered_while_a_large_body_comes(rigs: Make) -> None:
    def answer(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(200, b"mine")

    s = await setting(rigs, OK, Events(requestheaders=answer), stream_large_bodies="1k")
    await s.client.say(s.head("POST", "/", "Content-Length: 100000") + b"x" * 5000)
    got = await read_response(s.client)
    assert (got.body, got.value("connection")) == (b"mine", "close")
    await ended(s)
    assert order(s) == ORDER
    assert s.events.of("server_connect") == []


async def test_replaced_in_responseheaders(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await peer.say(b"x" * 100_000)

    def answer(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(451, b"mine")

    s = await setting(rigs, script, Events(responseheaders=answer))
    for _ in range(2):
        got = await s.ask()
        assert (got.status, got.body) == (451, b"mine")
    assert order(s) == ORDER * 2
    assert s.origin.connections == 2  # the server's own body went down with its connection


async def test_intercepted(rigs: Make) -> None:
    s = await setting(rigs, OK, Events(request=lambda flow: flow.intercept()))
    await s.client.say(s.head())
    flow = await s.events.wait("request")
    await asyncio.sleep(0.05)
    assert s.origin.requests == []
    flow.resume()
    assert (await read_response(s.client)).status == 200


async def test_update_follows_each_hook(rigs: Make) -> None:
    events = Events(*ORDER, "update")
    s = await setting(rigs, OK, events)
    await s.ask()
    await ended(s)
    await until(lambda: len(events.names) == 8)
    assert events.names == [name for event in ORDER for name in (event, "update")]


async def test_clocks_stand_still_in_a_hook(rigs: Make) -> None:
    async def slow(flow: http.HTTPFlow) -> None:
        await asyncio.sleep(2.2)

    s = await setting(rigs, OK, Events(request=slow), tcp_timeout=1)
    assert (await s.ask()).status == 200


async def test_idle_ends_it(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        await asyncio.sleep(10)

    s = await setting(rigs, script, tcp_timeout=1)
    await s.client.say(s.head())
    flow = (await ended(s))[0]
    assert "idle" in flow.error.msg
    await s.rig.idle()


async def test_nobody_listens(rigs: Make) -> None:
    s = await setting(rigs, OK, Events("client_connected"))
    for i in range(3):
        assert (await s.ask("POST", body=b"x" * i)).body == b"hello"
    assert [request.body for request in s.origin.requests] == [b"", b"x", b"xx"]
    assert s.rig.worker.totals.flows == 3


# -- whatever is sent arrives as it was


@dataclass
class Pair:
    """A request and its response, and how they are to travel."""

    method: str
    path: str
    version: str
    fields: list[tuple[str, str]]
    body: bytes | None
    chunks: int  # of the request's body; 0 = Content-Length
    status: int
    answer_fields: list[tuple[str, str]]
    answer: bytes
    answer_chunks: int  # 0 = Content-Length, -1 = to the end of the connection
    step: int  # size of segments
    streams: tuple[bool, bool]


NAMES = st.text("abcXYZ019-_!#$%&'*+.^`|~", min_size=1, max_size=12).map(lambda name: f"x-{name}")
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=30).map(
    lambda value: "".join(char for char in value if not 0x7F <= ord(char) < 0xA0).strip(" \t\xa0\x85")
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
BODIES = st.one_of(
    st.just(b""), st.binary(max_size=50), st.binary(min_size=1, max_size=9).map(lambda data: data * 30_000)
)
PAIRS = st.builds(
    Pair,
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "X-!#", "get"]),
    path=st.text("abc/?&=%~.;@:!$'()*+,-_\"<>[]^`{|}\\", max_size=20).map(lambda path: f"/{path}"),
    version=st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]),
    fields=FIELDS,
    body=st.one_of(st.none(), BODIES),
    chunks=st.integers(0, 4),
    status=st.sampled_from([200, 201, 204, 206, 301, 304, 400, 404, 500, 599]),
    answer_fields=FIELDS,
    answer=BODIES,
    answer_chunks=st.integers(-1, 4),
    step=st.sampled_from([1, 5, 100, 1 << 20]),
    streams=st.tuples(st.booleans(), st.booleans()),
)


def lines(fields: list[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


def coded(body: bytes, chunks: int) -> bytes:
    size = max(1, -(-len(body) // chunks))
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def of_message(message: Message) -> list[tuple[str, str]]:
    """Its x- fields."""
    found = []
    for line in message.head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b": ")
        if name.startswith(b"x-"):
            found.append((name.decode(), value.decode("latin-1")))
    return found


class Hooks:
    """What the add-on does in the exchange at hand."""

    requestheaders: Any = None
    responseheaders: Any = None


async def carry(s: Setting, pair: Pair, hooks: Hooks) -> None:
    """Send it through `s` and compare."""
    bodiless = pair.status in (204, 304) or pair.method == "HEAD"
    old = pair.version == "HTTP/1.0"

    async def in_segments(peer: Peer, data: bytes) -> None:
        step = max(pair.step, len(data) // 200)
        for i in range(0, len(data), step):
            await peer.say(data[i : i + step])
            await asyncio.sleep(0)

    async def script(peer: Peer, request: Message) -> None:
        head = f"HTTP/1.1 {pair.status} Whatever\r\n".encode() + lines(pair.answer_fields)
        if bodiless:
            await in_segments(peer, head + b"\r\n")
            return
        if pair.answer_chunks > 0:
            await in_segments(
                peer, head + b"Transfer-Encoding: chunked\r\n\r\n" + coded(pair.answer, pair.answer_chunks)
            )
        elif pair.answer_chunks == 0:
            await in_segments(peer, head + b"Content-Length: %d\r\n\r\n" % len(pair.answer) + pair.answer)
        else:
            await in_segments(peer, head + b"\r\n" + pair.answer)
            await peer.close()

    def requestheaders(flow: http.HTTPFlow) -> None:
        flow.request.stream = pair.streams[0]

    def responseheaders(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = pair.streams[1]

    hooks.requestheaders, hooks.responseheaders = requestheaders, responseheaders
    s.origin.script = script
    s.origin.requests.clear()
    client = s.client
    body, framing = pair.body, b""
    if body is not None:
        if pair.chunks and not old:
            framing, body = b"Transfer-Encoding: chunked\r\n", coded(body, pair.chunks)
        else:
            framing = b"Content-Length: %d\r\n" % len(body)
    start = f"{pair.method} {s.url}{pair.path} {pair.version}\r\nHost: 127.0.0.1:{s.address[1]}\r\n".encode()
    keep = b"Connection: keep-alive\r\n" if old else b""
    await in_segments(client, start + lines(pair.fields) + keep + framing + b"\r\n" + (body or b""))
    got = await read_response(client, pair.method)
    assert (got.status, of_message(got)) == (pair.status, pair.answer_fields)
    assert got.body == (b"" if bodiless else pair.answer)
    request = s.origin.requests[0]
    assert request.start == f"{pair.method} {pair.path} HTTP/1.1".encode()
    assert of_message(request) == pair.fields
    assert request.body == (pair.body or b"")
    if got.value("connection") == "close":
        await client.close()
        s.client = await s.again()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PAIRS, min_size=1, max_size=3))
async def test_what_is_sent_arrives(rigs: Make, pairs: list[Pair]) -> None:
    hooks = Hooks()
    events = Events(
        *ORDER,
        "error",
        requestheaders=lambda flow: hooks.requestheaders(flow),
        responseheaders=lambda flow: hooks.responseheaders(flow),
    )
    s = await setting(rigs, OK, events)
    for pair in pairs:
        await carry(s, pair, hooks)
    await ended(s, flows=len(pairs))
    assert s.endings() == ["response"] * len(pairs)
    await s.rig.close()
