"""RFC 9113 §8: what a request may look like, towards the client; and what becomes of it in HTTP/1."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.http import Headers, HTTPFlow, Response
from tests.harness import Events, Make
from tests.layers.http.h2_frames import (
    HOST,
    Code,
    S,
    T,
    data,
    frame,
    get,
    headers,
    post,
    push_promise,
    request,
)
from tests.layers.http.h2_kit import Case, answered, cases, goaway_with, malformed, play, setting
from tests.layers.http.h2_peer import H2Peer

Pair = tuple[bytes, bytes]
PSEUDO = {b":method": b"GET", b":scheme": b"http", b":authority": HOST, b":path": b"/"}


def fields(*more: Pair, **pseudo: bytes | None) -> list[Pair]:
    """A request with pseudo-headers changed, or (None) left out."""
    return [(n, v) for n, v in (PSEUDO | {f":{k}".encode(): v for k, v in pseudo.items()}).items() if v is not None] + [
        *more
    ]


def bad(section: str, *more: Pair, **pseudo: bytes | None) -> Case:
    """A request that is malformed by a field or a pseudo-header."""
    return Case(section, headers(1, fields(*more, **pseudo)), malformed)


def body(length: bytes, *parts: bytes) -> bytes:
    frames = b"".join(data(1, part, part is parts[-1]) for part in parts)
    return post(1, b"/echo", (b"content-length", length)) + frames


def trailers(*pairs: Pair, end: bool = True) -> bytes:
    return post(1) + data(1, b"abc") + headers(1, pairs, end=end)


SYMBOLS = [*range(0x21), *b'"(),/;<=>?@[\\]{}', 0x7F, 0x80, 0xE9, 0xFF]
"""Octets that cannot be in a field's name. RFC 9113 lets printable ones pass, HTTP/1 cannot carry them."""


