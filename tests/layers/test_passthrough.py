"""Connections that are passed: byte for byte, in the kernel where it can be, and their ends."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import pytest

from tests.harness import Events, Make, Peer, answering, descriptors, echo, until

PASS: dict[str, Any] = {"ignore_hosts": [".*"]}


@pytest.mark.parametrize("first", [b"", b"looked at, ", b"\x16", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n"])
async def test_prefix_and_rest_arrive_in_order(rigs: Make, first: bytes) -> None:
    rig = await rigs(Events(), **PASS)
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    data = os.urandom(3 << 20)
    if first:
        await client.say(first)
        await asyncio.sleep(0.02)
    client.write(data)
    client.eof()
    assert await client.rest() == first + data
    await rig.idle()


async def test_counts_and_verdict(rigs: Make) -> None:
    rig = await rigs(events := Events(), **PASS)
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    await client.say(b"12345")
    assert await client.exactly(5) == b"12345"
    handler = next(iter(rig.worker.handlers))
    assert handler.splice is not None
    client.eof()
    await client.rest()
    done = await events.wait("client_disconnected")
    assert handler.moved == done.passed == (5, 5)
    assert done.verdict.action == "pass"
    assert events.names == [
        "client_connected",
        "server_connect",
        "server_connected",
        "server_disconnected",
        "client_disconnected",
    ]
    assert rig.worker.totals.passed == 1


async def test_no_descriptor_is_left(rigs: Make) -> None:
    rig = await rigs(**PASS)
    listener = await rig.transparent(await rig.origin(echo))
    gc.collect()
    before = descriptors()
    for how in range(12):
        client = await rig.connect(listener)
        await client.say(b"hello")
        await client.exactly(5)
        if how % 3 == 0:
            client.reset()
        elif how % 3 == 1:
            client.eof()
            await client.rest()
        await client.close()
    await rig.idle()
    kept = 2 * len(rig.worker.net.pipes._free)
    await until(lambda: descriptors() - kept <= before, 3, "descriptors leak")


async def test_a_client_reset(rigs: Make) -> None:
    told: list[str] = []

    async def origin(peer: Peer) -> None:
        try:
            await peer.rest()
            told.append("end")
        except ConnectionResetError:
            told.append("reset")
            raise

    rig = await rigs(events := Events(), **PASS)
    client = await rig.connect(await rig.transparent(await rig.origin(origin)))
    await client.say(b"hello")
    await events.wait("server_connected")
    await until(lambda: next(iter(rig.worker.handlers)).splice)
    client.reset()
    await events.wait("client_disconnected")
    await until(lambda: told == ["reset"])
    assert "server_disconnected" in events.names


@pytest.mark.parametrize("first", [b"", b"\x01 hello"])
@pytest.mark.parametrize("options", [PASS, {"tcp_hosts": [".*"]}, {}], ids=["pass", "tcp", "decrypt"])
async def test_a_client_reset_while_its_server_is_dialled(
    rigs: Make, deaf: int, options: dict[str, Any], first: bytes
) -> None:
    """Nobody waits for that server any more. decrypt: it is dialled for a silent client, or as raw TCP."""
    rig = await rigs(events := Events(), **options)
    listener = await rig.transparent(("127.0.0.1", deaf))
    before = descriptors()
    client = await rig.connect(listener)
    if first:
        await client.say(first)
    await events.wait("server_connect")
    await asyncio.sleep(0.05)
    client.reset()
    await rig.idle(2)
    assert events.names[-2:] == (["tcp_error"] if "tcp_start" in events.names else ["server_connect_error"]) + [
        "client_disconnected"
    ]
    assert events.names.count("server_connect_error") == 1
    for flow in events.of("tcp_error"):
        assert flow.error.msg == "connection reset by peer"
    await until(lambda: descriptors() <= before, 3, "descriptors leak")


async def test_a_half_close_while_the_server_is_dialled_is_no_leaving(rigs: Make) -> None:
    rig = await rigs(events := Events(server_connect=lambda data: asyncio.sleep(0.1)), **PASS)
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    await events.wait("server_connect")
    await client.say(b"all of it")
    client.eof()
    assert await client.rest() == b"all of it"


async def test_unreachable(rigs: Make) -> None:
    rig = await rigs(events := Events(), **PASS)
    client = await rig.connect(await rig.transparent(("127.0.0.1", 1)))
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await events.wait("client_disconnected")
    assert events.names == ["client_connected", "server_connect", "server_connect_error", "client_disconnected"]


async def test_idle_connections_end(rigs: Make) -> None:
    rig = await rigs(events := Events("client_disconnected"), **PASS)
    rig.worker.settings.idle_timeout = 0.3
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    for _ in range(8):  # what moves is not idle
        await client.say(b"tick")
        await client.exactly(4)
        await asyncio.sleep(0.1)
    assert not events.names
    await events.wait("client_disconnected", seconds=3)


async def test_in_user_space_out_of_memory_streams(rigs: Make) -> None:
    """A client that has no socket: relayed, with the same counts and half-closes."""
    rig = await rigs(**PASS)
    near, task = rig.memory(await rig.origin(echo))
    near.write(b"hello")
    handler = next(iter(rig.worker.handlers), None)
    assert await near.peek(5) == b"hello"
    handler = next(iter(rig.worker.handlers))
    assert handler.splice is None
    near.write_eof()
    near.take(5)
    assert await near.read() == b""
    await asyncio.wait_for(task, 3)
    assert handler.moved == (5, 5)


async def test_bytes_pipelined_behind_connect_are_passed(rigs: Make) -> None:
    rig = await rigs(ignore_hosts=["127"])
    origin = await rig.origin(answering(b"body"))
    client = await rig.connect(await rig.regular())
    to = f"127.0.0.1:{origin[1]}"
    await client.say(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b" 200 " in await client.head()
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert rig.worker.totals.passed == 1
