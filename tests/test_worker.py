"""What connections share: faults stay where they are, limits hold, clocks go on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from appliance.connection import Client
from appliance.layers.base import Layer
from tests.harness import Events, Make, Peer, answering, cpu, descriptors, echo, until

GET = b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n"


class Faulty(Layer):
    async def run(self, client: Any) -> None:
        raise ZeroDivisionError("a fault of ours")


async def test_a_fault_harms_only_its_own_connection(rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
    rig = await rigs(Events("client_connected"))
    client = await rig.connect(await rig.transparent(await rig.origin(answering())))
    await client.say(GET)
    await client.head()
    await client.exactly(5)
    near, task = rig.memory(("127.0.0.1", 1), Faulty)
    await asyncio.wait_for(task, 1)
    assert near.eof or near.why
    assert "a fault of ours" in caplog.text
    await client.say(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 200")


async def test_a_fault_in_one_clock_does_not_stop_the_others(
    rigs: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await rigs(events := Events("client_disconnected"))
    rig.worker.settings.idle_timeout = 0.2
    listener = await rig.transparent(await rig.origin(echo))
    first = await rig.connect(listener)
    await first.say(b"\x00")
    await first.exactly(1)
    handler = next(iter(rig.worker.handlers))
    monkeypatch.setattr(handler, "streams", None, raising=True)
    second = await rig.connect(listener)
    await second.say(b"\x00")
    await events.wait("client_disconnected", seconds=3)
    assert "clock" in caplog.text
    handler.streams = set()


async def test_the_limit_holds_back_and_lets_go(rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
    rig = await rigs(max_connections=8)
    listener = await rig.transparent(await rig.origin(answering()))
    clients = [await rig.connect(listener) for _ in range(30)]
    for client in clients:
        client.write(GET)
    for client in clients[:8]:
        assert (await client.head()).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.05)
    assert len(rig.worker.handlers) == 8
    assert sum(bool(client.reader._buffer) for client in clients[8:]) == 0  # type: ignore[attr-defined]
    for client in clients[:8]:
        await client.close()
    for client in clients[8:]:
        assert (await client.head()).startswith(b"HTTP/1.1 200")
        assert len(rig.worker.handlers) <= 8
        await client.close()
    told = [r for r in caplog.records if "max_connections" in r.getMessage()]
    assert len(told) == 1, "not once for each connection"


async def test_waiting_for_room_costs_nothing(rigs: Make) -> None:
    rig = await rigs(max_connections=8)
    listener = await rig.transparent(await rig.origin(echo))
    clients = [await rig.connect(listener) for _ in range(20)]
    for client in clients:
        await client.say(b"\x00")
    await asyncio.sleep(0.1)
    with cpu() as used:
        await asyncio.sleep(0.5)
        assert used() < 0.02


async def test_nothing_is_left_after_many(rigs: Make) -> None:
    rig = await rigs()
    origin = await rig.origin(answering())
    listener = await rig.transparent(origin)
    proxy = await rig.regular()

    async def visit(i: int) -> None:
        if i % 2:
            client = await rig.connect(listener)
            await client.say(GET)
        else:
            client = await rig.connect(proxy)
            await client.say(b"GET http://origin.test:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % origin[1])
        assert (await client.head()).startswith(b"HTTP/1.1 200")
        if i % 3:
            await client.close()
        else:
            client.reset()

    await visit(0)
    await visit(1)
    await rig.idle()
    before = descriptors()
    for _ in range(5):
        await asyncio.gather(*[visit(i) for i in range(10)])
    await rig.idle()
    await until(lambda: descriptors() <= before, 3, "descriptors leak")
    assert rig.worker.totals.connections == 52


async def test_distrust_is_told_once_a_name(rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    worker = (await rigs()).worker
    client = Client(peername=("192.0.2.9", 1), sockname=None)
    for _ in range(20):
        worker.distrusted(client, "a.test", "unknown_ca")
        worker.distrusted(client, "b.test", "unknown_ca")
    assert 2 <= len(caplog.records) <= 4
    assert "192.0.2.9" in caplog.text
    assert "--ignore-hosts" in caplog.text


async def test_options_change_while_running(rigs: Make) -> None:
    rig = await rigs()
    rig.options.update(tcp_timeout=5, ignore_hosts=["x"], allow_metadata_addresses=True)
    assert rig.worker.settings.idle_timeout == 5
    assert rig.worker.settings.policy.active
    assert rig.worker.guard.allow_metadata


async def test_a_slow_client_bounds_what_is_held_for_it(rigs: Make) -> None:
    """64 MB to somebody who does not read: the origin is made to wait."""
    sent = 0

    async def origin(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        while sent < 64 << 20:
            await peer.say(bytes(1 << 18))
            sent += 1 << 18

    rig = await rigs()
    client = await rig.connect(await rig.transparent(await rig.origin(origin)))
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.say(GET)
    await asyncio.sleep(0.5)
    assert 0 < sent < 32 << 20
    held = sum(len(s.buf) + len(getattr(s.below, "_out", None) or b"") for s in next(iter(rig.worker.handlers)).streams)
    assert held < 2 << 20
