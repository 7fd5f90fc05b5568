"""RFC 9113 from the other side: a server that misbehaves. What the gateway says to it, and what the client gets.

On one server connection `/bad` is answered by the case, while `/sibling` waits for its answer: a stream error leaves it
alone. After a connection error it may be lost or asked anew. Either way every flow ends once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.harness import Events, Make, until
from tests.layers.http.h2_frames import (
    ACK,
    MAX_WINDOW,
    PREFACE,
    Code,
    S,
    T,
    continuation,
    data,
    frame,
    get,
    goaway,
    headers,
    ping,
    post,
    push_promise,
    request,
    rst,
    settings,
    window,
)
from tests.layers.http.h2_kit import Origin, Scripted, Setting, good, setting
from tests.layers.http.h2_peer import H2Peer

PROTOCOL, SIZE, FLOW, COMPRESSION = (
    Code.PROTOCOL_ERROR,
    Code.FRAME_SIZE_ERROR,
    Code.FLOW_CONTROL_ERROR,
    Code.COMPRESSION_ERROR,
)
OK = (b":status", b"200")
IDLE = 1001


class Fault(NamedTuple):
    """section, what the server sends on its stream, and what it must be told."""

    section: str
    send: Callable[[H2Peer, int], bytes]
    codes: tuple[Code, ...]
    stream: bool = False  # a stream error; else one of the connection


def over(server: H2Peer) -> int:
    return server.settings.get(S.MAX_FRAME_SIZE, 16384) + 1


def head(stream: int, *fields: tuple[bytes, bytes], end: bool = False) -> bytes:
    return headers(stream, fields, end=end)


def begun(stream: int) -> bytes:
    """A head that is not whole."""
    return frame(T.HEADERS, 0, stream, b"\x88")


def connection(section: str, send: Callable[[int], bytes] | bytes, *codes: Code) -> Fault:
    return Fault(section, lambda server, stream: send if isinstance(send, bytes) else send(stream), codes)


def stream(section: str, *fields: tuple[bytes, bytes]) -> Fault:
    """A head that is malformed."""
    return Fault(section, lambda server, stream: head(stream, *fields), (PROTOCOL,), True)


FAULTS = [
    Fault("4.2 DATA too large", lambda s, n: head(n, OK) + data(n, bytes(over(s))), (SIZE,)),
    Fault("4.2 HEADERS too large", lambda s, n: head(n, OK, (b"x", bytes(over(s)))), (SIZE,)),
    connection("4.3 index 0", lambda n: headers(n, b"\x80"), COMPRESSION),
    connection("4.3 index beyond the table", lambda n: headers(n, b"\x88\xfe"), COMPRESSION),
    connection("5.1 idle: DATA", data(IDLE, b"x"), PROTOCOL),
    connection("5.1 idle: HEADERS", head(IDLE, OK), PROTOCOL, Code.STREAM_CLOSED),
    connection("5.1 idle: RST_STREAM", rst(IDLE), PROTOCOL),
    connection("5.1 idle: WINDOW_UPDATE", window(IDLE, 1), PROTOCOL),
    connection("5.1.1 a stream of the server's own", head(2, OK), PROTOCOL),
    connection("5.5 unknown type in a header block", lambda n: begun(n) + frame(99, 0, n), PROTOCOL),
    connection("6.1 on the connection", data(0, b"x"), PROTOCOL),
    connection("6.1 more padding than payload", lambda n: head(n, OK) + frame(T.DATA, 8, n, b"\xffx"), PROTOCOL),
    connection("6.2 on the connection", head(0, OK), PROTOCOL),
    connection("6.2 before the block is whole: PING", lambda n: begun(n) + ping(), PROTOCOL),
    connection("6.4 on the connection", rst(0), PROTOCOL),
    connection("6.4 of 3 octets", lambda n: frame(T.RST_STREAM, 0, n, bytes(3)), SIZE),
    connection("6.5 on a stream", lambda n: frame(T.SETTINGS, 0, n), PROTOCOL),
    connection("6.5 of 5 octets", frame(T.SETTINGS, 0, 0, bytes(5)), SIZE),
    connection("6.5 ACK with a payload", frame(T.SETTINGS, ACK, 0, bytes(6)), SIZE),
    connection("6.5.2 a server that enables push", settings((S.ENABLE_PUSH, 1)), PROTOCOL),
    connection("6.5.2 INITIAL_WINDOW_SIZE 2^31", settings((S.INITIAL_WINDOW_SIZE, 1 << 31)), FLOW),
    connection("6.5.2 MAX_FRAME_SIZE 100", settings((S.MAX_FRAME_SIZE, 100)), PROTOCOL),
    connection("6.6 PUSH_PROMISE", lambda n: push_promise(n, 2, request(b"/pushed")), PROTOCOL),
    connection("6.7 of 7 octets", frame(T.PING, 0, 0, bytes(7)), SIZE),
    connection("6.7 on a stream", lambda n: frame(T.PING, 0, n, bytes(8)), PROTOCOL),
    connection("6.8 on a stream", lambda n: frame(T.GOAWAY, 0, n, bytes(8)), PROTOCOL),
    connection("6.9 0 on the connection", window(0, 0), PROTOCOL),
    connection("6.9 of 3 octets", frame(T.WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    connection("6.9.1 the connection's over 2^31-1", window(0, MAX_WINDOW), FLOW),
    connection("6.10 of nothing", lambda n: continuation(n, b"\x88"), PROTOCOL),
    connection("6.10 of another stream", lambda n: begun(n) + continuation(IDLE, b""), PROTOCOL),
    connection("3.4 HTTP/1 in the middle", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" + bytes(16384),
               SIZE, PROTOCOL),
    Fault("6.9 0 on a stream", lambda s, n: window(n, 0), (PROTOCOL,), True),
    Fault("6.9.1 a stream's over 2^31-1", lambda s, n: window(n, MAX_WINDOW), (FLOW,), True),
    Fault("8.1 DATA before HEADERS", lambda s, n: data(n, b"x"), (PROTOCOL, Code.STREAM_CLOSED), True),
    Fault("8.1 trailers that do not end the stream",
          lambda s, n: head(n, OK) + head(n, (b"x-t", b"1")), (PROTOCOL,), True),
    Fault("8.1.1 DATA above content-length",
          lambda s, n: head(n, OK, (b"content-length", b"3")) + data(n, b"12345"), (PROTOCOL,), True),
    stream("8.1.1 two content-lengths", OK, (b"content-length", b"3"), (b"content-length", b"4")),
    stream("8.1.1 content-length x", OK, (b"content-length", b"x")),
    stream("8.2.1 uppercase", OK, (b"X-Upper", b"1")),
    stream("8.2.1 name with a space", OK, (b"x y", b"1")),
    stream("8.2.1 CR LF in a value", OK, (b"x-y", b"a\r\nset-cookie: b=1")),
    stream("8.2.1 LF in a value", OK, (b"x-y", b"a\nb")),
    stream("8.2.1 NUL in a value", OK, (b"x-y", b"a\0b")),
    stream("8.2.2 connection", OK, (b"connection", b"close")),
    stream("8.2.2 transfer-encoding", OK, (b"transfer-encoding", b"chunked")),
    stream("8.3 unknown pseudo-header", OK, (b":unknown", b"1")),
    stream("8.3 of a request", OK, (b":path", b"/")),
    stream("8.3 after a regular field", (b"x-y", b"1"), OK),
    stream("8.3.2 no :status", (b"x-y", b"1")),
    stream("8.3.2 two :status", OK, OK),
    stream("8.3.2 :status abc", (b":status", b"abc")),
    stream("8.3.2 :status 20", (b":status", b"20")),
    stream("8.3.2 :status 2000", (b":status", b"2000")),
    stream("8.3.2 :status 099", (b":status", b"099")),
    stream("8.3.2 empty :status", (b":status", b"")),
    stream("8.6 101", (b":status", b"101"), (b"upgrade", b"x")),
]  # fmt: skip
ONCE_OVER = [
    ("8.1 ends at once", lambda n: headers(n, [(b":status", b"103")], end=True)),
    ("8.1.1 DATA below content-length", lambda n: head(n, OK, (b"content-length", b"9")) + data(n, b"12345", True)),
    ("8.1.1 content-length and no DATA", lambda n: head(n, OK, (b"content-length", b"9"), end=True)),
    ("8.2.1 uppercase in trailers", lambda n: head(n, OK) + data(n, b"abc") + head(n, (b"X-T", b"1"), end=True)),
    ("8.3 pseudo-header in trailers", lambda n: head(n, OK) + data(n, b"abc") + head(n, OK, end=True)),
    ("8.3.2 no :status", lambda n: headers(n, [(b"x-y", b"1")])),
    ("5.4.2 RST_STREAM CANCEL", lambda n: rst(n, Code.CANCEL)),
    ("5.4.2 RST_STREAM INTERNAL_ERROR", lambda n: rst(n, Code.INTERNAL_ERROR)),
    ("5.4.2 RST_STREAM of an unknown code", lambda n: rst(n, 0xFE)),
    ("5.4.2 RST_STREAM after the head", lambda n: head(n, OK) + rst(n, Code.INTERNAL_ERROR)),
    ("5.4.2 RST_STREAM in the body", lambda n: head(n, OK) + data(n, b"abc") + rst(n, Code.INTERNAL_ERROR)),
    ("5.4.2 RST_STREAM NO_ERROR in the body", lambda n: head(n, OK) + data(n, b"abc") + rst(n, Code.NO_ERROR)),
]


class Ask(NamedTuple):
    s: Setting
    client: H2Peer
    origin: Scripted
    bad: int
    sibling: int


async def asked(rigs: Make, reply: Callable[[H2Peer, int], bytes], *events: Events, **more: bytes) -> Ask:
    """`/sibling` waits, then `/bad` is answered."""
    origin = Scripted(reply, **more)
    s = await setting(rigs, origin, *events, tls=True)
    client = await s.client()
    await client.say(get(1, b"/sibling"))
    await until(lambda: b"/sibling" in origin.paths)
    await client.say(get(3, b"/bad"))
    return Ask(s, client, origin, 3, 1)


async def failed(ask: Ask) -> None:
    """The client was told that `/bad` failed, and its flow has ended in `error`, once."""
    got = await ask.client.response(ask.bad)
    assert ask.client.goaway is None and not ask.client.closed, f"the client's connection pays for it; {ask.client}"
    if got.reset is None:
        assert got.status == 502, f"{got}"
    else:
        assert got.reset != Code.NO_ERROR and got.status in (0, 200)
        assert not got.ended, "cut off, and called whole"
    await until(lambda: ask.s.endings().count(("error", "/bad")))
    assert ("response", "/bad") not in ask.s.endings()


async def sibling_lives(ask: Ask) -> None:
    ask.origin.release()
    got = await ask.client.response(ask.sibling)
    assert (got.status, got.body, got.reset) == (200, b"hello", None), f"{got}"
    assert len(ask.origin.servers) == 1
    await ask.s.unharmed(ask.client)
    assert len(ask.origin.servers) == 1, "a stream error cost the connection"


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.section.replace(" ", "-") for fault in FAULTS])
async def test_faults(rigs: Make, fault: Fault) -> None:
    ask = await asked(rigs, fault.send)
    await failed(ask)
    server = ask.origin.servers[0]
    if fault.stream:
        number = max(stream for stream in server.streams if stream % 2)
        await until(lambda: server.streams[number].reset is not None or server.goaway)
        assert server.goaway is None, f"{server}"
        assert server.streams[number].reset in fault.codes, f"{server}"
        await sibling_lives(ask)
    else:
        await until(lambda: server.goaway is not None or server.closed)
        assert server.goaway is not None and server.goaway[1] in fault.codes, f"{server}"
        await until(lambda: server.closed)
        ask.origin.release()
        await ask.client.response(ask.sibling)
        await ask.s.unharmed(ask.client)  # over another server connection
    await ask.client.peer.close()
    await ask.s.settled()
    assert len(ask.s.endings()) == 3


@pytest.mark.parametrize("reply", [reply for _, reply in ONCE_OVER], ids=[n.replace(" ", "-") for n, _ in ONCE_OVER])
@pytest.mark.parametrize("streams", [False, True], ids=["held", "streamed"])
async def test_faults_when_the_stream_is_over(rigs: Make, reply: Callable[[int], bytes], streams: bool) -> None:
    def hook(flow: object) -> None:
        flow.response.stream = streams  # type: ignore[attr-defined]

    events = Events("requestheaders", "response", "error", responseheaders=hook)
    ask = await asked(rigs, lambda server, stream: reply(stream), events)
    await failed(ask)
    await sibling_lives(ask)
    await ask.s.settled()


# -- the server's last words


async def test_5_4_1_the_connection_is_cut(rigs: Make) -> None:
    def cut(server: H2Peer, stream: int) -> bytes:
        asyncio.get_running_loop().call_later(0.05, server.peer.reset)
        return head(stream, OK) + data(stream, b"abc")

    ask = await asked(rigs, cut)
    await failed(ask)
    ask.origin.release()  # it is asked again
    await ask.client.response(ask.sibling)
    await ask.s.unharmed(ask.client)
    await ask.s.settled()


async def test_6_8_goaway_that_covers_a_stream(rigs: Make) -> None:
    ask = await asked(rigs, lambda server, stream: goaway(stream) + good(stream))
    assert (await ask.client.response(ask.bad)).body == b"hello"
    await ask.s.unharmed(ask.client, 5)  # a new request goes over a new connection
    assert len(ask.origin.servers) == 2
    ask.origin.release()
    assert (await ask.client.response(ask.sibling)).body == b"hello"
    await ask.s.settled()


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_6_8_goaway_before_a_stream_was_looked_at(rigs: Make, method: bytes) -> None:
    """§8.7: what the server says it has not processed is asked again, whatever the method."""
    origin = Scripted(lambda server, stream: goaway(stream - 2))
    s = await setting(rigs, origin, tls=True)
    client = await s.client()
    await client.say(get(1))
    await client.response(1)
    await client.say(headers(3, request(b"/bad", method=method, scheme=b"https")))
    got = await client.response(3)
    assert (got.status, got.body) == (200, b"hello")
    assert len(origin.servers) == 2
    await s.settled()
    assert s.endings() == [("response", "/"), ("response", "/bad")]


async def test_8_7_refused_stream_is_asked_again(rigs: Make) -> None:
    times: list[int] = []

    def refuse(server: H2Peer, stream: int) -> bytes:
        times.append(stream)
        return rst(stream, Code.REFUSED_STREAM) if len(times) == 1 else good(stream)

    ask = await asked(rigs, refuse)
    got = await ask.client.response(ask.bad)
    assert (got.status, got.body) == (200, b"hello")
    ask.origin.release()
    assert (await ask.client.response(ask.sibling)).body == b"hello"
    await ask.s.settled()


async def test_8_7_refused_for_ever(rigs: Make) -> None:
    ask = await asked(rigs, lambda server, stream: rst(stream, Code.REFUSED_STREAM))
    got = await ask.client.response(ask.bad)
    assert got.status in (200, 502) or got.reset is not None
    assert ask.origin.paths.count(b"/bad") <= 3
    ask.origin.release()
    await ask.client.response(ask.sibling)
    await ask.s.settled()


async def test_8_1_no_error_after_a_whole_response(rigs: Make) -> None:
    """§8.1: a server that needs no more of the request; its response counts."""
    origin = Scripted(lambda server, stream: b"")
    s = await setting(rigs, origin, tls=True)
    client = await s.client()
    await client.say(get(1))
    await client.response(1)
    await client.say(headers(3, request(b"/bad", (b"content-type", b"application/grpc"), method=b"POST"), end=False))
    await client.say(data(3, b"some"))
    server = origin.servers[0]
    await until(lambda: 3 in server.streams and server.streams[3].body == b"some")
    await server.say(good(3), rst(3, Code.NO_ERROR))
    got = await client.response(3)
    assert (got.status, got.body) == (200, b"hello")
    await s.unharmed(client)


async def test_8_1_data_after_the_end(rigs: Make) -> None:
    ask = await asked(rigs, lambda server, stream: good(stream) + data(stream, b"more"))
    assert (await ask.client.response(ask.bad)).body == b"hello"
    ask.origin.release()
    await ask.client.response(ask.sibling)
    await ask.s.unharmed(ask.client)
    await ask.s.settled()


@pytest.mark.parametrize("opening", [ping(), goaway(), b"HTTP/1.1 400 Bad\r\n\r\n", b""],
                         ids=["PING", "GOAWAY", "HTTP/1", "close"])  # fmt: skip
async def test_3_4_a_server_that_does_not_begin_with_settings(rigs: Make, opening: bytes) -> None:
    class Wrong(Scripted):
        async def __call__(self, peer: object) -> None:
            if self.servers:
                await super().__call__(peer)  # type: ignore[arg-type]
                return
            server = H2Peer(peer, client=False)  # type: ignore[arg-type]
            self.servers.append(server)
            if await server.peer.exactly(len(PREFACE)) == PREFACE and opening:
                await server.say(opening)
                while await server.next(3600):
                    pass

    s = await setting(rigs, Wrong(lambda server, stream: b""), tls=True)
    client = await s.client()
    await client.say(get(1, b"/first"))
    got = await client.response(1)
    assert got.status in (200, 502), f"{got}"  # 200: it was asked again, over another connection
    await s.unharmed(client)
    await s.settled()


# -- what the gateway sends to a server


async def test_3_4_what_we_begin_with(rigs: Make) -> None:
    s = await setting(rigs, tls=True)
    client = await s.client()
    await client.say(get(1), get(3))
    await client.response(1)
    await client.response(3)
    server = s.origin.h2[0]
    first = server.frames[0]
    assert (first.type, first.flags, first.stream) == (T.SETTINGS, 0, 0)
    assert server.settings[S.ENABLE_PUSH] == 0
    assert S.ENABLE_CONNECT_PROTOCOL not in server.settings  # it is for servers to say (RFC 8441 §3)
    opened = [got.stream for got in server.frames if got.type == T.HEADERS]
    assert opened == sorted(opened) and all(stream % 2 for stream in opened)
    assert server.settings_acks == 1


async def test_6_7_pings_and_settings_are_acknowledged(rigs: Make) -> None:
    ask = await asked(rigs, lambda server, stream: ping(b"askedfor") + settings() + settings() + good(stream))
    await ask.client.response(ask.bad)
    server = ask.origin.servers[0]
    await until(lambda: b"askedfor" in server.pongs and server.settings_acks == 3)


async def test_5_1_2_requests_queue_at_the_servers_limit(rigs: Make) -> None:
    class Few(Origin):
        now = most = 0

        async def answer(self, ask: object) -> tuple[int, bytes]:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1
            return 200, b"hello"

    origin = Few(settings((S.MAX_CONCURRENT_STREAMS, 2)))
    s = await setting(rigs, origin, tls=True)
    client = await s.client()
    await s.unharmed(client, 1)  # the limit is known from here on
    await client.say(*(get(stream) for stream in range(3, 23, 2)))
    for stream in range(3, 23, 2):
        assert (await client.response(stream)).status == 200
    assert origin.most <= 2 * origin.connections
    await s.settled()


async def test_6_9_a_server_with_a_small_window(rigs: Make) -> None:
    body = bytes(range(100))
    origin = Scripted(lambda server, stream: good(stream), opening=settings((S.INITIAL_WINDOW_SIZE, 10)))
    s = await setting(rigs, origin, tls=True)
    client = await s.client()
    await s.unharmed(client, 1)  # the window is known from here on
    server = origin.servers[0]
    await client.say(post(3, b"/upload"), data(3, body, True))
    await until(lambda: 3 in server.streams and len(server.streams[3].body) == 10)
    await asyncio.sleep(0.05)
    assert len(server.streams[3].body) == 10
    await client.say(get(5, b"/other"))  # no body: no window needed
    assert (await client.response(5)).status == 200
    await server.say(settings((S.INITIAL_WINDOW_SIZE, 20)))
    await until(lambda: len(server.streams[3].body) == 20)
    await server.say(window(3, 1000))
    assert (await client.response(3)).status == 200
    assert server.streams[3].body == body
    await s.settled()


async def test_6_9_1_a_server_that_sends_more_than_it_may(rigs: Make) -> None:
    """Nothing listens to `response`, so bodies stream, and a client without a window stops them."""
    origin = Scripted(lambda server, stream: head(stream, OK) + data(stream, b"x"))
    s = await setting(rigs, origin, Events("error"), tls=True)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 0))
    await client.say(get(1, b"/bad"))
    assert (await client.head(1)).status == 200
    server, sent = origin.servers[0], 0
    while not server.goaway and server.streams[1].reset is None:
        assert sent < 64 << 20, "it takes in whatever is sent"
        await server.say(data(1, bytes(16384)))
        sent += 16384
        await asyncio.sleep(0)
    assert FLOW in (server.streams[1].reset, server.goaway and server.goaway[1])
    await client.say(window(0, 1 << 24), window(1, 1 << 24))  # what had come before it is delivered
    got = await client.response(1)
    assert got.reset is not None and not got.ended
    await s.events.wait("error")
