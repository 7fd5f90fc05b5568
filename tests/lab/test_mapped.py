"""A client that sends to ::ffff:127.0.0.1: no rule knows it for a local address, and who dials it means IPv4."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.lab.labkit import Lab
from tests.lab.test_firewall import gateway

DATA = b"GET / HTTP/1.1\r\nHost: inside\r\n\r\n"
SYN, ACK, PUSH = 2, 16, 8
pytestmark = pytest.mark.usefixtures("primed")


def packet(source: str, to: str, protocol: int, body: bytes, sum_at: int) -> bytes:
    """IPv6, with the checksum of what is in it."""
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to)
    summed = ends + struct.pack("!IHBB", len(body), 0, 0, protocol) + body + bytes(len(body) % 2)
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:sum_at] + struct.pack("!H", ~total & 0xFFFF) + body[sum_at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + ends + body


class Attacker:
    """Speaks raw IPv6 from the client's side of the LAN."""

    def __init__(self, lab: Lab) -> None:
        self.me = lab.client.v6
        with lab.client.inside():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
            self.sock.bind(("eth0", 0))
        with lab.gateway.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as theirs:
            theirs.bind(("lan0", 0))
            self.ethernet = theirs.getsockname()[4] + self.sock.getsockname()[4] + b"\x86\xdd"
        self.port = random.randrange(20000, 60000)

    def tcp(self, to: str, port: int) -> bool:
        """Connect and send DATA; whether the connection was accepted."""

        def segment(number: int, heard: int, flags: int, data: bytes = b"") -> None:
            head = struct.pack("!HHIIBBHHH", self.port, port, number, heard, 0x50, flags, 65535, 0, 0)
            self.sock.send(self.ethernet + packet(self.me, to, socket.IPPROTO_TCP, head + data, 16))

        segment(1000, 0, SYN)
        end = time.monotonic() + 2
        while (left := end - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                frame = self.sock.recv(2000)
            except TimeoutError:
                break
            if frame[20] == socket.IPPROTO_TCP and frame[56:58] == struct.pack("!H", self.port) and frame[67] & SYN:
                segment(1001, int.from_bytes(frame[58:62], "big") + 1, ACK | PUSH, DATA)
                return True
        return False

    def udp(self, to: str, port: int) -> None:
        body = struct.pack("!HHHH", self.port, port, 8 + len(DATA), 0) + DATA
        self.sock.send(self.ethernet + packet(self.me, to, socket.IPPROTO_UDP, body, 6))


class Service:
    """On the gateway's own loopback."""

    def __init__(self, lab: Lab) -> None:
        self.heard: list[str] = []
        with lab.gateway.inside():
            self.tcp = socket.create_server(("127.0.0.1", 0))
            self.port = self.tcp.getsockname()[1]
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind(("127.0.0.1", self.port))
        self.tcp.settimeout(0.1)
        self.udp.settimeout(0.1)
        self.ending = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.ending:
            try:
                self.tcp.accept()[0].close()
                self.heard.append("tcp")
            except TimeoutError:
                pass
            try:
                self.udp.recv(2000)
                self.heard.append("udp")
            except TimeoutError:
                pass

    def close(self) -> None:
        self.ending = True
        self.thread.join()
        self.tcp.close()
        self.udp.close()


@pytest.fixture
def service(lab: Lab) -> Iterator[Service]:
    made = Service(lab)
    yield made
    made.close()


@pytest.fixture
def attacker(lab: Lab) -> Iterator[Attacker]:
    made = Attacker(lab)
    # Its kernel knows nothing of the connection, and would reset it.
    rules = "add table inet mute; add chain inet mute out { type filter hook output priority 0; }; "
    rules += "add rule inet mute out tcp flags & rst == rst drop"
    lab.client.run(["nft", rules], check=True)
    yield made
    lab.client.run(["nft", "delete table inet mute"], check=True)
    made.sock.close()


@pytest.mark.parametrize("method", ["redirect", "tproxy"])
@pytest.mark.parametrize("backend", ["nftables", pytest.param("iptables-nft", marks=pytest.mark.slow)])
def test_the_gateways_loopback_is_out_of_reach(
    lab: Lab, service: Service, attacker: Attacker, backend: str, method: str
) -> None:
    with gateway(lab, backend, method) as running:
        accepted = attacker.tcp("::ffff:127.0.0.1", service.port)
        attacker.udp("::ffff:127.0.0.1", service.port)
        if accepted:
            running.wait_output("is nobody's address on a network")
        with lab.connect("origin.test", 7000, family=6) as sock:  # what came before it has been seen to
            sock.sendall(b"client")
            assert sock.recv(10) == b"gateway"
        time.sleep(0.3)
        assert service.heard == []
        assert accepted or method == "tproxy"  # under redirect it does come here
