"""Streams over sockets and in memory: look-ahead, waits, ends, back-pressure."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest

from appliance.net.reasons import CLOSED, KILLED, Gone, Killed, Reason, Reset, TimedOut
from appliance.net.stream import Net, Stream
from appliance.net.transport import HIGH_WATER
from tests.harness import recv_all, rst, tcp_pair, until


class Far(NamedTuple):
    """The other end, whatever it is made of."""

    write: Callable[[bytes], Awaitable[object]]
    eof: Callable[[], object]
    reset: Callable[[], object]
    read: Callable[[], Awaitable[bytes]]


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    net = Net(asyncio.get_running_loop())
    yield net
    net.pipes.close()


@pytest.fixture(params=["socket", "memory"])
async def ends(request: pytest.FixtureRequest, net: Net) -> AsyncIterator[tuple[Stream, Far]]:
    if request.param == "memory":
        near, other = Stream.pair(net)

        async def write(data: bytes) -> None:
            other.write(data)

        yield near, Far(write, other.write_eof, other.abort, other.read)
        return
    loop = asyncio.get_running_loop()
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    yield (
        near,
        Far(
            lambda data: loop.sock_sendall(b, data),
            lambda: b.shutdown(socket.SHUT_WR),
            lambda: rst(b),
            lambda: loop.sock_recv(b, 65536),
        ),
    )
    near.abort()
    b.close()


Ends = tuple[Stream, Far]


async def test_read_takes_no_more_than_asked(ends: Ends) -> None:
    near, far = ends
    await far.write(b"hello world")
    assert await near.peek(11) == b"hello world"
    assert await near.read(5) == b"hello"
    assert near.take(1) == b" "
    assert await near.read() == b"world"
    far.eof()
    assert await near.read() == b""
    assert await near.read() == b""


async def test_peek_waits_for_as_much_and_consumes_nothing(ends: Ends) -> None:
    near, far = ends
    waiting = asyncio.ensure_future(near.peek(4))
    await far.write(b"ab")
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await far.write(b"cd")
    assert await asyncio.wait_for(waiting, 5) == b"abcd"
    assert await near.read() == b"abcd"
    await far.write(b"x")
    far.eof()
    assert await asyncio.wait_for(near.peek(4), 5) == b"x", "an end stops the waiting"


async def test_more_tells_growth_from_end(ends: Ends) -> None:
    near, far = ends
    for what in (b"a", b"b"):
        waiting = asyncio.ensure_future(near.more())
        await asyncio.sleep(0)
        await far.write(what)
        assert await asyncio.wait_for(waiting, 5)
    assert near.buf == b"ab"
    far.eof()
    assert not await near.more()


async def test_reset_keeps_what_came_before(ends: Ends) -> None:
    near, far = ends
    await far.write(b"last words")
    await near.peek(10)
    far.reset()
    await until(lambda: near.why is not None)
    assert await near.read() == b"last words"
    with pytest.raises(Reset):
        await near.read()
    with pytest.raises(Reset):
        await near.drain()


async def test_abort_by_us_wakes_everybody_with_the_reason(ends: Ends) -> None:
    near, far = ends
    await far.write(b"unread")
    await near.peek(6)
    reader = asyncio.ensure_future(near.peek(100))
    await asyncio.sleep(0)
    near.abort(KILLED)
    near.abort(CLOSED)
    with pytest.raises(Killed):
        await reader
    with pytest.raises(Killed):
        await near.read()
    with pytest.raises(Killed):
        await near.drain()
    with pytest.raises(Killed):
        await near.flush()
    assert near.why is KILLED
    near.write(b"into the void")


async def test_close_after_what_is_queued(ends: Ends) -> None:
    near, far = ends
    near.write(b"x" * 1000)
    near.close()
    near.close()
    got = b""
    while data := await far.read():
        got += data
    assert len(got) == 1000
    with pytest.raises(Gone):
        await near.read()


async def test_on_gone_hears_of_the_end_and_of_the_loss(ends: Ends) -> None:
    near, far = ends
    heard: list[str] = []
    near.on_gone = lambda reason: heard.append(reason.kind)
    far.eof()
    await until(lambda: heard == ["closed"])
    far.reset()
    near.write(b"y" * 10)
    await until(lambda: near.why is not None or heard[-1] == "reset")


async def test_push_hands_all_to_the_sink_until_it_says_stop(ends: Ends) -> None:
    near, far = ends
    got = bytearray()

    def sink(data: memoryview) -> bool:
        got.extend(data[: 6 - len(got)] if len(got) + len(data) > 6 else data)
        return len(got) < 6

    await far.write(b"abc")
    await near.peek(3)
    task = asyncio.ensure_future(near.push(sink))
    await far.write(b"def")
    assert await asyncio.wait_for(task, 5) is True
    assert got == b"abcdef"
    await far.write(b"gh")
    assert await near.read() == b"gh", "reading goes on after it"
    far.eof()
    assert await near.push(lambda data: True) is False


async def test_push_delivers_what_came_before_the_reset(ends: Ends) -> None:
    near, far = ends
    await far.write(b"body")
    await near.peek(4)
    far.reset()
    await until(lambda: near.why is not None)
    got = bytearray()
    with pytest.raises(Reset):
        await near.push(lambda data: got.extend(data) is None)
    assert got == b"body"


async def test_interrupt_leaves_the_stream_usable(ends: Ends) -> None:
    near, far = ends
    for wait in (near.more, lambda: near.push(lambda data: True)):
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0.01)
        near.interrupt(Reason("timeout", "enough"))
        with pytest.raises(TimedOut, match="enough"):
            await waiting
    await far.write(b"still here")
    assert await near.read() == b"still here"


async def test_an_interrupt_that_finds_nobody_is_forgotten(ends: Ends) -> None:
    near, far = ends
    near.interrupt(Reason("timeout", "nobody waits"))
    waiting = asyncio.ensure_future(near.more())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    near.interrupt(Reason("timeout", "he who waited was cancelled"))
    await far.write(b"a")
    assert await near.read() == b"a"
    await far.write(b"b")
    assert await near.read() == b"b"


async def test_a_deadline_wakes_the_waiter_or_ends_the_stream(ends: Ends) -> None:
    near, _ = ends
    near.limit(0.0, "too slow")
    assert near.deadline
    waiting = asyncio.ensure_future(near.more())
    await asyncio.sleep(0.01)
    near.expire()
    with pytest.raises(TimedOut, match="too slow"):
        await waiting
    assert near.why is None
    assert not near.deadline
    near.limit(0.0, "nobody read")
    near.expire()
    assert near.why == Reason("timeout", "nobody read")


async def test_a_cancelled_waiter_does_not_shield_from_the_deadline(ends: Ends) -> None:
    near, _ = ends
    waiting = asyncio.ensure_future(near.more())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    near.limit(0.0, "late")
    near.expire()
    assert near.why is not None


async def test_reading_pauses_and_memory_is_bounded(net: Net) -> None:
    loop = asyncio.get_running_loop()
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    total = 20 << 20
    sending = asyncio.ensure_future(loop.sock_sendall(b, bytes(total)))
    await asyncio.sleep(0.2)
    assert not sending.done(), "the kernel's buffers cannot hold this much"
    assert HIGH_WATER < len(near.buf) < HIGH_WATER + 300_000
    got = 0
    while got < total:
        got += len(await near.read(1 << 20))
        assert len(near.buf) < HIGH_WATER + 300_000
    await sending
    near.abort()
    b.close()


async def test_a_slow_receiver_makes_the_writer_wait(net: Net) -> None:
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    written = 0
    while near.write(b"z" * 100_000):
        written += 100_000
        assert written < 50 << 20
    written += 100_000
    waiting = asyncio.ensure_future(near.drain())
    flushing = asyncio.ensure_future(near.flush())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    near.write_eof()  # goes behind what is queued
    assert len(await recv_all(b)) == written
    await waiting
    await flushing
    near.abort()
    b.close()


async def test_drain_ends_with_the_stream(net: Net) -> None:
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    while near.write(b"z" * 100_000):
        pass
    waiting = asyncio.ensure_future(near.drain())
    await asyncio.sleep(0.01)
    rst(b)
    with pytest.raises(Reset):
        await asyncio.wait_for(waiting, 5)


async def test_half_close_leaves_the_other_way_open(net: Net) -> None:
    loop = asyncio.get_running_loop()
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    b.shutdown(socket.SHUT_WR)
    assert await near.read() == b""
    near.write(b"answer")
    near.write_eof()
    assert await recv_all(b) == b"answer"
    assert near.why is None
    near.close()
    assert await loop.sock_recv(b, 1) == b""
    b.close()


async def test_detach_gives_socket_and_unread(net: Net) -> None:
    loop = asyncio.get_running_loop()
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    await loop.sock_sendall(b, b"looked at")
    await near.peek(9)
    taken = near.detach()
    assert taken is not None
    sock, unread = taken
    assert unread == b"looked at"
    await loop.sock_sendall(b, b"not yet")
    assert await loop.sock_recv(sock, 100) == b"not yet", "nobody else reads it any more"
    assert near.detach() is None
    near.close()
    sock.send(b"still open")
    assert await loop.sock_recv(b, 100) == b"still open"
    sock.close()
    b.close()


async def test_detach_not_while_writes_are_queued_nor_in_memory(net: Net) -> None:
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    while near.write(b"z" * 100_000):
        pass
    assert near.detach() is None
    near.abort()
    assert near.detach() is None
    assert Stream.pair(net)[0].detach() is None
    b.close()
