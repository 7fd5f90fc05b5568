"""The UDP layer between a client in memory and a real origin socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.arrival import Arrival
from appliance.connection import Address, Client, ConnectionState
from appliance.exceptions import ControlException
from appliance.layers import kept, udp
from appliance.layers.modes import TransparentProxy
from appliance.layers.next_layer import NextLayer
from appliance.net.datagrams import MAX_DATAGRAMS, MemoryDatagrams
from appliance.net.reasons import Reset
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from appliance.udp import UDPFlow, UDPMessage
from tests.harness import Events, Make, Rig, descriptors, until

FLOW = ["client_connected", "udp_start", "server_connect", "server_connected"]
OVER = ["client_disconnected", "server_disconnected"]


class Origin:
    """Echoes; writes down what came."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.silent = False
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(("127.0.0.1", 0))
        self.address: Address = self.sock.getsockname()
        asyncio.get_running_loop().add_reader(self.sock, self._readable)

    def _readable(self) -> None:
        data, peer = self.sock.recvfrom(65535)
        self.heard.append(data)
        if not self.silent:
            self.sock.sendto(data, peer)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.sock)
            self.sock.close()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    made = Origin()
    yield made
    made.close()


def arrive(rig: Rig, wanted: Address) -> tuple[MemoryDatagrams, asyncio.Task[None]]:
    """A client whose datagrams to `wanted` came here: its own end, and the task that serves it."""
    client = Client(
        peername=("192.0.2.7", 4321), sockname=wanted, timestamp_start=time.time(), transport_protocol="udp"
    )
    client.state = ConnectionState.OPEN
    near, far = MemoryDatagrams.pair(rig.worker.loop, None, client)
    arrival = Arrival(client, far, wanted, "transparent", TransparentProxy)
    return near, asyncio.ensure_future(rig.worker.arrive(arrival))


async def receive(datagrams: MemoryDatagrams, count: int = 1) -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            batch = await datagrams.receive()
            assert batch, f"ended after {found}"
            found += batch
    return found


def messages(hook: Callable[[UDPFlow, UDPMessage], Any], *more: str) -> Events:
    """Listens to the UDP events and runs `hook` on each message."""
    return Events("udp_start", "udp_end", "udp_error", *more, udp_message=lambda flow: hook(flow, flow.messages[-1]))


async def test_events_and_order_of_messages(rigs: Make, origin: Origin) -> None:
    events = Events()
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"one", b"", b"three"])
    assert await receive(client, 3) == [b"one", b"", b"three"]
    client.close()
    await asyncio.wait_for(task, 5)
    assert events.names == [*FLOW, *["udp_message"] * 6, "udp_end", *OVER]
    assert [server.server.transport_protocol for server in events.of("server_connected")] == ["udp"]
    flow = events.of("udp_end")[0]
    assert [(m.from_client, m.content) for m in flow.messages if m.from_client] == [
        (True, b"one"),
        (True, b""),
        (True, b"three"),
    ]
    assert [m.content for m in flow.messages if not m.from_client] == [b"one", b"", b"three"]
    assert (flow.client_conn.transport_protocol, flow.server_conn.transport_protocol) == ("udp", "udp")
    assert flow.server_conn.peername == origin.address
    assert flow.server_conn.state is ConnectionState.CLOSED
    assert not flow.live
    assert flow.error is None
    assert str(flow.client_conn.verdict) == "decrypt (UDP)"


async def test_udp_hosts(rigs: Make, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp.dns, "PORT", origin.address[1])
    query = bytes.fromhex("000101000001000000000000") + b"\1a\4test\0\0\1\0\1"
    for rules, first in (([], "dns_request"), (["^127"], "udp_start"), (["^192"], "dns_request")):
        events = Events()
        rig = await rigs(events, udp_hosts=rules)
        client, task = arrive(rig, origin.address)
        client.send([query])
        await events.wait(first)
        assert ("udp_start" in events.names) == (first == "udp_start")
        client.close()
        await task


