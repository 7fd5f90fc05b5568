"""The DNS layer between a client in memory and real name server sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.arrival import Arrival
from appliance.connection import Address, Client, ConnectionState
from appliance.dns import DNSFlow, DNSMessage, HTTPSRecord, ResourceRecord
from appliance.layers import dns
from appliance.layers.base import Context, Layer
from appliance.layers.decide import Facts, Proposal, decide
from appliance.net import nameserver_ports, nameservers
from appliance.net.datagrams import MemoryDatagrams
from appliance.net.dns import DNSError
from appliance.net.dns import wire as dns_wire
from appliance.policy import HostPolicy
from appliance.verdict import NeedMore
from tests.harness import Events, Make, Peer, Rig, until

NAME = b"\3www\4test\0"


def query(id: int = 7, name: bytes = NAME, kind: int = 1, more: bytes = b"") -> bytes:
    return struct.pack("!HHHHHH", id, 0x0100, 1, 0, 0, 1 if more else 0) + name + struct.pack("!HH", kind, 1) + more


def edns(size: int) -> bytes:
    return b"\0\0\x29" + struct.pack("!HIH", size, 0, 0)


def answer(to: bytes, address: bytes = b"\x0a\0\0\1", flags: int = 0x8180, count: int = 1) -> bytes:
    end, _ = dns_wire.scan(to)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + address
    return to[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + to[12:end] + record * count


def _pair() -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on one port of 127.0.0.1; TCP does not listen yet."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            tcp.bind(udp.getsockname())
        except OSError:  # some connection has it
            udp.close()
            tcp.close()
            continue
        return udp, tcp


class Origin:
    """A UDP name server; `reply` gives the datagrams to send for one that came. tcp: for a server on the same port."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ports: set[int] = set()
        self.reply: Callable[[bytes], list[bytes]] = lambda data: [answer(data)]
        self.sock, self.tcp = _pair()
        self.address: Address = self.sock.getsockname()
        asyncio.get_running_loop().add_reader(self.sock, self._readable)

    def _readable(self) -> None:
        data, peer = self.sock.recvfrom(65535)
        self.heard.append(data)
        self.ports.add(peer[1])
        for one in self.reply(data):
            self.sock.sendto(one, peer)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.sock)
            self.sock.close()
            self.tcp.close()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    made = Origin()
    yield made
    made.close()


def top(context: Context) -> Layer:
    return dns.DNSLayer(context)


def arrive(
    rig: Rig, wanted: Address | None, ip: str = "192.0.2.7", port: int = 4321
) -> tuple[MemoryDatagrams, asyncio.Task[None]]:
    client = Client(
        peername=(ip, port), sockname=wanted or ("192.0.2.1", 53), timestamp_start=0.0, transport_protocol="udp"
    )
    client.state = ConnectionState.OPEN
    near, far = MemoryDatagrams.pair(rig.worker.loop, None, client)
    return near, asyncio.ensure_future(rig.worker.arrive(Arrival(client, far, wanted, "test", top)))


async def receive(client: MemoryDatagrams, count: int = 1) -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(8):
        while len(found) < count:
            found += await client.receive()
    return found


async def test_unchanged_bytes_pass_and_nobody_listens(rigs: Make, origin: Origin) -> None:
    rig = await rigs()
    client, task = arrive(rig, origin.address)
    sent = query(0x1234, b"\3WwW\4tEsT\0", more=edns(1400))
    client.send([sent])
    (got,) = await receive(client)
    assert got == answer(sent)
    assert origin.heard[0][2:] == sent[2:]
    assert (rig.worker.totals.flows, rig.worker.totals.errors) == (1, 0)
    assert rig.worker.dns.clients == {}
    await asyncio.wait_for(task, 6)  # a port that is silent is forgotten
    assert rig.worker.light == 0


async def test_a_port_that_ends_and_is_then_lost(rigs: Make, origin: Origin) -> None:
    """What it asked is dropped at once, as the gateway stops; not when its name server is given up."""
    events = Events("dns_error")
    rig = await rigs(events)
    origin.reply = lambda data: []
    client, task = arrive(rig, origin.address)
    client.send([query()])
    await until(lambda: origin.heard)
    client.close()
    await asyncio.sleep(0.05)
    assert not events.names  # it may have said all that it has to say
    (handler,) = rig.worker.handlers
    handler.shutdown()
    await until(task.done, 1)
    (flow,) = events.of("dns_error")
    assert flow.error.msg == "the gateway is shutting down"
    assert rig.worker.dns.clients == {}


