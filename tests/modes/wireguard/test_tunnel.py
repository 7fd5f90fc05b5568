"""Between sockets and a device: real UDP, and a datagram socket pair in place of TUN."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from modes.wireguard import tunnel
from modes.wireguard.tunnel import MOST_SEGMENTS, NO_ROOM, Tunnel
from tests.modes.wireguard.world import UP, World


class Rig:
    def __init__(self) -> None:
        self.world = World()
        self.kernel, self.tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (self.kernel, self.tun):
            sock.setblocking(False)
        self.sockets = tunnel.bind([(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], 0)
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.settimeout(5)
        self.ticked = asyncio.Event()
        self.tunnel = Tunnel(
            asyncio.get_running_loop(), self.world.server, self.tun.fileno(), self.sockets, 1420, self.ticked.set
        )

    def close(self) -> None:
        self.tunnel.close()
        for sock in (self.kernel, self.tun, self.peer):
            sock.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    made.close()


@pytest.mark.parametrize("segments", [True, False])
async def test_what_is_sent_at_once_arrives_one_by_one(rig: Rig, segments: bool) -> None:
    rig.tunnel._segments = segments
    to = rig.peer.getsockname()
    sizes = [1000] * 3 + [500, 1000, 1200, 1, 1] + [900] * (MOST_SEGMENTS + 5)
    rig.world.server.out = [(bytes([number]) * size, to) for number, size in enumerate(sizes)]
    rig.tunnel.flush()
    assert [rig.peer.recv(2000) for _ in sizes] == [bytes([number]) * size for number, size in enumerate(sizes)]
    assert not rig.world.server.out and not rig.world.server.counted


async def test_what_cannot_be_sent_is_counted(rig: Rig) -> None:
    rig.world.server.out = [
        (b"x" * 70_000, rig.peer.getsockname()),
        (b"y", ("127.0.0.1", 0)),
        (b"z", rig.peer.getsockname()),
    ]
    rig.tunnel.flush()
    assert rig.world.server.counted[NO_ROOM] == 2 and rig.peer.recv(10) == b"z"


async def test_both_ways_and_the_clock(rig: Rig) -> None:
    client, at = rig.world.client, rig.sockets[0].getsockname()
    client.send(UP, 0.0)
    rig.peer.sendto(client.out.pop()[0], at)
    response = await asyncio.to_thread(rig.peer.recv, 2000)
    client.receive(response, at, 0.0)
    for data, _ in client.out:
        rig.peer.sendto(data, at)
    async with asyncio.timeout(5):
        assert await asyncio.get_running_loop().sock_recv(rig.kernel, 2000) == UP
        back = UP[:12] + UP[16:20] + UP[12:16] + UP[20:]
        rig.kernel.send(back)
        assert client.receive(await asyncio.to_thread(rig.peer.recv, 2000), at, 0.0) == back
        await rig.ticked.wait()


def test_a_port_that_is_taken() -> None:
    (first,) = tunnel.bind([(socket.AF_INET, "127.0.0.1")], 0)
    with first, pytest.raises(OSError) as caught:
        tunnel.bind([(socket.AF_INET, "127.0.0.1")], first.getsockname()[1])
    assert (caught.value.errno, caught.value.filename) == (errno.EADDRINUSE, "127.0.0.1")
