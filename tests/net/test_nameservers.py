"""Whose sockets towards name servers are given up. How questions and answers meet is in tests/layers/test_dns.py."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from appliance.connection import Address
from appliance.net import nameservers
from appliance.net.clients import network
from appliance.net.guard import LoopGuard
from appliance.net.nameservers import NameServers
from tests.harness import until

QUERY = struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + b"\3www\4test\0\0\1\0\1"
ATTACKER, CLIENT = "192.0.2.66", "192.0.2.7"


class Site:
    """All of 127.0.0.0/8 answers on one port, and is silent on another."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.names = NameServers(self.loop, LoopGuard())
        self.good = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.good.setsockopt(socket.SOL_IP, 8, 1)  # IP_PKTINFO
        self.good.bind(("0.0.0.0", 0))
        self.silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.silent.bind(("0.0.0.0", 0))
        self.server: Address = ("127.0.0.1", self.good.getsockname()[1])
        self.loop.add_reader(self.good, self._asked)
        self.count = 0

    def _asked(self) -> None:
        data, ((level, kind, asked),), _, peer = self.good.recvmsg(512, 64)
        source = bytes(4) + asked[8:12] + bytes(4)
        self.good.sendmsg((data[:2] + b"\x81\x80" + data[4:],), ((level, kind, source),), 0, peer)

    async def ask(self, client: str, server: Address | None = None) -> tuple[bool, str]:
        told = self.loop.create_future()
        self.names.ask(
            [server or self.server], QUERY, len(QUERY), lambda data, why: told.set_result((data is not None, why)),
            client=client and network(client),
        )  # fmt: skip
        async with asyncio.timeout(5):
            found: tuple[bool, str] = await told
        return found

    def flood(self, count: int, client: str = ATTACKER, port: int | None = None) -> None:
        """Questions to so many new addresses; nothing answers."""
        for _ in range(count):
            self.count += 1
            host = f"127.1.{self.count // 250}.{self.count % 250 + 1}"
            address = (host, port or self.silent.getsockname()[1])
            self.names.ask([address], QUERY, len(QUERY), lambda data, why: None, client=network(client))


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    made = Site()
    yield made
    made.loop.remove_reader(made.good)
    made.good.close()
    made.silent.close()
    await made.names.close()
    assert made.names.pending == 0
    assert not made.names.own
    assert not made.names.strangers


@pytest.fixture(params=[False, True], ids=["used before", "new"])
def new(request: pytest.FixtureRequest) -> Iterator[bool]:
    yield request.param


async def test_who_asks_silent_servers_takes_sockets_from_itself(site: Site, new: bool) -> None:
    if not new:
        assert (await site.ask(CLIENT))[0]
    site.flood(300)
    assert len(site.names.strangers) == nameservers.MAX_PORTS
    for _ in range(20):
        site.flood(10)
        assert await site.ask(CLIENT) == (True, "")
    assert len(site.names.strangers) == nameservers.MAX_PORTS
    assert site.names.strangers._opened[CLIENT] == 1


async def test_the_last_socket_to_a_server_that_answers_stays(site: Site) -> None:
    """Though everybody has one: spoofed sources, or the addresses of one /64 that are many by another count."""
    assert (await site.ask(CLIENT))[0]
    (port,) = site.names.strangers._open
    for number in range(300):
        site.flood(1, f"198.51.100.{number}" if number < 250 else f"2001:db8:0:{number:x}::1")
    assert port in site.names.strangers._open
    assert await site.ask(CLIENT) == (True, "")
    assert port.sent == 2