async def test_events_in_order(rigs: Make, origin: Origin) -> None:
    events = Events()
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([query()])
    await receive(client)
    assert events.names == [
        "client_connected",
        *("dns_request", "server_connect", "server_connected", "server_disconnected", "dns_response"),
    ]
    flow = events.of("dns_response")[0]
    assert isinstance(flow, DNSFlow)
    assert flow.server_conn.peername == origin.address
    assert flow.server_conn.transport_protocol == "udp"
    assert flow.response is not None
    assert str(flow.response.answers[0]) == "10.0.0.1"
    assert flow.request.question is not None
    assert flow.request.question.name == "www.test"
    assert str(flow.client_conn.verdict) == "decrypt (DNS)"
    assert not flow.live
    await asyncio.wait_for(task, 6)
    assert events.names[-1] == "client_disconnected"


@pytest.mark.parametrize("slow", [False, True])
async def test_what_hooks_do(rigs: Make, origin: Origin, slow: bool) -> None:
    other = Origin()
    other.reply = lambda data: [answer(data, b"\x0a\0\0\2")]

    def asked(flow: DNSFlow) -> Any:
        assert flow.request.question is not None
        match flow.request.question.name:
            case "local":
                flow.response = flow.request.succeed([ResourceRecord.A("local", "192.0.2.1")])
            case "other":
                flow.server_conn.address = other.address[0], other.address[1]
            case "kill":
                flow.kill()
            case "fail":
                flow.error = DNSFlowError("not today")
            case "rename":
                flow.request.question.name = "renamed"
        return asyncio.sleep(0.001) if slow else None

    def told(flow: DNSFlow) -> Any:
        assert flow.request.question is not None
        assert flow.response is not None
        match flow.request.question.name:
            case "drop":
                flow.response = None
            case "killed":
                flow.kill()
            case "edit":
                flow.response.answers[0].ipv4_address = "192.0.2.2"
            case "nonsense":
                flow.response.answers[0].ttl = -1
        return asyncio.sleep(0.001) if slow else None

    from appliance.flow import Error as DNSFlowError

    events = Events("dns_error", dns_request=asked, dns_response=told)
    rig = await rigs(events)
    client, _ = arrive(rig, origin.address)

    async def ask(name: str) -> DNSMessage:
        client.send([query(9, bytes([len(name)]) + name.encode() + b"\0")])
        found = DNSMessage.unpack((await receive(client))[0])
        assert found.id == 9
        return found

    assert str((await ask("local")).answers[0]) == "192.0.2.1"
    assert str((await ask("other")).answers[0]) == "10.0.0.2"
    assert str((await ask("edit")).answers[0]) == "192.0.2.2"
    for name, error in (("kill", "Connection killed."), ("fail", "not today")):
        assert (await ask(name)).response_code == 2
        assert (await events.wait("dns_error", 1 if name == "kill" else 2)).error.msg == error
    for name in ("killed", "nonsense"):
        assert (await ask(name)).response_code == 2
    assert b"\7renamed" in (await ask("rename")).packed
    before = len(events.of("dns_response"))
    client.send([query(9, b"\4drop\0")])
    await events.wait("dns_response", before + 1)
    assert str((await ask("edit")).answers[0]) == "192.0.2.2"  # and nothing came for the one before
    asked_for, ended = events.of("dns_request"), [*events.of("dns_response"), *events.of("dns_error")]
    assert sorted(flow.id for flow in asked_for) == sorted(flow.id for flow in ended)
    other.close()


async def test_intercept_edit_resume_and_kill_while_waiting(rigs: Make, origin: Origin) -> None:
    events = Events("dns_error", "dns_response", dns_request=lambda flow: flow.intercept())
    rig = await rigs(events)
    client, _ = arrive(rig, origin.address)
    client.send([query(1)])
    flow = await events.wait("dns_request")
    await asyncio.sleep(0.05)
    assert origin.heard == []
    flow.resume()
    await receive(client)
    origin.reply = lambda data: []
    client.send([query(2)])
    flow = await events.wait("dns_request", 2)
    flow.resume()
    await until(lambda: len(origin.heard) == 2)
    flow.kill()
    assert (await receive(client))[0][:4] == b"\0\2\x81\x82"
    assert events.names[-1] == "dns_error"
    assert rig.worker.dns.pending == 0


