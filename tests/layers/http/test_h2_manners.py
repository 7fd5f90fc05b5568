"""What is said without being asked: GOAWAY before we close, PING to a server that is silent. And who goes first."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.layers.http.h2_priority import turn
from tests.harness import Events, Make, Peer, until
from tests.layers.http.h2_frames import (
    ACK,
    PREFACE,
    Code,
    Frame,
    S,
    T,
    data,
    frame,
    get,
    goaway,
    headers,
    number,
    ping,
    request,
    settings,
    window,
)
from tests.layers.http.h2_kit import Case, Origin, Scripted, cases, fine, goaway_with, play, setting
from tests.layers.http.h2_peer import H2Peer

PRIORITY_UPDATE = 16
SIZE, PROTOCOL = Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR


@pytest.fixture(params=["lean", "h2"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- GOAWAY (RFC 9113 §6.8)


async def test_goaway_when_a_connection_is_idle(rigs: Make) -> None:
    """To the client, with the last stream that was served; and to its server."""
    s = await setting(rigs, tcp_timeout=1)
    client = await s.client()
    await client.say(get(1), get(3))
    await client.response(1)
    await client.response(3)
    await client.until(lambda: client.closed, 10)
    assert client.goaway is not None and client.goaway[:2] == (3, Code.NO_ERROR)
    await until(lambda: s.origin.h2[0].goaway is not None)
    assert s.origin.h2[0].goaway is not None and s.origin.h2[0].goaway[:2] == (0, Code.NO_ERROR)


async def test_goaway_when_the_gateway_stops(rigs: Make, codec: str) -> None:
    s = await setting(rigs, http2_codec=codec)
    client = await s.client()
    await client.say(get(1, b"/never"))
    await until(lambda: s.origin.begun)
    stop = asyncio.ensure_future(s.rig.worker.stop())
    await client.until(lambda: client.closed)
    assert client.goaway is not None and client.goaway[:2] == (1, Code.NO_ERROR)
    await stop


async def test_goaway_answers_the_clients_end(rigs: Make, codec: str) -> None:
    s = await setting(rigs, http2_codec=codec)
    client = await s.client()
    client.peer.eof()
    await client.until(lambda: client.closed)
    assert client.goaway is not None and client.goaway[1] == Code.NO_ERROR


async def test_a_server_that_goes_away_idle_is_left(rigs: Make, codec: str) -> None:
    """It waits for us to close. Left open, five of them were all that one client may have: the sixth request hung."""
    origin = Scripted(lambda server, stream: b"")
    s = await setting(rigs, origin, Events("response", "server_disconnected"), tls=True, http2_codec=codec)
    client = await s.client()
    for i in range(8):
        await s.unharmed(client)
        await s.events.wait("response", i + 1)
        await until(lambda: not any(flow.live for flow in s.events.of("response")))
        await origin.servers[-1].say(goaway(1))
        await s.events.wait("server_disconnected", i + 1)
    assert len(origin.servers) == 8


@pytest.mark.parametrize("code", [Code.NO_ERROR, Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM])
@pytest.mark.parametrize("upload", [False, True])
async def test_streams_above_the_last_end_at_once(rigs: Make, codec: str, code: Code, upload: bool) -> None:
    """The server keeps the connection open: what can be asked again is, the rest fails so that the client may."""
    origin = Scripted(lambda server, stream: b"")
    s = await setting(rigs, origin, tls=True, http2_codec=codec)
    client = await s.client()
    await s.unharmed(client, 1)
    kind = [(b"content-type", b"application/grpc")] if upload else []
    await client.say(headers(3, request(b"/bad", *kind, method=b"POST", scheme=b"https"), end=not upload))
    server = origin.servers[0]
    await until(lambda: 3 in server.streams and server.streams[3].heads)
    await server.say(goaway(1, code))
    got = await client.response(3)
    assert (got.status, got.reset) == ((0, Code.REFUSED_STREAM) if upload else (200, None))
    await s.settled()


async def test_an_error_and_then_silence(rigs: Make, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """§5.4.1: its sender must close the connection. One that does not keeps nobody waiting for `tcp_timeout`."""
    monkeypatch.setattr("appliance.layers.http.h2_client.GOODBYE_SECONDS", 0.2)
    origin = Scripted(lambda server, stream: goaway(stream, Code.INTERNAL_ERROR))
    s = await setting(rigs, origin, tls=True, http2_codec=codec)
    client = await s.client()
    await client.say(headers(1, request(b"/bad", method=b"POST", scheme=b"https")))  # a GET is asked again
    got = await client.response(1)
    assert got.status == 502 and b"INTERNAL_ERROR" in got.body
    await s.unharmed(client, 3)
    await s.settled()


async def test_an_error_and_then_the_rest(rigs: Make, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.layers.http.h2_client.GOODBYE_SECONDS", 1.5)
    origin = Scripted(lambda server, stream: goaway(stream, Code.ENHANCE_YOUR_CALM))
    s = await setting(rigs, origin, tls=True, http2_codec=codec)
    client = await s.client()
    await client.say(get(1, b"/bad"))
    await until(lambda: origin.servers and origin.paths)
    server = origin.servers[0]
    await server.say(headers(1, [(b":status", b"200")], end=False))
    for _ in range(8):
        await asyncio.sleep(0.25)
        await server.say(data(1, b"x"))
    await server.say(data(1, b"x", end=True))
    got = await client.response(1)
    assert (got.status, got.body, got.reset) == (200, b"x" * 9, None)
    await s.settled()


# -- PING (§6.7)


class Silent:
    """An HTTP/2 server that never answers a request. answers: PING."""

    def __init__(self, answers: bool) -> None:
        self.answers = answers
        self.pings = 0
        self.server: H2Peer | None = None

    async def __call__(self, peer: Peer) -> None:
        await peer.exactly(len(PREFACE))
        self.server = server = H2Peer(peer, client=False)
        server.acks = self.answers

        def note(got: Frame) -> None:
            if got.type == T.PING and not got.flags & ACK:
                self.pings += 1

        server.on_frame = note
        await server.say(settings(), frame(T.SETTINGS, ACK, 0))
        while await server.next(3600):
            pass


async def test_a_server_that_is_gone_is_found_out(rigs: Make, codec: str) -> None:
    origin = Silent(answers=False)
    s = await setting(rigs, origin, http2_codec=codec, http2_ping_keepalive=1)
    client = await s.client()
    await client.say(get(1))
    got = await client.response(1, 10)
    assert got.status == 502 and b"PING" in got.body
    assert origin.pings == 1
    await client.alive()


async def test_one_that_answers_is_kept_but_not_for_ever(rigs: Make) -> None:
    """PING keeps a quiet stream; it does not keep a connection that nobody uses past tcp_timeout."""
    origin = Silent(answers=True)
    s = await setting(rigs, origin, http2_ping_keepalive=1, tcp_timeout=4)
    client = await s.client()
    await client.say(get(1))
    await until(lambda: origin.pings >= 2, 10)
    assert not client.over(1)
    got = await client.response(1, 10)
    assert got.reset is not None or client.closed


async def test_off(rigs: Make) -> None:
    origin = Silent(answers=True)
    s = await setting(rigs, origin, http2_ping_keepalive=0, tcp_timeout=3)
    client = await s.client()
    await client.say(get(1))
    await client.until(lambda: client.closed, 10)
    assert origin.pings == 0


async def test_ours_is_not_asked(rigs: Make, codec: str) -> None:
    s = await setting(rigs, http2_codec=codec)
    client = await s.client()
    await client.say(ping(flags=ACK))
    await client.alive()


# -- who goes first (RFC 9218)


def test_turns() -> None:
    order = [turn(5, (b"u=1",)), turn(1, ()), turn(9, (b"u=3",)), turn(3, (b"u=3, i",)), turn(7, (b"u=5",))]
    assert order == sorted(order)
    assert turn(1, (b"u=1, i", b"u=2")) == (2, True, 0)  # the later ones count, where they speak
    assert turn(1, (b"u=1,i", b"i=?0")) == (1, False, 1)
    assert turn(1, (b"u=9",)) == turn(1, (b"ux=1",)) == turn(1, (b"\xff",)) == (3, False, 1)


@given(st.lists(st.binary(max_size=400), max_size=3))
def test_nothing_said_can_harm(told: list[bytes]) -> None:
    urgency, incremental, _ = turn(1, told)
    assert 0 <= urgency <= 7 and incremental in (True, False)


@pytest.mark.parametrize("how", ["field", "update", "server"])
async def test_the_urgent_goes_first(rigs: Make, codec: str, how: str) -> None:
    """Three answers wait for the connection's window; as it opens, the urgent one has it all until it is done."""
    size = 60_000

    class Said(Origin):
        async def _answer_two(self, server: H2Peer, stream: int, ask: object) -> None:
            more = [(b"priority", b"u=0")] if stream == 5 and how == "server" else []
            await server.say(headers(stream, [(b":status", b"200"), *more], end=False))
            await server.send_body(stream, bytes(size), seconds=60)

    s = await setting(rigs, Said(), http2_codec=codec)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1 << 20))
    await client.say(get(1, b"/big"))
    await client.response(1)  # takes most of the connection's 65,535
    urgent = (b"priority", b"u=0") if how == "field" else (b"priority", b"u=4")
    await client.say(get(3, b"/a"), get(5, b"/b", urgent), get(7, b"/c"))
    if how == "update":
        await client.say(frame(PRIORITY_UPDATE, 0, 0, number(5) + b"u=0"))
    await client.until(lambda: all(n in client.streams and client.streams[n].final for n in (3, 5, 7)))
    await asyncio.sleep(0.2)
    before = len(client.streams[5].body)
    if len(client.streams[5].body) < size:
        await client.say(window(0, size - before))
        await client.until(lambda: len(client.streams[5].body) == size)
    assert len(client.streams[7].body) == 0
    await client.say(window(0, 1 << 20))
    for stream in (3, 5, 7):
        assert len((await client.response(stream)).body) == size


