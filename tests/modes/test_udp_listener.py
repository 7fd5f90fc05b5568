"""The table of flows behind one socket. What needs TPROXY is in tests/lab/test_udp.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

import modes.flowlistener
import modes.udp
from appliance.arrival import Arrival, Host
from appliance.layers.modes import TransparentProxy
from appliance.net.datagrams import SharedDatagrams
from appliance.net.reasons import CLOSED, KILLED
from appliance.net.stream import Net
from modes.spec import ModeSpec
from modes.udp import UdpListener, original_destination
from tests.harness import until


class Gateway(Host):
    """Keeps what arrives; nothing is carried."""

    def __init__(self) -> None:
        self.net = Net(asyncio.get_running_loop())
        self.arrivals: list[Arrival] = []
        self.is_full = False
        self.most = 1000

    def full(self) -> bool:
        return self.is_full

    def limit(self) -> int:
        return self.most

    async def arrive(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)

    def flow(self, number: int) -> SharedDatagrams:
        transport = self.arrivals[number].transport
        assert isinstance(transport, SharedDatagrams)
        return transport


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
async def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def listener(gateway: Gateway, client: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[UdpListener]:
    """On loopback, where the listener's own address is what the client wanted."""
    monkeypatch.setattr(modes.udp, "is_local", lambda ip: False)
    monkeypatch.setattr(modes.udp, "DEAF_SECONDS", 0.2)
    made = UdpListener(ModeSpec.parse("transparent@0"), gateway, TransparentProxy, gateway.arrive)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    try:
        made.bind(socket.AF_INET, address)
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW or CAP_NET_ADMIN (IP_TRANSPARENT)")
    client.connect(address)
    yield made
    made.close()
    made.close()


