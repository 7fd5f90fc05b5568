"""What the kernel is told: as messages, and in which order. With a real kernel: tests/vm/test_wireguard.py."""

from __future__ import annotations

import asyncio
import base64
import errno
import time
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic.wireguard import wgmsg
from pyroute2.netlink.nlsocket import Marshal

from modes.wireguard import kernel, netlink
from modes.wireguard.kernel import KernelDevice, Unavailable, check
from modes.wireguard.netlink import Change, Entry, Interface, Seen
from modes.wireguard.noise import NO_PSK, PrivateKey, Rejected
from modes.wireguard.peer import PeerConfig

KEYS = [PrivateKey().public for _ in range(5)]
PSK = bytes(range(32))


def config(number: int, *networks: str, **more: object) -> PeerConfig:
    return PeerConfig(KEYS[number], tuple(map(ip_network, networks)), name=f"peer{number}", **more)  # type: ignore[arg-type]


class Recorder:
    """In place of the kernel's interface: has peers as they are told to it, by what the messages say."""

    def __init__(self) -> None:
        self.peers: dict[bytes, Entry] = {}
        self.sessions: dict[bytes, int] = {}  # which one it is since the peer was made
        self.messages = 0
        self.fail = 0
        self.seen: list[Seen] = []

    async def change(self, changes: Sequence[Change]) -> None:
        self.messages += 1
        await asyncio.sleep(0)
        if self.fail:
            self.fail -= 1
            raise NetlinkError(errno.ENOMEM)
        for one in changes:
            if one.entry is None or one.renew:
                self.peers.pop(one.public, None)
            if one.entry is None:
                continue
            if one.public not in self.peers:
                self.sessions[one.public] = self.sessions.get(one.public, 0) + 1
            self.peers[one.public] = one.entry
            for public, other in self.peers.items():  # as the kernel's trie of allowed IPs
                if public != one.public:
                    left = tuple(network for network in other.networks if network not in one.entry.networks)
                    self.peers[public] = Entry(public, other.psk, other.keepalive, left)

    async def start(self, private: bytes, port: int) -> None:
        pass

    async def route(self) -> None:
        pass

    async def look(self) -> tuple[int, list[Seen]]:
        return 51820, self.seen

    async def unallowed(self) -> int:
        return 0

    async def delete(self) -> None:
        pass

    async def close(self) -> None:
        pass


class World:
    def __init__(self) -> None:
        self.interface = Recorder()
        self.device = KernelDevice(PrivateKey())
        self.device._interface = self.interface  # type: ignore[assignment]

    async def __aenter__(self) -> World:
        assert await self.device.start(0, lambda: None) == 51820
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.device.close()

    def networks(self, number: int) -> list[str]:
        return [str(network) for network in self.interface.peers[KEYS[number]].networks]


async def test_peers_come_change_and_go() -> None:
    world = World()
    world.device.add(config(0, "10.0.0.1/32", "fd00::1/128", keepalive=25.0))
    async with world:
        assert world.interface.peers[KEYS[0]] == Entry(
            KEYS[0], NO_PSK, 25, (ip_network("10.0.0.1"), ip_network("fd00::1"))
        )
        before = world.interface.messages
        for number in range(4):
            world.device.add(config(number, f"10.0.0.{number + 1}/32"))
        await world.device.settled()
        assert world.interface.messages == before + 1
        assert world.interface.sessions == dict.fromkeys(KEYS[:4], 1)
        world.device.remove(KEYS[0])
        world.device.remove(KEYS[0])
        await world.device.settled()
        assert set(world.interface.peers) == set(KEYS[1:4])
        before = world.interface.messages
        world.device.add(config(1, "10.0.0.2/32"))
        await world.device.settled()
        assert world.interface.messages == before


