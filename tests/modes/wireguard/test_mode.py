"""The mode between its book and a device, without a namespace."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.arrival import Host
from appliance.net.stream import Net
from modes.spec import ModeSpec
from modes.wireguard import book
from modes.wireguard.book import Book, stamp_of
from modes.wireguard.config import ServerConfig, encode_key
from modes.wireguard.device import Device
from modes.wireguard.mode import WireGuard
from modes.wireguard.noise import PrivateKey
from modes.wireguard.peer import PeerConfig
from tests.modes.wireguard.world import CLIENT_AT, SERVER_AT

SERVER, CLIENT = PrivateKey(b"s" * 32), PrivateKey(b"c" * 32)
PHONE = PeerConfig(CLIENT.public, name="phone")


class Gateway(Host):
    def __init__(self, folder: Path) -> None:
        self.net = Net(asyncio.get_running_loop())
        self._folder = folder

    def confdir(self) -> Path:
        return self._folder

    def option(self, name: str) -> Any:
        return {"wireguard_host_ports": ["8001"]}[name]


class Run:
    """One run of the mode with this configuration, and its device."""

    def __init__(self, folder: Path, *peers: PeerConfig) -> None:
        self.mode = mode = WireGuard(ModeSpec.parse("wireguard"), Gateway(folder), "", None)
        mode._remembered = mode.book.recall()
        config = ServerConfig(SERVER, peers=peers)
        self.device = Device(SERVER, accepted=mode._note, stamps=mode._stamps())
        mode._begin(self.device, config)

    def use(self, *peers: PeerConfig) -> None:
        self.mode._use(ServerConfig(SERVER, peers=peers))
        self.mode._remember()

    def takes(self, initiation: bytes) -> bool:
        self.device.receive(initiation, CLIENT_AT, time.monotonic())
        taken = bool(self.device.out)
        self.device.out.clear()
        return taken


def captured() -> bytes:
    """A handshake's first message, by the client."""
    client = Device(CLIENT)
    client.begin(client.add(PeerConfig(SERVER.public, endpoint=SERVER_AT)), 1.0)
    return client.out[0][0]


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("how", ["removed", "expired"])
async def test_what_was_captured_of_a_peer_that_is_gone(tmp_path: Path, how: str, restarted: bool) -> None:
    """It opens nothing when the peer is there again, whatever was restarted in between."""
    initiation = captured()
    run = Run(tmp_path, PHONE)
    assert run.takes(initiation)
    if how == "removed":
        run.use()
    else:
        run.use(PeerConfig(CLIENT.public, name="phone", expires=1.0))
        run.device.tick(time.monotonic())
    assert not run.device.peers
    run.mode._remember()
    without = Run(tmp_path)
    without.mode._remember()
    again = Run(tmp_path)
    if restarted:
        again = Run(tmp_path, PHONE)
    else:
        again.use(PHONE)
    assert not again.takes(initiation) and again.device.counted["replayed"] == 1
    await asyncio.sleep(0.05)  # so fine are the stamps, and so often one is taken
    assert again.takes(captured())


async def test_a_peer_that_is_gone_is_forgotten_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, PHONE)
    assert run.takes(captured())
    run.use()
    key = encode_key(CLIENT.public)
    gone = Book(run.mode.book.path).recall()[key]["gone"]
    assert gone == pytest.approx(time.time(), abs=5)
    later = time.time() + book.KEEP_SECONDS - 60
    monkeypatch.setattr(time, "time", lambda: later)
    second = Run(tmp_path)
    second.mode._remember()
    assert Book(run.mode.book.path).recall()[key]["gone"] == gone
    monkeypatch.setattr(time, "time", lambda: later + 120)
    second = Run(tmp_path)
    second.mode._remember()
    assert Book(run.mode.book.path).recall() == {}


async def test_a_handshake_is_written_down_before_it_is_answered(tmp_path: Path) -> None:
    run = Run(tmp_path, PHONE)
    assert run.takes(captured())
    assert stamp_of(run.mode.book.recall()[encode_key(CLIENT.public)])


async def test_the_hosts_own_addresses_are_not_for_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modes.wireguard.mode.is_local", lambda host: host in ("192.0.2.1", "2001:db8::1"))
    mode = Run(tmp_path).mode
    mode.dns = ("192.0.2.1",)
    for host in ("192.0.2.1", "2001:db8::1"):
        assert "wireguard_host_ports" in mode.refuses((host, 22)) and host in mode.refuses((host, 22))
        assert not mode.refuses((host, 8001))
    assert not mode.refuses(("192.0.2.1", 53)) and not mode.refuses(("192.0.2.1", 80)), "name server and portal"
    assert mode.refuses(("2001:db8::1", 53)) and mode.refuses(("2001:db8::1", 80))
    assert not mode.refuses(("192.0.2.2", 22)) and not mode.refuses(("2001:db8::2", 22))
    for host in ("127.0.0.1", "::1", "::ffff:192.0.2.2"):
        assert mode.refuses((host, 8001)), "not even the ports that are open"
