"""Netlink against a real network: the client's MAC, and connections forgotten by mark."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from appliance.net.kernel import Kernel
from tests.lab.labkit import ECHO, Lab

RULES = """table inet lgmark {
    chain prerouting {
        type filter hook prerouting priority mangle
        iifname "lan0" udp dport 7000 ct mark set 0x4c01
        iifname "lan0" tcp dport 7000 ct mark set 0x0001
    }
}"""


@pytest.fixture
async def kernel(lab: Lab) -> AsyncIterator[Kernel]:
    made = Kernel()
    with lab.gateway.inside():  # the thread that is started now stays there
        await made.links()
    yield made
    made.close()


async def test_the_lab_as_the_kernel_sees_it(lab: Lab, kernel: Kernel) -> None:
    links = {link.name: link for link in await kernel.links()}
    assert links["lan0"].kind == "veth"
    assert links["lan0"].mtu == 1500
    found = {a.address for a in await kernel.addresses() if a.interface == links["lan0"].index}
    assert found >= {lab.gateway.v4, lab.gateway.v6}


async def test_mac_of_a_client(lab: Lab, kernel: Kernel) -> None:
    for there, here in ((lab.gateway.v4, lab.client.v4), (lab.gateway.v6, lab.client.v6)):
        with lab.client.udp(there, 9) as udp:
            udp.send(b"x")
        shown = lab.client.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
        assert await kernel.mac(here) in (
            shown,
            lab.client.run(["ip", "-o", "link", "show", "eth0"]).stdout.split()[16],
        )


async def test_connections_are_forgotten_by_mark(routed: Lab, kernel: Kernel) -> None:
    routed.gateway.run(["nft", "-f", "-"], input=RULES, check=True)
    try:
        for family in (4, 6):
            with routed.client.udp("origin.test", ECHO, family=family) as udp:
                udp.send(b"x")
                udp.recv(10)
        with routed.client.connect("origin.test", ECHO) as tcp:
            tcp.sendall(b"y")
            tcp.recv(10)
            assert await kernel.count_marked(0x4C00, 0xFF00) == 2
            assert await kernel.count_marked(1, 0xFF) == 3
            await kernel.flush_marked(0x4C00, 0xFF00)
            assert await kernel.count_marked(0x4C00, 0xFF00) == 0
            assert await kernel.count_marked(1) == 1
            source, destination = tcp.getsockname()[:2], tcp.getpeername()[:2]
            assert await kernel.forget(socket.IPPROTO_TCP, source, destination)
            assert not await kernel.forget(socket.IPPROTO_TCP, source, destination)
            assert await kernel.count_marked(1) == 0
    finally:
        routed.gateway.run(["nft", "delete", "table", "inet", "lgmark"])