@cases(
    Case("9218 7.1 PRIORITY_UPDATE of a stream to come", frame(PRIORITY_UPDATE, 0, 0, number(1) + b"u=1"), fine),
    Case("9218 7.1 that cannot be read", frame(PRIORITY_UPDATE, 0, 0, number(1) + b"\xff\x00"), fine),
    Case("9218 7.1 on a stream", frame(PRIORITY_UPDATE, 0, 1, number(1)), goaway_with(PROTOCOL)),
    Case("9218 7.1 of stream 0", frame(PRIORITY_UPDATE, 0, 0, number(0)), goaway_with(PROTOCOL)),
    Case("9218 7.1 of a push", frame(PRIORITY_UPDATE, 0, 0, number(2)), goaway_with(PROTOCOL)),
    Case("9218 7.1 too short", frame(PRIORITY_UPDATE, 0, 0, b"abc"), goaway_with(SIZE)),
    Case("8441 3 ENABLE_CONNECT_PROTOCOL 2", settings((S.ENABLE_CONNECT_PROTOCOL, 2)), goaway_with(PROTOCOL)),
    Case(
        "8441 3 taken back",
        settings((S.ENABLE_CONNECT_PROTOCOL, 1)) + settings((S.ENABLE_CONNECT_PROTOCOL, 0)),
        goaway_with(PROTOCOL),
    ),
)
async def test_conformance(rigs: Make, case: Case) -> None:
    await play(rigs, case)
