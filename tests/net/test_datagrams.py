from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from appliance.net.datagrams import (
    MAX_BYTES,
    MAX_DATAGRAMS,
    Datagrams,
    MemoryDatagrams,
    SharedDatagrams,
    SocketDatagrams,
    dial_udp,
)
from appliance.net.dial import DialError, Refused
from appliance.net.guard import LoopGuard
from appliance.net.reasons import KILLED, Gone, Killed, Reason, Reset, TimedOut
from appliance.net.unreachable import Unreachable, checksum, message4, message6
from tests.harness import descriptors


def bound(family: int = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    sock.settimeout(5)
    return sock


@pytest.fixture
def far() -> Iterator[socket.socket]:
    with bound() as sock:
        yield sock


async def connected(far: socket.socket) -> SocketDatagrams:
    loop = asyncio.get_running_loop()
    sock = await dial_udp(loop, far.getsockname(), LoopGuard(), 5)
    near = sock.getsockname()
    far.connect(near)
    return SocketDatagrams(loop, sock)


def pair() -> tuple[MemoryDatagrams, MemoryDatagrams]:
    return MemoryDatagrams.pair(asyncio.get_running_loop())


async def collect(datagrams: Datagrams, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += await datagrams.receive()
    return found


# -- what all have in common


async def test_batches_keep_boundaries_and_order_and_empty_datagrams() -> None:
    a, b = pair()
    a.send([b"one", b"", b"three"])
    a.send([b"four"])
    assert await b.receive() == [b"one", b"", b"three", b"four"]
    waiting = asyncio.ensure_future(b.receive())
    await asyncio.sleep(0)
    assert not waiting.done()
    a.send([b""])
    assert await waiting == [b""]
    assert (b.received, b.dropped) == (5, 0)


async def test_unread_goes_to_the_front() -> None:
    a, b = pair()
    a.send([b"hello", b"more"])
    looked_at = await b.receive()
    a.send([b"later"])
    b.unread(looked_at)
    assert await b.receive() == [b"hello", b"more", b"later"]
    b.unread([b"again"])
    assert await b.receive() == [b"again"]


async def test_inbox_is_bounded_in_datagrams() -> None:
    a, b = pair()
    a.send([b"%d" % i for i in range(MAX_DATAGRAMS + 10)])
    assert await b.receive() == [b"%d" % i for i in range(MAX_DATAGRAMS)]
    assert (b.received, b.dropped) == (MAX_DATAGRAMS + 10, 10)
    a.send([b"room again"])
    assert await b.receive() == [b"room again"]


async def test_inbox_is_bounded_in_bytes() -> None:
    a, b = pair()
    a.send([bytes(60000)] * 30)
    held = await b.receive()
    assert len(held) == MAX_BYTES // 60000
    assert b.dropped == 30 - len(held)
    b.unread(held)
    a.send([bytes(60000)])
    assert await b.receive() == held  # what was put back takes its room


async def test_close_ends_the_other_side() -> None:
    a, b = pair()
    a.send([b"last"])
    a.close()
    a.send([b"not sent"])
    assert await b.receive() == [b"last"]
    assert await b.receive() == []
    assert await b.receive() == []
    with pytest.raises(Gone):
        await a.receive()


async def test_abort_wakes_the_waiter_and_drops_what_came() -> None:
    a, b = pair()
    waiting = asyncio.ensure_future(a.receive())
    await asyncio.sleep(0)
    a.abort(KILLED)
    a.abort(Reason("closed", "second"))
    with pytest.raises(Killed):
        await waiting
    b2, c = pair()
    c.send([b"unseen"])
    b2.abort(KILLED)
    with pytest.raises(Killed):
        await b2.receive()
    assert await b.receive() == []


async def test_deadline() -> None:
    a, _ = pair()
    a.limit(1, "no answer in time")
    assert a.deadline > 0
    waiting = asyncio.ensure_future(a.receive())
    await asyncio.sleep(0)
    a.expire()
    with pytest.raises(TimedOut, match="no answer in time"):
        await waiting
    assert a.deadline == 0


async def test_reject_in_memory_is_a_reset() -> None:
    a, b = pair()
    b.reject()
    with pytest.raises(Reset):
        await a.receive()


async def test_cancelled_receive_loses_nothing() -> None:
    a, b = pair()
    waiting = asyncio.ensure_future(b.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    a.send([b"kept"])
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await b.receive() == [b"kept"]


# -- over a socket


async def test_socket_both_ways(far: socket.socket) -> None:
    near = await connected(far)
    near.stirred = False
    near.send([b"one", b"", b"x" * 20000])
    assert near.stirred
    assert [far.recv(65535) for _ in range(3)] == [b"one", b"", b"x" * 20000]
    near.stirred = False
    for i in range(200):
        far.send(b"%d" % i)
    assert await collect(near, 200) == [b"%d" % i for i in range(200)]
    assert near.stirred
    near.close()


async def test_refused_port_is_a_reset_on_receive_and_on_send(far: socket.socket) -> None:
    near = await connected(far)
    far.close()
    near.send([b"anybody?"])
    with pytest.raises(Reset, match="unreachable"):
        async with asyncio.timeout(5):
            await near.receive()
    near.send([b"ignored"])
    assert near.why is not None and near.why.kind == "reset"


async def test_refusal_seen_by_a_send(far: socket.socket) -> None:
    near = await connected(far)
    far.close()
    near.send([b"anybody?", b"nobody", b"not even tried"])
    assert near.why is not None and near.why.kind == "reset"


async def test_too_long_is_dropped_and_the_flow_lives(far: socket.socket) -> None:
    near = await connected(far)
    near.send([bytes(65508), b"fits"])
    assert far.recv(100) == b"fits"
    assert (near.dropped, near.why) == (1, None)
    near.close()


async def test_flood_is_bounded(far: socket.socket) -> None:
    near = await connected(far)
    sent = 0
    while near.received < 2 * MAX_DATAGRAMS:  # nobody receives
        for _ in range(100):
            far.send(b"flood")
        sent += 100
        await asyncio.sleep(0)
        assert sent < 100_000
    assert len(await near.receive()) == MAX_DATAGRAMS
    assert near.dropped >= MAX_DATAGRAMS
    near.close()


async def test_nothing_is_left_open(far: socket.socket) -> None:
    before = descriptors()
    for why in (Reason("closed", "done"), KILLED):
        (await connected(far)).abort(why)
    (await connected(far)).close()
    assert descriptors() == before


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_dial_literal(family: int) -> None:
    with bound(family) as far:
        with await dial_udp(asyncio.get_running_loop(), far.getsockname()[:2], LoopGuard(), 5) as sock:
            sock.send(b"hello")
        assert far.recv(10) == b"hello"


async def test_dial_name_and_source(far: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with await dial_udp(loop, ("localhost", far.getsockname()[1]), LoopGuard(), 5, "127.0.0.2") as sock:
        assert sock.getsockname()[0] == "127.0.0.2"
        sock.send(b"hello")
    assert far.recv(10) == b"hello"


async def test_dial_faults() -> None:
    loop = asyncio.get_running_loop()
    guard = LoopGuard()
    guard.listening(("127.0.0.1", 8080))
    before = descriptors()
    with pytest.raises(Refused, match="gateway itself"):
        await dial_udp(loop, ("127.0.0.1", 8080), guard, 5)
    with pytest.raises(Refused, match="metadata"):
        await dial_udp(loop, ("169.254.169.254", 80), guard, 5)
    with pytest.raises(DialError, match="cannot be resolved"):
        await dial_udp(loop, ("nowhere.invalid", 53), guard, 5)
    with pytest.raises(DialError, match=r"127\.0\.0\.1:9: "):
        await dial_udp(loop, ("127.0.0.1", 9), guard, 5, "192.0.2.1")
    with pytest.raises(DialError, match="nosuchif"):
        await dial_udp(loop, ("fe80::1%nosuchif", 9), guard, 5)
    assert descriptors() == before


# -- over a listener's socket


async def test_shared() -> None:
    said: list[bytes] = []
    ends: list[Reason] = []
    refusals: list[None] = []

    def reply(data: bytes) -> None:
        if data == b"fails":
            raise OSError("no room")
        said.append(data)

    flow = SharedDatagrams(
        asyncio.get_running_loop(), None, reply, refuse=lambda: refusals.append(None), over=ends.append
    )
    flow.arrived(b"question")
    assert await flow.receive() == [b"question"]
    flow.send([b"answer", b"fails", b"more"])
    flow.reject()
    flow.close(why=KILLED)
    flow.abort()
    flow.send([b"too late"])
    flow.arrived(b"too late")
    assert (said, ends, len(refusals)) == ([b"answer", b"more"], [KILLED], 1)
    assert (flow.dropped, flow.received) == (1, 1)
    with pytest.raises(Killed):
        await flow.receive()


# -- ICMP


def test_unreachable_messages() -> None:
    message = message4(("192.0.2.1", 4000), ("198.51.100.7", 53))
    assert message[:2] == b"\3\3"
    assert checksum(message) == checksum(message[8:28]) == b"\0\0"  # they sum to zero with their checksum in
    assert message[20:28] == socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.7")
    assert message[28:] == b"\x0f\xa0\0\x35\0\x08\0\0"
    message = message6(("2001:db8::1", 4000, 0, 0), ("2001:db8::2", 53))
    assert message[:2] == b"\1\4"
    assert message[16:32] == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert message[48:] == b"\x0f\xa0\0\x35\0\x08\0\0"


async def test_unreachable_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def refuse(*args: object, **kw: object) -> socket.socket:
        tried.append(args)
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    unreachable = Unreachable()
    for _ in range(200):
        assert not unreachable.tell(("192.0.2.1", 4000), ("198.51.100.7", 53))
    assert 50 <= len(tried) < 100
    tried.clear()
    await asyncio.sleep(0.1)
    unreachable.tell(("192.0.2.1", 4000), ("198.51.100.7", 53))
    assert len(tried) == 1