async def test_nobody_listens_to_messages(rigs: Make, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("a UDPMessage was made")

    monkeypatch.setattr(udp, "UDPMessage", never)
    events = Events("udp_start", "udp_end")
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"x"])
    assert await receive(client) == [b"x"]
    client.close()
    await task
    assert events.names == ["udp_start", "udp_end"]
    assert events.of("udp_end")[0].moved == (1, 1)


async def test_bytes_are_counted_with_and_without_listeners(rigs: Make, origin: Origin) -> None:
    """One that comes in the middle counts no less; what a hook has dropped went nowhere."""
    events = Events("udp_start", "udp_end")
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"x" * 1000] * 3)
    await receive(client, 3)

    def drop(flow: UDPFlow) -> None:
        if flow.messages[-1].content == b"drop":
            flow.messages[-1].content = b""

    rig.addons.add(SimpleNamespace(name="late", udp_message=drop))
    client.send([b"y" * 10, b"drop", b"z"])
    await receive(client, 2)
    client.close()
    await task
    assert events.of("udp_end")[0].moved == (3011, 3011)


@pytest.mark.parametrize("slow", [False, True])
async def test_content_is_edited_both_ways(rigs: Make, origin: Origin, slow: bool) -> None:
    def edit(flow: UDPFlow, message: UDPMessage) -> Any:
        if message.content == b"drop":
            message.content = b""
        elif message.content == b"nonsense":
            message.content = "text"  # type: ignore[assignment]
        else:
            message.content = (b"up " if message.from_client else b"down ") + message.content
        return asyncio.sleep(0.001) if slow else None

    rig = await rigs(messages(edit))
    client, _ = arrive(rig, origin.address)
    client.send([b"one", b"drop", b"nonsense", b"two"])
    assert await receive(client, 2) == [b"down up one", b"down up two"]
    assert origin.heard == [b"up one", b"up two"]
    client.close()
    await rig.idle()


async def test_what_cannot_be_sent_is_not_recorded(rigs: Make, origin: Origin, tmp_path: Path) -> None:
    def spoil(flow: UDPFlow, message: UDPMessage) -> None:
        if message.content == b"nothing":
            message.content = None  # type: ignore[assignment]

    events = messages(spoil)
    rig = await rigs(events)
    rig.worker.recorder = recorder = Recorder(tmp_path / "flows", loop=asyncio.get_running_loop())
    recorder.start()
    client, task = arrive(rig, origin.address)
    client.send([b"nothing", b"one"])
    assert await receive(client) == [b"one"]
    client.close()
    await task
    assert events.names[-1] == "udp_end"
    recorder.close()
    with Store(tmp_path / "flows") as store:
        (flow,) = store.flows()
    assert [message.content for message in flow.messages] == [b"", b"one", b"one"]  # type: ignore[attr-defined]


async def test_kill_in_message(rigs: Make, origin: Origin) -> None:
    def kill(flow: UDPFlow, message: UDPMessage) -> None:
        if message.content == b"bad":
            flow.kill()

    events = messages(kill, "server_disconnected")
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"good", b"bad", b"after"])
    await asyncio.wait_for(task, 5)
    await asyncio.sleep(0.01)
    assert origin.heard == [b"good"]
    assert [name for name in events.names if name != "udp_message"] == ["udp_start", "udp_error", "server_disconnected"]
    assert events.of("udp_error")[0].error.msg == "Connection killed."
    assert not events.of("udp_error")[0].live


