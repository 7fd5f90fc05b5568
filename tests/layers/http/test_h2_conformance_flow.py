"""RFC 9113 §5.2, 6.9: flow control, in both roles of the client-facing side."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from appliance.http import HTTPFlow
from tests.harness import Events, Make
from tests.layers.http.h2_frames import (
    MAX_WINDOW,
    Code,
    S,
    T,
    data,
    frame,
    get,
    headers,
    number,
    padded,
    post,
    request,
    settings,
    window,
)
from tests.layers.http.h2_kit import Case, answered, cases, either, fine, goaway_with, pattern, play, setting
from tests.layers.http.h2_peer import H2Peer

PROTOCOL, SIZE, FLOW = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.FLOW_CONTROL_ERROR
FIRST = 65535


@cases(
    Case("6.9 0 on the connection", window(0, 0), goaway_with(PROTOCOL)),
    Case("6.9 0 on a stream", post(1, b"/never") + window(1, 0), either(PROTOCOL)),
    Case("6.9 0 on a half-closed stream", get(1, b"/never") + window(1, 0), either(PROTOCOL)),
    Case("6.9 of 3 octets on the connection", frame(T.WINDOW_UPDATE, 0, 0, bytes(3)), goaway_with(SIZE)),
    Case("6.9 of 5 octets", get(1, b"/never") + frame(T.WINDOW_UPDATE, 0, 1, bytes(5)), goaway_with(SIZE)),
    Case("6.9 the reserved bit", get(1, b"/never") + frame(T.WINDOW_UPDATE, 0, 1, number(1 << 31 | 9)), fine),
    Case("6.9.1 the connection's over 2^31-1", window(0, MAX_WINDOW), goaway_with(FLOW)),
    Case("6.9.1 the connection's over 2^31-1 in two", window(0, 1 << 30) * 2, goaway_with(FLOW)),
    Case("6.9.1 the connection's at 2^31-1", window(0, MAX_WINDOW - FIRST), fine),
    Case("6.9.1 a stream's over 2^31-1", get(1, b"/never") + window(1, MAX_WINDOW), either(FLOW)),
    Case("6.9.1 a stream's over 2^31-1 in two", get(1, b"/never") + window(1, 1 << 30) * 2, either(FLOW)),
    Case("6.9.1 a stream's at 2^31-1", get(1, b"/never") + window(1, MAX_WINDOW - FIRST), fine),
    Case("6.9.2 SETTINGS take a stream over 2^31-1",
         get(1, b"/never") + window(1, MAX_WINDOW - FIRST) + settings((S.INITIAL_WINDOW_SIZE, FIRST + 1)),
         goaway_with(FLOW)),
    Case("6.9.2 SETTINGS do not change the connection's",
         settings((S.INITIAL_WINDOW_SIZE, MAX_WINDOW)) + window(0, MAX_WINDOW - FIRST), fine),
    Case("6.9 on a closed stream that was reset",
         get(1, b"/never") + frame(T.RST_STREAM, 0, 1, number(8)) + window(1, 1), fine),
    Case("6.9.1 what has no octets needs no window",
         settings((S.INITIAL_WINDOW_SIZE, 0)) + get(1, b"/none"), answered(b"", 204)),
)  # fmt: skip
async def test_6_9_window_update(rigs: Make, case: Case) -> None:
    async def want(client: H2Peer) -> None:
        await case.want(client)
        if client.goaway is None and not client.closed:
            await client.say(settings((S.INITIAL_WINDOW_SIZE, FIRST)))  # for the request that follows

    await play(rigs, case._replace(want=want))


# -- the gateway sends


async def body_so_far(client: H2Peer, stream: int, size: int) -> bytes:
    """What has come once `size` octets have, and nothing more is under way."""
    await client.until(lambda: stream in client.streams and len(client.streams[stream].body) >= size)
    await client.alive()
    await asyncio.sleep(0.02)
    await client.alive()
    return client.streams[stream].body


async def test_6_9_1_a_window_of_one(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1))
    await client.say(get(1))
    assert await body_so_far(client, 1, 1) == b"h"
    await client.say(window(1, 2))
    assert await body_so_far(client, 1, 3) == b"hel"
    await client.say(window(1, 1))
    assert await body_so_far(client, 1, 4) == b"hell"
    await client.say(window(1, 100))
    got = await client.response(1)
    assert (got.body, got.ended) == (b"hello", True)
    await s.settled()


async def test_6_9_1_the_connections_window_holds_all_streams(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1 << 20))
    await client.say(get(1, b"/big/50000"), get(3, b"/big/50000"))
    await client.until(lambda: sum(len(got.body) for got in client.streams.values()) >= FIRST)
    await client.alive()
    await asyncio.sleep(0.02)
    await client.alive()
    assert sum(len(got.body) for got in client.streams.values()) == FIRST
    await client.say(get(5, b"/none"))
    assert (await client.response(5)).status == 204  # a head is not held up
    await client.say(window(0, 1 << 20))
    for stream in (1, 3):
        assert (await client.response(stream)).body == pattern(50000)


async def test_6_9_1_a_stream_without_window_holds_nobody_up(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(window(0, 1 << 24), get(1, b"/big/1000000"))
    assert len(await body_so_far(client, 1, FIRST)) == FIRST
    for stream in range(3, 23, 2):
        await client.say(get(stream))
        assert (await client.response(stream)).body == b"hello"
    await client.say(window(1, 1 << 24))
    assert (await client.response(1)).body == pattern(1000000)


async def test_6_9_2_settings_open_the_window(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 0))
    await client.say(get(1))
    got = await client.head(1)
    await client.alive()
    assert (got.status, got.body, got.ended) == (200, b"", False)
    await client.say(settings((S.INITIAL_WINDOW_SIZE, 3)))
    assert await body_so_far(client, 1, 3) == b"hel"
    await client.say(settings((S.INITIAL_WINDOW_SIZE, 4)))
    assert await body_so_far(client, 1, 4) == b"hell"
    await client.say(window(1, 1))
    assert (await client.response(1)).body == b"hello"


async def test_6_9_2_a_window_becomes_negative(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(window(0, 1 << 20), get(1, b"/big/100000"))
    assert len(await body_so_far(client, 1, FIRST)) == FIRST
    await client.say(settings((S.INITIAL_WINDOW_SIZE, 1000)))  # now at 1000 - 65535
    await client.say(window(1, FIRST - 1000))
    assert len(await body_so_far(client, 1, FIRST)) == FIRST
    await client.say(window(1, 7))
    assert len(await body_so_far(client, 1, FIRST + 7)) == FIRST + 7
    await client.say(get(3, b"/big/2000"))
    assert len(await body_so_far(client, 3, 1000)) == 1000
    await client.say(window(1, 1 << 20), window(3, 1 << 20))
    assert (await client.response(1)).body == pattern(100000)
    assert (await client.response(3)).body == pattern(2000)


async def test_6_9_2_negative_and_opened_by_settings(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 3))
    await client.say(get(1))
    assert await body_so_far(client, 1, 3) == b"hel"
    await client.say(settings((S.INITIAL_WINDOW_SIZE, 0)), settings((S.INITIAL_WINDOW_SIZE, 2)))  # -3, then -1
    assert await body_so_far(client, 1, 3) == b"hel"
    await client.say(settings((S.INITIAL_WINDOW_SIZE, 4)))
    assert await body_so_far(client, 1, 4) == b"hell"
    await client.say(settings((S.INITIAL_WINDOW_SIZE, 100)))
    assert (await client.response(1)).body == b"hello"


@pytest.mark.parametrize("size", [None, 16384, 20000])
async def test_4_2_frames_are_no_larger_than_we_take(rigs: Make, size: int | None) -> None:
    s = await setting(rigs)
    pairs = [] if size is None else [(S.MAX_FRAME_SIZE, size)]
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1 << 20), *pairs)
    await client.say(window(0, 1 << 20), get(1, b"/big/300000"))
    got = await client.response(1)
    assert got.body == pattern(300000)
    assert max(got.pieces) <= (size or 16384)


async def test_4_2_large_heads_are_split_too(rigs: Make) -> None:
    def hook(flow: HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.headers["x-large"] = "v" * 40000

    s = await setting(rigs, None, Events(response=hook))
    client = await s.client()
    await client.say(get(1))
    assert (await client.response(1)).value(b"x-large") == b"v" * 40000
    assert all(len(got.payload) <= 16384 for got in client.frames)


# -- the gateway receives


async def test_6_9_a_large_upload(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1 << 24))
    body = pattern(3 << 20)
    await client.say(window(0, 1 << 24), post(1))
    await asyncio.wait_for(client.send_body(1, body), 20)
    got = await client.response(1, 20)
    assert len(got.body) == len(body) and got.body == body
    assert all(frame.number() for frame in client.frames if frame.type == T.WINDOW_UPDATE)


async def test_6_9_1_padding_is_given_back(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1 << 24))
    total = 2 * client._room(1)
    await client.say(post(1))
    sent = 0
    while sent < total:
        await client.until(lambda: client._room(1) >= 16384)
        await client.say(padded(1, bytes(16128), 255))
        client.windows[0] -= 16384
        client.windows[1] = client._window(1) - 16384
        sent += 16384
    await client.say(data(1, b"", True))
    await client.head(1, 20)
    assert len(s.origin.asked[0].body) == sent // 16384 * 16128


async def held(flow: HTTPFlow) -> None:
    if flow.request.path == "/held":
        await asyncio.sleep(3600)


async def test_6_9_1_a_client_that_sends_more_than_it_may(rigs: Make) -> None:
    """Nobody reads this body: a hook holds its request."""
    s = await setting(rigs, None, Events("error", "response", requestheaders=held))
    client = await s.client()
    await client.say(post(1, b"/held"))
    sent = 0
    while client.goaway is None and not client.over(1):
        assert sent < 64 << 20, "it takes in whatever is sent"
        await client.say(data(1, bytes(16384)))
        sent += 16384
        with contextlib.suppress(TimeoutError):
            await client.next(0.01)
    await client.expect_either(1, FLOW)
    await s.unharmed()


async def test_6_9_1_uploads_that_nobody_reads_leave_room(rigs: Make) -> None:
    """All streams but one are full; either it has a window still, or the connection's is smaller than theirs."""
    s = await setting(rigs, None, Events("error", "response", requestheaders=held))
    client = await s.client()
    full = range(1, 2 * client.settings[S.MAX_CONCURRENT_STREAMS] - 1, 2)
    each = client.settings[S.INITIAL_WINDOW_SIZE]
    assert len(full) * each + 65535 <= client.windows[0]
    for stream in full:
        await client.say(post(stream, b"/held"))
        client.windows[0] -= each
        client.windows[stream] = 0
        await client.say(*(data(stream, bytes(min(16384, each - at))) for at in range(0, each, 16384)))
    await client.alive()
    last = full[-1] + 2
    await client.say(post(last), window(0, 1 << 20), window(last, 1 << 20))
    await client.send_body(last, pattern(500000))
    assert (await client.response(last)).body == pattern(500000)


