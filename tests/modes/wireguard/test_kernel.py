"""What the kernel says of its peers, read from messages as they are on netlink. The rest is in tests/vm."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import Any

import pytest
from pyroute2.netlink.generic.wireguard import wgmsg

from modes.wireguard.config import encode_key
from modes.wireguard.kernel import Kernel
from modes.wireguard.noise import PrivateKey
from modes.wireguard.peer import PeerConfig


class Answers:
    """Stands where pyroute2's socket is; its message is encoded and decoded by pyroute2."""

    def __init__(self, peers: list[list[Any]]) -> None:
        self.peers = peers

    def info(self, name: str) -> list[wgmsg]:
        message = wgmsg()
        message["attrs"] = [["WGDEVICE_A_IFNAME", name], ["WGDEVICE_A_LISTEN_PORT", 51820]]
        message["attrs"] += [["WGDEVICE_A_PEERS", [{"attrs": attrs} for attrs in self.peers]]] if self.peers else []
        message.encode()
        found = wgmsg(bytes(message.data))
        found.decode()
        return [found]


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9"])
async def test_counters_handshake_and_endpoint(address: str) -> None:
    kernel = Kernel(PrivateKey())
    try:
        known, silent, stranger = (PrivateKey().public for _ in range(3))
        peer = kernel.add(PeerConfig(known, (ip_network("10.9.0.2/32"),), name="phone"))
        quiet = kernel.add(PeerConfig(silent, (ip_network("10.9.0.3/32"),), name="quiet"))
        peer.received, peer.sent = 1000, 2000  # of an earlier run
        said: list[list[Any]] = [
            ["WGPEER_A_PUBLIC_KEY", encode_key(known)],
            ["WGPEER_A_ENDPOINT", {"addr": address, "port": 4000}],
            ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 1_700_000_000, "tv_nsec": 5}],
            ["WGPEER_A_RX_BYTES", 148],
            ["WGPEER_A_TX_BYTES", 92],
        ]
        kernel._wg = Answers([said, [["WGPEER_A_PUBLIC_KEY", encode_key(silent)]],
                              [["WGPEER_A_PUBLIC_KEY", encode_key(stranger)]]])  # fmt: skip
        for _ in range(2):  # what is counted already is not counted again
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            done.set_result(kernel._ask())
            kernel._answered(done)
        assert (peer.received, peer.sent, peer.last_handshake) == (1148, 2092, 1_700_000_000)
        assert peer.endpoint is not None and peer.endpoint[:2] == (address, 4000)
        assert (quiet.received, quiet.last_handshake, quiet.endpoint) == (0, 0, None)
        kernel._wg = Answers([])
        assert kernel._ask() == []
    finally:
        kernel._wg = None
        kernel.close()