@cases(
    Case("8.1 trailers that do not end the stream", trailers((b"x-t", b"1"), end=False), malformed),
    Case("8.1 DATA after trailers", trailers((b"x-t", b"1"), end=False) + data(1, b"x", True), malformed),
    Case("8.1.1 content-length above DATA", body(b"4", b"abc"), malformed),
    Case("8.1.1 content-length above two DATA", body(b"7", b"abc", b"def"), malformed),
    Case("8.1.1 content-length below DATA", body(b"2", b"abc"), malformed),
    Case("8.1.1 content-length below two DATA", body(b"5", b"abc", b"def"), malformed),
    Case("8.1.1 content-length 0 and DATA", body(b"0", b"abc"), malformed),
    Case("8.1.1 content-length and no DATA", get(1, b"/", (b"content-length", b"5")), malformed),
    Case("8.1.1 content-length above DATA, trailers",
         post(1, b"/echo", (b"content-length", b"5")) + data(1, b"abc") + headers(1, [(b"x-t", b"1")]), malformed),
    *(Case(f"8.1.1 content-length {value.decode()!r}", body(value, b"abc"), malformed)
      for value in (b"", b"+3", b"-3", b"3x", b"0x3", b"3,4", b"3.0", b"9" * 30)),
    Case("8.1.1 two content-lengths",
         post(1, b"/echo", (b"content-length", b"3"), (b"content-length", b"4")) + data(1, b"abc", True), malformed),
    bad("8.2.1 uppercase", (b"X-Upper", b"1")),
    bad("8.2.1 one uppercase letter", (b"accepT", b"1")),
    *(bad(f"8.2.1 name with {octet:#04x}", (b"x-%c-y" % octet, b"1")) for octet in SYMBOLS),
    bad("8.2.1 name with a colon", (b"x:y", b"1")),
    bad("8.2.1 name ending in a colon", (b"x-y:", b"1")),
    bad("8.2.1 empty name", (b"", b"1")),
    *(bad(f"8.2.1 value with {octet:#04x} {where}", (b"x-y", value))
      for octet in (0, 10, 13) for where, value in (("first", b"%cab" % octet), ("inside", b"a%cb" % octet),
                                                    ("last", b"ab%c" % octet))),
    bad("8.2.1 value with a request in it", (b"x-y", b"a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")),
    *(bad(f"8.2.1 value {value!r}", (b"x-y", value)) for value in (b" a", b"a ", b"\ta", b"a\t", b" ")),
    bad("8.2.2 connection", (b"connection", b"keep-alive")),
    bad("8.2.2 connection close", (b"connection", b"close")),
    bad("8.2.2 proxy-connection", (b"proxy-connection", b"keep-alive")),
    bad("8.2.2 keep-alive", (b"keep-alive", b"timeout=5")),
    bad("8.2.2 transfer-encoding", (b"transfer-encoding", b"chunked")),
    bad("8.2.2 transfer-encoding identity", (b"transfer-encoding", b"identity")),
    bad("8.2.2 upgrade", (b"upgrade", b"websocket")),
    bad("8.2.2 TE other than trailers", (b"te", b"gzip")),
    bad("8.2.2 TE trailers and more", (b"te", b"trailers, deflate;q=0.5")),
    bad("8.3 unknown", (b":unknown", b"1")),
    bad("8.3 of a response", (b":status", b"200")),
    bad("8.3 :protocol without CONNECT", (b":protocol", b"websocket")),
    bad("8.3 :path twice", (b":path", b"/other")),
    bad("8.3 :method twice", (b":method", b"GET")),
    bad("8.3 :scheme twice", (b":scheme", b"http")),
    bad("8.3 :authority twice", (b":authority", b"other.test")),
    bad("8.3 empty name of one", (b":", b"1")),
    bad("8.3 uppercase", (b":Path", b"/")),
    Case("8.3 after a regular field", headers(1, [*fields(path=None), (b"x-y", b"1"), (b":path", b"/")]), malformed),
    Case("8.3 unknown in trailers", trailers((b":unknown", b"1")), malformed),
    Case("8.3 :path in trailers", trailers((b":path", b"/")), malformed),
    Case("8.3 :status in trailers", trailers((b":status", b"200")), malformed),
    Case("8.2.1 uppercase in trailers", trailers((b"X-T", b"1")), malformed),
    Case("8.2.1 CR in trailers", trailers((b"x-t", b"1\r\nx: y")), malformed),
    Case("8.2.2 connection-specific in trailers", trailers((b"connection", b"close")), malformed),
    Case("8.3 no fields at all", headers(1, []), malformed),
    bad("8.3.1 no :method", method=None),
    bad("8.3.1 no :scheme", scheme=None),
    bad("8.3.1 no :path", path=None),
    bad("8.3.1 empty :path", path=b""),
    bad("8.3.1 empty :method", method=b""),
    bad("8.3.1 empty :scheme", scheme=b""),
    bad("8.3.1 :path without a slash", path=b"index.html"),
    bad("8.3.1 :path * of a GET", path=b"*"),
    bad("8.3.1 :path with a space", path=b"/a b"),
    bad("8.3.1 :path with CR LF", path=b"/ HTTP/1.1\r\nx-smuggled: 1\r\n"),
    bad("8.3.1 :path with NUL", path=b"/\0"),
    bad("8.3.1 :method with a space", method=b"GET /smuggled HTTP/1.1\r\nx:"),
    bad("8.3.1 :method with LF", method=b"GET\n"),
    bad("8.3.1 :scheme with a slash", scheme=b"http://x/"),
    bad("8.3.1 :authority with userinfo", authority=b"user:pw@origin.test"),
    bad("8.3.1 :authority with CR LF", authority=b"origin.test\r\nx-smuggled: 1"),
    bad("8.3.1 :authority with a slash", authority=b"origin.test/x"),
    bad("8.3.1 :authority with a space", authority=b"origin.test x"),
    bad("8.3.1 Host is another than :authority", (b"host", b"other.test")),
    bad("8.3.1 two Hosts", (b"host", b"origin.test"), (b"host", b"other.test"), authority=None),
    bad("8.5 CONNECT with a :path", method=b"CONNECT", scheme=None),
    bad("8.5 CONNECT with a :scheme", method=b"CONNECT", path=None),
    bad("8.5 CONNECT without :authority", method=b"CONNECT", scheme=None, path=None, authority=None),
)  # fmt: skip
async def test_8_malformed(rigs: Make, case: Case) -> None:
    s = await play(rigs, case)
    assert set(s.origin.paths()) == {b"/unharmed"}, "a malformed request reached the origin"


@cases(
    Case("8.1 trailers", trailers((b"x-t", b"1")), answered(b"abc")),
    Case("8.1 trailers after no DATA", post(1) + headers(1, [(b"x-t", b"1")]), answered(b"")),
    Case("8.1 empty trailers", post(1) + data(1, b"abc") + headers(1, b""), answered(b"abc")),
    Case("8.1 DATA of no octets", post(1) + data(1) + data(1, b"abc") + data(1) + data(1, b"", True), answered(b"abc")),
    Case("8.1.1 content-length as it is", body(b"6", b"abc", b"def"), answered(b"abcdef")),
    Case("8.1.1 content-length 0", get(1, b"/", (b"content-length", b"0")), answered()),
    Case("8.1.1 content-length twice the same",
         post(1, b"/echo", (b"content-length", b"3"), (b"content-length", b"3")) + data(1, b"abc", True),
         lambda c: same_or_malformed(c)),
    Case("8.2 field names with every symbol", get(1, b"/", (b"!#$%&'*+-.^_`|~09az", b"1")), answered()),
    Case("8.2 values beyond ASCII", get(1, b"/", (b"x-y", b"a\tb \x80\xff")), answered()),
    Case("8.2 empty value", get(1, b"/", (b"x-y", b"")), answered()),
    Case("8.2.2 TE trailers", get(1, b"/", (b"te", b"trailers")), answered()),
    Case("8.3.1 Host without :authority", headers(1, fields((b"host", HOST), authority=None)), answered()),
    Case("8.3.1 Host as :authority", headers(1, fields((b"host", HOST))), answered()),
    Case("8.3.1 pseudo-headers in another order", headers(1, fields()[::-1]), answered()),
    Case("8.3.1 OPTIONS *", headers(1, fields(method=b"OPTIONS", path=b"*")), answered()),
    Case("8.3.1 a query", get(1, b"/a?b=c%20d&e=/?"), answered()),
    Case("8.3.1 any method", headers(1, fields(method=b"BREW")), answered()),
    Case("8.8 204", get(1, b"/none"), answered(b"", 204)),
)  # fmt: skip
async def test_8_well_formed(rigs: Make, case: Case) -> None:
    s = await play(rigs, case)
    assert not any(name == "error" for name, _ in s.endings()) or case.section.endswith("same")


