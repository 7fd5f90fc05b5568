"""Streams of one connection and what they owe each other: nothing. Flow control, kill, turns, GOAWAY, endings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.http import HTTPFlow
from appliance.layers.http.h2_session import CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW, STREAM_WINDOW_MOST
from appliance.layers.http.h2_stream import H2Stream
from tests.harness import Events, Make, Peer, until
from tests.layers.http.h2_frames import Code, S, T, data, get, goaway, headers, post, request, rst, settings, window
from tests.layers.http.h2_kit import Origin, pattern, setting
from tests.layers.http.h2_peer import H2Peer

CODECS = ["lean", "h2"]
OK = [(b":status", b"200")]


@pytest.fixture(params=CODECS)
def codec(request: Any) -> str:
    return request.param


def holding(*paths: str) -> Any:
    """A `request` hook that intercepts these paths."""

    def hook(flow: HTTPFlow) -> None:
        if flow.request.path in paths:
            flow.intercept()

    return hook


async def test_kill_takes_no_sibling_along(rigs: Make, codec: str) -> None:
    """One stream is held while twenty finish, and is then killed; one is killed while its body streams."""
    events = Events("response", "error", "responseheaders", request=holding("/held"))
    s = await setting(rigs, None, events, http2_codec=codec)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1000))
    await client.say(get(1, b"/held"), get(3, b"/big/3000000"), *(get(n, b"/s") for n in range(5, 45, 2)))
    for stream in range(5, 45, 2):
        assert (await client.response(stream)).body == b"hello"
    held = next(flow for flow in s.events.of("request") if flow.request.path == "/held")
    assert held.live and held.intercepted
    held.kill()
    big = next(flow for flow in s.events.of("responseheaders") if flow.request.path == "/big/3000000")
    big.kill()
    await client.expect_rst(1, Code.INTERNAL_ERROR)
    await client.expect_rst(3, Code.INTERNAL_ERROR)
    await until(lambda: len(s.events.of("error")) == 2)
    assert {flow.request.path for flow in s.events.of("error")} == {"/held", "/big/3000000"}
    await client.say(get(45, b"/after"))
    assert (await client.response(45)).status == 200
    await until(lambda: any(frame.type == T.RST_STREAM for frame in s.origin.h2[0].frames))
    assert s.origin.connections == 1 and len(s.events.of("error")) == 2


async def test_a_client_that_leaves_ends_each_stream_once(rigs: Make, codec: str) -> None:
    s = await setting(rigs, None, Events("requestheaders", "response", "error"), http2_codec=codec)
    client = await s.client()
    await client.say(get(1, b"/never"), get(3, b"/never"), post(5, b"/never"))
    await until(lambda: len(s.origin.begun) == 3)
    client.peer.reset()
    await s.settled()
    assert [name for name, _ in s.endings()] == ["error"] * 3
    await until(lambda: s.origin.h2[0].closed)


async def test_a_server_that_leaves_ends_each_stream_once(rigs: Make, codec: str) -> None:
    async def origin(peer: Peer) -> None:
        await peer.exactly(24)
        server = H2Peer(peer, client=False)
        await server.say(settings())
        while len(server.streams) < 3:
            await server.next()
        await server.say(headers(3, OK, end=False), data(3, b"some"))
        await asyncio.sleep(0.05)

    s = await setting(rigs, origin, Events("requestheaders", "error"), http2_codec=codec)
    client = await s.client()
    await client.say(post(1), post(3), post(5))
    assert (await client.response(1)).status == (await client.response(5)).status == 502
    got = await client.response(3)
    assert got.reset is not None and got.body == b"some" and not got.ended
    await until(lambda: len(s.events.of("error")) == 3)
    assert client.goaway is None


async def test_codes_are_carried_across(rigs: Make, codec: str) -> None:
    answers = iter([Code.ENHANCE_YOUR_CALM, Code.HTTP_1_1_REQUIRED])

    async def origin(peer: Peer) -> None:
        await peer.exactly(24)
        server = H2Peer(peer, client=False)
        await server.say(settings())
        seen = 0
        while await server.next(60):
            if len(server.streams) > seen:
                seen = len(server.streams)
                if seen < 3:
                    await server.say(rst(max(server.streams), next(answers)))
            heard.extend(got for got in server.frames if got.type == T.RST_STREAM)

    heard: list[Any] = []
    s = await setting(rigs, origin, Events("requestheaders", "error"), http2_codec=codec)
    client = await s.client()
    await client.say(get(1))
    await client.expect_rst(1, Code.ENHANCE_YOUR_CALM)
    await client.say(get(3))
    await client.expect_rst(3, Code.HTTP_1_1_REQUIRED)
    await client.say(get(5, b"/never"))
    await s.events.wait("requestheaders", 3)
    await asyncio.sleep(0.05)
    await client.say(rst(5, Code.ENHANCE_YOUR_CALM))
    await until(lambda: heard)
    assert heard[0].payload == bytes([0, 0, 0, Code.ENHANCE_YOUR_CALM])
    await s.events.wait("error", 3)


@pytest.mark.parametrize("how", ["goaway", "refused"])
async def test_what_was_not_processed_is_sent_again(rigs: Make, codec: str, how: str) -> None:
    """Also a POST; and what the server did take in is answered on the old connection."""
    connections: list[H2Peer] = []

    async def origin(peer: Peer) -> None:
        await peer.exactly(24)
        server = H2Peer(peer, client=False)
        connections.append(server)
        first = len(connections) == 1
        await server.say(settings())
        answered: set[int] = set()
        while await server.next(60):
            for stream, got in list(server.streams.items()):
                if not got.ended or stream in answered:
                    continue
                if first and len(server.streams) < 2:
                    continue
                answered.add(stream)
                if first and stream == 3:
                    await server.say(goaway(1) if how == "goaway" else rst(3, Code.REFUSED_STREAM))
                    continue
                await server.say(headers(stream, OK, end=False), data(stream, b"from %d" % len(connections), True))

    s = await setting(rigs, origin, Events("request", "error"), http2_codec=codec)
    client = await s.client()
    await client.say(post(1), data(1, b"a", True))
    await s.events.wait("request")
    await asyncio.sleep(0.05)
    await client.say(post(3), data(3, b"b", True))
    assert (await client.response(1)).status == 200
    got = await client.response(3)
    assert (got.status, got.body) == (200, b"from 2")
    assert not s.events.of("error") and len(connections) == 2


@pytest.mark.parametrize("how", ["goaway", "refused"])
async def test_what_cannot_be_sent_again_is_left_to_the_client(rigs: Make, how: str) -> None:
    """The body has streamed past: the client hears that it may try again itself (RFC 9113 §8.7)."""

    async def origin(peer: Peer) -> None:
        await peer.exactly(24)
        server = H2Peer(peer, client=False)
        await server.say(settings())
        while 1 not in server.streams:
            await server.next()
        await server.say(goaway(0) if how == "goaway" else rst(1, Code.REFUSED_STREAM))
        await asyncio.sleep(0.2)

    s = await setting(rigs, origin, Events("error"))
    client = await s.client()
    await client.say(post(1), data(1, b"a"))
    await client.expect_rst(1, Code.REFUSED_STREAM)
    await s.events.wait("error")


async def test_streams_take_turns(rigs: Make, codec: str) -> None:
    """A server that takes two at a time is never sent a third; first come first served."""
    most = 0

    async def origin(peer: Peer) -> None:
        nonlocal most
        await peer.exactly(24)
        server = H2Peer(peer, client=False)
        await server.say(settings((S.MAX_CONCURRENT_STREAMS, 2)))
        done: set[int] = set()
        while await server.next(60):
            waiting = [n for n, got in server.streams.items() if got.ended and n not in done]
            most = max(most, len(waiting))
            if len(waiting) == 2 or len(done) >= 20:
                for n in waiting:
                    done.add(n)
                    order.append(dict(server.streams[n].heads[0])[b":path"])
                    await server.say(headers(n, [*OK, (b"content-length", b"1")], end=False), data(n, b"x", True))

    order: list[bytes] = []
    s = await setting(rigs, origin, Events("error"), http2_codec=codec)
    client = await s.client()
    await client.say(get(1, b"/1"), get(3, b"/3"))
    await client.response(1)
    await client.response(3)
    streams = range(5, 45, 2)
    await client.say(*(get(n, b"/%d" % n) for n in streams))
    for n in streams:
        assert (await client.response(n)).status == 200
    assert most == 2 and order == [b"/%d" % n for n in range(1, 45, 2)]


async def test_a_stream_that_waits_its_turn_can_be_cancelled(rigs: Make) -> None:
    origin = Origin(settings((S.MAX_CONCURRENT_STREAMS, 1)))
    s = await setting(rigs, origin, Events("requestheaders", "request", "response", "error"))
    client = await s.client()
    await client.say(get(1))
    await client.response(1)
    await client.say(get(3, b"/hold"), get(5, b"/hold"), get(7, b"/last"))
    await s.events.wait("request", 4)
    await client.say(rst(5, Code.CANCEL))
    await s.events.wait("error")
    origin.released.set()
    assert (await client.response(3)).status == (await client.response(7)).status == 200
    assert origin.paths() == [b"/", b"/hold", b"/last"]


async def test_streams_that_nobody_reads_stall_no_neighbour(rigs: Make, codec: str) -> None:
    """Of a hundred but one that a client does not read, all their server sends is bounded, and the last one flows."""
    s = await setting(rigs, None, Events("error"), http2_codec=codec)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 0))
    await client.say(window(0, 1 << 28))
    stalled = range(1, 2 * MAX_STREAMS - 1, 2)
    await client.say(*(get(n, b"/big/300000") for n in stalled))
    await until(lambda: len(s.origin.asked) == len(stalled))
    last = 2 * MAX_STREAMS - 1
    await client.say(get(last, b"/big/2000000"), window(last, 1 << 24))
    assert (await client.response(last, 20)).body == pattern(2_000_000)
    assert all(not client.streams[n].body for n in stalled if n in client.streams)
    for n in stalled:
        await client.say(window(n, 1 << 20))
    for n in stalled:
        assert (await client.response(n, 20)).body == pattern(300_000)


def test_the_windows_of_all_streams_fit_into_the_connections() -> None:
    assert MAX_STREAMS * STREAM_WINDOW < CONNECTION_WINDOW
    assert STREAM_WINDOW_MOST - STREAM_WINDOW <= CONNECTION_WINDOW - MAX_STREAMS * STREAM_WINDOW


async def test_windows_are_given_back_when_the_bytes_have_left(rigs: Make, codec: str) -> None:
    """What a client does not take, its server may not send."""
    size = 8 << 20
    s = await setting(rigs, None, Events("error"), http2_codec=codec)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 0))
    await client.say(window(0, 1 << 28), get(1, b"/big/%d" % size))
    await client.head(1)
    server = s.origin.h2[0]
    await asyncio.sleep(0.3)
    granted = 65535 * 2 + sum(f.number() for f in server.frames if f.type == T.WINDOW_UPDATE and f.stream == 1)
    assert granted < 1 << 20
    taken = 0
    while taken < size:
        await client.say(window(1, 1 << 20))
        taken += 1 << 20
        await client.until(lambda: len(client.streams[1].body) >= min(taken, size), 20)  # noqa: B023
    assert client.streams[1].body == pattern(size)
    updates = [f for f in server.frames if f.type == T.WINDOW_UPDATE and f.stream == 1]
    assert max(f.number() for f in updates) > STREAM_WINDOW, "the window of a quick stream grows"


async def test_an_early_answer_lets_the_upload_end(rigs: Make, codec: str) -> None:
    """A server that answers and reads on gets all of it; one that wants no more (RST NO_ERROR) is believed."""

    async def origin(peer: Peer) -> None:
        await peer.exactly(24)
        server = H2Peer(peer, client=False)
        await server.say(settings())
        while 3 not in server.streams or not server.streams[3].ended:
            await server.next()
            for n in (1, 3):
                if n in server.streams and n not in answered:
                    answered.append(n)
                    await server.say(headers(n, OK, end=False), data(n, b"early", True))
                    if n == 1:
                        await server.say(rst(1, Code.NO_ERROR))
        bodies.append(server.streams[3].body)
        while await server.next(60):
            pass

    answered: list[int] = []
    bodies: list[bytes] = []
    both = Events("error", requestheaders=lambda flow: setattr(flow.request, "stream", True))
    s = await setting(rigs, origin, both, http2_codec=codec)
    client = await s.client()
    await client.say(post(1), data(1, b"part"))
    await client.until(lambda: 1 in client.streams and client.streams[1].body == b"early")
    await client.say(post(3), data(3, b"part"))
    await client.until(lambda: 3 in client.streams and client.streams[3].body == b"early")
    await client.say(data(3, b" two", True))
    await until(lambda: bodies)
    assert bodies == [b"part two"]
    assert (await client.response(3)).ended and not s.events.of("error")


def test_what_waits_in_tiny_frames_is_not_an_object_each() -> None:
    class Conn:
        def consumed(self, count: int) -> None: ...

    stream = H2Stream(Conn(), 1)  # type: ignore[arg-type]
    sent = [bytes([n & 255, n >> 8 & 255]) for n in range(STREAM_WINDOW // 2)]
    for part in sent:
        stream.feed(part, 2, False)
    assert len(stream._parts) * 256 <= STREAM_WINDOW
    assert stream._take() == b"".join(sent)


@pytest.mark.parametrize("how", ["kill", "cancel", "length"])
async def test_uploads_that_end_unread_leave_room_for_others(rigs: Make, how: str) -> None:
    """What they had of the connection's window comes back, or after a few of them no upload goes on."""
    s = await setting(rigs, None, Events("requestheaders", requestheaders=lambda flow: flow.intercept()))
    client = await s.client()
    part = bytes(STREAM_WINDOW - 1000)
    for n in range(CONNECTION_WINDOW // len(part) + 5):
        stream = 1 + 2 * n
        fields = request(b"/never", (b"content-length", b"%d" % len(part)), method=b"POST")
        await client.say(headers(stream, fields, end=False))
        await client.send_body(stream, part, end=False)
        await s.events.wait("requestheaders", n + 1)
        await client.alive()
        flow = s.events.of("requestheaders")[-1]
        if how == "kill":
            flow.kill()
        elif how == "cancel":
            await client.say(rst(stream))
        else:
            await client.send_body(stream, b"too much", end=False)
        flow.resume()
        await until(lambda flow=flow: not flow.live)  # type: ignore[misc]
