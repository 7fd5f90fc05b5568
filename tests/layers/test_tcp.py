"""Raw TCP with hooks, and without."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.exceptions import ControlException
from appliance.layers import kept
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from appliance.tcp import TCPFlow
from tests.harness import Events, Make, Peer, Rig, answering, echo, until

GREETING = b"\x00\x01 no protocol we know\n"


async def pair(rig: Rig, handle: Any = echo) -> Peer:
    return await rig.connect(await rig.transparent(await rig.origin(handle)))


def all_events(**on: Any) -> Events:
    return Events("tcp_start", "tcp_message", "tcp_end", "tcp_error", "client_disconnected", **on)


async def test_messages_both_ways(rigs: Make) -> None:
    events = all_events()
    rig = await rigs(events)
    client = await pair(rig)
    await client.say(GREETING)
    assert await client.exactly(len(GREETING)) == GREETING
    client.eof()
    assert await client.rest() == b""
    await events.wait("client_disconnected")
    assert events.names == ["tcp_start", "tcp_message", "tcp_message", "tcp_end", "client_disconnected"]
    flow = events.of("tcp_start")[0]
    assert [(m.from_client, m.content) for m in flow.messages] == [(True, GREETING), (False, GREETING)]
    assert flow.error is None
    assert not flow.live
    assert flow.server_conn.peername
    assert rig.worker.totals.flows == 1
    assert rig.worker.totals.errors == 0


async def test_edit_and_drop(rigs: Make) -> None:
    def edit(flow: TCPFlow) -> None:
        message = flow.messages[-1]
        if message.from_client:
            message.content = message.content.upper()
        elif message.content.startswith(b"SECRET"):
            message.content = b""

    events = all_events(tcp_message=edit)
    client = await pair(await rigs(events))
    await client.say(b"\x00secret")
    await events.wait("tcp_message", 2)
    await client.say(b"secret")
    await events.wait("tcp_message", 4)
    await client.say(b"told")
    assert await client.exactly(7) == b"\x00SECRET"
    assert await client.exactly(4) == b"TOLD"


async def test_async_hooks_keep_the_order(rigs: Make) -> None:
    async def slow(flow: TCPFlow) -> None:
        await asyncio.sleep(0.002)

    client = await pair(await rigs(all_events(tcp_message=slow)))
    data = b"\x00" + os.urandom(300_000)
    client.write(data)
    client.eof()
    assert await client.rest() == data


@pytest.mark.parametrize("where", ["tcp_start", "tcp_message"])
async def test_kill_is_honoured(rigs: Make, where: str) -> None:
    events = all_events(**{where: TCPFlow.kill})
    rig = await rigs(events)
    client = await pair(rig)
    await client.say(GREETING)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await events.wait("client_disconnected")
    assert events.names[-2:] == ["tcp_error", "client_disconnected"]
    assert "tcp_end" not in events.names
    assert events.of("tcp_error")[0].error.msg == "Connection killed."
    assert rig.served == (0 if where == "tcp_start" else 1)


@pytest.mark.parametrize("listens", [True, False])
async def test_kill_from_outside(rigs: Make, listens: bool) -> None:
    """Also when the kernel carries the bytes because nobody listens to them."""
    events = all_events() if listens else Events("tcp_start", "tcp_end", "tcp_error", "client_disconnected")
    rig = await rigs(events)
    client = await pair(rig)
    await client.say(GREETING)
    await client.exactly(len(GREETING))
    if not listens:
        assert next(iter(rig.worker.handlers)).splice is not None
    flow = events.of("tcp_start")[0]
    assert flow.killable
    flow.kill()
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await events.wait("client_disconnected")
    assert events.names[-2:] == ["tcp_error", "client_disconnected"]
    assert not flow.killable


@pytest.mark.parametrize("listens", [True, False])
async def test_half_close_from_the_server(rigs: Make, listens: bool) -> None:
    heard = bytearray()

    async def banner(peer: Peer) -> None:
        await peer.say(b"220 hello\r\n")
        peer.eof()
        heard.extend(await peer.rest())

    events = all_events() if listens else Events("tcp_end", "client_disconnected")
    client = await pair(await rigs(events, server_greeting_wait_ms=10), banner)
    assert await client.rest() == b"220 hello\r\n"
    await client.say(b"late words")
    client.eof()
    await events.wait("client_disconnected")
    assert heard == b"late words"
    assert "tcp_end" in events.names


@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_is_passed_on_and_told(rigs: Make, listens: bool, who: str) -> None:
    peers: list[Peer] = []
    ended: list[str] = []

    async def origin(peer: Peer) -> None:
        peers.append(peer)
        try:
            await peer.say(await peer.some())
            await peer.rest()
            ended.append("eof")
        except ConnectionResetError:
            ended.append("reset")

    events = all_events() if listens else Events("tcp_end", "tcp_error", "client_disconnected")
    client = await pair(await rigs(events), origin)
    await client.say(GREETING)
    await client.exactly(len(GREETING))
    (client if who == "client" else peers[0]).reset()
    if who == "server":
        with pytest.raises(ConnectionResetError):
            await client.rest()
    await events.wait("client_disconnected")
    assert "tcp_error" in events.names
    assert "tcp_end" not in events.names
    if who == "client":
        await until(lambda: ended == ["reset"])


async def test_unreachable(rigs: Make) -> None:
    events = all_events()
    rig = await rigs(events)
    client = await rig.connect(await rig.transparent(("127.0.0.1", 1)))
    await client.say(GREETING)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await events.wait("client_disconnected")
    assert events.names == ["tcp_start", "tcp_error", "client_disconnected"]
    assert "Connection refused" in events.of("tcp_error")[0].error.msg


async def test_intercepted_message_waits(rigs: Make) -> None:
    events = all_events(tcp_message=lambda flow: flow.intercept() if len(flow.messages) == 1 else None)
    rig = await rigs(events)
    client = await pair(rig)
    await client.say(GREETING)
    flow = await events.wait("tcp_message")
    await asyncio.sleep(0.05)
    assert len(flow.messages) == 1
    assert next(iter(rig.worker.handlers)).gated
    flow.resume()
    assert await client.exactly(len(GREETING)) == GREETING


async def test_without_listeners_the_kernel_carries_it(rigs: Make) -> None:
    events = Events("tcp_end")
    rig = await rigs(events)
    client = await pair(rig)
    data = b"\x00" + os.urandom(2 << 20)
    client.write(data)
    assert await client.exactly(len(data)) == data
    handler = next(iter(rig.worker.handlers))
    assert handler.splice is not None
    client.eof()
    assert await client.rest() == b""
    await rig.idle()
    assert events.of("tcp_end")[0].moved == (len(data), len(data))


async def test_raw_bytes_inside_tls(rigs: Make) -> None:
    events = all_events()
    rig = await rigs(events)
    client = await rig.connect(await rig.transparent(await rig.origin(echo, tls=True)))
    await client.start_tls()
    await client.say(GREETING)
    assert await client.exactly(len(GREETING)) == GREETING
    assert events.names == ["tcp_start", "tcp_message", "tcp_message"]
    await client.close()


@pytest.mark.parametrize("rule", [r"^origin\.TEST$", r"^127\.0\.0\."])
@pytest.mark.parametrize("tls", [True, False])
async def test_tcp_hosts(rigs: Make, rule: str, tls: bool) -> None:
    events = all_events()
    rig = await rigs(events, tcp_hosts=[rule])
    client = await rig.connect(await rig.transparent(await rig.origin(echo, tls=tls, alpn=("http/1.1",))))
    if tls:
        await client.start_tls(alpn=("http/1.1",))
    elif "origin" in rule:
        return  # nothing says its name
    request = b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n"
    await client.say(request)
    assert await client.exactly(len(request)) == request
    assert events.names == ["tcp_start", "tcp_message", "tcp_message"]
    if not tls:
        assert next(iter(rig.worker.handlers)).client.verdict.rule == f"tcp_hosts {rule}"  # type: ignore[union-attr]
    await client.close()


async def test_tcp_hosts_of_others(rigs: Make) -> None:
    events = all_events()
    rig = await rigs(events, tcp_hosts=["elsewhere"])
    client = await rig.connect(await rig.transparent(await rig.origin(answering())))
    await client.say(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 200")
    assert events.names == []


async def test_rawtcp_off(rigs: Make) -> None:
    rig = await rigs(rawtcp=False)
    client = await pair(rig)
    await client.say(GREETING)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert rig.served == 0
    assert rig.worker.totals.blocked == 1


async def test_inject_both_ways_through_the_hook(rigs: Make) -> None:
    def edit(flow: TCPFlow) -> None:
        flow.messages[-1].content = flow.messages[-1].content.upper()

    events = all_events(tcp_message=edit)
    client = await pair(await rigs(events))
    await client.say(b"\x00one")
    assert await client.exactly(4) == b"\x00ONE"
    flow = events.of("tcp_start")[0]
    flow.inject(True, b"to client")
    assert await client.exactly(9) == b"TO CLIENT"
    flow.inject(False, b"to server")
    assert await client.exactly(9) == b"TO SERVER"
    await client.say(b"two")
    assert await client.exactly(3) == b"TWO"
    assert [m.content for m in flow.messages if not m.from_client] == [b"\x00ONE", b"TO CLIENT", b"TO SERVER", b"TWO"]
    client.eof()
    assert await client.rest() == b""
    await events.wait("tcp_end")
    with pytest.raises(ControlException, match="over"):
        flow.inject(True, b"late")


async def test_inject_from_hooks_keeps_the_order(rigs: Make) -> None:
    async def slow(flow: TCPFlow) -> None:
        message = flow.messages[-1]
        if message.content == b"\x00a":
            flow.inject(False, b"b")
            await asyncio.sleep(0.01)

    events = all_events(tcp_message=slow, tcp_start=lambda flow: flow.inject(False, b"first "))
    heard: list[bytes] = []

    async def collect(peer: Peer) -> None:
        heard.append(await peer.exactly(9))
        peer.eof()

    client = await pair(await rigs(events), collect)
    await client.say(b"\x00a")
    assert await client.rest() == b""
    await until(lambda: heard)
    assert heard == [b"first \x00ab"]


async def test_inject_where_it_cannot_be(rigs: Make) -> None:
    events = Events("tcp_start", "tcp_end")
    client = await pair(await rigs(events))
    await client.say(GREETING)
    await client.exactly(len(GREETING))
    flow = events.of("tcp_start")[0]
    with pytest.raises(ControlException, match="tcp_message hook"):
        flow.inject(True, b"x")


async def test_inject_into_a_half_closed_connection(rigs: Make) -> None:
    events = all_events()

    async def wait(peer: Peer) -> None:
        await peer.rest()
        await asyncio.sleep(0.2)

    client = await pair(await rigs(events), wait)
    await client.say(GREETING)
    client.eof()
    await events.wait("tcp_start")
    flow = events.of("tcp_start")[0]
    await until(lambda: flow._live._ended[True])
    with pytest.raises(ControlException, match="client has ended"):
        flow.inject(False, b"x")
    flow.inject(True, b"still open")
    assert await client.exactly(10) == b"still open"


async def test_messages_kept_are_bounded(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_MESSAGES", 20)
    events = all_events()
    client = await pair(await rigs(events))
    for i in range(60):
        await client.say(b"\x00%02d" % i)
        await client.exactly(3)
    assert len(events.of("tcp_start")[0].messages) <= 20
    client.eof()
    assert (await events.wait("tcp_end")).moved == (180, 180)  # of all


@pytest.mark.parametrize("content", ["text", None])
async def test_what_cannot_be_sent_ends_it_as_an_error(rigs: Make, tmp_path: Path, content: Any) -> None:
    """For hooks, in the store, and for both sides."""

    def spoil(flow: TCPFlow) -> None:
        flow.messages[-1].content = content

    events = all_events(tcp_message=spoil)
    rig = await rigs(events)
    rig.worker.recorder = recorder = Recorder(tmp_path / "flows", loop=asyncio.get_running_loop())
    recorder.start()
    seen: list[bytes] = []

    async def serve(peer: Peer) -> None:
        seen.append(await peer.rest())

    client = await pair(rig, serve)
    await client.say(GREETING)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    await events.wait("client_disconnected")
    await until(lambda: rig.worker.totals.errors == 1)
    assert events.names == ["tcp_start", "tcp_message", "tcp_error", "client_disconnected"]
    assert not any(seen)
    recorder.close()
    with Store(tmp_path / "flows") as store:
        (row,) = store.rows()
        assert row.error == "fault in the gateway"
        assert not row.going_on
        assert [flow.messages for flow in store.flows()] == [[]]  # type: ignore[attr-defined]
