"""RFC 9113 §3.4, 4, 5.4, 5.5, 6.5, 6.7, 6.8, 7: what concerns a connection as a whole."""

from __future__ import annotations

import asyncio
import gc

import pytest

from appliance.layers.http.h2_session import Fault
from tests.harness import Make
from tests.layers.http.h2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTINGS_ACK,
    Code,
    S,
    T,
    block,
    data,
    frame,
    get,
    goaway,
    number,
    ping,
    post,
    request,
    rst,
    settings,
)
from tests.layers.http.h2_kit import Case, answered, cases, either, fine, goaway_with, play, setting
from tests.layers.http.h2_peer import H2Peer

R = 1 << 31  # the reserved bit of stream identifiers and increments
PROTOCOL, SIZE, FLOW = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.FLOW_CONTROL_ERROR
GET, ABC = block(request()), answered(b"abc")


def over(client: H2Peer) -> int:
    """One octet more than a frame may have."""
    return client.settings.get(S.MAX_FRAME_SIZE, 16384) + 1


# -- 3.4 the preface


async def test_3_4_settings_come_first(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.bare()
    await client.say(PREFACE)
    first = await client.next()
    assert first is not None and (first.type, first.flags, first.stream) == (T.SETTINGS, 0, 0)


async def test_3_4_requests_need_not_wait_for_settings(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.bare()
    await client.say(PREFACE, settings(), get(1))
    assert (await client.response(1)).body == b"hello"


async def test_3_4_preface_octet_by_octet(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.bare()
    for octet in PREFACE + settings() + get(1):
        await client.say(bytes((octet,)))
        await asyncio.sleep(0)
    assert (await client.response(1)).body == b"hello"


@pytest.mark.parametrize(
    "start",
    [
        b"INVALID CONNECTION PREFACE\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings(),
        b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n",
        settings() + PREFACE,
    ],
    ids=["other text", "wrong end", "HTTP/1", "SETTINGS before it"],
)
async def test_3_4_wrong_preface_after_alpn_h2(rigs: Make, start: bytes) -> None:
    s = await setting(rigs, tls=True)
    client = await s.bare()
    await client.say(start)
    await client.expect_close()
    assert client.goaway is None or client.goaway[1] == PROTOCOL
    assert not client.streams
    await s.unharmed()


async def test_3_4_wrong_end_of_the_preface_in_the_clear(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.bare()
    await client.say(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", settings(), get(1))
    got = await asyncio.wait_for(client.peer.reader.read(), 10)
    assert b"hello" not in got
    assert s.origin.asked == []
    await s.unharmed()


@pytest.mark.parametrize("first", [ping(), get(1), b"\0\0\0\xfe\0\0\0\0\0"], ids=["PING", "HEADERS", "unknown"])
async def test_3_4_something_else_than_settings_after_the_preface(rigs: Make, first: bytes) -> None:
    s = await setting(rigs)
    client = await s.bare()
    await client.say(PREFACE, first, settings())
    await client.expect_goaway(PROTOCOL)
    assert s.origin.asked == []
    await s.unharmed()


async def test_3_4_nothing_after_the_preface(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.bare()
    await client.say(PREFACE)
    await client.next()
    client.peer.eof()
    await client.expect_close()
    assert client.goaway is None or client.goaway[1] in (Code.NO_ERROR, PROTOCOL)
    await s.rig.idle()


# -- tables


@cases(
    Case("4.1 unknown type on the connection", frame(0xFE, 0xFF, 0, b"whatever"), fine),
    Case("4.1 unknown type on an idle stream", frame(0xFE, 0xFF, 1, b"whatever"), fine),
    Case("4.1 unknown type on an open stream", post(1) + frame(254, 0, 1, b"x") + data(1, b"abc", True), ABC),
    Case("4.1 unused flags of PING", frame(T.PING, 0xFE, 0, b"liveness"), fine),
    Case("4.1 unused flags of SETTINGS", frame(T.SETTINGS, 0xFE, 0), fine),
    Case("4.1 unused flags of HEADERS", frame(T.HEADERS, 0xFF & ~PADDED & ~PRIORITY, 1, GET), answered()),
    Case("4.1 unused flags of DATA", post(1) + frame(T.DATA, 0xFF & ~PADDED, 1, b"abc"), ABC),
    Case("4.1 unused flags of WINDOW_UPDATE", frame(T.WINDOW_UPDATE, 0xFF, 0, number(1)), fine),
    Case("4.1 unused flags of RST_STREAM", get(1, b"/never") + frame(T.RST_STREAM, 0xFF, 1, number(8)), fine),
    Case("4.1 unused flags of GOAWAY", get(1) + frame(T.GOAWAY, 0xFF, 0, bytes(8)), answered(), False),
    Case("4.1 reserved bit of PING", frame(T.PING, 0, R, b"liveness"), fine),
    Case("4.1 reserved bit of HEADERS", frame(T.HEADERS, END_HEADERS | END_STREAM, R | 1, GET), answered()),
    Case("4.1 reserved bit of DATA", post(1) + frame(T.DATA, END_STREAM, R | 1, b"abc"), ABC),
    Case("4.2 DATA of 2^14 octets", post(1) + data(1, b"x" * 16384, True), answered(b"x" * 16384)),
    Case("4.2 DATA too large", lambda c: post(1) + data(1, bytes(over(c))), either(SIZE)),
    Case("4.2 HEADERS too large", lambda c: get(1, b"/", (b"x-large", b"a" * over(c))), goaway_with(SIZE)),
    Case(
        "4.2 CONTINUATION too large",
        lambda c: frame(T.HEADERS, END_STREAM, 1, GET) + frame(T.CONTINUATION, 0, 1, bytes(over(c))),
        goaway_with(SIZE),
    ),
    Case("4.2 SETTINGS too large", lambda c: frame(T.SETTINGS, 0, 0, bytes(over(c) // 6 * 6 + 6)), goaway_with(SIZE)),
    Case("4.2 PING too large", lambda c: frame(T.PING, 0, 0, bytes(over(c))), goaway_with(SIZE)),
    Case("4.2 unknown type too large", lambda c: frame(0xFE, 0, 0, bytes(over(c))), goaway_with(SIZE)),
    Case("5.4.2 RST_STREAM is not answered", get(1, b"/never") + rst(1) + rst(1), fine),
    Case("5.5 unknown setting", settings((0xFACE, 1), (0xFFFF, 0xFFFFFFFF)), fine),
    Case(
        "5.5 unknown type in a header block",
        frame(T.HEADERS, END_STREAM, 1, GET) + frame(0xFE, 0, 1) + frame(T.CONTINUATION, END_HEADERS, 1),
        goaway_with(PROTOCOL),
    ),
)  # fmt: skip
async def test_4_5_frames(rigs: Make, case: Case) -> None:
    s = await play(rigs, case)
    if case.want is fine:
        assert b"/" not in s.origin.paths()


@cases(
    Case("6.5 ACK with a payload", frame(T.SETTINGS, ACK, 0, bytes(6)), goaway_with(SIZE)),
    Case("6.5 ACK nobody waits for", SETTINGS_ACK, fine),
    Case("6.5 on a stream", frame(T.SETTINGS, 0, 1), goaway_with(PROTOCOL)),
    Case("6.5 ACK on a stream", frame(T.SETTINGS, ACK, 1), goaway_with(PROTOCOL)),
    Case("6.5 on an open stream", post(1, b"/never") + frame(T.SETTINGS, 0, 1), goaway_with(PROTOCOL)),
    Case("6.5 of 5 octets", frame(T.SETTINGS, 0, 0, bytes(5)), goaway_with(SIZE)),
    Case("6.5 of 7 octets", frame(T.SETTINGS, 0, 0, bytes(7)), goaway_with(SIZE)),
    Case("6.5 empty", settings(), fine),
    Case("6.5.2 ENABLE_PUSH 2", settings((S.ENABLE_PUSH, 2)), goaway_with(PROTOCOL)),
    Case("6.5.2 ENABLE_PUSH 0 and 1", settings((S.ENABLE_PUSH, 1), (S.ENABLE_PUSH, 0)), fine),
    Case("6.5.2 INITIAL_WINDOW_SIZE 2^31", settings((S.INITIAL_WINDOW_SIZE, 1 << 31)), goaway_with(FLOW)),
    Case("6.5.2 INITIAL_WINDOW_SIZE 2^31-1", settings((S.INITIAL_WINDOW_SIZE, (1 << 31) - 1)), fine),
    Case("6.5.2 MAX_FRAME_SIZE 2^14-1", settings((S.MAX_FRAME_SIZE, 16383)), goaway_with(PROTOCOL)),
    Case("6.5.2 MAX_FRAME_SIZE 2^24", settings((S.MAX_FRAME_SIZE, 1 << 24)), goaway_with(PROTOCOL)),
    Case("6.5.2 MAX_FRAME_SIZE 2^24-1", settings((S.MAX_FRAME_SIZE, (1 << 24) - 1)), fine),
    Case("6.5.2 MAX_CONCURRENT_STREAMS 0", settings((S.MAX_CONCURRENT_STREAMS, 0)) + get(1), answered()),
    Case("6.5.2 HEADER_TABLE_SIZE 2^32-1", settings((S.HEADER_TABLE_SIZE, 0xFFFFFFFF)) + get(1), answered()),
    Case("6.5.2 MAX_HEADER_LIST_SIZE 2^32-1", settings((S.MAX_HEADER_LIST_SIZE, 0xFFFFFFFF)) + get(1), answered()),
    Case("6.7 ACK nobody waits for", ping(b"unwanted", ACK), fine),
    Case("6.7 on a stream", frame(T.PING, 0, 1, bytes(8)), goaway_with(PROTOCOL)),
    Case("6.7 of 6 octets", frame(T.PING, 0, 0, bytes(6)), goaway_with(SIZE)),
    Case("6.7 of 9 octets", frame(T.PING, 0, 0, bytes(9)), goaway_with(SIZE)),
    Case("6.7 empty", frame(T.PING, 0, 0), goaway_with(SIZE)),
    Case("6.8 on a stream", frame(T.GOAWAY, 0, 1, bytes(8)), goaway_with(PROTOCOL)),
    Case("6.8 of 7 octets", frame(T.GOAWAY, 0, 0, bytes(7)), goaway_with(SIZE)),
    Case("6.8 what is under way is finished", post(1) + goaway() + data(1, b"abc", True), ABC, False),
    Case("6.8 with debug data", get(1) + goaway(0, Code.NO_ERROR, b"bye" * 100), answered(), False),
    Case("7 unknown code in RST_STREAM", get(1, b"/never") + rst(1, 0xFE), fine),
    Case("7 unknown code in GOAWAY", get(1) + goaway(0, 0xFE), answered(), False),
)  # fmt: skip
async def test_6_connection_frames(rigs: Make, case: Case) -> None:
    await play(rigs, case)


# -- what takes more than one step


async def test_4_2_too_large_is_said_before_the_payload_came(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(post(1), frame(T.DATA, 0, 1, b"only this", length=(1 << 24) - 1))
    await client.expect_either(1, SIZE)
    await s.unharmed()


async def test_5_4_1_goaway_names_the_last_stream_and_closes(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(get(1), get(3))
    await client.response(1)
    await client.response(3)
    await client.say(frame(T.PING, 0, 0, b"short"))
    await client.expect_goaway(SIZE, last=3)


async def test_5_4_1_nothing_is_done_after_a_connection_error(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(frame(T.PING, 0, 0, b"short"), get(1))
    await client.expect_goaway(SIZE)
    assert s.origin.asked == [] and s.events.names == []


async def test_5_4_1_a_connection_error_keeps_no_traceback(rigs: Make) -> None:
    """It holds a view of what came; CPython 3.11's collector crashes on one in a circle (gh-77894)."""
    s = await setting(rigs)
    gc.collect()
    gc.disable()
    try:
        client = await s.client()
        await client.say(frame(T.PING, 0, 0, b"short"))
        await client.expect_goaway(SIZE)
        await client.peer.close()
        await s.rig.idle()
        kept = [found for found in gc.get_objects() if isinstance(found, Fault) and found.__traceback__ is not None]
        assert not kept
    finally:
        gc.enable()


async def test_5_4_3_cut_off_in_the_middle_of_a_frame(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(get(1, b"/never"), get(3, b"/cut")[:-5])
    client.peer.reset()
    await s.rig.idle()
    await s.settled()
    assert s.origin.asked == [] or s.origin.paths() == [b"/never"]
    await s.unharmed()


@pytest.mark.parametrize("count", [1, 5])
async def test_6_5_3_each_is_acknowledged(rigs: Make, count: int) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(settings((S.INITIAL_WINDOW_SIZE, 70000)) * count)
    await client.until(lambda: client.settings_acks == 1 + count)
    await client.alive()
    assert client.settings_acks == 1 + count


async def test_6_5_3_values_count_in_order(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1), (S.INITIAL_WINDOW_SIZE, 3))
    await client.say(get(1))
    await client.until(lambda: 1 in client.streams and client.streams[1].body)
    await client.alive()
    assert client.streams[1].body == b"hel"


async def test_6_5_3_a_client_that_never_acknowledges(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.bare()
    client.acks = False
    await client.say(PREFACE, settings(), get(1))
    assert (await client.response(1)).body == b"hello"  # SETTINGS_TIMEOUT may come, but not so soon


async def test_6_7_opaque_data_comes_back_in_order(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    marks = [b"%08d" % n for n in range(5)]
    await client.say(*map(ping, marks))
    await client.until(lambda: len(client.pongs) == 5)
    assert client.pongs == marks


async def test_6_8_no_new_stream_after_ones_own_goaway_is_needed_for_the_end(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(get(1, b"/hold"), goaway())
    await client.alive()
    s.origin.released.set()
    assert (await client.response(1)).body == b"hello"
    client.peer.eof()
    await client.expect_close()
    await s.rig.idle()
