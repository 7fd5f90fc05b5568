"""The kernel's own WireGuard, by netlink: an interface made in the host's network, which is where its UDP socket stays,
and put into the interception namespace at once.

pyroute2's synchronous calls run in one worker thread, which has entered that namespace.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from appliance.log import RateLimited
from modes.wireguard.config import encode_key
from modes.wireguard.cookie import Generator
from modes.wireguard.peer import Peer, PeerConfig
from modes.wireguard.routes import Routes

if TYPE_CHECKING:
    from modes.wireguard.noise import PrivateKey

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
_ASK_TICKS = 4
_CLONE_NEWNET = 0x40000000
_NET_ADMIN, _SYS_ADMIN = 12, 21


class Unavailable(Exception):
    """The kernel's WireGuard cannot be had; the text says why."""


class Kernel:
    """Has the face of `Device` as far as peers go."""

    def __init__(self, own: PrivateKey) -> None:
        self.own = own
        self.peers: dict[bytes, Peer] = {}
        self.routes: Routes[Peer] = Routes()
        self.counted: Counter[str] = Counter()
        self.expired: Callable[[Peer], object] = lambda peer: None
        self.port = 0
        self._thread = ThreadPoolExecutor(1, "wireguard")
        self._wg: Any = None
        self._name = ""
        self._base: dict[bytes, tuple[int, int]] = {}  # bytes counted by earlier runs
        self._asking = False
        self._ticks = 0
        self._tick: Callable[[], object] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._warn = RateLimited(logger, 2)

    # -- its life

    async def open(self, name: str, pid: int, port: int, mtu: int, tick: Callable[[], object]) -> None:
        """name: of the interface. pid: a process in the namespace. tick: called a few times a second.

        :raises Unavailable: no module, no rights. :raises OSError: the port is taken.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._name, self._tick = name, tick
        await loop.run_in_executor(self._thread, self._make, pid, port, mtu)
        for peer in self.peers.values():
            self._push(peer.config)
        self._timer = loop.call_later(TICK_SECONDS, self._ticked)

    def close(self) -> None:
        """Stop; the interface goes with its namespace."""
        if self._timer is not None:
            self._timer.cancel()
        self._thread.submit(self._end)
        self._thread.shutdown(wait=False)

    def _end(self) -> None:
        if self._wg is not None:
            self._wg.close()
            self._wg = None

    def _make(self, pid: int, port: int, mtu: int) -> None:
        from pyroute2 import IPRoute, WireGuard
        from pyroute2.netlink.exceptions import NetlinkError

        _may()
        try:
            with IPRoute() as ip:
                ip.link("add", ifname=self._name, kind="wireguard", net_ns_pid=pid)
        except NetlinkError as e:
            if e.code == errno.EOPNOTSUPP:
                raise Unavailable("this kernel has no WireGuard (modprobe wireguard)") from None
            raise Unavailable(f"the kernel's WireGuard: {os.strerror(e.code)}") from None
        _enter(pid)
        try:
            self._wg = WireGuard()
            self._wg.set(self._name, private_key=encode_key(self.own.data), listen_port=port)
            with IPRoute() as ip:
                index = ip.link_lookup(ifname=self._name)[0]
                ip.link("set", index=index, mtu=mtu, state="up")
                ip.route("add", dst="0.0.0.0/0", oif=index)
                try:
                    ip.route("add", dst="::/0", oif=index, family=socket.AF_INET6)
                except NetlinkError as e:
                    if e.code not in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EACCES):
                        raise  # else: a kernel without IPv6
            for message in self._wg.info(self._name):
                self.port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or self.port
        except NetlinkError as e:
            if e.code == errno.EADDRINUSE:
                raise OSError(e.code, os.strerror(e.code), "0.0.0.0") from None
            raise Unavailable(f"the kernel's WireGuard: {os.strerror(e.code)}") from None

    # -- peers

    def add(self, config: PeerConfig) -> Peer:
        """A new peer, or what has changed of a known one."""
        peer = self.peers.get(config.public)
        if peer is None:
            peer = self.peers[config.public] = Peer(config, b"", Generator(config.public), config.endpoint)
        else:
            peer.config = config
            self.routes.remove(peer)
        for network in config.allowed:
            self.routes.add(network, peer)
        if self._timer is not None:
            self._push(config)
        return peer

    def remove(self, public: bytes) -> None:
        """Cut at once. No error if there is none."""
        peer = self.peers.pop(public, None)
        if peer is not None:
            self.routes.remove(peer)
            self._base.pop(public, None)
            self._submit({"public_key": encode_key(public), "remove": True}, peer.config.name)

    def _push(self, config: PeerConfig) -> None:
        told: dict[str, Any] = {
            "public_key": encode_key(config.public),
            "preshared_key": encode_key(config.psk),
            "persistent_keepalive": int(config.keepalive),
            "replace_allowed_ips": True,
            "allowed_ips": [str(network) for network in config.allowed],
        }
        if config.endpoint is not None:
            told |= {"endpoint_addr": config.endpoint[0], "endpoint_port": config.endpoint[1]}
        self._submit(told, config.name)

    def _submit(self, told: dict[str, Any], name: str) -> None:
        def work() -> None:
            try:
                self._wg.set(self._name, peer=told)
            except Exception as e:  # NetlinkError is no OSError
                logger.error("wireguard: peer %s: the kernel says: %s", name, e)

        self._thread.submit(work)

    # -- what the kernel has counted

    def _ticked(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._ticked)
        self._ticks += 1
        now = time.time()
        for peer in list(self.peers.values()):
            if peer.config.expires and now >= peer.config.expires:
                self.remove(peer.config.public)
                self.expired(peer)
        if self._ticks % _ASK_TICKS == 0 and not self._asking:
            self._asking = True
            self._loop.run_in_executor(self._thread, self._ask).add_done_callback(self._answered)
        self._tick()

    def _ask(self) -> list[tuple[str, int, int, float, tuple[str, int] | None]]:
        found = []
        for message in self._wg.info(self._name):
            for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
                when = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {}
                at = peer.get_attr("WGPEER_A_ENDPOINT")
                found.append(
                    (
                        peer.get_attr("WGPEER_A_PUBLIC_KEY").decode(),
                        peer.get_attr("WGPEER_A_RX_BYTES") or 0,
                        peer.get_attr("WGPEER_A_TX_BYTES") or 0,
                        float(when.get("tv_sec", 0)),
                        (at["addr"], at["port"]) if at else None,
                    )
                )
        return found

    def _answered(self, done: asyncio.Future[Any]) -> None:
        self._asking = False
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            self._warn.log(logging.WARNING, "ask", "wireguard: the kernel's counters: %s", error)
            return
        by_key = {encode_key(public): peer for public, peer in self.peers.items()}
        for key, received, sent, when, at in done.result():
            peer = by_key.get(key)
            if peer is None:
                continue
            base = self._base.setdefault(peer.config.public, (peer.received, peer.sent))
            peer.received, peer.sent = base[0] + received, base[1] + sent
            peer.last_handshake = when or peer.last_handshake
            if at is not None:
                peer.endpoint = (at[0], at[1], 0, 0) if ":" in at[0] else at


def _may() -> None:
    """:raises Unavailable: the rights to make an interface, and to enter the namespace, are missing."""
    with open("/proc/thread-self/status") as status:
        held = int(next(line.split()[1] for line in status if line.startswith("CapEff:")), 16)
    if not (held >> _NET_ADMIN & 1 and held >> _SYS_ADMIN & 1):
        raise Unavailable("the kernel's WireGuard needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN)")


def _enter(pid: int) -> None:
    """The calling thread works in that process's network from now on."""
    with open(f"/proc/{pid}/ns/net", "rb") as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise Unavailable(f"the namespace cannot be entered: {os.strerror(ctypes.get_errno())}")