async def test_forged_and_mismatched_answers_are_dropped(rigs: Make, origin: Origin) -> None:
    def reply(data: bytes) -> list[bytes]:
        right = answer(data)
        return [
            bytes([data[0] ^ 1]) + right[1:],  # another id
            right.replace(b"www", b"wwx"),  # another question
            data,  # no answer
            b"", b"\0", right[:11],
            data[:2] + b"\x81\x80" + bytes(8),  # no question, and no failure
            right.replace(b"www", b"WWW"), right,
        ]  # fmt: skip

    origin.reply = reply
    rig = await rigs()
    client, _ = arrive(rig, origin.address)
    client.send([query()])
    assert await receive(client) == [answer(query()).replace(b"www", b"WWW")]
    await until(lambda: rig.worker.dns.dropped == 8)


async def test_silence_refusal_and_another_server(rigs: Make, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameservers, "PATIENCE", (0.1, 0.1))
    monkeypatch.setattr(nameservers, "TICK", 0.02)
    events = Events("dns_error", "dns_response")
    silent = Origin()
    silent.reply = lambda data: []
    gone = Origin()
    gone.close()
    servers = [f"127.0.0.1:{one.address[1]}" for one in (silent, origin)]
    rig = await rigs(events, dns_name_servers=servers, dns_use_hosts_file=False)
    client, _ = arrive(rig, None)
    client.send([query()])
    assert await receive(client) == [answer(query())]
    assert events.of("dns_response")[0].server_conn.address == origin.address
    for one, why in ((silent, "did not answer"), (gone, "the port is unreachable")):
        client, _ = arrive(rig, one.address)
        client.send([query()])
        assert (await receive(client))[0][3] & 15 == 2
        assert why in events.of("dns_error")[-1].error.msg
    assert rig.worker.dns.pending == 0
    silent.close()