async def test_6_9_what_is_thrown_away_is_given_back(rigs: Make) -> None:
    """DATA of streams that were refused counts on the connection, and must come back to it (§6.9)."""
    s = await setting(rigs)
    client = await s.client()
    total, sent, stream = 2 * client.windows[0], 0, 1
    while sent < min(total, 1 << 22):
        await client.say(headers(stream, request(b"/", (b"Upper", b"1"), method=b"POST"), end=False))
        for _ in range(2):
            await client.until(lambda: client.windows[0] >= 16384)
            client.windows[0] -= 16384
            sent += 16384
            await client.say(data(stream, bytes(16384)))
        stream += 2
    await client.until(lambda: client.windows[0] >= 16384)
    await s.unharmed(client, stream)


async def test_6_9_what_the_client_aborts_is_given_back(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    total, sent, stream = 2 * client.windows[0], 0, 1
    while sent < min(total, 1 << 22):
        await client.until(lambda: client.windows[0] >= 16384)
        client.windows[0] -= 16384
        sent += 16384
        await client.say(post(stream), data(stream, bytes(16384)), frame(T.RST_STREAM, 0, stream, number(8)))
        stream += 2
    await client.until(lambda: client.windows[0] >= 16384)
    await s.unharmed(client, stream)
    await s.settled()
