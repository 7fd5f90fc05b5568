"""RFC 9113 §5.1 to 5.3, 6.1 to 6.4, 6.6, 6.10: states of a stream, and the frames that move it."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import Make
from tests.layers.http.h2_frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITY,
    Code,
    S,
    T,
    block,
    continuation,
    data,
    frame,
    get,
    headers,
    number,
    padded,
    post,
    priority,
    push_promise,
    request,
    rst,
    window,
)
from tests.layers.http.h2_kit import (
    LATER,
    Case,
    answered,
    cases,
    either,
    fine,
    goaway_with,
    play,
    setting,
)
from tests.layers.http.h2_peer import Got, H2Peer

PROTOCOL, SIZE, CLOSED = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.STREAM_CLOSED
GET, ABC = block(request()), answered(b"abc")
BEGUN = frame(T.HEADERS, END_STREAM, 1, GET[:5])  # a header block that is not whole
TOP = (1 << 31) - 1


async def fine_or_stream_error(client: H2Peer) -> None:
    await client.alive()
    got = client.streams.get(1, Got())
    assert got.reset in (None, PROTOCOL)


@cases(
    Case("5.1 idle: DATA", data(1, b"x"), goaway_with(PROTOCOL)),
    Case("5.1 idle: RST_STREAM", rst(1), goaway_with(PROTOCOL)),
    Case("5.1 idle: WINDOW_UPDATE", window(1, 1), goaway_with(PROTOCOL)),
    Case("5.1 idle: CONTINUATION", continuation(1, GET), goaway_with(PROTOCOL)),
    Case("5.1 idle: PRIORITY", priority(1, 0), fine),
    Case("5.1 idle: DATA above one that is open", get(1, b"/never") + data(3, b"x"), goaway_with(PROTOCOL)),
    Case("5.1 idle: the server's, DATA", data(2, b"x"), goaway_with(PROTOCOL)),
    Case("5.1 idle: the server's, WINDOW_UPDATE", window(2, 1), goaway_with(PROTOCOL)),
    Case("5.1 half-closed: DATA", get(1, b"/never") + data(1, b"x"), either(CLOSED)),
    Case("5.1 half-closed: HEADERS", get(1, b"/never") + get(1, b"/never"), either(CLOSED)),
    Case("5.1 half-closed: CONTINUATION", get(1, b"/never") + continuation(1, b""), goaway_with(PROTOCOL, CLOSED)),
    Case("5.1 half-closed: WINDOW_UPDATE", get(1, b"/never") + window(1, 9), fine),
    Case("5.1 half-closed: PRIORITY", get(1, b"/never") + priority(1, 0), fine),
    Case("5.1 half-closed: RST_STREAM", get(1, b"/never") + rst(1), fine),
    Case("5.1 closed by RST_STREAM: DATA", get(1, b"/never") + rst(1) + data(1, b"x"), either(CLOSED)),
    Case("5.1 closed by RST_STREAM: HEADERS", get(1, b"/never") + rst(1) + get(1), either(CLOSED, PROTOCOL)),
    Case("5.1 closed by RST_STREAM: CONTINUATION", get(1, b"/never") + rst(1) + continuation(1, b""),
         goaway_with(PROTOCOL, CLOSED)),
    Case("5.1 closed by RST_STREAM: PRIORITY", get(1, b"/never") + rst(1) + priority(1, 0), fine),
    Case("5.1 closed by being passed over: HEADERS", get(5) + get(3), goaway_with(PROTOCOL)),
    Case("5.1.1 even", get(2), goaway_with(PROTOCOL)),
    Case("5.1.1 even and above", get(1, b"/never") + get(4), goaway_with(PROTOCOL)),
    Case("5.1.1 descending", get(5, b"/never") + get(3), goaway_with(PROTOCOL)),
    Case("5.1.1 with gaps", get(1, b"/never") + get(101) + get(999), answered(stream=999)),
    Case("5.1.1 the last there is", get(TOP), answered(stream=TOP), False),
)  # fmt: skip
async def test_5_1_states(rigs: Make, case: Case) -> None:
    await play(rigs, case)


AFTER = {
    "DATA": (data(1, b"x"), (CLOSED,)),
    "HEADERS": (get(1), (CLOSED, PROTOCOL)),
    "CONTINUATION": (continuation(1, b""), (PROTOCOL, CLOSED)),
    "WINDOW_UPDATE": (window(1, 1), ()),
    "RST_STREAM": (rst(1), ()),
    "PRIORITY": (priority(1, 0), ()),
}


@pytest.mark.parametrize("kind", AFTER)
async def test_5_1_closed_by_both_ends(rigs: Make, kind: str) -> None:
    sent, codes = AFTER[kind]
    s = await setting(rigs)
    client = await s.client()
    await client.say(get(1))
    await client.response(1)
    await client.say(sent)
    if codes:
        await client.expect_either(1, *codes)
    else:
        await s.unharmed(client)
    await s.unharmed()
    await s.settled()
    assert len(s.endings()) == len(s.origin.asked)


@pytest.mark.parametrize("kind", ["DATA", "trailers", "WINDOW_UPDATE", "RST_STREAM", "PRIORITY"])
async def test_5_1_closed_by_our_reset_what_was_under_way_is_ignored(rigs: Make, kind: str) -> None:
    sent = AFTER.get(kind, (headers(1, [(b"x-late", b"1")]), ()))[0]
    s = await setting(rigs)
    client = await s.client()
    await client.say(headers(1, request(b"/", (b"Upper", b"1"), method=b"POST"), end=False), sent)
    await client.expect_malformed(1)
    await s.unharmed(client)
    assert s.origin.paths() == [b"/unharmed"]


async def test_5_1_header_blocks_of_streams_we_reset_still_count(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(headers(1, [*request(), (b"Upper", b"1")], end=False))
    await client.expect_malformed(1)
    late = block([(b"x-late", b"kept")], 0x40)
    await client.say(headers(1, late), headers(3, block(request(b"/3")) + b"\xbe"))
    assert (await client.response(3)).status == 200
    assert [ask.values(b"x-late") for ask in s.origin.asked] == [[b"kept"]]


async def test_5_1_2_more_streams_than_allowed(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    limit = client.settings[S.MAX_CONCURRENT_STREAMS]
    assert 100 <= limit <= 1000  # §6.5.2: no smaller than 100 is recommended
    many = range(1, 2 * limit, 2)
    await client.say(*(get(stream, b"/hold") for stream in many), get(many[-1] + 2, b"/hold"))
    await client.expect_rst(many[-1] + 2, Code.REFUSED_STREAM, PROTOCOL)
    s.origin.released.set()
    for stream in many:
        got = await client.response(stream)
        assert (got.status, got.body, got.reset) == (200, b"hello", None)
    assert len(s.origin.asked) == limit
    await s.unharmed(client)


async def test_5_1_2_streams_that_ended_count_no_more(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    limit = client.settings[S.MAX_CONCURRENT_STREAMS]
    for stream in range(1, 2 * (2 * limit + 10), 2):
        await client.say(get(stream))
        assert (await client.response(stream)).status == 200


@cases(
    Case("5.3 depends on itself: PRIORITY", priority(1, 1), fine_or_stream_error),
    Case("5.3 depends on itself: HEADERS",
         frame(T.HEADERS, END_STREAM | END_HEADERS | PRIORITY, 1, number(1) + b"\x0f" + GET), fine_or_stream_error),
    Case("5.3.2 unknown stream, exclusively", priority(5, 1 << 31 | 7) + get(7), answered(stream=7)),
    Case("5.3.2 PRIORITY_UPDATE", frame(0x10, 0, 0, number(1) + b"u=1, i") + get(1), answered()),
    Case("6.1 on the connection", data(0, b"x"), goaway_with(PROTOCOL)),
    Case("6.1 padded", post(1) + padded(1, b"abc", 20, True), ABC),
    Case("6.1 padded with nothing", post(1) + padded(1, b"abc", 0, True), ABC),
    Case("6.1 all padding", post(1) + padded(1, b"", 255) + data(1, b"abc", True), ABC),
    Case("6.1 padding as long as the payload", post(1) + frame(T.DATA, PADDED, 1, b"\x05abcd"), goaway_with(PROTOCOL)),
    Case("6.1 more padding than payload", post(1) + frame(T.DATA, PADDED, 1, b"\xffabcd"), goaway_with(PROTOCOL)),
    Case("6.1 padded and empty", post(1) + frame(T.DATA, PADDED, 1), goaway_with(PROTOCOL, SIZE)),
    Case("6.1 in many pieces", post(1) + b"".join(data(1, bytes((c,))) for c in b"abc") + data(1, b"", True), ABC),
    Case("6.2 on the connection", headers(0, request()), goaway_with(PROTOCOL)),
    Case("6.2 padded", frame(T.HEADERS, 0x0D, 1, b"\x05" + GET + bytes(5)), answered()),
    Case("6.2 with a priority", frame(T.HEADERS, 0x25, 1, number(0) + b"\x10" + GET), answered()),
    Case("6.2 padded and with a priority", frame(T.HEADERS, 0x2D, 1, b"\x02" + number(0) + b"\x10" + GET + bytes(2)),
         answered()),
    Case("6.2 more padding than payload", frame(T.HEADERS, 0x0D, 1, b"\xff" + GET), goaway_with(PROTOCOL)),
    Case("6.2 padded and empty", frame(T.HEADERS, 0x0D, 1), goaway_with(PROTOCOL, SIZE)),
    Case("6.2 too short for its priority", frame(T.HEADERS, 0x25, 1, b"\0\0\0"), goaway_with(PROTOCOL, SIZE)),
    Case("6.2 before the block is whole: HEADERS", BEGUN + get(3), goaway_with(PROTOCOL)),
    Case("6.2 before the block is whole: DATA", BEGUN + data(1, b"x"), goaway_with(PROTOCOL)),
    Case("6.2 before the block is whole: PRIORITY", BEGUN + priority(3, 0), goaway_with(PROTOCOL)),
    Case("6.2 before the block is whole: PING", BEGUN + frame(T.PING, 0, 0, bytes(8)), goaway_with(PROTOCOL)),
    Case("6.2 before the block is whole: SETTINGS", BEGUN + frame(T.SETTINGS, 0, 0), goaway_with(PROTOCOL)),
    Case("6.2 before the block is whole: RST_STREAM", BEGUN + rst(1), goaway_with(PROTOCOL)),
    Case("6.3 on the connection", priority(0, 1), goaway_with(PROTOCOL)),
    Case("6.3 of 4 octets", post(1, b"/never") + frame(T.PRIORITY, 0, 1, bytes(4)), either(SIZE)),
    Case("6.3 of 6 octets", post(1, b"/never") + frame(T.PRIORITY, 0, 1, bytes(6)), either(SIZE)),
    Case("6.4 on the connection", rst(0), goaway_with(PROTOCOL)),
    Case("6.4 of 3 octets", get(1, b"/never") + frame(T.RST_STREAM, 0, 1, bytes(3)), goaway_with(SIZE)),
    Case("6.4 of 5 octets", get(1, b"/never") + frame(T.RST_STREAM, 0, 1, bytes(5)), goaway_with(SIZE)),
    Case("6.6 a client pushes", post(1, b"/never") + push_promise(1, 2, request()), goaway_with(PROTOCOL)),
    Case("6.6 a client pushes on no stream", push_promise(0, 2, request()), goaway_with(PROTOCOL)),
    Case("6.10 one octet each", frame(T.HEADERS, END_STREAM, 1)
         + b"".join(continuation(1, bytes((c,)), end=False) for c in GET[:8]) + continuation(1, GET[8:]), answered()),
    Case("6.10 empty ones", BEGUN + continuation(1, b"", end=False) + continuation(1, GET[5:]), answered()),
    Case("6.10 of trailers", post(1) + data(1, b"abc") + frame(T.HEADERS, END_STREAM, 1, b"\0\3x-")
         + continuation(1, b"t\1v"), ABC),
    Case("6.10 on the connection", BEGUN + continuation(0, GET[5:]), goaway_with(PROTOCOL)),
    Case("6.10 of another stream", BEGUN + continuation(3, GET[5:]), goaway_with(PROTOCOL)),
    Case("6.10 after a whole block", post(1) + continuation(1, b""), goaway_with(PROTOCOL)),
    Case("6.10 after a block in two", BEGUN + continuation(1, GET[5:]) + continuation(1, b""), goaway_with(PROTOCOL)),
    Case("6.10 after DATA", post(1) + data(1, b"x") + continuation(1, b""), goaway_with(PROTOCOL)),
    Case("6.10 first of all", continuation(1, GET), goaway_with(PROTOCOL)),
    Case("8.1 an unknown type between HEADERS and DATA", post(1) + frame(99, 0, 1) + data(1, b"abc", True), ABC),
)  # fmt: skip
async def test_6_stream_frames(rigs: Make, case: Case) -> None:
    await play(rigs, case)


async def test_6_4_the_origin_is_told(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(get(1, b"/hold"), get(3))
    await client.response(3)
    await client.say(rst(1))
    await client.alive()
    await s.events.wait("error")
    s.origin.released.set()
    await asyncio.sleep(0.05)
    await client.alive()
    assert client.streams.get(1, Got()) == Got(), "a stream that was reset is answered"
    await s.settled()
    assert sorted(s.endings()) == [("error", "/hold"), ("response", "/")]


async def test_6_4_in_the_middle_of_an_upload(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(post(1), data(1, b"half"), rst(1))
    await s.events.wait("error")
    await s.unharmed(client, LATER)
    await s.settled()
    assert s.origin.paths() == [b"/unharmed"]
