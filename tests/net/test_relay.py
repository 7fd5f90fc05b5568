"""Bytes from stream to stream in user space."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator

import pytest

from appliance.net.reasons import KILLED, Killed, Reason, Reset
from appliance.net.relay import both, pour
from appliance.net.stream import Net, Stream
from appliance.net.transport import HIGH_WATER
from tests.harness import recv_all, rst, tcp_pair, until


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    yield Net(asyncio.get_running_loop())


async def test_pour_to_the_end(net: Net) -> None:
    a, src = Stream.pair(net)
    dst, z = Stream.pair(net)
    a.write(b"already there, ")
    seen = bytearray()
    task = asyncio.ensure_future(pour(src, dst, tap=seen.extend))
    await asyncio.sleep(0)
    a.write(b"and more")
    a.write_eof()
    assert await task == 23
    assert await z.read() == b"already there, and more" == seen
    assert not z.eof, "the end is not passed on"


@pytest.mark.parametrize("limit", [0, 1, 4, 5, 9, 10])
@pytest.mark.parametrize("before", [0, 3, 5, 10])
async def test_a_limit_leaves_the_rest_unread(net: Net, limit: int, before: int) -> None:
    a, src = Stream.pair(net)
    dst, z = Stream.pair(net)
    data = b"0123456789"
    a.write(data[:before])
    task = asyncio.ensure_future(pour(src, dst, limit))
    await asyncio.sleep(0)
    a.write(data[before:])
    assert await asyncio.wait_for(task, 1) == limit
    assert bytes(z.buf) == data[:limit]
    assert await asyncio.wait_for(src.peek(10 - limit), 1) == data[limit:]
    a.write(b"next")
    assert await asyncio.wait_for(src.peek(14 - limit), 1) == data[limit:] + b"next", "reading goes on"


async def test_less_than_the_limit_when_the_source_ends(net: Net) -> None:
    a, src = Stream.pair(net)
    dst, _ = Stream.pair(net)
    a.write(b"abc")
    a.write_eof()
    assert await pour(src, dst, 10) == 3


async def test_a_lost_source(net: Net) -> None:
    a, src = Stream.pair(net)
    dst, z = Stream.pair(net)
    task = asyncio.ensure_future(pour(src, dst))
    await asyncio.sleep(0)
    a.write(b"abc")
    a.abort()
    with pytest.raises(Reset):
        await task
    assert bytes(z.buf) == b"abc"


@pytest.mark.parametrize("when", ["before", "while waiting"])
async def test_a_lost_receiver_ends_it_although_the_source_is_silent(net: Net, when: str) -> None:
    _a, src = Stream.pair(net)
    dst, z = Stream.pair(net)
    if when == "before":
        z.abort()
    task = asyncio.ensure_future(pour(src, dst))
    await asyncio.sleep(0.01)
    z.abort()
    with pytest.raises(Reset):
        await asyncio.wait_for(task, 1)
    assert src.why is None
    assert dst.on_gone is None


async def test_a_receiver_that_is_killed_by_the_first_piece(net: Net) -> None:
    a, src = Stream.pair(net)
    dst, _ = Stream.pair(net)
    a.write(b"one")
    task = asyncio.ensure_future(pour(src, dst, tap=lambda data: dst.abort(KILLED)))
    with pytest.raises(Killed):
        await asyncio.wait_for(task, 1)


async def test_the_receivers_own_end_does_not_disturb(net: Net) -> None:
    a, src = Stream.pair(net)
    dst, z = Stream.pair(net)
    heard: list[Reason] = []
    dst.on_gone = heard.append
    task = asyncio.ensure_future(pour(src, dst))
    await asyncio.sleep(0)
    z.write_eof()
    a.write(b"goes on")
    a.write_eof()
    assert await task == 7
    assert len(heard) == 1, "who listened before still hears it"


async def test_a_slow_receiver_pauses_the_source(net: Net) -> None:
    loop = asyncio.get_running_loop()
    (a, b), (c, d) = tcp_pair(), tcp_pair()
    src, dst = Stream.over_socket(net, b), Stream.over_socket(net, c)
    total = 30 << 20
    sending = asyncio.ensure_future(loop.sock_sendall(a, bytes(total)))
    pouring = asyncio.ensure_future(pour(src, dst, total))
    await asyncio.sleep(0.3)
    assert not sending.done()
    held = len(src.buf) + len(dst.below._out or b"")  # type: ignore[attr-defined]
    assert held < 1 << 20
    got = 0
    while got < total:
        got += len(await loop.sock_recv(d, 1 << 20))
    await sending
    assert await pouring == total
    src.abort()
    dst.abort()
    a.close()
    d.close()


async def test_both_ways_with_half_closes(net: Net) -> None:
    (a, b), (c, d) = tcp_pair(), tcp_pair()
    loop = asyncio.get_running_loop()
    counts = [0, 0]
    task = asyncio.ensure_future(both(Stream.over_socket(net, b), Stream.over_socket(net, c), counts))
    await loop.sock_sendall(a, b"question")
    a.shutdown(1)
    assert await recv_all(d) == b"question"
    await loop.sock_sendall(d, b"a longer answer")
    d.shutdown(1)
    assert await recv_all(a) == b"a longer answer"
    await asyncio.wait_for(task, 2)
    assert counts == [8, 15]


async def test_both_ways_end_with_a_reset(net: Net) -> None:
    (a, b), (c, d) = tcp_pair(), tcp_pair()
    left, right = Stream.over_socket(net, b), Stream.over_socket(net, c)
    task = asyncio.ensure_future(both(left, right, [0, 0]))
    await asyncio.sleep(0.01)
    rst(a)
    with pytest.raises(Reset):
        await asyncio.wait_for(task, 2)
    await until(lambda: left.why is not None)
    assert right.why is None
    right.abort()
    d.close()


async def test_both_ways_at_once_with_slow_receivers(net: Net) -> None:
    (a, b), (c, d) = tcp_pair(), tcp_pair()
    loop, counts, heard = asyncio.get_running_loop(), [0, 0], [0, 0]

    def hear(from_a: bool, data: object) -> None:
        heard[from_a] += len(data)  # type: ignore[arg-type]

    task = asyncio.ensure_future(both(Stream.over_socket(net, b), Stream.over_socket(net, c), counts, hear))
    there, back = random.Random(1).randbytes(6 << 20), random.Random(2).randbytes(9 << 20)

    async def say(sock: socket.socket, data: bytes) -> None:
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    async def slowly(sock: socket.socket) -> bytes:
        got = bytearray()
        while data := await loop.sock_recv(sock, 1 << 16):
            got += data
            if len(got) % 11 == 0:
                await asyncio.sleep(0.01)
        return bytes(got)

    _, _, there_got, back_got = await asyncio.wait_for(
        asyncio.gather(say(a, there), say(d, back), slowly(d), slowly(a)), 30
    )
    assert there_got == there and back_got == back
    await asyncio.wait_for(task, 2)
    assert counts == [len(there), len(back)] == heard[::-1]
    a.close()
    d.close()


async def test_what_was_there_before_goes_first_although_the_other_side_is_full(net: Net) -> None:
    a, near = Stream.pair(net)
    far, z = Stream.pair(net)
    z._pause()
    a.write(bytes(HIGH_WATER * 3))
    a.write_eof()
    await asyncio.sleep(0)
    task = asyncio.ensure_future(both(near, far, [0, 0]))
    await asyncio.sleep(0.01)
    assert not task.done()
    got = 0
    while data := await z.read():
        got += len(data)
    assert got == HIGH_WATER * 3
    z.write_eof()
    await asyncio.wait_for(task, 1)


@pytest.mark.parametrize("lost", ["its own", "the other"])
async def test_a_loss_after_a_half_close(net: Net, lost: str) -> None:
    a, near = Stream.pair(net)
    far, z = Stream.pair(net)
    earlier: list[Reason] = []
    far.on_gone = earlier.append
    task = asyncio.ensure_future(both(near, far, [0, 0]))
    a.write_eof()
    await asyncio.sleep(0.01)
    (a if lost == "its own" else z).abort()
    with pytest.raises(Reset):
        await asyncio.wait_for(task, 1)
    assert bool(earlier) == (lost == "the other")


async def test_an_interrupt_ends_both_and_leaves_the_streams_usable(net: Net) -> None:
    a, near = Stream.pair(net)
    far, z = Stream.pair(net)
    task = asyncio.ensure_future(both(near, far, [0, 0]))
    await asyncio.sleep(0.01)
    far.interrupt(KILLED)
    with pytest.raises(Killed):
        await asyncio.wait_for(task, 1)
    assert near.on_gone is far.on_gone is None
    a.write(b"later")
    assert await near.read() == b"later"
    far.write(b"too")
    assert await z.read() == b"too"


async def test_a_relay_that_is_cancelled_lets_go(net: Net) -> None:
    a, near = Stream.pair(net)
    far, _ = Stream.pair(net)
    task = asyncio.ensure_future(both(near, far, [0, 0]))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    a.write(b"for somebody else")
    assert await near.read() == b"for somebody else"
    assert near.on_gone is far.on_gone is None


async def test_who_never_reads_costs_no_more_while_the_other_way_goes_on(net: Net) -> None:
    a, near = Stream.pair(net)
    far, z = Stream.pair(net)
    task = asyncio.ensure_future(both(near, far, [0, 0]))
    z._pause()
    a.write(bytes(HIGH_WATER * 3))
    await asyncio.sleep(0.01)
    for _ in range(20):
        z.write(bytes(HIGH_WATER * 3))
        await asyncio.sleep(0)
        got = 0
        while got < HIGH_WATER * 3:
            got += len(await a.read(1 << 20))
            await asyncio.sleep(0)
    waiting = far._drain
    assert waiting is not None and len(waiting._callbacks or ()) == 1  # type: ignore[attr-defined]
    a.write_eof()
    z.write_eof()
    while await z.read(1 << 20):
        pass
    await asyncio.wait_for(task, 1)