@pytest.mark.parametrize("when", ["start", "outside", "intercepted"])
async def test_kill_elsewhere(rigs: Make, origin: Origin, when: str) -> None:
    def start(flow: UDPFlow) -> None:
        if when == "start":
            flow.kill()

    def hold(flow: UDPFlow) -> None:
        if when == "intercepted":
            flow.intercept()

    events = Events("udp_end", "udp_error", "server_connect", udp_start=start, udp_message=hold)
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"hello"])
    if when == "start":
        await asyncio.wait_for(task, 5)
        assert not events.of("server_connect")
    else:
        flow = await events.wait("udp_message")
        if when == "outside":
            await receive(client)
        else:
            await asyncio.sleep(0.02)
            assert origin.heard == []
        flow.kill()
        await asyncio.wait_for(task, 5)
    assert events.names[-1] == "udp_error"
    assert not events.of("udp_end")
    assert events.of("udp_error")[0].error.msg == "Connection killed."
    assert await client.receive() == []  # the client's side was ended


async def test_intercepted_message_waits_and_goes_on(rigs: Make, origin: Origin) -> None:
    def hold(flow: UDPFlow, message: UDPMessage) -> None:
        if message.from_client:
            flow.intercept()

    events = messages(hold)
    rig = await rigs(events)
    client, _ = arrive(rig, origin.address)
    client.send([b"draft"])
    flow = await events.wait("udp_message")
    await asyncio.sleep(0.02)
    assert origin.heard == []
    flow.messages[-1].content = b"edited"
    flow.resume()
    assert await receive(client) == [b"edited"]
    client.close()
    await rig.idle()


async def test_refused_before_any_answer_is_an_error(rigs: Make) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        nobody = sock.getsockname()
    events = Events()
    rig = await rigs(events)
    client, task = arrive(rig, nobody)
    client.send([b"anybody?"])
    await asyncio.wait_for(task, 5)
    assert events.names == [*FLOW, "udp_message", "udp_error", *OVER]
    assert "port is unreachable" in events.of("udp_error")[0].error.msg
    with pytest.raises(Reset):  # the client was told so
        await client.receive()
    assert rig.worker.totals.errors == 1


async def test_refused_after_an_answer_is_an_end(rigs: Make, origin: Origin) -> None:
    events = Events()
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"hello"])
    await receive(client)
    origin.close()
    await asyncio.sleep(0.01)
    client.send([b"still there?"])
    await asyncio.wait_for(task, 5)
    assert events.names[-3:] == ["udp_end", *OVER]
    assert not events.of("udp_error")


async def test_cannot_connect_and_refusal_by_a_hook(rigs: Make, origin: Origin) -> None:
    def forbid(data: Any) -> None:
        data.server.error = "not today"

    for on, wanted, text in (
        ({}, ("169.254.169.254", 80), "metadata"),
        ({"server_connect": forbid}, origin.address, "not today"),
    ):
        events = Events("udp_start", "udp_end", "udp_error", "server_connect_error", "server_disconnected", **on)
        rig = await rigs(events)
        client, task = arrive(rig, wanted)
        client.send([b"x"])
        await asyncio.wait_for(task, 5)
        assert [name for name in events.names if name != "server_connect"] == [
            "udp_start",
            "server_connect_error",
            "udp_error",
        ]
        assert text in events.of("udp_error")[0].error.msg
        with pytest.raises(Reset):
            await client.receive()
    assert origin.heard == []


async def test_redirected_by_a_hook(rigs: Make, origin: Origin) -> None:
    def redirect(flow: UDPFlow) -> None:
        flow.server_conn.address = origin.address

    rig = await rigs(Events("udp_end", udp_start=redirect))
    client, _ = arrive(rig, ("192.0.2.1", 53))
    client.send([b"elsewhere"])
    assert await receive(client) == [b"elsewhere"]
    client.close()
    await rig.idle()


async def test_idle_flow_ends_by_udp_timeout_and_hooks_hold_the_clock(rigs: Make, origin: Origin) -> None:
    async def slowly(flow: UDPFlow, message: UDPMessage) -> None:
        if message.from_client:
            await asyncio.sleep(2.2)

    events = messages(slowly)
    rig = await rigs(events, udp_timeout=1, tcp_timeout=600)
    client, task = arrive(rig, origin.address)
    began = time.monotonic()
    client.send([b"x"])
    assert await receive(client) == [b"x"]  # although the hook took longer than the timeout
    await asyncio.wait_for(task, 10)
    assert 3 <= time.monotonic() - began < 5
    assert events.names[-1] == "udp_end"
    assert not events.of("udp_error")
    before = time.monotonic()
    client, task = arrive(rig, origin.address)
    origin.silent = True
    await asyncio.wait_for(task, 10)
    assert 1 <= time.monotonic() - before < 3