async def same_or_malformed(client: H2Peer) -> None:
    """RFC 9110 §8.6 allows both."""
    got = await client.response(1)
    assert (got.status, got.body) == (200, b"abc") or got.reset == Code.PROTOCOL_ERROR or got.status == 400


@cases(
    Case("8.4 a client pushes", post(1, b"/never") + push_promise(1, 2, request()), goaway_with(Code.PROTOCOL_ERROR)),
    Case("8.4 a client pushes on a half-closed stream",
         get(1, b"/never") + push_promise(1, 2, request()), goaway_with(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)),
)  # fmt: skip
async def test_8_4_push(rigs: Make, case: Case) -> None:
    await play(rigs, case)


async def test_8_1_head_has_no_body(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(headers(1, fields(method=b"HEAD")))
    got = await client.response(1)
    assert (got.status, got.body, got.value(b"content-length"), got.reset) == (200, b"", b"5", None)
    await s.unharmed(client)


async def test_8_1_1_content_length_while_the_body_streams(rigs: Make) -> None:
    """It cannot be known at the head, so the origin sees a part, but never a whole request."""

    def stream(flow: HTTPFlow) -> None:
        flow.request.stream = True

    s = await setting(rigs, None, Events("error", "response", requestheaders=stream))
    client = await s.client()
    await client.say(post(1, b"/echo", (b"content-length", b"10")), data(1, b"12345"))
    await client.alive()
    await client.say(data(1, b"6789", True))
    await client.expect_malformed(1)
    await s.unharmed(client)
    await s.settled()
    assert s.origin.paths() == [b"/unharmed"]
    assert [ending for ending in s.endings() if ending[1] == "/echo"] == [("error", "/echo")]


async def test_8_1_2_informational_responses(rigs: Make) -> None:
    async def hints(peer: Any) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await peer.rest()

    s = await setting(rigs, hints, h1=True)
    client = await s.client()
    await client.say(get(1))
    got = await client.response(1)
    assert got.heads[0] == [(b":status", b"103"), (b"link", b"</a.css>")]
    assert (got.status, got.body) == (200, b"ok")


async def test_8_1_2_expect_100_continue(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(post(1, b"/echo", (b"expect", b"100-continue")))
    await client.until(lambda: 1 in client.streams)
    assert client.streams[1].heads[0][0] == (b":status", b"100")
    await client.say(data(1, b"abc", True))
    assert (await client.response(1)).body == b"abc"


@pytest.mark.parametrize("h1", [True, False], ids=["to HTTP/1", "to HTTP/2"])
async def test_8_2_3_cookies_are_joined(rigs: Make, h1: bool) -> None:
    s = await setting(rigs, h1=h1)
    client = await s.client()
    await client.say(get(1, b"/", (b"cookie", b"a=1"), (b"x-between", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3")))
    await client.response(1)
    ask = s.origin.asked[0]
    assert ask.http == ("1" if h1 else "2")
    if h1:
        assert ask.values(b"cookie") == [b"a=1; b=2; c=3"]
    assert b"; ".join(ask.values(b"cookie")) == b"a=1; b=2; c=3"
    assert s.events.of("request")[0].request.headers["cookie"] == "a=1; b=2; c=3"


@pytest.mark.parametrize("h1", [True, False], ids=["HTTP/1", "HTTP/2"])
async def test_8_3_1_what_the_origin_and_add_ons_see(rigs: Make, h1: bool) -> None:
    s = await setting(rigs, h1=h1)
    client = await s.client()
    await client.say(get(1, b"/a?b=c", (b"x-two", b"1"), (b"x-two", b"2"), (b"accept", b"*/*"), (b"te", b"trailers")))
    await client.response(1)
    ask = s.origin.asked[0]
    assert dict(ask.fields)[b":path"] == b"/a?b=c"
    assert ask.values(b"host") == [HOST] or ask.values(b":authority") == [HOST]
    assert ask.values(b"x-two") == [b"1", b"2"]
    assert not [name for name, _ in ask.fields if name.startswith(b":") and name not in PSEUDO]
    flow = s.events.of("request")[0]
    assert (flow.request.http_version, flow.request.authority) == ("HTTP/2.0", "origin.test")
    assert flow.request.path == "/a?b=c"
    assert not [name for name in flow.request.headers if name.startswith(":")]
    assert flow.request.pretty_host == "origin.test"


async def test_8_2_2_http_1_fields_do_not_come_through(rigs: Make) -> None:
    async def old(peer: Any) -> None:
        await peer.head()
        await peer.say(
            b"HTTP/1.1 200 Fine\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n"
            b"Transfer-Encoding: chunked\r\nX-Kept: Yes\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\n"
            b"Set-Cookie: b=2\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: T\r\n\r\n"
        )
        await peer.rest()

    s = await setting(rigs, old, h1=True)
    client = await s.client()
    await client.say(get(1))
    got = await client.response(1)
    assert got.final[0] == (b":status", b"200")
    assert (b"x-kept", b"Yes") in got.final and got.values(b"set-cookie") == [b"a=1", b"b=2"]
    banned = {b"connection", b"keep-alive", b"x-hop", b"transfer-encoding", b"proxy-connection", b"upgrade"}
    assert not banned & {name for name, _ in got.final}
    assert all(name == name.lower() for name, _ in got.final)
    assert (got.body, got.trailers) == (b"ok", [(b"x-trailer", b"T")])


async def test_8_2_what_add_ons_add_is_made_to_fit(rigs: Make) -> None:
    def hook(flow: HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.headers["X-Added"] = "Mixed"
        flow.response.headers["Connection"] = "close"

    s = await setting(rigs, None, Events(response=hook))
    client = await s.client()
    await client.say(get(1))
    got = await client.response(1)
    assert got.value(b"x-added") == b"Mixed" and got.value(b"connection") is None
    await s.unharmed(client)


@pytest.mark.parametrize(("name", "value"), [("bad name", "1"), ("x-split", "a\r\nset-cookie: b"), ("x-nul", "a\0")])
async def test_8_2_1_what_add_ons_may_not_send(rigs: Make, name: str, value: str) -> None:
    def hook(flow: HTTPFlow) -> None:
        if flow.request.path == "/bad":
            flow.response = Response.make(200, b"x")
            flow.response.headers = Headers([*flow.response.headers.fields, (name.encode(), value.encode())])

    s = await setting(rigs, None, Events("response", "error", request=hook))
    client = await s.client()
    await client.say(get(1, b"/bad"))
    got = await client.response(1)
    assert got.status == 500 or got.reset is not None
    assert name.encode() not in [key for key, _ in got.final]
    await s.unharmed(client)


async def test_8_5_connect_where_there_is_no_proxy(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(headers(1, [(b":method", b"CONNECT"), (b":authority", b"origin.test:443")], end=False))
    got = await client.head(1)
    assert 400 <= got.status < 600 or got.reset is not None
    await s.unharmed(client)


async def test_8_6_an_origin_that_switches_protocols(rigs: Make) -> None:
    async def switch(peer: Any) -> None:
        await peer.head()
        await peer.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nraw")
        await peer.rest()

    s = await setting(rigs, switch, h1=True)
    client = await s.client()
    await client.say(get(1))
    got = await client.response(1)
    assert got.status == 502 or got.reset is not None
    assert all(head[0] != (b":status", b"101") for head in got.heads)
    await client.alive()


async def test_8_7_header_list_over_the_limit(rigs: Make) -> None:
    """What is too large for us is a request that is refused, not the end of its siblings."""
    s = await setting(rigs, max_header_size="16k")
    client = await s.client()
    assert client.settings.get(S.MAX_HEADER_LIST_SIZE, 16384) >= 16384
    many = [(b"x-%d" % n, b"v" * 1000) for n in range(40)]
    whole = headers(1, [*request(), *many])[9:]
    pieces = [whole[at : at + 16000] for at in range(0, len(whole), 16000)]
    await client.say(
        frame(T.HEADERS, 1, 1, pieces[0]),
        *(frame(T.CONTINUATION, 0 if piece is not pieces[-1] else 4, 1, piece) for piece in pieces[1:]),
    )
    got = await client.response(1)
    if client.goaway is None:
        assert got.status == 431 or got.reset is not None
        await s.unharmed(client)
    else:
        await client.expect_goaway(Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR, Code.COMPRESSION_ERROR)
    await s.unharmed()
    assert all(path == b"/unharmed" for path in s.origin.paths())