async def test_another_psk_ends_the_sessions_and_counting_goes_on() -> None:
    async with World() as world:
        peer = world.device.add(config(0, "10.0.0.1/32"))
        peer.received = 1000  # of an earlier run
        await world.device.settled()
        world.interface.seen = [Seen(KEYS[0], ("192.0.2.1", 5), 1e9, 50, 60), Seen(KEYS[1], None, 0.0, 1, 1)]
        for _ in range(2):
            await world.device.look()
        assert (peer.received, peer.sent, peer.last_handshake, peer.endpoint) == (1050, 60, 1e9, ("192.0.2.1", 5))
        world.device.add(config(0, "10.0.0.1/32", psk=PSK))
        await world.device.settled()
        assert world.interface.sessions[KEYS[0]] == 2 and world.interface.peers[KEYS[0]].psk == PSK
        world.interface.seen = [Seen(KEYS[0], None, 0.0, 70, 1)]
        await world.device.look()
        assert (peer.received, peer.sent, peer.last_handshake, peer.endpoint) == (1120, 61, 1e9, ("192.0.2.1", 5))


async def test_addresses_swap_owners() -> None:
    """The last one that claims an address has it, and what user space says of an address is what the kernel does."""
    async with World() as world:
        for number, address in enumerate(("10.0.0.1/32", "10.0.0.2/32")):
            world.device.add(config(number, address))
        await world.device.settled()
        for number, address in enumerate(("10.0.0.2/32", "10.0.0.1/32")):
            world.device.add(config(number, address))
        await world.device.settled()
        assert (world.networks(0), world.networks(1)) == (["10.0.0.2/32"], ["10.0.0.1/32"])
        for number in (1, 0):  # in another order
            world.device.add(config(number, "10.0.0.7/32", "10.0.0.7/32", f"10.0.1.{number}/32"))
        await world.device.settled()
        assert (world.networks(0), world.networks(1)) == (["10.0.0.7/32", "10.0.1.0/32"], ["10.0.1.1/32"])
        owner = world.device.routes.owner(bytes((10, 0, 0, 7)))
        assert owner is not None and owner.config.name == "peer0"


async def test_what_the_kernel_refuses_is_told_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel, "TICK_SECONDS", 0.01)
    async with World() as world:
        world.interface.fail = 1
        world.device.add(config(0, "10.0.0.1/32"))
        await until(lambda: KEYS[0] in world.interface.peers)
        world.interface.fail = 1
        world.device.remove(KEYS[0])
        await until(lambda: not world.interface.peers)
        assert "Cannot allocate memory; the kernel is asked again" in caplog.text


async def test_an_expired_peer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "TICK_SECONDS", 0.01)
    gone = []
    async with World() as world:
        world.device.expired = lambda peer: gone.append(peer.config.name)
        world.device.add(config(0, "10.0.0.1/32", expires=1.0))
        await world.device.settled()
        assert not world.interface.peers
        world.device.add(config(1, "10.0.0.1/32", expires=time.time() + 0.2))
        await world.device.settled()
        assert set(world.interface.peers) == {KEYS[1]}
        await until(lambda: not world.interface.peers)
        assert gone == ["peer0", "peer1"] and world.device.routes.owner(bytes((10, 0, 0, 1))) is None


async def test_keys_that_cannot_be() -> None:
    device = KernelDevice(PrivateKey())
    with pytest.raises(Rejected, match="small order"):
        device.add(PeerConfig(bytes(32)))
    with pytest.raises(Rejected, match="the gateway's own"):
        device.add(PeerConfig(device.own.public))
    await device.close()


