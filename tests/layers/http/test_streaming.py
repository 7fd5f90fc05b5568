"""Bodies that are not held: by wish of an add-on, by kind, by size, or because their sender falls silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from appliance import http
from tests.harness import Events, Make, Peer, until
from tests.layers.http.httpkit import OK, Message, Setting, ended, read_body, read_request, read_response, setting

BODY = bytes(range(256)) * 2000  # 512 kB
ORDER = ["requestheaders", "request", "responseheaders", "response"]


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


def order(s: Setting) -> list[str]:
    return [name for name in s.events.names if name in (*ORDER, "error")]


def request_streams(how: Any) -> Callable[[http.HTTPFlow], None]:
    def requestheaders(flow: http.HTTPFlow) -> None:
        flow.request.stream = how

    return requestheaders


def response_streams(how: Any) -> Callable[[http.HTTPFlow], None]:
    def responseheaders(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = how

    return responseheaders


def says(data: bytes) -> Callable[[Peer, Message], Any]:
    async def script(peer: Peer, request: Message) -> None:
        await peer.say(data)

    return script


# -- requests


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_request_streams_as_it_is(rigs: Make, framing: str) -> None:
    seen: list[Any] = []
    events = Events(requestheaders=request_streams(True), request=lambda flow: seen.append(flow.request.content))
    s = await setting(rigs, OK, events)
    if framing == "length":
        await s.client.say(s.head("POST", "/", f"Content-Length: {len(BODY)}") + BODY)
    else:
        await s.client.say(s.head("POST", "/", "Transfer-Encoding: chunked") + chunked(BODY[:70000], BODY[70000:]))
    assert (await read_response(s.client)).body == b"hello"
    await ended(s)
    assert s.origin.requests[0].body == BODY
    assert s.origin.requests[0].value("content-length") == (str(len(BODY)) if framing == "length" else None)
    assert order(s) == ORDER
    assert seen == [None]
    assert (await s.ask(path="/again")).status == 200  # the connection is in step
    assert s.origin.connections == 1


def upper(data: bytes) -> bytes:
    return data.upper() if data else b"END"


def in_pieces(data: bytes) -> Iterable[bytes]:
    return [data[:3], b"", data[3:]] if data else (b"EN", b"D")


def generated(data: bytes) -> Iterable[bytes]:
    yield data[:1]
    yield data[1:] if data else b"END"


CHANGES = [(upper, b"SOME TEXTEND"), (in_pieces, b"some textEND"), (generated, b"some textEND")]


@pytest.mark.parametrize(("change", "made"), CHANGES)
async def test_request_changed_on_the_way(rigs: Make, change: Any, made: bytes) -> None:
    events = Events(requestheaders=request_streams(change))
    s = await setting(rigs, OK, events)
    assert (await s.ask("POST", body=b"some text")).body == b"hello"
    request = s.origin.requests[0]
    assert (request.body, request.value("content-length")) == (made, None)
    assert (await s.ask(path="/again")).status == 200
    assert s.origin.connections == 1


async def test_request_hook_comes_after_the_body(rigs: Make) -> None:
    events = Events(requestheaders=request_streams(True))
    s = await setting(rigs, OK, events)
    await s.client.say(s.head("POST", "/", "Content-Length: 10") + b"12345")
    await until(lambda: s.origin.connections)
    await asyncio.sleep(0.05)
    assert order(s) == ["requestheaders"]
    await s.client.say(b"67890")
    assert (await read_response(s.client)).status == 200
    assert order(s) == ORDER


@pytest.mark.parametrize("says", ["5", "500", "no"])
async def test_request_length_is_not_the_addons(rigs: Make, says: str) -> None:
    def lie(flow: http.HTTPFlow) -> None:
        flow.request.stream = True
        if says == "no":
            del flow.request.headers["content-length"]
        else:
            flow.request.headers["content-length"] = says

    s = await setting(rigs, OK, Events(requestheaders=lie))
    assert (await s.ask("POST", body=b"x" * 50)).status == 200
    assert s.origin.requests[0].body == b"x" * 50
    assert (await s.ask(path="/again")).status == 200
    assert len(s.origin.requests) == 2


# -- responses


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY), BODY),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(BODY[:9], BODY[9:]), BODY),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    ],
    ids=["length", "chunked", "no length", "no chunk"],
)
@pytest.mark.parametrize("limit", ["9m", None])
async def test_response_streams_as_it_is(rigs: Make, wire: bytes, body: bytes, limit: str | None) -> None:
    seen: list[Any] = []
    events = Events(responseheaders=response_streams(True), response=lambda flow: seen.append(flow.response.content))
    s = await setting(rigs, wire, events, body_size_limit=limit)  # a limit makes the bytes be counted
    for _ in range(2):
        assert (await s.ask()).body == body
    await ended(s, flows=2)
    assert order(s) == ORDER * 2
    assert seen == ([b"", b""] if b"Length: 0" in wire else [None, None])
    assert s.origin.connections == 1


@pytest.mark.parametrize(("change", "made"), CHANGES)
async def test_response_changed_on_the_way(rigs: Make, change: Any, made: bytes) -> None:
    events = Events(responseheaders=response_streams(change))
    s = await setting(rigs, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome text", events)
    for _ in range(2):
        response = await s.ask()
        assert (response.body, response.value("content-length")) == (made, None)


async def test_response_changed_for_http10(rigs: Make) -> None:
    events = Events(responseheaders=response_streams(upper))
    s = await setting(rigs, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome text", events)
    await s.client.say(s.head("GET", "/", "Connection: keep-alive", version="HTTP/1.0"))
    response = await read_response(s.client)
    assert (response.body, response.value("connection")) == (b"SOME TEXTEND", "close")
    assert response.value("transfer-encoding") is None


@pytest.mark.parametrize("says", ["5", "500", "no"])
async def test_response_length_is_not_the_addons(rigs: Make, says: str) -> None:
    def lie(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = True
        if says == "no":
            del flow.response.headers["content-length"]
        else:
            flow.response.headers["content-length"] = says

    s = await setting(rigs, b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + b"x" * 50, Events(responseheaders=lie))
    for _ in range(2):
        assert (await s.ask()).body == b"x" * 50


async def test_response_that_may_have_no_body_any_more(rigs: Make) -> None:
    def empty(flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = True
        flow.response.status_code = 204

    s = await setting(rigs, OK, Events(responseheaders=empty))
    for _ in range(2):
        response = await s.ask()
        assert (response.status, response.value("content-length")) == (204, None)


async def test_first_event_at_once(rigs: Make) -> None:
    sent = asyncio.Event()
    more = asyncio.Event()

    async def script(peer: Peer, request: Message) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
        await peer.say(b"Transfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
        sent.set()
        await more.wait()
        await peer.say(b"7\r\nsecond\n\r\n0\r\n\r\n")

    s = await setting(rigs, script)
    await s.client.say(s.head())
    await sent.wait()
    since = time.monotonic()
    await s.client.until(b"first\n")
    assert time.monotonic() - since < 0.1
    assert order(s) == ORDER[:3]
    more.set()
    await s.client.until(b"0\r\n\r\n")
    await ended(s)
    assert order(s) == ORDER


# -- by size


@pytest.mark.parametrize("declared", [True, False])
async def test_large_request(rigs: Make, declared: bool) -> None:
    seen: list[Any] = []
    events = Events(request=lambda flow: seen.append((flow.request.content, flow.request.stream)))
    s = await setting(rigs, OK, events, stream_large_bodies="100k")
    if declared:
        await s.client.say(s.head("POST", "/", f"Content-Length: {len(BODY)}"))
    else:
        await s.client.say(s.head("POST", "/", "Transfer-Encoding: chunked"))
    half = len(BODY) // 2
    for piece in (BODY[:half], BODY[half:]):
        await s.client.say(piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece))
        await asyncio.sleep(0.05)
    assert seen == ([(None, True)] if declared else [])
    if not declared:
        assert s.origin.connections == 1  # the first half is on its way
        await s.client.say(b"0\r\n\r\n")
    assert (await read_response(s.client)).status == 200
    assert s.origin.requests[0].body == BODY
    assert seen == [(None, True)]
    assert (await s.ask(path="/again")).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
async def test_large_response(rigs: Make, framing: str) -> None:
    seen: list[Any] = []
    half = len(BODY) // 2
    go = asyncio.Event()

    async def script(peer: Peer, request: Message) -> None:
        head = {"length": f"Content-Length: {len(BODY)}\r\n", "chunked": "Transfer-Encoding: chunked\r\n", "eof": ""}
        await peer.say(f"HTTP/1.1 200 OK\r\n{head[framing]}\r\n".encode())
        for piece in (BODY[:half], BODY[half:]):
            await peer.say(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            await go.wait()
        if framing == "chunked":
            await peer.say(b"0\r\n\r\n")
        if framing == "eof":
            await peer.close()

    events = Events(response=lambda flow: seen.append((flow.response.content, flow.response.stream)))
    s = await setting(rigs, script, events, stream_large_bodies="100k")
    await s.client.say(s.head())
    message = Message(await s.client.head())
    if framing == "length":
        message.body = await s.client.exactly(half)  # before the other half is there
        go.set()
        message.body += await s.client.exactly(half)
    else:
        go.set()
        message = await read_body(s.client, message, to_eof=True)
    assert message.body == BODY
    await ended(s)
    assert seen == [(None, True)]


async def test_under_the_limit_is_held(rigs: Make) -> None:
    seen: list[Any] = []
    events = Events(
        request=lambda flow: seen.append(flow.request.content), response=lambda flow: seen.append(flow.response.content)
    )
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"a" * 70000, b"b" * 20000)
    s = await setting(rigs, wire, events, stream_large_bodies="100k")
    await s.client.say(s.head("POST", "/", "Transfer-Encoding: chunked"))
    for piece in (b"5\r\nfirst\r\n", b"6\r\nsecond\r\n", b"0\r\n\r\n"):
        await s.client.say(piece)
        await asyncio.sleep(0.02)
    response = await read_response(s.client)
    assert seen == [b"firstsecond", response.body]
    assert response.body == b"a" * 70000 + b"b" * 20000


# -- by silence


async def test_silent_server_is_let_go(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await asyncio.sleep(2.5)
        await peer.say(b"67890")

    s = await setting(rigs, script)
    await s.client.say(s.head())
    since = time.monotonic()
    await s.client.head()
    assert await s.client.exactly(5) == b"12345"
    assert 0.9 < time.monotonic() - since < 2.0
    assert await s.client.exactly(5) == b"67890"
    flow = (await ended(s))[0]
    assert flow.response.content is None
    assert s.endings() == ["response"]
    assert (await s.ask(path="/again")).status == 200  # no clock was left running


async def test_silent_client_is_let_go(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(s.head("POST", "/", "Content-Length: 10") + b"12345")
    since = time.monotonic()
    await until(lambda: s.origin.connections)
    assert 0.9 < time.monotonic() - since < 2.0
    await asyncio.sleep(0.8)
    await s.client.say(b"67890")
    assert (await read_response(s.client)).status == 200
    assert s.origin.requests[0].body == b"1234567890"


async def test_a_slow_sender_that_says_nothing_yet_is_waited_for(rigs: Make) -> None:
    seen: list[Any] = []
    s = await setting(rigs, OK, Events(request=lambda flow: seen.append(flow.request.content)))
    await s.client.say(s.head("POST", "/", "Content-Length: 5"))
    await asyncio.sleep(1.8)
    await s.client.say(b"12345")
    assert (await read_response(s.client)).status == 200
    assert seen == [b"12345"]


# -- trailers

TRAILED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"body", trailers=b"X-Sum: 1\r\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_trailers(rigs: Make, stream: bool) -> None:
    def request(flow: http.HTTPFlow) -> None:
        assert flow.request.trailers is not None
        flow.request.trailers["x-sum"] += "1"
        flow.request.trailers["x-more"] = "new"

    def response(flow: http.HTTPFlow) -> None:
        assert flow.response is not None and flow.response.trailers is not None
        flow.response.trailers["x-sum"] += "1"
        flow.response.trailers["x-more"] = "new"

    on = {"requestheaders": request_streams(True), "responseheaders": response_streams(True)} if stream else {}
    s = await setting(rigs, TRAILED, Events(request=request, response=response, **on))
    for _ in range(2):
        await s.client.say(
            s.head("POST", "/", "Transfer-Encoding: chunked") + chunked(b"up", trailers=b"X-Sum: 1\r\nHost: evil\r\n")
        )
        got = await read_response(s.client)
        assert (got.body, got.trailers) == (b"body", [b"X-Sum: 11", b"x-more: new"])
    assert s.origin.requests[1].trailers == [b"X-Sum: 11", b"x-more: new"]


async def test_trailers_of_an_addon(rigs: Make) -> None:
    def trail(flow: http.HTTPFlow) -> None:
        for message in (flow.request, flow.response):
            if message is not None:
                message.trailers = http.Headers(x_late="1")

    s = await setting(rigs, OK, Events(request=trail, response=trail))
    got = await s.ask("POST", body=b"up")
    assert (got.body, got.trailers, got.value("content-length")) == (b"hello", [b"x-late: 1"], None)
    assert (s.origin.requests[0].body, s.origin.requests[0].trailers) == (b"up", [b"x-late: 1"])


async def test_trailers_are_not_for_http10(rigs: Make) -> None:
    s = await setting(rigs, TRAILED)
    await s.client.say(s.head("GET", "/", version="HTTP/1.0"))
    got = await read_response(s.client)
    assert (got.body, got.value("content-length"), got.trailers) == (b"body", "4", [])


# -- both ways at once


async def early(peer: Peer, request: Message, answer: bytes, read: bool) -> None:
    await peer.say(answer)
    if read:
        await read_body(peer, request)
    else:
        await asyncio.sleep(20)


BIG = 3_000_000
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge"
CLOSING = TOO_LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
EMPTY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("answer", [TOO_LARGE, CLOSING, EMPTY], ids=["stays", "closes", "empty"])
@pytest.mark.parametrize("read", [True, False], ids=["reads on", "reads no more"])
async def test_early_response(rigs: Make, answer: bytes, read: bool, held: bool) -> None:
    addons = () if held else (Events("error", "requestheaders"),)
    s = await setting(
        rigs, lambda peer, request: early(peer, request, answer, read), *addons, whole=False, stream_large_bodies="10k"
    )
    body = asyncio.ensure_future(s.client.say(s.head("POST", "/", f"Content-Length: {BIG}") + b"x" * BIG))
    response = await read_response(s.client)  # whatever becomes of the body
    assert response.status == 413
    body.cancel()
    s.client.writer.transport.abort()
    if held:
        await ended(s)
        assert s.endings() == ["response"]
    await s.rig.idle()


async def test_early_response_and_the_rest_is_read(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        if request.value("content-length"):
            await peer.say(OK)
            await read_body(peer, request)
        else:
            await peer.say(OK)

    s = await setting(rigs, script, whole=False, stream_large_bodies="10k")
    await s.client.say(s.head("POST", "/", f"Content-Length: {len(BODY)}") + BODY[:100])
    response = await read_response(s.client)
    assert (response.body, response.value("connection")) == (b"hello", "close")
    await s.client.say(BODY[100:])
    await until(lambda: s.origin.requests[0].body == BODY)
    assert await s.client.rest() == b""
    await ended(s)


async def test_both_ways(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (line := await peer.until(b"\r\n")) != b"0\r\n":
            await peer.say(line + await peer.exactly(int(line, 16) + 2))
        await peer.say(line + await peer.exactly(2))

    events = Events(requestheaders=request_streams(True))
    s = await setting(rigs, script, events, whole=False)
    await s.client.say(s.head("POST", "/", "Transfer-Encoding: chunked"))
    await s.client.head()
    for word in (b"one", b"two", b"three"):
        await s.client.say(b"%x\r\n%b\r\n" % (len(word), word))
        assert await s.client.until(word + b"\r\n")
    await s.client.say(b"0\r\n\r\n")
    await s.client.until(b"0\r\n\r\n")
    await ended(s)
    assert s.endings() == ["response"]
    assert (await s.rig.connect(s.proxy)) is not None


# -- 100-continue

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_held_body_is_asked_for_by_us(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(s.head("POST", "/", "Content-Length: 5", "Expect: 100-continue"))
    assert await s.client.head() == CONTINUE
    assert s.origin.connections == 0
    await s.client.say(b"12345")
    assert (await read_response(s.client)).status == 200
    assert s.origin.requests[0].value("expect") is None


async def test_streamed_body_is_asked_for_by_the_server(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        assert request.value("expect") == "100-continue"
        await peer.say(CONTINUE + CONTINUE)
        await read_body(peer, request)
        await peer.say(OK)

    s = await setting(rigs, script, Events(requestheaders=request_streams(True)), whole=False)
    await s.client.say(s.head("POST", "/", "Content-Length: 5", "Expect: 100-continue"))
    assert await s.client.head() == CONTINUE
    await s.client.say(b"12345")
    assert (await read_response(s.client)).status == 200  # and no second 100
    assert s.origin.requests[0].body == b"12345"


async def test_a_final_answer_instead_of_100(rigs: Make) -> None:
    s = await setting(rigs, TOO_LARGE, Events(requestheaders=request_streams(True)), whole=False)
    await s.client.say(s.head("POST", "/", "Content-Length: 5", "Expect: 100-continue"))
    response = await read_response(s.client)
    assert (response.status, response.body, response.value("connection")) == (413, b"large", "close")
    await s.rig.idle()
    assert s.endings() == ["response"]


async def test_unexpected_100_is_dropped(rigs: Make) -> None:
    s = await setting(rigs, CONTINUE + OK)
    assert (await s.ask()).status == 200


async def test_early_hints(rigs: Make) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\n"
    s = await setting(rigs, hints + hints + OK)
    await s.client.say(s.head())
    for _ in range(2):
        assert await s.client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert (await read_response(s.client)).body == b"hello"
    old = await s.again()
    await old.say(s.head(version="HTTP/1.0"))
    assert (await read_response(old)).status == 200  # they are not for HTTP/1.0


async def test_a_slow_client_holds_the_server_back(rigs: Make) -> None:
    sent = 0

    async def script(peer: Peer, request: Message) -> None:
        nonlocal sent
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n")
        for _ in range(400):
            await peer.say(b"x" * 100_000)
            sent += 100_000

    s = await setting(rigs, script)
    await s.client.say(s.head())
    s.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.5)
    held = sent
    assert held < 25_000_000
    s.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await s.client.head()
    assert len(await s.client.exactly(40_000_000)) == 40_000_000


async def test_read_request_is_used(rigs: Make) -> None:
    """The origin sees a request that streams before its end."""
    seen = asyncio.Event()

    async def script(peer: Peer, request: Message) -> None:
        assert await peer.exactly(3) == b"123"
        seen.set()
        await peer.exactly(2)
        await peer.say(OK)
        assert (await read_request(peer)).start == b"GET /again HTTP/1.1"
        await peer.say(OK)

    s = await setting(rigs, script, Events(requestheaders=request_streams(True)), whole=False)
    await s.client.say(s.head("PUT", "/", "Content-Length: 5") + b"123")
    await asyncio.wait_for(seen.wait(), 5)
    await s.client.say(b"45")
    assert (await read_response(s.client)).status == 200
    assert (await s.ask(path="/again")).status == 200
