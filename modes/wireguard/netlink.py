"""A WireGuard interface of the kernel, by netlink. All coroutines run in the netlink thread (appliance/net/kernel.py).

The interface is made in the interception namespace by a request from the gateway's: its UDP socket is in the network
that the request came from (wg_newlink's src_net), and it is never seen there, so a kill leaves nothing behind.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from appliance.connection import Address
    from modes.wireguard.routes import Network

NETWORKS_AT_ONCE = 512
"""Of one peer, in one piece."""
_PIECE_SIZE, _NETWORK_SIZE, _MOST = 200, 40, 60000
"""Bytes, at most; the attribute that holds peers has 16 bits for its length."""
_FLAG_REMOVE, _FLAG_REPLACE_NETWORKS, _FLAG_UPDATE_ONLY = 1, 2, 4
_KEEPALIVE = 25  # seconds


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer as the kernel is to have it."""

    public: bytes
    psk: bytes
    keepalive: int
    networks: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """entry: None to remove the peer. renew: it is removed first, and its sessions with it. endpoint: told if known."""

    public: bytes
    entry: Entry | None
    renew: bool = False
    endpoint: Address | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel says of a peer. received, sent: bytes as datagrams. last_handshake: Unix time, 0 = none yet."""

    public: bytes
    endpoint: Address | None
    last_handshake: float
    received: int
    sent: int


class Interface:
    """Its descriptors are owned: `close` closes them, and the interface goes with its namespace."""

    def __init__(self, name: str, namespace: int, route: int, generic: int) -> None:
        self.name = name
        self._namespace, self._route_fd, self._generic_fd = namespace, route, generic
        self._index = 0
        self._route: Any = None
        self._generic: Any = None

    async def create(self, mtu: int) -> None:
        """:raises NetlinkError: EPERM without CAP_NET_ADMIN, EOPNOTSUPP without the module."""
        from pyroute2 import AsyncIPRoute

        # pyroute2 takes a third of a second to import, so not before it is needed.
        async with AsyncIPRoute(groups=0) as outside:
            await outside.link("add", ifname=self.name, kind="wireguard", net_ns_fd=self._namespace, mtu=mtu)

    async def open(self) -> None:
        """The sockets inside. :raises NetlinkError: they cannot be used."""
        from pyroute2 import AsyncIPRoute
        from pyroute2.netlink.generic.wireguard import AsyncWireGuard

        fd, self._route_fd = self._route_fd, -1
        self._route = AsyncIPRoute(fileno=fd, groups=0)
        await self._route.bind()
        (self._index,) = await self._route.link_lookup(ifname=self.name)
        fd, self._generic_fd = self._generic_fd, -1
        self._generic = AsyncWireGuard(fileno=fd)
        await self._generic.setup_endpoint()

    async def start(self, private: bytes, port: int) -> None:
        """Listen. :raises NetlinkError: EADDRINUSE, the port is taken."""
        await self._set(("WGDEVICE_A_PRIVATE_KEY", base64.b64encode(private)), ("WGDEVICE_A_LISTEN_PORT", port))
        await self._route.link("set", index=self._index, state="up")

    async def route(self) -> None:
        """All that is sent inside goes to the peers. :raises NetlinkError: it cannot be."""
        from pyroute2.netlink.exceptions import NetlinkError

        await self._route.route("add", dst="0.0.0.0/0", oif=self._index, family=socket.AF_INET)
        with contextlib.suppress(NetlinkError):  # a kernel without IPv6, or where it is switched off
            await self._route.route("add", dst="::/0", oif=self._index, family=socket.AF_INET6)

    async def change(self, changes: Sequence[Change]) -> None:
        """:raises NetlinkError: the kernel refuses one of them; those before it may be in effect."""
        batch: list[dict[str, Any]] = []
        size = 0
        for one in changes:
            for piece, networks in _pieces(one):
                more = _PIECE_SIZE + _NETWORK_SIZE * networks
                if size + more > _MOST:
                    await self._set(("WGDEVICE_A_PEERS", batch))
                    batch, size = [], 0
                batch.append(piece)
                size += more
        if batch:
            await self._set(("WGDEVICE_A_PEERS", batch))

    async def begin(self, publics: Sequence[bytes]) -> None:
        """A handshake with each of these peers, which have no keepalive: one that is switched on is sent at once.
        :raises NetlinkError: it cannot be.
        """
        for start in range(0, len(publics), _MOST // _PIECE_SIZE):
            for keepalive in (_KEEPALIVE, 0):
                peers = [
                    {
                        "attrs": [
                            ("WGPEER_A_PUBLIC_KEY", base64.b64encode(public)),
                            ("WGPEER_A_FLAGS", _FLAG_UPDATE_ONLY),
                            ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", keepalive),
                        ]
                    }
                    for public in publics[start : start + _MOST // _PIECE_SIZE]
                ]
                await self._set(("WGDEVICE_A_PEERS", peers))

    async def look(self) -> tuple[int, list[Seen]]:
        """The port, and all peers. :raises NetlinkError: the kernel does not say."""
        port, found = 0, {}
        async for message in await self._generic.info(self.name):
            port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or port
            for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
                # One with many networks is told in several pieces, of which the first has all the rest.
                if (seen := _seen(peer)).public not in found:
                    found[seen.public] = seen
        return port, list(found.values())

    async def unallowed(self) -> int:
        """How many packets came from an inner address that their peer does not have. :raises NetlinkError: ..."""
        (link,) = [one async for one in await self._route.get_links(self._index)]
        counts = link.get_attr("IFLA_STATS64") or {}
        return int(counts.get("rx_frame_errors", 0))

    async def delete(self) -> None:
        """Its port is free when this returns. :raises NetlinkError: it is gone already."""
        if self._index:
            await self._route.link("del", index=self._index)

    async def close(self) -> None:
        """Idempotent."""
        for opened in (self._route, self._generic):
            if opened is not None:
                opened.close()
        self._route = self._generic = None
        for fd in (self._namespace, self._route_fd, self._generic_fd):
            if fd >= 0:
                os.close(fd)
        self._namespace = self._route_fd = self._generic_fd = -1

    async def _set(self, *attributes: tuple[str, Any]) -> None:
        from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
        from pyroute2.netlink.generic.wireguard import WG_CMD_SET_DEVICE, WG_GENL_VERSION, wgmsg

        message = wgmsg()
        message["cmd"], message["version"] = WG_CMD_SET_DEVICE, WG_GENL_VERSION
        message["attrs"] = [("WGDEVICE_A_IFNAME", self.name), *attributes]
        flags = NLM_F_REQUEST | NLM_F_ACK
        async for _ in await self._generic.nlm_request(message, msg_type=self._generic.prid, msg_flags=flags):
            pass


def _pieces(change: Change) -> Iterator[tuple[dict[str, Any], int]]:
    """The attributes that make a change, and how many networks there are in each piece. With many networks there are
    several, of which only the first replaces what is there.
    """
    key = ("WGPEER_A_PUBLIC_KEY", base64.b64encode(change.public))
    entry = change.entry
    if entry is None or change.renew:
        yield {"attrs": [key, ("WGPEER_A_FLAGS", _FLAG_REMOVE)]}, 0
    if entry is None:
        return
    first: list[tuple[str, Any]] = [
        ("WGPEER_A_PRESHARED_KEY", base64.b64encode(entry.psk)),
        ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", entry.keepalive),
        ("WGPEER_A_FLAGS", _FLAG_REPLACE_NETWORKS),
    ]
    if change.endpoint is not None:
        first.append(("WGPEER_A_ENDPOINT", {"addr": change.endpoint[0], "port": change.endpoint[1]}))
    for start in range(0, len(entry.networks) or 1, NETWORKS_AT_ONCE):
        networks = [
            {
                "attrs": [
                    ("WGALLOWEDIP_A_FAMILY", socket.AF_INET if one.version == 4 else socket.AF_INET6),
                    ("WGALLOWEDIP_A_IPADDR", one.network_address.packed),
                    ("WGALLOWEDIP_A_CIDR_MASK", one.prefixlen),
                ]
            }
            for one in entry.networks[start : start + NETWORKS_AT_ONCE]
        ]
        yield {"attrs": [key, *first, ("WGPEER_A_ALLOWEDIPS", networks)]}, len(networks)
        first = []


def _seen(peer: Any) -> Seen:
    endpoint = peer.get_attr("WGPEER_A_ENDPOINT")
    when = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {"tv_sec": 0, "tv_nsec": 0}
    return Seen(
        base64.b64decode(peer.get_attr("WGPEER_A_PUBLIC_KEY")),
        (endpoint["addr"], endpoint["port"]) if endpoint else None,
        when["tv_sec"] + when["tv_nsec"] / 1e9,
        peer.get_attr("WGPEER_A_RX_BYTES") or 0,
        peer.get_attr("WGPEER_A_TX_BYTES") or 0,
    )