async def test_no_name_server(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events("dns_error")
    rig = await rigs(events, dns_use_hosts_file=False)
    monkeypatch.setattr(rig.worker.system, "servers", lambda: ())
    client, _ = arrive(rig, None)
    client.send([query()])
    assert (await receive(client))[0][3] & 15 == 2
    assert "there is no name server to ask: set dns_name_servers" in events.of("dns_error")[0].error.msg


async def test_never_more_than_the_client_takes(rigs: Make, origin: Origin) -> None:
    origin.reply = lambda data: [answer(data, count=60)]
    rig = await rigs()
    client, _ = arrive(rig, origin.address)
    for more, size in ((b"", 512), (edns(600), 600), (edns(100), 512)):
        client.send([query(more=more)])
        message = DNSMessage.unpack((await receive(client))[0])
        assert (message.truncation, message.answers, len(message.questions)) == (True, [], 1)
        assert message._wire is not None
        assert len(message._wire) <= size
    client.send([query(more=edns(4096))])
    assert len(DNSMessage.unpack((await receive(client))[0]).answers) == 60


async def test_ids_never_meet_and_clients_are_bounded(
    rigs: Make, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await rigs()
    clients = [arrive(rig, origin.address, f"192.0.2.{n}")[0] for n in range(40)]
    for n, client in enumerate(clients):
        client.send([query(5, b"\3%03d\0" % n)])
    for n, client in enumerate(clients):
        assert await receive(client) == [answer(query(5, b"\3%03d\0" % n))]
    assert len(origin.ports) <= nameserver_ports.PORTS
    monkeypatch.setattr(dns, "MAX_PER_CLIENT", 3)
    origin.reply = lambda data: []
    heard = len(origin.heard)
    for port in (1, 2):
        arrive(rig, origin.address, "192.0.2.200", port)[0].send([query(i) for i in range(3)])
    await until(lambda: len(origin.heard) == heard + 3)
    await asyncio.sleep(0.05)
    assert len(origin.heard) == heard + 3
    assert rig.worker.dns.clients == {"192.0.2.200": 3}
    monkeypatch.setattr(dns, "MAX_PER_NETWORK", 5)
    for number in range(8):
        arrive(rig, origin.address, f"2001:db8::{number:x}")[0].send([query(number)])
    await until(lambda: len(origin.heard) == heard + 8)
    await asyncio.sleep(0.05)
    assert len(origin.heard) == heard + 8
    assert rig.worker.dns.clients["2001:db8::/64"] == 5


async def test_tcp_pipelined_truncated_and_half_closed(rigs: Make, origin: Origin) -> None:
    async def by_tcp(peer: Peer) -> None:
        while True:
            data = await peer.exactly(int.from_bytes(await peer.exactly(2), "big"))
            found = answer(data, count=2000)
            await peer.say(len(found).to_bytes(2, "big") + found)

    rig = await rigs()
    server = await asyncio.start_server(lambda reader, writer: by_tcp(Peer(reader, writer, rig.pki)), sock=origin.tcp)
    origin.reply = lambda data: [answer(data, flags=0x8380, count=0)] if b"big" in data else [answer(data)]
    events = Events("dns_response")
    rig.addons.add(events)
    near, task = rig.memory(origin.address, top)
    frames = [query(i, b"\3big\0" if i == 1 else b"\3%03d\0" % i) for i in range(30)]
    data = b"".join(len(frame).to_bytes(2, "big") + frame for frame in frames)
    near.write(data[:50])
    await asyncio.sleep(0.01)
    near.write(data[50:])
    near.write_eof()
    got = {}
    for _ in frames:
        size = int.from_bytes((await asyncio.wait_for(near.peek(2), 5))[:2], "big")
        await asyncio.wait_for(near.peek(2 + size), 5)
        message = near.take(2 + size)[2:]
        got[int.from_bytes(message[:2], "big")] = message
    assert got == {i: answer(frame, count=2000 if i == 1 else 1) for i, frame in enumerate(frames)}
    assert await near.read() == b""
    await asyncio.wait_for(task, 5)
    server.close()


@pytest.mark.parametrize("frame", [b"\0\0", b"\0\x0c" + b"\0\1\1\0\0\1" + bytes(6), b"\0\x1a" + query()])
async def test_tcp_messages_that_need_no_server_do_not_hold_the_loop(rigs: Make, origin: Origin, frame: bytes) -> None:
    """Half a megabyte of them took 1.5 s at a stretch: with a few connections the firewall's heartbeat went out."""
    rig = await rigs(Events(dns_request=lambda flow: setattr(flow, "response", flow.request.fail(5))))
    near, task = rig.memory(origin.address, top)
    taken: list[int] = []
    turn = 0
    take = dns.DNSLayer.take

    def counted(self: dns.DNSLayer, data: bytes) -> None:
        taken.append(turn)
        take(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dns.DNSLayer, "take", counted)
        near.write(frame * 1000)
        while len(taken) < 1000:
            await asyncio.sleep(0)
            turn += 1
            if len(frame) > 2:
                near.take(1 << 20)
    assert max(taken.count(one) for one in set(taken)) <= 2 * dns.TURN
    near.abort()
    await asyncio.wait_for(task, 5)


async def test_tcp_client_that_leaves(rigs: Make, origin: Origin) -> None:
    origin.reply = lambda data: []
    events = Events("dns_error", "client_disconnected")
    rig = await rigs(events)
    near, task = rig.memory(origin.address, top)
    near.write(b"\0\x1a" + query())
    await until(lambda: origin.heard)
    near.abort()
    await asyncio.wait_for(task, 5)
    assert events.names == ["dns_error", "client_disconnected"]
    assert rig.worker.dns.pending == 0
    assert rig.worker.dns.clients == {}


async def test_shutdown_ends_what_is_under_way(rigs: Make, origin: Origin) -> None:
    origin.reply = lambda data: []
    events = Events("dns_error")
    rig = await rigs(events)
    client, task = arrive(rig, origin.address)
    client.send([query(i) for i in range(5)])
    await until(lambda: len(origin.heard) == 5)
    began = time.monotonic()
    await rig.worker.stop()
    assert time.monotonic() - began < 1.5
    await asyncio.wait_for(task, 1)
    assert len(events.of("dns_error")) == 5
    assert not rig.worker.dns.strangers


async def test_malformed_and_then_a_good_one(rigs: Make, origin: Origin) -> None:
    events = Events("dns_request", "dns_response", "dns_error")
    rig = await rigs(events)
    client, _ = arrive(rig, origin.address)
    bad = struct.pack("!HHHHHH", 3, 0x0100, 1, 1, 0, 0) + NAME + b"\0\1\0\1" + b"\xc0\x0c\0\5\0\1\0\0\0\0\0\2\xc0\xff"
    client.send([b"", b"\0\1", query(1)[:-1], b"\0\2\x81\x80" + bytes(8), bad, query(4)])
    first, second, third = await receive(client, 3)
    assert first == b"\0\1\x81\x81" + bytes(8)
    assert second == b"\0\3\x81\x81" + bytes(8)
    assert third == answer(query(4))
    assert events.names == ["dns_request", "dns_response"]


async def test_malformed_answer_is_an_error_where_somebody_looks(rigs: Make, origin: Origin) -> None:
    origin.reply = lambda data: [answer(data)[:-1]]
    events = Events("dns_response", "dns_error")
    rig = await rigs(events)
    client, _ = arrive(rig, origin.address)
    client.send([query()])
    assert (await receive(client))[0][3] & 15 == 2
    assert "malformed" in events.of("dns_error")[0].error.msg
    assert not events.of("dns_response")


@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=4))
@settings(max_examples=300, deadline=None)
def test_scan_agrees_with_the_parser(junk: bytes, changes: list[tuple[int, int]]) -> None:
    wire = bytearray(query(more=edns(1232)) if changes else junk)
    for at, byte in changes:
        if at < len(wire):
            wire[at] = byte
    try:
        end, limit = dns_wire.scan(bytes(wire))
    except DNSError:
        return
    assert 12 <= end <= len(wire)
    assert 512 <= limit <= 65535
    try:
        message = DNSMessage.unpack(bytes(wire))
    except DNSError:
        return
    assert message.query
    refusal = DNSMessage.unpack(dns_wire.refusal(bytes(wire), end, 2))
    assert (refusal.id, refusal.questions, refusal.response_code) == (message.id, message.questions, 2)
    assert dns_wire.answers(refusal.packed, bytes(wire), end)


