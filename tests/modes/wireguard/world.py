"""Two devices, a network between them that may lose, hold or repeat datagrams, and a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

from modes.wireguard.device import Device
from modes.wireguard.noise import NO_PSK, PrivateKey
from modes.wireguard.peer import PeerConfig

CLIENT_AT, SERVER_AT = ("192.0.2.9", 40000), ("192.0.2.1", 51820)
UNIX = 1_700_000_000


def packet4(source: str, destination: str, payload: bytes = b"data") -> bytes:
    size = 20 + len(payload)
    head = b"\x45\0" + size.to_bytes(2, "big") + bytes(5) + b"\x11\0\0"
    return head + bytes(map(int, source.split("."))) + bytes(map(int, destination.split("."))) + payload


UP, DOWN = packet4("10.9.0.2", "198.51.100.7"), packet4("198.51.100.7", "10.9.0.2")


class World:
    def __init__(self, psk: bytes = NO_PSK, keepalive: float = 0.0, **more: object) -> None:
        self.now, self.wall = 1000.0, UNIX * 10**9
        keys = PrivateKey(), PrivateKey()
        self.client, self.server = (Device(key, wall=lambda: self.wall) for key in keys)
        self.of_server = self.client.add(
            PeerConfig(keys[1].public, (ip_network("0.0.0.0/0"), ip_network("::/0")), psk, endpoint=SERVER_AT,
                       keepalive=keepalive)
        )  # fmt: skip
        self.of_client = self.server.add(
            PeerConfig(keys[0].public, (ip_network("10.9.0.2/32"), ip_network("fd09::2/128")), psk, "phone", **more)  # type: ignore[arg-type]
        )
        self.got: dict[str, list[bytes]] = {"client": [], "server": []}
        self.wire: list[bytes] = []  # all that was sent
        self.client_at = CLIENT_AT
        self.keep: Callable[[bytes], bool] = lambda data: True

    def carry(self) -> None:
        """Until nobody has anything to send."""
        while self.client.out or self.server.out:
            for name, device, other, source in (
                ("server", self.client, self.server, self.client_at),
                ("client", self.server, self.client, SERVER_AT),
            ):
                out, device.out = device.out, []
                for data, _ in out:
                    self.wire.append(data)
                    if self.keep(data) and (packet := other.receive(data, source, self.now)) is not None:
                        self.got[name].append(packet)

    def up(self, packet: bytes = UP) -> None:
        self.client.send(packet, self.now)
        self.carry()

    def down(self, packet: bytes = DOWN) -> None:
        self.server.send(packet, self.now)
        self.carry()

    def wait(self, seconds: float, step: float = 0.25) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.wall += int(step * 10**9)
            self.client.tick(self.now)
            self.server.tick(self.now)
            self.carry()

    def kinds(self) -> list[int]:
        """Types of what was sent since the last call; 5: a transport message without data."""
        found, self.wire = [5 if len(data) == 32 and data[0] == 4 else data[0] for data in self.wire], []
        return found
