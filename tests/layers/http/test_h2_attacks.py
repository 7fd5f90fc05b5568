"""HTTP/2 attacks: each ends in a bounded reaction, while another client is served, and nothing stays behind.

What is cheap for the gateway may be endured; what makes it work or remember is answered by ENHANCE_YOUR_CALM or the
like. tests/lab/test_h2.py measures memory and processor time of a gateway in its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

import pytest

from tests.harness import Events, Make, until
from tests.layers.http.h2_frames import (
    PREFACE,
    Code,
    S,
    T,
    block,
    continuation,
    data,
    frame,
    get,
    goaway,
    headers,
    literal,
    ping,
    post,
    priority,
    request,
    rst,
    settings,
    window,
)
from tests.layers.http.h2_kit import Scripted, Setting, good, setting
from tests.layers.http.h2_peer import H2Peer

CALM = Code.ENHANCE_YOUR_CALM
MB = 1 << 20


def rss() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@contextlib.contextmanager
def bounded(mb: int = 48, seconds: float = 10.0) -> Iterator[None]:
    """Memory may grow by so much (attacker and gateway share a process), and it may take so long."""
    gc.collect()
    before, start = rss(), time.monotonic()
    yield
    took, grown = time.monotonic() - start, (rss() - before) // MB
    assert took < seconds, f"it took {took:.1f} s"
    assert grown < mb, f"memory grew by {grown} MB"


@contextlib.asynccontextmanager
async def bystander(s: Setting) -> AsyncIterator[list[float]]:
    """Another client on another connection, asking all the time; how long each of its requests took."""
    client = await s.client()
    took: list[float] = []
    over = asyncio.Event()

    async def ask() -> None:
        stream = 1
        while not over.is_set():
            start = time.monotonic()
            await client.say(get(stream, b"/bystander"))
            got = await client.response(stream)
            assert (got.status, got.body) == (200, b"hello"), f"{got}; {client}"
            took.append(time.monotonic() - start)
            stream += 2
            await asyncio.sleep(0.01)

    task = asyncio.ensure_future(ask())
    yield took
    over.set()
    await task
    assert took and max(took) < 3, f"others wait {max(took):.1f} s"


async def flood(client: H2Peer, parts: Iterator[bytes], batch: int = 16384) -> None:
    """Send it all, reading meanwhile, until the connection ends."""
    held = bytearray()
    for part in parts:
        held += part
        if len(held) >= batch:
            await client.say(bytes(held))
            held.clear()
            with contextlib.suppress(TimeoutError):
                while client.goaway is None and not client.closed:
                    await client.next(0.0005)
            if client.goaway is not None or client.closed:
                return
    await client.say(bytes(held))


class Attack(NamedTuple):
    """must: it has to be answered by the end of the connection; else it may be endured."""

    name: str
    parts: Callable[[], Iterator[bytes]]
    must: bool
    codes: tuple[Code, ...] = (CALM,)


def rapid_reset() -> Iterator[bytes]:
    for stream in range(1, 20001, 2):
        yield get(stream, b"/never") + rst(stream)


def made_to_reset() -> Iterator[bytes]:
    """CVE-2025-8671: the server is made to reset the streams itself."""
    for stream in range(1, 20001, 2):
        yield get(stream, b"/never") + window(stream, 0)


def malformed() -> Iterator[bytes]:
    for stream in range(1, 40001, 2):
        yield headers(stream, [*request(), (b"Upper", b"1")])


def continuations(size: int, count: int) -> Callable[[], Iterator[bytes]]:
    def parts() -> Iterator[bytes]:
        yield frame(T.HEADERS, 1, 1, block(request()))
        piece = literal(b"x", b"v" * (size - 6)) if size else b""
        for _ in range(count):
            yield continuation(1, piece, end=False)

    return parts


def hpack_bomb() -> Iterator[bytes]:
    """4 kB in the table, then 16 000 references of one octet: 64 MB."""
    yield headers(1, block(request()) + literal(b"x-b", b"v" * 4000, 0x40) + b"\xbe" * 12000)
    for stream in range(3, 100, 2):
        yield headers(stream, block(request()) + b"\xbe" * 16000)


def many(count: int, part: bytes, first: bytes = b"") -> Callable[[], Iterator[bytes]]:
    def parts() -> Iterator[bytes]:
        yield first
        for _ in range(count):
            yield part

    return parts


ATTACKS = [
    Attack("rapid reset", rapid_reset, True),
    Attack("made to reset", made_to_reset, True, (CALM, Code.PROTOCOL_ERROR)),
    Attack("malformed requests", malformed, True),
    Attack("CONTINUATION without end", continuations(16000, 2000), True, (CALM, Code.PROTOCOL_ERROR)),
    Attack("CONTINUATION of 10 octets", continuations(10, 100000), True, (CALM, Code.PROTOCOL_ERROR)),
    Attack("empty CONTINUATION", continuations(0, 100000), True, (CALM, Code.PROTOCOL_ERROR)),
    Attack("HPACK bomb", hpack_bomb, False, (CALM, Code.PROTOCOL_ERROR, Code.COMPRESSION_ERROR)),
    Attack("SETTINGS", many(20000, settings((S.INITIAL_WINDOW_SIZE, 70000))), False),
    Attack("empty SETTINGS", many(30000, settings()), False),
    Attack("SETTINGS of 2700 values", many(200, settings(*[(S.INITIAL_WINDOW_SIZE, n) for n in range(2700)])), False),
    Attack("PING", many(30000, ping()), False),
    Attack("WINDOW_UPDATE", many(50000, window(0, 1)), False, (CALM, Code.FLOW_CONTROL_ERROR)),
    Attack("WINDOW_UPDATE of a stream", many(50000, window(1, 1), get(1, b"/never")), False),
    Attack("empty DATA", many(50000, data(1), post(1, b"/never")), True),
    Attack("empty padded DATA", many(20000, frame(T.DATA, 8, 1, b"\0"), post(1, b"/never")), False),
    Attack("PRIORITY", many(50000, priority(1, 3)), False),
    Attack("PRIORITY of idle streams", lambda: (priority(n, 0) for n in range(1, 60000, 2)), False),
    Attack("unknown frames", many(50000, frame(0xFE, 0, 0, b"x")), False),
    Attack("empty trailers", lambda: (post(n) + headers(n, b"") for n in range(1, 10000, 2)), False),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name.replace(" ", "-") for attack in ATTACKS])
async def test_floods(rigs: Make, attack: Attack) -> None:
    s = await setting(rigs)
    async with bystander(s):
        client = await s.client()
        with bounded():
            await flood(client, attack.parts())
            if not attack.must:
                with contextlib.suppress(AssertionError):
                    await client.alive()
            if attack.must or client.goaway is not None or client.closed:
                await client.expect_goaway(*attack.codes)
        await client.peer.close()
    await s.unharmed()
    await s.settled()
    await until(lambda: len(s.rig.worker.handlers) <= 1, what="the attacker's connection stays")


async def test_rapid_reset_makes_few_flows(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await flood(client, rapid_reset())
    await client.expect_goaway(CALM)
    assert len(s.events.of("requestheaders")) < 2000
    assert s.origin.connections < 500


async def test_cancelling_is_no_attack(rigs: Make) -> None:
    """A page that is left while it loads: 90 requests under way are cancelled, three times."""
    s = await setting(rigs)
    client = await s.client()
    for first in (1, 201, 401):
        streams = range(first, first + 180, 2)
        await client.say(*(get(stream, b"/hold") for stream in streams))
        await client.alive()
        await client.say(*map(rst, streams))
        await client.alive()
        await asyncio.sleep(0.1)
    await s.unharmed(client, 801)


async def test_a_client_that_never_reads(rigs: Make) -> None:
    """Every PING wants an answer; when nobody fetches them, they must not pile up here."""
    s = await setting(rigs)
    reader, writer = await asyncio.open_connection(*s.gate[:2], limit=1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(PREFACE + settings())
    flood_of = ping() * 4096
    with bounded(mb=64):
        blocked = 0
        for _ in range(600):  # 40 MB of PING
            writer.write(flood_of)
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except (TimeoutError, OSError):
                blocked += 1
                break
        assert blocked, "40 MB of answers have piled up"
    await s.unharmed()
    writer.transport.abort()
    del reader
    await s.rig.idle()


@pytest.mark.parametrize("window_size", [0, 100])
async def test_zero_window(rigs: Make, window_size: int) -> None:
    """Bodies that nobody takes stay at the origin; only what fits into windows and buffers is here."""
    s = await setting(rigs, None, Events("requestheaders", "error"))
    client = await s.client((S.INITIAL_WINDOW_SIZE, window_size))
    async with bystander(s):
        with bounded(mb=160):  # the origin, in this process, makes them all
            await client.say(*(get(stream, b"/big/1000000") for stream in range(1, 101, 2)))
            await client.alive()
            await asyncio.sleep(0.5)
            await client.alive()
    assert all(len(got.body) == window_size for got in client.streams.values())
    await client.peer.close()
    await until(lambda: not any(flow.live for flow in s.events.of("requestheaders")))
    assert len(s.events.of("error")) == 50


async def test_zero_window_stall_does_not_last(rigs: Make) -> None:
    """A client that lives but takes nothing loses its stream after tcp_timeout."""
    s = await setting(rigs, tcp_timeout=1)
    client = await s.client((S.INITIAL_WINDOW_SIZE, 0))
    await client.say(get(1))
    end = time.monotonic() + 8
    while time.monotonic() < end and not client.over(1) and client.goaway is None:
        await client.say(ping())
        with contextlib.suppress(TimeoutError):
            await client.next(0.2)
    assert client.over(1) or client.goaway is not None
    await s.settled()


@pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE, PREFACE + settings() + frame(T.HEADERS, 1, 1, b"\x82"),
                                  PREFACE + settings() + get(1)[:12]],
                         ids=["nothing", "half a preface", "no SETTINGS", "half a block", "half a frame"])  # fmt: skip
async def test_slow_starts(rigs: Make, sent: bytes) -> None:
    s = await setting(rigs, client_header_timeout=1, tcp_timeout=2)
    client = await s.bare()
    await client.say(sent)
    await client.expect_close(8)
    await s.rig.idle()
    await s.unharmed()


async def test_completed_streams_leave_nothing(rigs: Make) -> None:
    s = await setting(rigs, None, Events("error"))
    client = await s.client((S.INITIAL_WINDOW_SIZE, 1 << 20))
    await client.say(window(0, 1 << 24))

    async def round_of(first: int) -> None:
        streams = range(first, first + 100, 2)
        await client.say(*(get(stream) for stream in streams))
        for stream in streams:
            assert (await client.response(stream)).status == 200
        for end in (client, *s.origin.h2):
            end.streams.clear()
            end.frames.clear()
            end.windows = {0: end.windows[0]}
        s.origin.asked.clear()
        s.origin.begun.clear()

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    for n in range(20):
        await round_of(1 + 100 * n)
    before = objects()
    for n in range(20, 60):
        await round_of(1 + 100 * n)
    grown = objects() - before
    assert grown < 1000, f"2000 streams left {grown} objects"


# -- by a server


def endless_block(server: H2Peer, stream: int) -> bytes:
    piece = literal(b"x", b"v" * 16000)
    return frame(T.HEADERS, 0, stream, b"\x88") + continuation(stream, piece, end=False) * 500


def bomb(server: H2Peer, stream: int) -> bytes:
    return headers(stream, b"\x88" + literal(b"x-b", b"v" * 4000, 0x40) + b"\xbe" * 12000, end=False)


BY_SERVERS: dict[str, Callable[[H2Peer, int], bytes]] = {
    "CONTINUATION": endless_block,
    "empty CONTINUATION": lambda s, n: frame(T.HEADERS, 0, n, b"\x88") + continuation(n, b"", end=False) * 20000,
    "HPACK bomb": bomb,
    "empty DATA": lambda s, n: headers(n, b"\x88", end=False) + data(n) * 30000,
    "1xx without end": lambda s, n: headers(n, [(b":status", b"103")], end=False) * 20000,
    "SETTINGS": lambda s, n: settings() * 30000 + good(n),
    "PING": lambda s, n: ping() * 30000 + good(n),
    "RST_STREAM over and over": lambda s, n: rst(n) * 10000,
    "GOAWAY over and over": lambda s, n: goaway(n) * 10000 + good(n),
    "endless trailers": lambda s, n: good(n)[:-14] + frame(T.HEADERS, 1, n) + continuation(n, b"", end=False) * 20000,
}


@pytest.mark.parametrize("kind", BY_SERVERS)
async def test_servers_that_attack(rigs: Make, kind: str) -> None:
    origin = Scripted(BY_SERVERS[kind])
    s = await setting(rigs, origin, tls=True)
    client = await s.client()
    with bounded(mb=64):
        await client.say(get(1, b"/bad"))
        got = await client.response(1)
        assert got.status in (200, 502) or got.reset is not None
    await s.unharmed(client)
    await client.peer.close()
    await s.settled()
    assert len(s.endings()) == 2