async def test_one_flow_for_a_client_and_a_destination(
    gateway: Gateway, listener: UdpListener, client: socket.socket
) -> None:
    for i in range(100):
        client.send(b"%d" % i)
    await until(lambda: gateway.arrivals and gateway.flow(0).received == 100)
    assert await gateway.flow(0).receive() == [b"%d" % i for i in range(100)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.sendto(b"other", client.getpeername())
        await until(lambda: len(gateway.arrivals) == 2)
        arrival = gateway.arrivals[1]
        assert arrival.client.peername == ("127.0.0.1", other.getsockname()[1])
    assert arrival.wanted == arrival.client.sockname == client.getpeername()
    assert arrival.client.transport_protocol == "udp"
    assert len(listener.flows) == 2
    gateway.flow(0).close()
    assert len(listener.flows) == 1
    client.send(b"begins anew")
    await until(lambda: len(gateway.arrivals) == 3)


async def test_a_killed_flow_stays_dead_for_a_while(
    gateway: Gateway, listener: UdpListener, client: socket.socket
) -> None:
    client.send(b"x")
    await until(lambda: gateway.arrivals)
    gateway.flow(0).abort(KILLED)
    for _ in range(3):
        client.send(b"again")
        await asyncio.sleep(0.02)
    assert len(gateway.arrivals) == 1
    await until(lambda: not listener.flows)
    client.send(b"later")
    await until(lambda: len(gateway.arrivals) == 2)


async def test_bounds(
    gateway: Gateway, listener: UdpListener, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes.udp, "MAX_FLOWS", 2)
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    for sock in socks:
        sock.sendto(b"x", client.getpeername())
    await until(lambda: listener.refused == 2)
    assert len(gateway.arrivals) == 2
    gateway.flow(0).close(why=CLOSED)
    gateway.is_full = True
    socks[3].sendto(b"x", client.getpeername())
    await until(lambda: listener.refused == 3)
    gateway.is_full = False
    socks[3].sendto(b"x", client.getpeername())
    await until(lambda: len(gateway.arrivals) == 3)
    for sock in socks:
        sock.close()


def test_original_destination() -> None:
    four = struct.pack("=H", socket.AF_INET) + b"\0\x35" + socket.inet_aton("192.0.2.1") + bytes(8)
    assert original_destination(four) == ("192.0.2.1", 53)
    six = struct.pack("=H", socket.AF_INET6) + b"\x01\xbb" + bytes(4) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert original_destination(six + bytes(4)) == ("2001:db8::1", 443)
    for odd in (b"", four[:15], six + bytes(5)):
        assert original_destination(odd) is None


async def test_one_client_holds_a_share_of_the_table(
    gateway: Gateway, listener: UdpListener, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes.udp, "MAX_FLOWS", 40)
    with contextlib.ExitStack() as stack:

        def ask(source: str) -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((source, 0))
            sock.sendto(b"x", client.getpeername())
            return sock

        for _ in range(30):
            ask("127.0.0.1")
        await until(lambda: listener.refused == 20)
        assert len(listener.flows) == 10
        for i in range(5):
            ask(f"127.0.0.{i + 2}")
        await until(lambda: len(listener.flows) == 15)
        for flow in range(10):
            gateway.flow(flow).close()
        ask("127.0.0.1")
        await until(lambda: len(listener.flows) == 6)
        assert listener.refused == 20
    for number in range(len(gateway.arrivals)):
        gateway.flow(number).close()
    assert not listener.flows
    assert not listener._held
    assert not listener._young


async def test_when_full_old_flows_give_way_unless_somebody_spoke_after_an_answer(
    gateway: Gateway, listener: UdpListener, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often they were heard of: spoofed sources can send twice."""
    monkeypatch.setattr(modes.udp, "MAX_FLOWS", 20)
    monkeypatch.setattr(modes.flowlistener, "YOUNG_SECONDS", 60.0)
    monkeypatch.setattr(modes.udp, "DEAF_SECONDS", 2.0)
    said: list[bytes] = []
    monkeypatch.setattr(listener, "_answer", lambda key, wanted, data: said.append(data))
    with contextlib.ExitStack() as stack:
        socks = []
        for i in range(30):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((f"127.0.1.{i + 1}", 0))
            socks.append(sock)
        for sock in socks[:20] * 2:
            sock.sendto(b"x", client.getpeername())
        await until(lambda: len(listener.flows) == 20 and gateway.flow(19).received == 2)
        gateway.flow(0).send([b"an answer"])
        gateway.flow(0).send([b"another"])
        gateway.flow(2).send([b"this client does not exist"])
        assert said == [b"an answer", b"another", b"this client does not exist"]
        socks[0].sendto(b"after it", client.getpeername())
        await until(lambda: gateway.flow(0).received == 3)
        gateway.flow(1).abort(KILLED)  # deaf for a while, or the kill would be undone
        socks[20].sendto(b"too early", client.getpeername())
        await until(lambda: listener.refused == 1)
        monkeypatch.setattr(modes.flowlistener, "YOUNG_SECONDS", 0.0)
        for sock in socks[20:]:
            sock.sendto(b"x", client.getpeername())
        await until(lambda: len(gateway.arrivals) == 30)
        assert len(listener.flows) == 20
        gone = [i for i in range(30) if gateway.flow(i).why is not None]
        assert gone == list(range(1, 12))  # the oldest, but not the one that is a conversation
    for number in range(len(gateway.arrivals)):
        gateway.flow(number).close()
    await until(lambda: not listener.flows)
    assert not (listener._held or listener._young or listener._answered or listener._answered_of)


def arrive(listener: UdpListener, client: str, port: int = 5000) -> SharedDatagrams | None:
    """As if a datagram of an IPv6 client had come through TPROXY."""
    told = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", 9, 0, socket.inet_pton(10, "2001:db8::9"), 0)
    key = (client, port, 0, 0), told
    flow = listener.flows.get(key) or listener._begin(key)
    if flow is not None:
        flow.arrived(b"x")
    return flow


async def test_all_addresses_of_one_host_do_not_fill_the_table(
    gateway: Gateway, listener: UdpListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes.udp, "MAX_FLOWS", 40)
    monkeypatch.setattr(modes.flowlistener, "YOUNG_SECONDS", 0.0)
    monkeypatch.setattr(listener, "_answer", lambda key, wanted, data: None)

    def talk(client: str) -> None:
        if flow := arrive(listener, client):
            flow.send([b"x"])
            arrive(listener, client)

    for number in range(100):
        for _ in range(2):
            arrive(listener, f"2001:db8:1::{number:x}")
    assert listener.refused == 0
    for number in range(30):  # answered or not, others have room: in another network, and a neighbour
        talk(f"2001:db8:1::a{number:x}")
    assert listener._answered_of == {"2001:db8:1::/64": 20}
    assert listener.refused == 10
    for number in range(15):
        talk(f"2001:db8:2:{number:x}::1")
    assert len(listener._answered) == 35
    assert listener.refused == 10
    for flow in list(listener.flows.values()):
        flow.close()
    assert not (listener._held or listener._young or listener._answered or listener._answered_of)