def test_what_can_be_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "capabilities", lambda: 0xFFFF & ~(1 << 12))
    with pytest.raises(Unavailable, match="CAP_NET_ADMIN"):
        check()
    monkeypatch.setattr(kernel, "capabilities", lambda: 1 << 12)
    check()


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9"])
async def test_what_the_kernel_says_is_read(address: str) -> None:
    """From messages as they are on netlink; a peer with many networks is told in several pieces."""

    class Answers:
        async def info(self, name: str) -> AsyncIterator[wgmsg]:
            return self.messages(name)

        async def messages(self, name: str) -> AsyncIterator[wgmsg]:
            for peers in ([told, [("WGPEER_A_PUBLIC_KEY", base64.b64encode(KEYS[1]))]], [told[:1]], []):
                message = wgmsg()
                message["attrs"] = [("WGDEVICE_A_IFNAME", name), ("WGDEVICE_A_LISTEN_PORT", 51820)]
                message["attrs"] += [("WGDEVICE_A_PEERS", [{"attrs": attrs} for attrs in peers])] if peers else []
                message.encode()
                found = wgmsg(bytes(message.data))
                found.decode()
                yield found

    told: list[tuple[str, object]] = [
        ("WGPEER_A_PUBLIC_KEY", base64.b64encode(KEYS[0])),
        ("WGPEER_A_ENDPOINT", {"addr": address, "port": 4000}),
        ("WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 1_700_000_000, "tv_nsec": 500_000_000}),
        ("WGPEER_A_RX_BYTES", 148),
        ("WGPEER_A_TX_BYTES", 92),
    ]
    interface = Interface("wg0", -1, -1, -1)
    interface._generic = Answers()
    assert await interface.look() == (
        51820,
        [Seen(KEYS[0], (address, 4000), 1_700_000_000.5, 148, 92), Seen(KEYS[1], None, 0.0, 0, 0)],
    )


ADDRESSES = st.ip_addresses().flatmap(
    lambda ip: st.integers(0, ip.max_prefixlen).map(lambda bits: ip_network((ip, bits), strict=False))
)


@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(ADDRESSES, max_size=10), st.integers(0, 65535), st.just(1)),
        max_size=6,
    )
)
@settings(max_examples=20, deadline=None)
@example([(True, [ip_network("10.0.0.0/8")], 0, 1500), (False, [], 5, 1), (False, [ip_network("::/0")], 5, 600)])
def test_messages_say_what_is_meant(peers: list[tuple[bool, list[object], int, int]]) -> None:
    """pyroute2 reads back what was written; no attribute is too long, and of a peer only the first piece replaces."""
    sent: list[bytes] = []
    interface = Interface("wg0", -1, -1, -1)

    async def record(*attributes: tuple[str, object]) -> None:
        message = wgmsg()
        message["attrs"] = [("WGDEVICE_A_IFNAME", "wg0"), *attributes]
        message["header"]["type"] = 30
        message.encode()
        sent.append(bytes(message.data))

    interface._set = record  # type: ignore[method-assign, assignment]
    changes, wanted = [], []
    for number, (renew, few, keepalive, times) in enumerate(peers):
        networks = tuple(dict.fromkeys(few)) * times
        public = number.to_bytes(32, "big")
        changes.append(Change(public, Entry(public, PSK, keepalive, networks), renew, ("::1", 7)))  # type: ignore[arg-type]
        wanted.append((public, [str(network) for network in networks]))
    changes.append(Change(KEYS[0], None))
    asyncio.run(interface.change(changes))
    marshal = Marshal()
    marshal.msg_map[30] = wgmsg
    found: dict[bytes, list[str]] = {}
    removed = []
    for data in sent:
        assert len(data) < 65536
        (message,) = marshal.parse(data)
        for peer in message.get_attr("WGDEVICE_A_PEERS"):
            public = base64.b64decode(peer.get_attr("WGPEER_A_PUBLIC_KEY"))
            flags = peer.get_attr("WGPEER_A_FLAGS")
            if flags == 1:
                removed.append(public)
                continue
            assert flags == (None if public in found else 2)
            if flags == 2:
                assert base64.b64decode(peer.get_attr("WGPEER_A_PRESHARED_KEY")) == PSK
                assert peer.get_attr("WGPEER_A_ENDPOINT")["addr"] == "::1"
            found.setdefault(public, []).extend(
                str(ip_network(one["addr"])) for one in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ()
            )
    assert list(found.items()) == wanted
    assert removed == [*(one.public for one in changes if one.renew), KEYS[0]]
    assert netlink.NETWORKS_AT_ONCE * 40 < 60000


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
