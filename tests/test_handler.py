"""One connection's life: its own events, clocks, ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.layers.base import Layer
from appliance.net.reasons import TimedOut
from appliance.net.stream import Stream
from tests.harness import Events, Make, answering, echo, until

GET = b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n"


async def test_client_error_blocks(rigs: Make) -> None:
    def refuse(client: Any) -> None:
        client.error = "not from here"

    rig = await rigs(events := Events(client_connected=refuse))
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await events.wait("client_disconnected")
    assert events.names == ["client_connected", "client_disconnected"]
    assert events.of("client_disconnected")[0].verdict.action == "block"
    assert rig.worker.totals.blocked == 1
    assert rig.served == 0


@pytest.mark.parametrize("how", ["raises", "killed", "reset", "eof", "fault"])
async def test_client_disconnected_always_fires(rigs: Make, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(argument: Any) -> None:
        if how == "raises":
            raise RuntimeError("add-on")
        if how == "killed":
            argument.kill()

    rig = await rigs(events := Events("client_connected", "request", "client_disconnected", request=hook))
    if how == "fault":
        monkeypatch.setattr("appliance.layers.modes.TransparentProxy.run", None)
    client = await rig.connect(await rig.transparent(await rig.origin(answering())))
    client.write(GET)
    if how == "reset":
        await events.wait("request")
        client.reset()
    else:
        client.eof()
    done = await events.wait("client_disconnected")
    await rig.idle()
    assert events.names[-1] == "client_disconnected"
    assert events.names.count("client_disconnected") == 1
    assert done.timestamp_end >= done.timestamp_start
    assert not done.connected


async def test_a_disconnect_hook_that_hangs_does_not_leave_servers_open(rigs: Make) -> None:
    rig = await rigs(events := Events(client_disconnected=lambda client: asyncio.sleep(60)))
    client = await rig.connect(await rig.transparent(await rig.origin(answering())))
    await client.say(GET)
    await client.head()
    handler = next(iter(rig.worker.handlers))
    streams = list(handler.streams)
    assert len(streams) == 2
    client.reset()
    await events.wait("client_disconnected")
    handler.cancel()
    await rig.idle()
    assert all(stream.why for stream in streams)


class Waits(Layer):
    """Waits for a byte, under a deadline."""

    outcome: asyncio.Queue[str]

    async def run(self, client: Any) -> None:
        assert isinstance(client, Stream)
        client.limit(0.7, "no byte came")
        try:
            if self.context.handler.worker.hooks.wants("tcp_start"):
                await self.context.handler.fire("tcp_start", None)
            await client.more()
            Waits.outcome.put_nowait("byte")
        except TimedOut as e:
            Waits.outcome.put_nowait(str(e))


async def test_a_deadline(rigs: Make) -> None:
    Waits.outcome = asyncio.Queue()
    rig = await rigs()
    rig.memory(("127.0.0.1", 1), Waits)
    assert await asyncio.wait_for(Waits.outcome.get(), 3) == "no byte came"


async def test_deadlines_stand_still_while_a_hook_waits(rigs: Make) -> None:
    Waits.outcome = asyncio.Queue()
    rig = await rigs(Events(tcp_start=lambda flow: asyncio.sleep(1.6)))
    near, _ = rig.memory(("127.0.0.1", 1), Waits)
    await asyncio.sleep(1.75)
    assert Waits.outcome.empty(), "its 0.7 s have hardly begun"
    near.write(b"x")
    assert await asyncio.wait_for(Waits.outcome.get(), 1) == "byte"


async def test_idle_connections_end(rigs: Make) -> None:
    rig = await rigs(events := Events("client_disconnected", "server_disconnected"))
    rig.worker.settings.idle_timeout = 0.3
    client = await rig.connect(await rig.transparent(await rig.origin(answering())))
    for _ in range(6):
        await client.say(GET)
        await client.head()
        await client.exactly(5)
        await asyncio.sleep(0.15)
    assert not events.names, "it was not idle"
    await client.rest()
    await events.wait("server_disconnected")


async def test_not_idle_while_a_hook_waits(rigs: Make) -> None:
    rig = await rigs(Events(request=lambda flow: asyncio.sleep(1.4)))
    rig.worker.settings.idle_timeout = 0.2
    client = await rig.connect(await rig.transparent(await rig.origin(answering())))
    await client.say(GET)
    assert (await client.head()).startswith(b"HTTP/1.1 200")


async def test_shutdown_ends_all(rigs: Make) -> None:
    rig = await rigs(events := Events("client_disconnected", "server_disconnected"))
    listener = await rig.transparent(await rig.origin(answering()))
    clients = [await rig.connect(listener) for _ in range(5)]
    for client in clients:
        await client.say(GET)
        await client.head()
    await rig.worker.stop(1.0)
    assert not rig.worker.handlers
    assert events.names.count("client_disconnected") == events.names.count("server_disconnected") == 5
    for client in clients:
        assert await client.rest() == b"hello"


async def test_shutdown_cancels_what_does_not_end(rigs: Make) -> None:
    rig = await rigs(events := Events("request", request=lambda flow: asyncio.sleep(60)))
    client = await rig.connect(await rig.transparent(await rig.origin(answering())))
    await client.say(GET)
    await events.wait("request")
    await rig.worker.stop(0.2)
    assert not rig.worker.handlers


async def test_the_client_as_addons_see_it(rigs: Make) -> None:
    rig = await rigs(events := Events("client_connected", "client_disconnected"))
    origin = await rig.origin(answering())
    client = await rig.connect(await rig.transparent(origin))
    seen = await events.wait("client_connected")
    assert seen.connected
    assert seen.peername == client.writer.get_extra_info("sockname")
    assert seen.sockname == origin, "where it wanted to go"
    assert seen.proxy_mode.full_spec.startswith("transparent")
    await client.close()
    assert await events.wait("client_disconnected") is seen
    await until(lambda: not rig.worker.handlers)
