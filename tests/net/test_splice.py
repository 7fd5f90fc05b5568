"""Pass-through in the kernel: integrity, half-closes, resets, slow receivers, descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from appliance.net.reasons import CLOSED, KILLED, Reason
from appliance.net.splice import Pipes, Splice
from appliance.net.transport import queued
from tests.harness import cpu, descriptors, recv_all, rst, tcp_pair, until


@pytest.fixture
async def pipes() -> AsyncIterator[Pipes]:
    gc.collect()
    before = descriptors()
    pipes = Pipes(asyncio.get_running_loop())
    yield pipes
    pipes.close()
    await until(lambda: descriptors() <= before, 2, "descriptors are left open")


class Passed(NamedTuple):
    client: socket.socket
    server: socket.socket
    splice: Splice
    task: asyncio.Task[Reason]

    async def end(self) -> Reason:
        reason = await asyncio.wait_for(self.task, 5)
        self.client.close()
        self.server.close()
        return reason


def passed(pipes: Pipes, small: bool = False, **eof: bool) -> Passed:
    (client, ours), (theirs, server) = tcp_pair(), tcp_pair()
    if small:
        for sock in (client, ours, theirs, server):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    splice = Splice(pipes, ours, theirs)
    return Passed(client, server, splice, asyncio.ensure_future(splice.run(**eof)))


async def test_half_close_from_the_client_first(pipes: Pipes) -> None:
    p, loop = passed(pipes), asyncio.get_running_loop()
    await loop.sock_sendall(p.client, b"question")
    p.client.shutdown(socket.SHUT_WR)
    assert await recv_all(p.server) == b"question"
    await loop.sock_sendall(p.server, b"answer")
    p.server.shutdown(socket.SHUT_WR)
    assert await recv_all(p.client) == b"answer"
    assert await p.end() is CLOSED
    assert p.splice.moved == (8, 6)


async def test_half_close_from_the_server_first(pipes: Pipes) -> None:
    p, loop = passed(pipes), asyncio.get_running_loop()
    await loop.sock_sendall(p.server, b"banner")
    p.server.shutdown(socket.SHUT_WR)
    assert await recv_all(p.client) == b"banner"
    await loop.sock_sendall(p.client, b"late words")
    p.client.shutdown(socket.SHUT_WR)
    assert await recv_all(p.server) == b"late words"
    assert await p.end() is CLOSED


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_side_that_ended_before(pipes: Pipes, who: str) -> None:
    p = passed(pipes, **{f"{who}_eof": True})
    other = p.server if who == "client" else p.client
    assert await recv_all(other) == b"", "it is told"
    other.send(b"go on")
    other.shutdown(socket.SHUT_WR)
    assert await recv_all(p.client if who == "client" else p.server) == b"go on"
    assert await p.end() is CLOSED


async def test_both_ended_before(pipes: Pipes) -> None:
    p = passed(pipes, client_eof=True, server_eof=True)
    assert await recv_all(p.client) == await recv_all(p.server) == b""
    assert await p.end() is CLOSED


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_is_passed_on(pipes: Pipes, who: str) -> None:
    p = passed(pipes)
    p.client.send(b"hello")
    await until(lambda: p.splice.moved[0] == 5)
    rst(p.client if who == "client" else p.server)
    reason = await asyncio.wait_for(p.task, 5)
    assert reason.kind == "reset"
    other = p.server if who == "client" else p.client
    if who == "client":
        assert await asyncio.get_running_loop().sock_recv(other, 10) == b"hello"
    with pytest.raises(ConnectionResetError):
        await recv_all(other)
    other.close()


async def test_a_reset_is_passed_on_to_one_who_is_being_written_to(pipes: Pipes) -> None:
    p, loop = passed(pipes, small=True), asyncio.get_running_loop()
    sending = asyncio.ensure_future(loop.sock_sendall(p.server, bytes(4 << 20)))
    await asyncio.sleep(0.05)
    rst(p.client)
    reason = await asyncio.wait_for(p.task, 5)
    assert reason.kind == "reset"
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await asyncio.wait_for(sending, 5)
    p.server.close()


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_behind_what_was_not_read_yet_is_no_end(pipes: Pipes, who: str) -> None:
    """Who reads late gets all that was said, and hears that it was not all."""
    p, loop = passed(pipes, small=True), asyncio.get_running_loop()
    says, reads = (p.client, p.server) if who == "client" else (p.server, p.client)
    data = bytes(range(250)) * 160
    await loop.sock_sendall(says, data)
    await until(lambda: sum(p.splice.moved) == len(data))
    assert queued(p.splice._socks[who == "client"])
    rst(says)
    assert (await asyncio.wait_for(p.task, 5)).kind == "reset"
    got = b""
    with pytest.raises(ConnectionResetError):
        while part := await asyncio.wait_for(loop.sock_recv(reads, 1000), 5):
            got += part
    assert got == data
    reads.close()


async def test_last_words_before_a_reset_come_across(pipes: Pipes) -> None:
    """A server that refuses an upload: its answer must not be lost because writing to it fails first."""
    for _ in range(20):
        p, loop = passed(pipes, small=True), asyncio.get_running_loop()
        sending = asyncio.ensure_future(loop.sock_sendall(p.client, bytes(1 << 20)))
        await asyncio.sleep(0.005)
        p.server.send(b"413 no")
        rst(p.server)
        assert await asyncio.wait_for(loop.sock_recv(p.client, 100), 5) == b"413 no"
        assert (await asyncio.wait_for(p.task, 5)).kind == "reset"
        await asyncio.gather(sending, return_exceptions=True)
        p.client.close()


async def test_ten_megabytes_arrive_as_they_were(pipes: Pipes) -> None:
    p, loop = passed(pipes), asyncio.get_running_loop()
    up, down = random.Random(1).randbytes(10 << 20), random.Random(2).randbytes(10 << 20)

    async def say(sock: socket.socket, data: bytes) -> None:
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    _, _, got_up, got_down = await asyncio.gather(
        say(p.client, up), say(p.server, down), recv_all(p.server), recv_all(p.client)
    )
    assert got_up == up
    assert got_down == down
    assert p.splice.moved == (len(up), len(down))
    assert await p.end() is CLOSED


async def test_a_slow_receiver_holds_the_sender_and_gets_all(pipes: Pipes) -> None:
    p, loop = passed(pipes, small=True), asyncio.get_running_loop()
    data = os.urandom(3 << 20)
    sending = asyncio.ensure_future(loop.sock_sendall(p.server, data))
    await asyncio.sleep(0.2)
    assert not sending.done()
    with cpu() as used:
        await asyncio.sleep(0.3)
        assert used() < 0.05, "waiting costs nothing"
    got = bytearray()
    while len(got) < len(data):
        got += await loop.sock_recv(p.client, 65536)
    assert got == data
    await sending
    p.client.close()
    p.server.close()
    await asyncio.wait_for(p.task, 5)


async def test_idle_connections_hold_no_pipes(pipes: Pipes) -> None:
    before = open_pipes()
    many = [passed(pipes) for _ in range(20)]
    for p in many:
        p.client.send(b"ping")
    await until(lambda: all(p.splice.moved[0] == 4 for p in many))
    assert open_pipes() <= before + 2
    for p in many:
        p.client.shutdown(socket.SHUT_WR)
        p.server.shutdown(socket.SHUT_WR)
    for p in many:
        assert await p.end() is CLOSED
    assert len(pipes._free) == 1, "one pipe has served all, and went back also at the end"


def open_pipes() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
    return found


async def test_killed_at_once(pipes: Pipes) -> None:
    p, loop = passed(pipes, small=True), asyncio.get_running_loop()
    sending = asyncio.ensure_future(loop.sock_sendall(p.server, bytes(4 << 20)))
    await asyncio.sleep(0.05)
    p.splice.fail(KILLED)
    p.splice.fail(CLOSED)
    assert await asyncio.wait_for(p.task, 5) is KILLED
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await sending
    with pytest.raises(ConnectionResetError):
        await recv_all(p.client)
    p.client.close()
    p.server.close()


async def test_cancelled(pipes: Pipes) -> None:
    p = passed(pipes)
    await asyncio.sleep(0.01)
    p.task.cancel()
    await asyncio.gather(p.task, return_exceptions=True)
    assert p.splice._socks[0].fileno() == p.splice._socks[1].fileno() == -1
    p.client.close()
    p.server.close()


async def test_the_pool_is_bounded(pipes: Pipes) -> None:
    taken = [pipes.take() for _ in range(Pipes.KEEP + 5)]
    assert len(set(taken)) == len(taken)
    for pipe in taken:
        pipes.give(pipe)
    assert len(pipes._free) == Pipes.KEEP
