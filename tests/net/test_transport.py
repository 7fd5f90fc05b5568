"""The socket under a stream: last words, lingering, resets, slow receivers at the end."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator

import pytest
import uvloop

from appliance.net import transport
from appliance.net.reasons import CLOSED, Reset
from appliance.net.stream import Net, Stream
from appliance.net.transport import reason_of
from tests.harness import descriptors, recv_all, rst, tcp_pair, until


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    yield Net(asyncio.get_running_loop())


async def test_an_answer_before_the_reset_is_read_although_writing_fails(net: Net) -> None:
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    near.below.pause()  # as if the loop had not come round to it yet
    b.send(b"413 too much")
    rst(b)
    await asyncio.sleep(0.02)
    near.write(b"body" * 1000)
    near.write(b"body" * 1000)
    assert near.why is None, "never within write()"
    assert near.detach() is None
    await until(lambda: near.why is not None)
    assert await near.read() == b"413 too much"
    with pytest.raises(Reset):
        await near.read()


async def test_queued_writes_that_fail_are_lost_with_the_stream(net: Net) -> None:
    before = descriptors()
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    while near.write(b"z" * 100_000):
        pass
    rst(b)
    await until(lambda: near.why is not None)
    assert near.why is not None
    assert near.why.kind == "reset"
    assert near.below.free
    assert descriptors() == before


async def test_abort_is_a_reset(net: Net) -> None:
    a, b = tcp_pair()
    Stream.over_socket(net, a).abort()
    with pytest.raises(ConnectionResetError):
        await recv_all(b)
    b.close()


async def test_close_with_linger_survives_what_the_peer_still_sends(net: Net) -> None:
    """Closing with unread bytes would make the kernel reset, and the peer might never see the answer."""
    loop = asyncio.get_running_loop()
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    near.below.pause()
    await loop.sock_sendall(b, b"more than anybody wants" * 1000)
    near.write(b"400 go away")
    near.close(linger=True)
    await asyncio.sleep(0.05)
    await loop.sock_sendall(b, b"and more")
    assert await recv_all(b) == b"400 go away"
    b.close()


async def test_lingering_ends_with_the_peer_and_after_a_while(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LINGER_SECONDS", 0.1)
    before = descriptors()
    a, b = tcp_pair()
    Stream.over_socket(net, a).close(linger=True)
    assert descriptors() == before + 2
    b.close()
    await until(lambda: descriptors() == before, 0.09)
    a, b = tcp_pair()
    Stream.over_socket(net, a).close(linger=True)
    await until(lambda: descriptors() == before + 1, 2, "our end is closed although the peer does nothing")
    b.close()


async def test_lingering_does_not_swallow_for_ever(net: Net) -> None:
    loop = asyncio.get_running_loop()
    a, b = tcp_pair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)  # else the kernel alone may take all of it
    b.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
    Stream.over_socket(net, a).close(linger=True)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await asyncio.wait_for(loop.sock_sendall(b, bytes(8 << 20)), 1.5)
    b.close()


@pytest.mark.parametrize("linger", [False, True])
async def test_a_slow_receiver_gets_all_of_it(net: Net, monkeypatch: pytest.MonkeyPatch, linger: bool) -> None:
    monkeypatch.setattr(transport, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(transport, "FAREWELL_SECONDS", 0.15)
    loop = asyncio.get_running_loop()
    a, b = tcp_pair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    near = Stream.over_socket(net, a)
    data = bytes(range(256)) * 4000
    near.write(data)
    near.close(linger=linger)
    got = bytearray()
    while part := await loop.sock_recv(b, 40_000):
        got += part
        await asyncio.sleep(0.01)
    assert got == data
    b.close()


async def test_a_receiver_that_takes_nothing_is_given_up(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(transport, "FAREWELL_SECONDS", 0.1)
    before = descriptors()
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    near.write(bytes(10 << 20))
    near.close()
    await until(lambda: descriptors() == before + 1, 2)
    b.close()


async def test_eof_does_not_spin(net: Net) -> None:
    a, b = tcp_pair()
    near = Stream.over_socket(net, a)
    b.shutdown(socket.SHUT_WR)
    assert await near.read() == b""
    loop = asyncio.get_running_loop()
    start, wall = time.process_time(), loop.time()
    await asyncio.sleep(0.3)
    assert time.process_time() - start < 0.1 * (loop.time() - wall)
    near.abort()
    b.close()


def test_a_reset_along_with_the_last_bytes_is_noticed_on_uvloop() -> None:
    async def main() -> tuple[bytes, str]:
        net = Net(asyncio.get_running_loop())
        a, b = tcp_pair()
        near = Stream.over_socket(net, a)
        b.send(b"bytes")
        rst(b)
        await asyncio.sleep(0.05)
        near.below.look()  # as the sweep does for every stream that something came from
        await until(lambda: near.why is not None, 1)
        assert near.why is not None
        return await near.read(), near.why.kind

    assert uvloop.run(main()) == (b"bytes", "reset")


def test_reasons() -> None:
    assert reason_of(OSError(errno.ECONNRESET, "x")).kind == "reset"
    assert reason_of(OSError(errno.EPIPE, "x")).kind == "reset"
    assert reason_of(OSError(errno.ETIMEDOUT, "x")).kind == "timeout"
    assert reason_of(OSError(errno.EBADF, "x")) is CLOSED
    assert reason_of(OSError(errno.EHOSTUNREACH, "No route to host")).text == "No route to host"
