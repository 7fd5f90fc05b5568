"""HTTP/1 towards servers: connections reused and left, retries, odd but legal responses."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import Events, Make, Peer, until
from tests.layers.http.httpkit import OK, Message, ended, read_response, setting


def once_then(first: bytes, *, end: str) -> object:
    """Answers the first request of a connection well, and the second with `first` and an end."""
    count: dict[Peer, int] = {}

    async def script(peer: Peer, request: Message) -> None:
        count[peer] = count.get(peer, 0) + 1
        if count[peer] == 1:
            await peer.say(OK.removesuffix(b"hello") if request.start.startswith(b"HEAD") else OK)
            return
        if first:
            await peer.say(first)
            await asyncio.sleep(0.03)
        if end == "rst":
            peer.reset()
        else:
            await peer.close()

    return script


@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_stale_connection_is_tried_again(rigs: Make, method: str, end: str) -> None:
    s = await setting(rigs, once_then(b"", end=end))  # type: ignore[arg-type]
    for i in range(3):
        body = b"body" if method == "PUT" else b""
        assert (await s.ask(method, f"/{i}", body=body)).status == 200
    assert s.origin.connections == 3
    assert [request.start.split()[1] for request in s.origin.requests] == [b"/0", b"/1", b"/1", b"/2", b"/2"]
    await ended(s, flows=3)
    assert s.endings() == ["response"] * 3
    assert len(s.events.of("request")) == 3  # hooks are not fired again


@pytest.mark.parametrize("method", ["POST", "PATCH", "X-METHOD"])
async def test_what_may_have_had_an_effect_is_not(rigs: Make, method: str) -> None:
    s = await setting(rigs, once_then(b"", end="fin"))  # type: ignore[arg-type]
    assert (await s.ask(method)).status == 200
    assert (await s.ask(method)).status == 502
    assert len(s.origin.requests) == 2
    assert (await s.ask(method)).status == 200  # over another connection
    assert s.endings() == ["response", "error", "response"]


@pytest.mark.parametrize(
    "first", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"garbage\r\n\r\n"]
)
async def test_nor_what_was_answered_in_part(rigs: Make, first: bytes) -> None:
    s = await setting(rigs, once_then(first, end="fin"))  # type: ignore[arg-type]
    assert (await s.ask()).status == 200
    await s.client.say(s.head())
    response = await read_response(s.client)
    if response.status == 103:
        response = await read_response(s.client)
    assert response.status == 502
    assert len(s.origin.requests) == 2


async def test_nor_on_a_new_connection(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        await peer.close()

    s = await setting(rigs, script)
    assert (await s.ask()).status == 502
    assert s.origin.connections == 1


async def test_only_once(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        if len(s.origin.requests) == 1:
            await peer.say(OK)
        else:
            await peer.close()

    s = await setting(rigs, script)
    assert (await s.ask()).status == 200
    assert (await s.ask()).status == 502
    assert len(s.origin.requests) == 3


async def test_closed_while_idle(rigs: Make) -> None:
    async def script(peer: Peer, request: Message) -> None:
        await peer.say(OK)
        await peer.close()

    s = await setting(rigs, script)
    for i in range(3):
        assert (await s.ask("POST", body=b"x")).status == 200
        await s.events.wait("server_disconnected", i + 1)  # told at once, not with the next request
    assert s.origin.connections == 3


@pytest.mark.parametrize(
    "wire",
    [
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL",
        OK + b"E",
        b"HTTP/1.1 204 No Content\r\n\r\nEVIL",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nEVIL",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nEVIL",
    ],
)
async def test_bytes_behind_a_response_answer_nobody(rigs: Make, wire: bytes) -> None:
    s = await setting(rigs, wire)
    for _ in range(3):
        assert b"EVIL" not in (await s.ask()).body
    assert s.origin.connections == 3


@pytest.mark.parametrize(
    ("wire", "body", "kept"),
    [
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 200 \xe4 OK\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 200 OK\r\nX-Y:\r\nX-Z: a:b c\r\nContent-Length:   1\t\r\n\r\nx", b"x", True),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;a=b;c="d"\r\nx\r\n0;e\r\n\r\n', b"x", True),
    ],
)
async def test_odd_but_legal(rigs: Make, wire: bytes, body: bytes, kept: bool) -> None:
    s = await setting(rigs, wire)
    for _ in range(2):
        response = await s.ask()
        assert response.body == body
        assert response.status == int(wire.split()[1])
    assert s.origin.connections == (1 if kept else 2)


@pytest.mark.parametrize("step", [1, 7])
async def test_in_small_segments(rigs: Make, step: int) -> None:
    wire = b"HTTP/1.1 103 X\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire += b"5\r\nhello\r\n0\r\nT: 1\r\n\r\n"

    async def script(peer: Peer, request: Message) -> None:
        for i in range(0, len(wire), step):
            await peer.say(wire[i : i + step])
            await asyncio.sleep(0)

    s = await setting(rigs, script)
    for _ in range(2):
        await s.client.say(s.head())
        assert (await read_response(s.client)).status == 103
        response = await read_response(s.client)
        assert (response.body, response.trailers) == (b"hello", [b"T: 1"])
    assert s.origin.connections == 1


async def test_what_goes_out(rigs: Make) -> None:
    """Nothing is added to a request, nothing reordered."""
    s = await setting(rigs)
    fields = b"Host: 127.0.0.1:%d\r\nb: 2\r\nA:  1 \r\nB: 3\r\nX-\xc3: \xff\r\n\r\n" % s.address[1]
    await s.client.say(b"GET %s/p HTTP/1.1\r\n" % s.url.encode() + fields.replace(b"X-\xc3", b"X-C"))
    assert (await read_response(s.client)).status == 200
    wanted = b"GET /p HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nb: 2\r\nA: 1\r\nB: 3\r\nX-C: \xff\r\n\r\n" % s.address[1]
    assert s.origin.requests[0].head == wanted


async def test_a_slow_server_is_not_flooded(rigs: Make) -> None:
    """A streamed upload waits for its server."""
    go = asyncio.Event()

    async def script(peer: Peer, request: Message) -> None:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await peer.exactly(30_000_000)) == 30_000_000
        await peer.say(OK)

    s = await setting(rigs, script, Events("error"), whole=False)
    sent = 0

    async def upload() -> None:
        nonlocal sent
        await s.client.say(s.head("POST", "/", "Content-Length: 30000000"))
        for _ in range(300):
            await s.client.say(b"x" * 100_000)
            sent += 100_000

    task = asyncio.ensure_future(upload())
    await until(lambda: s.origin.requests)
    await asyncio.sleep(0.4)
    assert sent < 25_000_000
    go.set()
    await task
    assert (await read_response(s.client)).status == 200