async def test_rule_passes_without_a_flow(rigs: Make, origin: Origin) -> None:
    events = Events()
    rig = await rigs(events, ignore_hosts=[rf"^127\.0\.0\.1:{origin.address[1]}$"])
    client, task = arrive(rig, origin.address)
    client.send([b"untouched"])
    assert await receive(client) == [b"untouched"]
    client.close()
    await asyncio.wait_for(task, 5)
    assert events.names == ["client_connected", "server_connect", "server_connected", *OVER]
    assert (rig.worker.totals.flows, rig.worker.totals.passed) == (0, 1)


async def test_client_blocked_by_a_hook(rigs: Make, origin: Origin) -> None:
    def block(client: Client) -> None:
        client.error = "not you"

    events = Events("udp_start", "client_disconnected", client_connected=block)
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"x"])
    await asyncio.wait_for(task, 5)
    assert events.names == ["client_connected", "client_disconnected"]
    assert origin.heard == []


async def test_messages_kept_are_bounded(rigs: Make, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_MESSAGES", 100)
    monkeypatch.setattr(kept, "KEPT_BYTES", 50_000)
    most = [0, 0]

    def look(flow: UDPFlow, message: UDPMessage) -> None:
        most[0] = max(most[0], len(flow.messages))
        most[1] = max(most[1], sum(len(m.content) for m in flow.messages))

    events = messages(look)
    rig = await rigs(events)
    origin.silent = True
    client, _ = arrive(rig, origin.address)
    for size, count in ((1, 300), (5000, 50), (60_000, 2)):
        client.send([bytes(size)] * count)
        await events.wait("udp_message", len(events.of("udp_message")) + count)
    assert most[0] == 100
    assert 45_000 <= most[1] <= 60_000  # one alone is kept, however long
    assert len(events.of("udp_message")) == 352
    client.close()
    await rig.idle()


async def test_flood_against_a_slow_hook_is_bounded(rigs: Make, origin: Origin) -> None:
    gate = asyncio.Event()

    async def slowly(flow: UDPFlow, message: UDPMessage) -> None:
        await gate.wait()

    events = messages(slowly)
    rig = await rigs(events)
    client, _ = arrive(rig, origin.address)
    origin.silent = True
    client.send([b"first"])
    flow = await events.wait("udp_message")
    for _ in range(20):
        client.send([b"flood"] * 100)
    assert client.peer.dropped == 2000 - MAX_DATAGRAMS
    assert len(flow.messages) == 1
    gate.set()
    await until(lambda: len(flow.messages) >= MAX_DATAGRAMS + 1)
    client.close()
    await rig.idle()


async def test_shutdown_ends_flows_and_leaves_nothing_open(rigs: Make, origin: Origin) -> None:
    events = Events("udp_start", "udp_end", "udp_error", "server_disconnected")
    rig = await rigs(events)
    before = descriptors()
    clients = [arrive(rig, origin.address)[0] for _ in range(10)]
    for client in clients:
        client.send([b"x"])
        await receive(client)
    assert descriptors() == before + 10
    await rig.worker.stop()
    assert descriptors() == before
    assert len(events.of("udp_end")) == len(events.of("server_disconnected")) == 10
    assert not events.of("udp_error")


async def test_next_layer_sees_the_first_datagrams_and_may_choose(rigs: Make, origin: Origin) -> None:
    seen: list[tuple[bytes, bytes, str, str]] = []

    def choose(about: NextLayer) -> None:
        seen.append((about.data_client(), about.data_server(), str(about.verdict), str(about.context.server.address)))
        if about.data_client().startswith(b"pass"):
            about.layer = udp.UDPLayer(about.context, ignore=True)

    events = Events("udp_start", "udp_end", next_layer=choose)
    rig = await rigs(events)
    for first, verdict in ((b"pass me", "pass (an add-on chose UDPLayer"), (b"other", "decrypt (UDP")):
        client, task = arrive(rig, origin.address)
        await asyncio.sleep(0)
        handler = next(iter(rig.worker.handlers))
        client.send([first, b"2"])
        assert await receive(client, 2) == [first, b"2"]
        assert str(handler.client.verdict).startswith(verdict)
        client.close()
        await asyncio.wait_for(task, 5)
    where = str(origin.address)
    assert seen == [(b"pass me2", b"", "decrypt (UDP)", where), (b"other2", b"", "decrypt (UDP)", where)]
    assert events.names.count("udp_start") == 1


async def test_next_layer_goes_before_the_rules(rigs: Make, origin: Origin) -> None:
    def choose(about: NextLayer) -> None:
        assert about.verdict is not None
        if about.verdict.action == "pass":
            about.layer = udp.UDPLayer(about.context)

    events = Events("udp_start", "udp_end", next_layer=choose)
    rig = await rigs(events, ignore_hosts=[r"127\.0\.0\.1"])
    client, task = arrive(rig, origin.address)
    client.send([b"x"])
    assert await receive(client) == [b"x"]
    client.close()
    await asyncio.wait_for(task, 5)
    assert events.names.count("udp_start") == 1


async def test_a_client_that_is_gone_before_its_first_datagram(rigs: Make, origin: Origin) -> None:
    rig = await rigs(events := Events("udp_start", "next_layer"))
    client, task = arrive(rig, origin.address)
    client.close()
    await asyncio.wait_for(task, 5)
    assert events.names == []


async def test_inject_both_ways(rigs: Make, origin: Origin) -> None:
    def edit(flow: UDPFlow, message: UDPMessage) -> None:
        message.content = message.content.upper()

    events = messages(edit)
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([b"one"])
    assert await receive(client) == [b"ONE"]
    flow = events.of("udp_start")[0]
    flow.inject(True, b"to client")
    assert await receive(client) == [b"TO CLIENT"]
    flow.inject(False, b"to server")
    assert await receive(client) == [b"TO SERVER"]  # its echo
    assert [(m.from_client, m.content) for m in flow.messages] == [
        (True, b"ONE"),
        (False, b"ONE"),
        (False, b"TO CLIENT"),
        (True, b"TO SERVER"),
        (False, b"TO SERVER"),
    ]
    for _ in range(MAX_DATAGRAMS):
        flow.inject(True, b"x")
    with pytest.raises(ControlException, match="too many"):
        flow.inject(True, b"x")
    client.close()
    await asyncio.wait_for(task, 5)
    with pytest.raises(ControlException, match="over"):
        flow.inject(True, b"late")


async def test_inject_before_the_server_is_dialled_and_without_message_hooks(rigs: Make, origin: Origin) -> None:
    def greet(flow: UDPFlow) -> None:
        flow.inject(True, b"from nobody")

    rig = await rigs(Events("udp_end", udp_start=greet))
    client, task = arrive(rig, origin.address)
    client.send([b"hello"])
    assert sorted(await receive(client, 2)) == [b"from nobody", b"hello"]
    client.close()
    await asyncio.wait_for(task, 5)


async def test_an_injected_datagram_is_no_answer_of_the_server(rigs: Make, origin: Origin) -> None:
    """So the server that refuses later was never reached."""
    address = origin.address
    origin.close()
    events = Events("udp_end", "udp_error", udp_start=lambda flow: flow.inject(True, b"x"))
    rig = await rigs(events)
    client, task = arrive(rig, address)
    client.send([b"hello"])
    await asyncio.wait_for(task, 5)
    assert "udp_error" in events.names
    assert "udp_end" not in events.names
