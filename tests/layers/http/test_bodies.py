"""Bodies held and changed, over a stream in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.headers import Headers
from appliance.layers.http.bodies import Held, hold, is_streaming_kind, transformed
from appliance.layers.http.h1_body import CHUNKED, EOF, Body
from appliance.layers.http.h1_fields import Refused
from appliance.net.reasons import Gone, TimedOut
from appliance.net.stream import Net, Stream


class Source:
    """A body as a codec shows it."""

    def __init__(self, stream: Stream, kind: int) -> None:
        self.body = Body(stream, kind)
        self._stream = stream

    @property
    def whole(self) -> bool:
        return self.body.whole

    async def chunk(self) -> bytes:
        return await self.body.chunk()

    def patience(self, seconds: float) -> None:
        self.body.patience = seconds
        if not seconds:
            self._stream.deadline = 0.0


@pytest.fixture
async def pair() -> tuple[Stream, Stream]:
    return Stream.pair(Net(asyncio.get_running_loop()))


Pair = tuple[Stream, Stream]


async def held(
    pair: Pair, kind: int, *pieces: bytes, over: int | None = None, limit: int | None = None, end: bool = False
) -> Held:
    near, far = pair
    task = asyncio.ensure_future(hold(Source(far, kind), over, limit))
    for piece in pieces:
        near.write(piece)
        for _ in range(3):
            await asyncio.sleep(0)
    if end:
        near.write_eof()
    return await asyncio.wait_for(task, 2)


CODED = b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"


async def test_whole(pair: Pair) -> None:
    assert await held(pair, 5, b"hello") == (b"hello", True, False)


@pytest.mark.parametrize("step", [1, 3, 100])
async def test_whole_in_segments(pair: Pair, step: int) -> None:
    pieces = [CODED[i : i + step] for i in range(0, len(CODED), step)]
    assert await held(pair, CHUNKED, *pieces, over=100, limit=8) == (b"helloyou", True, False)


async def test_to_eof(pair: Pair) -> None:
    assert await held(pair, EOF, b"hel", b"lo", end=True) == (b"hello", True, False)


async def test_empty(pair: Pair) -> None:
    assert await held(pair, CHUNKED, b"0\r\n\r\n") == (b"", True, False)
    assert await held(pair, EOF, end=True) == (b"", True, False)


async def test_over_what_is_held(pair: Pair) -> None:
    assert await held(pair, 10, b"hello", over=4) == (b"hello", False, False)
    assert pair[1].deadline == 0.0


@pytest.mark.parametrize(
    ("kind", "data"), [(10, b"hello"), (5, b"hello"), (CHUNKED, CODED), (CHUNKED, CODED[:10]), (EOF, b"hello")]
)
async def test_over_the_limit(pair: Pair, kind: int, data: bytes) -> None:
    assert (await held(pair, kind, data, over=4, limit=4)).over_limit


async def test_silence(pair: Pair) -> None:
    near, far = pair
    task = asyncio.ensure_future(hold(Source(far, 10), None, None))
    near.write(b"hello")
    await asyncio.sleep(0.01)
    assert far.deadline > 0
    far.expire()  # as the sweep does
    assert await task == (b"hello", False, False)
    assert far.why is None
    near.write(b"more")
    assert await far.read() == b"more"


async def test_bytes_in_the_last_moment(pair: Pair) -> None:
    near, far = pair
    task = asyncio.ensure_future(hold(Source(far, 10), None, None))
    near.write(b"hello")
    await asyncio.sleep(0.01)
    near.write(b"world")
    far.expire()  # the sweep comes before the task that waited
    assert await task == (b"helloworld", True, False)
    assert far.why is None


async def test_silence_at_the_start_is_none(pair: Pair) -> None:
    near, far = pair
    task = asyncio.ensure_future(hold(Source(far, 5), None, None))
    await asyncio.sleep(0.01)
    assert far.deadline == 0.0
    near.write(b"hello")
    assert (await task).whole


async def test_another_clock_is_not_silence(pair: Pair) -> None:
    near, far = pair
    task = asyncio.ensure_future(hold(Source(far, 10), None, None))
    near.write(b"hello")
    await asyncio.sleep(0.01)
    far.limit(0, "something else")
    far.expire()
    with pytest.raises(TimedOut):
        await task


@pytest.mark.parametrize("kind", [10, CHUNKED])
async def test_cut_off(pair: Pair, kind: int) -> None:
    with pytest.raises(Gone, match="middle"):
        await held(pair, kind, b"5\r\nhel", end=True)


async def test_malformed(pair: Pair) -> None:
    with pytest.raises(Refused):
        await held(pair, CHUNKED, b"+5\r\n")


async def test_bytes_behind_the_body_stay(pair: Pair) -> None:
    assert (await held(pair, CHUNKED, CODED + b"GET")).data == b"helloyou"
    assert bytes(pair[1].buf) == b"GET"
    assert (await held(pair, 2, b"xyz")).data == b"GE"
    assert bytes(pair[1].buf) == b"Txyz"


async def test_ready(pair: Pair) -> None:
    near, far = pair
    body = Body(far, 5)
    near.write(b"hell")
    assert body.ready() is None
    near.write(b"o!")
    assert (body.ready(), body.whole, bytes(far.buf)) == (b"hello", True, b"!")
    assert body.ready() == b""
    assert Body(far, CHUNKED).ready() is None


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        ("application/grpc+proto", True),
        ("multipart/x-mixed-replace; boundary=x", True),
        ("text/plain", False),
        ("multipart/form-data; boundary=x", False),
    ],
)
def test_kinds(value: str, is_one: bool) -> None:
    assert is_streaming_kind(Headers(content_type=value)) == is_one
    assert not is_streaming_kind(Headers())


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (lambda data: data, (b"x",)),
        (lambda data: [b"a", b"b"], (b"a", b"b")),
        (lambda data: iter((b"a",)), (b"a",)),
        (lambda data: (), ()),
        (None, (b"x",)),
    ],
)
def test_transformed(change: Any, made: tuple[bytes, ...]) -> None:
    assert transformed(change, b"x") == made


def test_the_end_of_an_unchanged_body_is_nothing() -> None:
    assert transformed(None, b"") == ()


def fails(data: bytes) -> bytes:
    raise ValueError("no")


@pytest.mark.parametrize(
    "change", [lambda data: "text", lambda data: None, lambda data: [1], lambda data: ["a"], fails, lambda data: 5]
)
def test_a_change_that_is_none(change: Any) -> None:
    with pytest.raises(Refused) as raised:
        transformed(change, b"x")
    assert raised.value.status == 500
    assert "stream function" in raised.value.why
