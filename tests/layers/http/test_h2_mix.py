"""HTTP/1 and 2 on either leg, in every mix: what arrives at the other end is what was meant."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.http import HTTPFlow
from tests.harness import Events, Make
from tests.layers.http.h2_frames import S, data, get, headers, post, settings, window
from tests.layers.http.h2_kit import Ask, Origin, Setting, pattern, setting
from tests.layers.http.h2_peer import H2Peer
from tests.layers.http.httpkit import Message, read_response

BIG = 3_000_000
LEGS = [("h2", "h2"), ("h2", "h1"), ("h1", "h2")]
Fields = list[tuple[bytes, bytes]]


class Answer:
    """A response in terms of both versions."""

    def __init__(self, status: int, fields: Fields, body: bytes, trailers: Fields) -> None:
        self.status, self.fields, self.body, self.trailers = status, fields, body, trailers

    def value(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.fields if key.lower() == name]
        assert len(found) < 2
        return found[0] if found else None


class Asker:
    """A client of either version."""

    def __init__(self, s: Setting, legs: tuple[str, str]) -> None:
        self.s = s
        self.h2 = legs[0] == "h2"
        self._next = 1
        self._client: Any = None

    async def ask(
        self, method: bytes = b"GET", path: bytes = b"/", fields: Fields | None = None, body: bytes = b"",
        trailers: Fields | None = None, chunked: bool = False,
    ) -> Answer:  # fmt: skip
        fields = list(fields or [])
        if body and not chunked:
            fields.append((b"content-length", b"%d" % len(body)))
        return await (self._two if self.h2 else self._one)(method, path, fields, body, trailers or [], chunked)

    async def _two(
        self, method: bytes, path: bytes, fields: Fields, body: bytes, trailers: Fields, chunked: bool
    ) -> Answer:
        if self._client is None:
            self._client = await self.s.client((S.INITIAL_WINDOW_SIZE, 1 << 24))
            await self._client.say(window(0, 1 << 24))
        client: H2Peer = self._client
        stream, self._next = self._next, self._next + 2
        start = [(b":method", method), (b":scheme", b"https"), (b":authority", b"origin.test"), (b":path", path)]
        await client.say(headers(stream, [*start, *fields], end=not body and not trailers))
        if body:
            await client.send_body(stream, body, end=not trailers, seconds=20)
        if trailers:
            await client.say(headers(stream, trailers, end=True))
        got = await client.response(stream, 20)
        return Answer(got.status, got.final, got.body, got.trailers)

    async def _one(
        self, method: bytes, path: bytes, fields: Fields, body: bytes, trailers: Fields, chunked: bool
    ) -> Answer:
        if self._client is None:
            self._client = await self.s.rig.connect(self.s.gate)
            # As a client that can speak both and is talked into HTTP/1 by an add-on.
            tls = await self._client.start_tls("origin.test", alpn=("h2", "http/1.1"))
            assert tls.selected_alpn_protocol() == "http/1.1"
        if chunked:
            fields.append((b"transfer-encoding", b"chunked"))
            tail = b"".join([b"%b: %b\r\n" % field for field in trailers])
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n" + tail + b"\r\n"
        lines = b"".join([b"%b: %b\r\n" % field for field in [(b"Host", b"origin.test"), *fields]])
        await self._client.say(b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, path, lines, body))
        message: Message = await read_response(self._client, method.decode())
        found = [tuple(line.split(b": ", 1)) for line in message.head[:-4].split(b"\r\n")[1:]]
        behind = [tuple(line.split(b": ", 1)) for line in message.trailers]
        return Answer(message.status, found, message.body, behind)  # type: ignore[arg-type]


def to_http1(data: Any) -> None:
    data.context.client.alpn = b"http/1.1"


async def mixed(rigs: Make, legs: tuple[str, str], **options: Any) -> tuple[Setting, Asker]:
    talk = {"tls_start_client": to_http1} if legs[0] == "h1" else {}
    events = Events("requestheaders", "request", "responseheaders", "response", "error", **talk)
    s = await setting(rigs, Origin(), events, tls=legs[1] == "h2", h1=legs[1] == "h1", **options)
    return s, Asker(s, legs)


@pytest.fixture(params=LEGS, ids=["-".join(legs) for legs in LEGS])
def legs(request: Any) -> tuple[str, str]:
    return request.param


async def last(s: Setting, legs: tuple[str, str]) -> Ask:
    assert s.origin.asked[-1].http == legs[1][1]
    flow: HTTPFlow = await s.events.wait("response", len(s.origin.asked))
    assert flow.request.http_version == ("HTTP/2.0" if legs[0] == "h2" else "HTTP/1.1")
    assert flow.response.http_version == ("HTTP/2.0" if legs[1] == "h2" else "HTTP/1.1")
    return s.origin.asked[-1]


async def test_get(rigs: Make, legs: tuple[str, str]) -> None:
    s, asker = await mixed(rigs, legs)
    for n in range(3):
        got = await asker.ask(path=b"/p?q=%d" % n, fields=[(b"x-kept", b"v"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
                              if legs[0] == "h2" else [(b"x-kept", b"v"), (b"cookie", b"a=1; b=2")])  # fmt: skip
        assert (got.status, got.body, got.value(b"content-length")) == (200, b"hello", b"5")
    ask = await last(s, legs)
    assert ask.path == b"/p?q=2"
    assert ask.values(b"x-kept") == [b"v"] and ask.values(b"cookie") == [b"a=1; b=2"]
    if legs[1] == "h2":
        assert dict(ask.fields)[b":authority"] == b"origin.test" and not ask.values(b"host")
        assert dict(ask.fields)[b":scheme"] == b"https"
    else:
        assert ask.values(b"host") == [b"origin.test"]
    assert s.rig.served == 1, "one connection to the server serves them all"


@pytest.mark.parametrize("size", [1, 70_000, BIG], ids=["byte", "held", "streamed"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "no length"])
async def test_bodies_both_ways(rigs: Make, legs: tuple[str, str], size: int, chunked: bool) -> None:
    s, asker = await mixed(rigs, legs)
    got = await asker.ask(b"POST", b"/echo", body=pattern(size), chunked=chunked)
    assert got.status == 200 and got.body == pattern(size)
    ask = await last(s, legs)
    assert ask.body == pattern(size)
    assert ask.values(b"content-length") in ([], [b"%d" % size])
    assert (await asker.ask()).body == b"hello", "the connection is still good"


async def test_trailers_of_requests(rigs: Make, legs: tuple[str, str]) -> None:
    s, asker = await mixed(rigs, legs)
    trailers = [(b"x-sum", b"1"), (b"x-more", b"2")]
    assert (await asker.ask(b"POST", b"/echo", body=b"abc", trailers=trailers, chunked=True)).body == b"abc"
    ask = await last(s, legs)
    assert (ask.body, ask.trailers) == (b"abc", trailers)
    assert dict(s.events.of("request")[-1].request.trailers.fields) == dict(trailers)


async def test_without_a_body(rigs: Make, legs: tuple[str, str]) -> None:
    s, asker = await mixed(rigs, legs)
    head = await asker.ask(b"HEAD", b"/big/1000")
    assert (head.status, head.body, head.value(b"content-length")) == (200, b"", b"1000")
    none = await asker.ask(b"GET", b"/none")
    assert (none.status, none.body, none.value(b"content-length")) == (204, b"", None)
    assert (await asker.ask(b"OPTIONS", b"*")).status == 200
    assert (await asker.ask()).body == b"hello"
    assert s.origin.paths() == [b"/big/1000", b"/none", b"*", b"/"]


async def test_addons_change_both_heads(rigs: Make, legs: tuple[str, str]) -> None:
    class Change:
        def request(self, flow: HTTPFlow) -> None:
            flow.request.headers["X-Added"] = "1"
            flow.request.path = "/echo"
            flow.request.content = b"changed"

        def response(self, flow: HTTPFlow) -> None:
            flow.response.headers["X-Seen"] = "1"
            flow.response.content += b"!"

    talk = {"tls_start_client": to_http1} if legs[0] == "h1" else {}
    events = Events("error", **talk)
    s = await setting(rigs, Origin(), events, Change(), tls=legs[1] == "h2", h1=legs[1] == "h1")
    got = await Asker(s, legs).ask(b"POST", body=b"what was said")
    assert (got.body, got.value(b"x-seen"), got.value(b"content-length")) == (b"changed!", b"1", b"8")
    ask = s.origin.asked[0]
    assert (ask.path, ask.body, ask.values(b"content-length")) == (b"/echo", b"changed", [b"7"])
    assert ask.values(b"x-added") == [b"1"]


@pytest.mark.parametrize("legs", [("h2", "h1"), ("h2", "h2")], ids=["h2-h1", "h2-h2"])
async def test_many_at_once(rigs: Make, legs: tuple[str, str]) -> None:
    """More than one connection of HTTP/1 can carry, and more than there may be: they take turns."""
    s, _ = await mixed(rigs, legs)
    client = await s.client()
    streams = range(1, 121, 2)
    await client.say(*(get(stream, b"/%d" % stream) for stream in streams))
    for stream in streams:
        assert (await client.response(stream)).body == b"hello"
    assert sorted(s.origin.paths()) == sorted([b"/%d" % stream for stream in streams])
    assert s.rig.served <= (5 if legs[1] == "h1" else 1)


async def test_an_addon_sends_it_elsewhere(rigs: Make) -> None:
    """The other server is offered what the client can speak, too."""
    other = Origin()

    class Elsewhere:
        def request(self, flow: HTTPFlow) -> None:
            if flow.request.path == "/there":
                flow.request.host, flow.request.port = address[0], address[1]

    s = await setting(rigs, None, Events("error"), Elsewhere(), tls=True)
    address = await s.rig.origin(other, tls=True, alpn=("h2", "http/1.1"))
    client = await s.client()
    await client.say(get(1, b"/here"), get(3, b"/there"))
    assert (await client.response(1)).status == (await client.response(3)).status == 200
    assert s.origin.paths() == [b"/here"] and other.paths() == [b"/there"]
    assert other.asked[0].http == "2"


async def test_alpn_is_mirrored(rigs: Make) -> None:
    for offers, picked in ((("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), (("http/1.1", "h2"), "h2")):
        s = await setting(rigs, tls=True)
        peer = await s.rig.connect(s.gate)
        tls = await peer.start_tls("origin.test", alpn=offers)
        assert tls.selected_alpn_protocol() == picked
        await peer.close()


async def test_http2_is_off(rigs: Make) -> None:
    s = await setting(rigs, tls=True, http2=False)
    peer = await s.rig.connect(s.gate)
    tls = await peer.start_tls("origin.test", alpn=("h2", "http/1.1"))
    assert tls.selected_alpn_protocol() == "http/1.1"
    await peer.say(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
    assert (await read_response(peer)).body == b"hello"
    assert s.origin.asked[0].http == "1"


async def test_lazy_speaks_it_before_the_server_did(rigs: Make) -> None:
    s = await setting(rigs, tls=True, connection_strategy="lazy")
    client = await s.client()
    await client.say(get(1))
    assert (await client.response(1)).body == b"hello"


async def test_prior_knowledge_through_the_proxy(rigs: Make) -> None:
    """h2c to an explicit proxy: plain requests are translated, CONNECT opens a tunnel."""
    rig = await rigs(Events("error"))
    origin = Origin()
    address = await rig.origin(origin)
    client = await H2Peer(await rig.connect(await rig.regular())).start()
    where = b"127.0.0.1:%d" % address[1]

    def ask(stream: int, method: bytes) -> bytes:
        fields = [(b":method", method), (b":authority", where)]
        if method != b"CONNECT":
            fields += [(b":scheme", b"http"), (b":path", b"/x")]
        return headers(stream, fields, end=method != b"CONNECT")

    await client.say(ask(1, b"GET"), ask(3, b"CONNECT"))
    assert (await client.response(1)).body == b"hello"
    assert (await client.head(3)).status == 200
    await client.say(ask(5, b"GET"))
    assert (await client.response(5)).status == 200
    assert [ask.http for ask in origin.asked] == ["1", "1"] and origin.asked[0].values(b"host") == [where]


async def test_upgrade_to_h2c_is_not_passed_on(rigs: Make) -> None:
    rig = await rigs()
    origin = Origin()
    address = await rig.origin(origin)
    client = await rig.connect(await rig.transparent(address))
    await client.say(
        b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
    )
    assert (await read_response(client)).body == b"hello"
    names = {name.lower() for name, _ in origin.asked[0].fields}
    assert not names & {b"upgrade", b"http2-settings", b"connection"}


async def test_expect_continue(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(post(1, b"/echo", (b"expect", b"100-continue")))
    await client.until(lambda: 1 in client.streams and bool(client.streams[1].heads))
    assert dict(client.streams[1].heads[0])[b":status"] == b"100"
    await client.say(data(1, b"body", True))
    assert (await client.response(1)).body == b"body"


async def test_event_streams_pass_at_once(rigs: Make) -> None:
    """Parts come as they are made though a hook listens to the whole response."""
    go = asyncio.Event()

    async def origin(peer: Any) -> None:
        await peer.exactly(24)
        server = H2Peer(peer, client=False)
        await server.say(settings())
        while 1 not in server.streams:
            await server.next()
        await server.say(
            headers(1, [(b":status", b"200"), (b"content-type", b"text/event-stream")], end=False), data(1, b"one")
        )
        await go.wait()
        await server.say(data(1, b"two", True))
        await asyncio.sleep(1)

    s = await setting(rigs, origin, Events("response", "error"))
    client = await s.client()
    await client.say(get(1))
    await client.until(lambda: 1 in client.streams and client.streams[1].body == b"one")
    go.set()
    assert (await client.response(1)).body == b"onetwo"