def test_next_layer_on_port_53() -> None:
    policy = HostPolicy([], [])

    def at(data: bytes, port: int = 53, final: bool = False) -> str | None:
        facts = Facts(data, final, False, ["192.0.2.1:53"], None, port, None, False, True)
        found = decide(facts, policy)
        return found.kind if isinstance(found, Proposal) else None

    framed = b"\0\x1a" + query()
    assert isinstance(decide(Facts(framed[:9], False, False, [], None, 53, None, False, True), policy), NeedMore)
    assert at(framed) == "dns"
    assert at(framed[:20]) is None
    assert at(framed[:20], final=True) == "tcp"
    assert at(framed, 5353) == "tcp"
    assert at(b"\0\x1a" + query(kind=252)) == "tcp"  # a zone transfer
    assert at(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == "http"
    assert at(b"\x16\3\1\0\x50" + bytes(40)) == "tls"
    assert at(b"\0\x05hello") == "tcp"
    assert not dns.is_query(b"hello, this is not DNS")


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize("on", [True, False])
async def test_strip_ech(rigs: Make, origin: Origin, on: bool, listening: bool) -> None:
    """An HTTPS record loses what hides names, whoever listens; nothing else is looked at for its sake."""

    def https(data: bytes) -> list[bytes]:
        asked = DNSMessage.unpack(data)
        return [
            asked.succeed([ResourceRecord.HTTPS("www.test", HTTPSRecord(1, "", {1: b"\2h3\2h2", 5: b"keys"}))]).packed
        ]

    origin.reply = https
    rig = await rigs(*([Events()] if listening else []), strip_ech=on)
    client, task = arrive(rig, origin.address)
    client.send([query(kind=65)])
    (got,) = await receive(client)
    (record,) = DNSMessage.unpack(got).answers
    assert (record.https_alpn, record.https_ech) == (((b"h2",), None) if on else ((b"h3", b"h2"), "a2V5cw=="))
    origin.reply = lambda data: [answer(data)[:-1]]
    client.send([query(8, kind=65), query(9)])
    first, second = sorted(await receive(client, 2))
    assert first[3] & 15 == (2 if on or listening else 0)  # what cannot be looked into is not passed on
    assert second[3] & 15 == (2 if listening else 0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
