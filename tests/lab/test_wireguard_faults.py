"""The mode `wireguard` under a client that does what it should not: our own device, with a plain socket under it."""

from __future__ import annotations

import base64
import json
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from appliance.net.unreachable import checksum
from modes.firewall.plan import BEAT_TIMEOUT
from modes.wireguard.device import Device
from modes.wireguard.noise import PrivateKey
from modes.wireguard.peer import PeerConfig
from tests.lab.gateway_proc import LOCKGATE, Gateway
from tests.lab.labkit import ECHO, Lab
from tests.lab.netns import wait_for
from tests.lab.test_wireguard import Tunnels

SERVER = ("10.61.1.1", 51820)


def datagram(source: str, text: bytes, to: str = "10.61.2.2", port: int = ECHO) -> bytes:
    """An inner packet: UDP, if not said otherwise to the lab's echo server."""
    udp = struct.pack(">HHHH", 4000, port, 8 + len(text), 0) + text
    if ":" in to:
        addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
        sum_ = checksum(addresses + struct.pack(">II", len(udp), 17) + udp + bytes(len(udp) % 2))
        return struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + addresses + udp[:6] + sum_ + udp[8:]
    addresses = socket.inet_aton(source) + socket.inet_aton(to)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
    return head[:10] + checksum(head) + head[12:] + udp


class Client:
    """Remembers all it has sent, as somebody on the way would."""

    def __init__(self, lab: Lab, text: str) -> None:
        self._lab = lab
        values = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
        key = {name: base64.b64decode(values[name]) for name in ("PrivateKey", "PublicKey", "PresharedKey")}
        self.address, self.address6 = (text.split("/")[0] for text in values["Address"].split(", "))
        self.device = Device(PrivateKey(key["PrivateKey"]))
        everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
        self.device.add(PeerConfig(key["PublicKey"], everything, key["PresharedKey"], endpoint=SERVER))
        self.sent: list[bytes] = []
        self.sock = self.socket()

    def socket(self) -> socket.socket:
        with self._lab.client.inside():
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def echo(self, text: bytes, source: str = "", seconds: float = 5.0) -> bytes:
        """What comes back; b"" if nothing does."""
        return self.exchange(datagram(source or self.address, text), seconds)

    def exchange(self, packet: bytes, seconds: float) -> bytes:
        """Send a packet. Returns what the next datagram that comes back says; b"" if none does."""
        self.device.send(packet, time.monotonic())
        end = time.monotonic() + seconds
        while True:
            for data, to in self.device.out:
                self.sent.append(data)
                self.sock.sendto(data, to)
            self.device.out.clear()
            if not select.select([self.sock], [], [], max(0.0, end - time.monotonic()))[0]:
                return b""
            data, at = self.sock.recvfrom(2000)
            packet = self.device.receive(data, at, time.monotonic())
            if packet is not None and packet[0] >> 4 == 4 and packet[9] == 17:
                return packet[28:]
            if packet is not None and packet[0] >> 4 == 6 and packet[6] == 17:
                return packet[48:]

    def again(self, sock: socket.socket, what: list[bytes]) -> set[int]:
        """Send what was sent before. Returns of what kinds the answers are."""
        for data in what:
            sock.sendto(data, SERVER)
        kinds = set()
        while select.select([sock], [], [], 1.0)[0]:
            kinds.add(sock.recv(2000)[0])
        return kinds


def dropped(tunnels: Tunnels, gateway: Gateway) -> dict[str, int]:
    words = [*LOCKGATE, "status", "--json", "--set", f"confdir={tunnels.conf}"]
    status = json.loads(gateway.host.run(words, check=True).stdout)
    found: dict[str, int] = status["modes"][0]["facts"]["dropped"]
    return found


@pytest.fixture
def tunnels(lab: Lab, rootless: None) -> Iterator[Tunnels]:
    yield Tunnels(lab)


def test_what_was_captured_is_sent_again(tunnels: Tunnels, lab: Lab) -> None:
    client = Client(lab, tunnels.command("add", "phone", "--endpoint", "10.61.1.1"))
    attacker = client.socket()
    gateway = tunnels.start(addon="")
    assert client.echo(b"one") == b"one"
    assert client.sent[0][0] == 1 and client.sent[-1][0] == 4
    captured = list(client.sent)
    assert client.again(attacker, captured) == set()
    assert dropped(tunnels, gateway)["replayed"] == len(captured)
    assert client.echo(b"two") == b"two"  # and the peer is where it was
    # It moves: what is authentic takes the tunnel along.
    client.sock.close()
    client.sock = client.socket()
    assert client.echo(b"three") == b"three"
    assert client.again(attacker, captured) == set() and client.echo(b"four") == b"four"
    time.sleep(BEAT_TIMEOUT)  # in the namespace there is no heartbeat
    assert client.echo(b"later") == b"later"
    # An inner source that is not its own.
    assert client.echo(b"five", source="10.87.0.77", seconds=1) == b""
    gateway.wait_output("peer phone: packets from 10.87.0.77 are dropped, its AllowedIPs here are 10.87.0.2/32")
    assert dropped(tunnels, gateway)["not from its allowed IPs"] == 1
    time.sleep(1.5)
    gateway.kill()
    with tunnels.start(addon="") as again:
        while select.select([client.sock], [], [], 0.3)[0]:
            client.sock.recv(2000)  # our handshake: it was heard a moment ago
        assert client.again(attacker, captured) == set()
        assert dropped(tunnels, again)["replayed"] == sum(data[0] == 1 for data in captured)
        (peer,) = client.device.peers.values()
        client.device.remove(peer.config.public)
        client.device.add(peer.config)
        assert client.echo(b"six", seconds=8) == b"six"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_no_datagram_reaches_the_gateways_loopback(tunnels: Tunnels, lab: Lab, address: str) -> None:
    client = Client(lab, tunnels.command("add", "phone", "--endpoint", "10.61.1.1"))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with lab.gateway.inside():
        service = socket.socket(family, socket.SOCK_DGRAM)
    with service, tunnels.start(addon=""):
        service.bind((address, 0))
        port = service.getsockname()[1]
        for to in ("127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::127.0.0.1"):
            source = client.address6 if ":" in to else client.address
            assert client.exchange(datagram(source, b"in", to, port), 0.3) == b"", to
        assert client.echo(b"still there") == b"still there"
        with pytest.raises(BlockingIOError):
            print(service.recvfrom(100, socket.MSG_DONTWAIT))


def test_handshakes_of_an_earlier_clock(tunnels: Tunnels, lab: Lab) -> None:
    """A client whose clock has gone back is refused, until it is later than it was; its session goes on meanwhile."""
    client = Client(lab, tunnels.command("add", "phone", "--endpoint", "10.61.1.1"))
    with tunnels.start(addon="") as gateway:
        assert client.echo(b"one") == b"one"
        (peer,) = client.device.peers.values()
        late = Client.__new__(Client)
        late.__dict__.update(client.__dict__)
        late.device = Device(client.device.own, wall=lambda: time.time_ns() - 3600 * 10**9)
        late.device.add(peer.config)
        assert late.echo(b"two", seconds=1) == b""
        wait_for(lambda: dropped(tunnels, gateway)["replayed"] >= 1, 5, "it is counted")
        assert client.echo(b"three") == b"three"