async def test_a_question_whose_socket_went_is_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacker has opened the sockets that others use, and gives them up while others wait."""
    monkeypatch.setattr(nameservers, "PATIENCE", (0.1, 0.1, 20.0))
    monkeypatch.setattr(nameservers, "TICK", 0.02)
    site.loop.remove_reader(site.good)
    for _ in range(8):
        site.names.ask([site.server], QUERY, len(QUERY), lambda data, why: None, client=ATTACKER)
    other = asyncio.ensure_future(site.ask(CLIENT))
    await asyncio.sleep(0)
    assert site.names.pending == 9
    site.flood(200)
    assert CLIENT not in site.names.strangers._opened
    site.loop.add_reader(site.good, site._asked)
    assert await other == (True, "")
    assert len(site.names.strangers) <= nameservers.MAX_PORTS


async def test_answering_servers_hold_no_more_than_silent_ones(site: Site) -> None:
    site.flood(200, port=site.server[1])
    await asyncio.sleep(0.2)
    assert sum(port.answered for port in site.names.strangers._open) > 100
    for _ in range(5):
        assert await site.ask(CLIENT) == (True, "")
        site.flood(20, port=site.server[1])


async def test_the_gateways_own_servers_have_their_sockets(site: Site) -> None:
    site.flood(300)
    for _ in range(8):
        assert (await site.ask("", ("127.0.0.2", site.server[1])))[0]
    assert len(site.names.own) == 8
    assert site.names.strangers._opened == {ATTACKER: nameservers.MAX_PORTS}
    assert len(site.names.strangers) == nameservers.MAX_PORTS


def test_network() -> None:
    assert network("192.0.2.1") == "192.0.2.1"
    assert network("::ffff:192.0.2.1") == "::ffff:192.0.2.1"
    assert network("2001:db8:1:2:3::4") == network("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert network("fe80::1%eth0") == "fe80::/64"
    assert network("") == ""
    assert network("a:b") == "a:b"


async def test_the_oldest_question_gives_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoofed sources that ask what nobody answers fill the table; who asks next has an answer all the same."""
    monkeypatch.setattr(nameservers, "MAX_PENDING", 50)
    ended: list[str] = []
    for number in range(60):
        servers = [("127.0.0.9", site.silent.getsockname()[1])]
        site.names.ask(servers, QUERY, len(QUERY), lambda data, why: ended.append(why), asker=f"198.51.100.{number}")
    assert site.names.pending == 50
    assert len(ended) == 10 and "longest" in ended[0]
    for _ in range(5):
        assert await site.ask(CLIENT) == (True, "")
    assert len(ended) == 11  # an answer makes room for the next


class Slow:
    """A server at one address: truncated by UDP, and by TCP it takes all connections and says nothing."""

    def __init__(self, answers: bool = False) -> None:
        self.answers = answers
        self.tcp: asyncio.Server
        self.taken = 0
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    async def start(self) -> Address:
        self.tcp = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        address: Address = self.tcp.sockets[0].getsockname()
        self.udp.bind(address)
        asyncio.get_running_loop().add_reader(self.udp, self._asked)
        return address

    def _asked(self) -> None:
        data, peer = self.udp.recvfrom(512)
        self.udp.sendto(data[:2] + b"\x83\x80" + data[4:], peer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        if self.answers:
            size = int.from_bytes(await reader.readexactly(2), "big")
            data = await reader.readexactly(size)
            writer.write(size.to_bytes(2, "big") + data[:2] + b"\x81\x80" + data[4:])
        await reader.read()
        writer.close()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self.udp.close()
        self.tcp.close()


async def test_who_has_the_most_tcp_connections_gives_one_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameservers, "MAX_TCP", 8)
    slow, quick = Slow(), Slow(answers=True)
    ended: dict[str, list[str]] = {ATTACKER: [], CLIENT: []}

    async def ask(server: Address, asker: str) -> bool:
        told = site.loop.create_future()
        site.names.ask(
            [server], QUERY, len(QUERY), lambda data, why: told.set_result((data, why)), by_tcp=True, asker=asker
        )
        async with asyncio.timeout(10):
            data, why = await told
        if data is None:
            ended[asker].append(why)
        return data is not None

    try:
        silent, good = await slow.start(), await quick.start()
        tasks = [asyncio.ensure_future(ask(silent, ATTACKER)) for _ in range(12)]
        # Its own further ones take from nobody.
        await until(lambda: slow.taken == 8 and len(ended[ATTACKER]) == 4)
        assert all(await asyncio.gather(*(ask(good, CLIENT) for _ in range(3))))
        assert not ended[CLIENT]
        gave_way = [ATTACKER in why for why in ended[ATTACKER]]
        assert gave_way[:4] == [False] * 4 and gave_way[4:] and all(gave_way[4:])
        for task in tasks:
            task.cancel()
    finally:
        slow.close()
        quick.close()
