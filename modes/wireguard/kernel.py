"""WireGuard in the kernel: its interface is in the interception namespace, its UDP socket in ours. This is what the
mode sees of it: peers that come and go, whose an inner address is, and what they have sent.

It has the face of `device.Device`. The kernel is told by comparing what it has with what it should have, one change
after another, so that nothing waits for it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.log import RateLimited
from appliance.net.kernel import Kernel, KernelError
from modes.netns.system import capabilities
from modes.wireguard.device import NOT_ALLOWED
from modes.wireguard.netlink import Change, Entry, Interface, Seen
from modes.wireguard.noise import PrivateKey, Rejected
from modes.wireguard.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from appliance.connection import Address
    from modes.wireguard.peer import PeerConfig
    from modes.wireguard.routes import Network

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
LOOK_SECONDS, LOOK_SECONDS_A_PEER, LOOK_SECONDS_MOST = 2.0, 0.025, 30.0
"""Between two looks at the kernel's counters: at 0.1 ms a peer, a two hundred and fiftieth of a core."""
CREATE_SECONDS = 30.0
"""The kernel may have to load its module, and pyroute2 is imported."""
CHANGE_SECONDS = 15.0
RELEASE_SECONDS = 3.0
"""How long the kernel may take to let go of a killed gateway's port."""
UNALLOWED = 3
"""Dropped packets that are worth a word: a client with several tunnels now and then takes the wrong one."""
_CAP_NET_ADMIN = 12


class Unavailable(Exception):
    """WireGuard in the kernel cannot be had here; the text says why, and what helps."""


@dataclass(slots=True, eq=False)
class KernelPeer:
    """As `peer.Peer`, so far as others look at it. told: bytes received and sent, as the kernel counts."""

    config: PeerConfig
    endpoint: Address | None
    stamp: bytes = b""
    last_handshake: float = 0.0  # Unix time
    received: int = 0
    sent: int = 0
    told: tuple[int, int] = (0, 0)


class KernelDevice:
    """Made, then opened, then started; `add` and `remove` at any time. expired: called with a peer whose time is over,
    after its removal. stamps: of earlier runs in user space, kept for later ones; the kernel has its own.
    """

    def __init__(self, own: PrivateKey, stamps: dict[bytes, bytes] | None = None) -> None:
        self.own = own
        self.peers: dict[bytes, KernelPeer] = {}
        self.routes: Routes[KernelPeer] = Routes()
        self.expired: Callable[[KernelPeer], object] = lambda peer: None
        self._stamps = stamps or {}
        self._kernel = Kernel()
        self._interface: Interface | None = None
        self._inside: dict[bytes, Entry | None] = {}  # as the kernel has them; None: nobody knows what it has
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._tick: Callable[[], object] = lambda: None
        self._looked = 0.0
        self.counted: Counter[str] = Counter()
        self._unallowed = 0
        self._warn = RateLimited(logger, 2)

    # -- the interface

    async def open(self, name: str, descriptors: tuple[int, int, int], mtu: int) -> None:
        """Make the interface. descriptors: `Namespace.netlink`; ours from now on. :raises Unavailable: it cannot be."""
        self._interface = interface = Interface(name, *descriptors)
        try:
            await self._kernel.ask("WireGuard", lambda: interface.create(mtu), CREATE_SECONDS)
            await self._kernel.ask("WireGuard", interface.open, CREATE_SECONDS)
        except KernelError as e:
            await self.close()
            raise Unavailable(_why(e)) from None

    async def start(self, port: int, tick: Callable[[], object]) -> int:
        """Listen at this UDP port (0: any) of all addresses, with the peers there are. tick: called a few times a
        second. Returns the port. :raises OSError: it is taken. :raises KernelError: the kernel refuses something else.
        """
        interface = self._interface
        assert interface is not None
        key = self.own.data
        end = time.monotonic() + RELEASE_SECONDS
        while True:
            try:
                await self._kernel.ask("WireGuard", lambda: interface.start(key, port))
                break
            except KernelError as e:
                if e.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() > end:
                    raise OSError(e.errno, os.strerror(e.errno)) from None
            await asyncio.sleep(0.1)
        await self._kernel.ask("WireGuard", interface.route)
        self._running = True
        self._tick = tick
        self._ticked()
        await self.settled()
        found, _ = await self._kernel.ask("WireGuard", interface.look)
        return found

    async def close(self) -> None:
        """Count a last time, and remove the interface: its port is free then; idempotent."""
        if self._running:
            await self.look()
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        interface, self._interface = self._interface, None
        if interface is not None:
            for last in (interface.delete, interface.close):
                try:
                    await self._kernel.ask("WireGuard", last)
                except KernelError as e:
                    logger.debug("%s", e)
        self._kernel.close()

    # -- peers

    def add(self, config: PeerConfig) -> KernelPeer:
        """A new peer, or what has changed of a known one; sessions stay, but with another preshared key. :raises
        Rejected: its key is unusable.
        """
        self.own.exchange(config.public)
        if config.public == self.own.public:
            raise Rejected("its public key is the gateway's own")
        # The last one that claims an address has it, as in the kernel: so the order is that of adding.
        peer = self.peers.pop(config.public, None)
        if peer is None:
            peer = KernelPeer(config, config.endpoint, self._stamps.get(config.public, b""))
        else:
            peer.config = config
            self.routes.remove(peer)
        self.peers[config.public] = peer
        for network in config.allowed:
            self.routes.add(network, peer)
        self._kick()
        return peer

    def remove(self, public: bytes) -> None:
        """Cut at once. No error if there is none."""
        peer = self.peers.pop(public, None)
        if peer is not None:
            self.routes.remove(peer)
            self._kick()

    async def begin(self, peers: list[KernelPeer]) -> None:
        """A handshake with each, where it is known who may wait for one: see `Device.begin`. Never raises."""
        interface = self._interface
        publics = [peer.config.public for peer in peers if peer.endpoint and not peer.config.keepalive]
        if interface is None or not publics:
            return
        try:
            await self._kernel.ask("WireGuard", lambda: interface.begin(publics), CHANGE_SECONDS)
        except KernelError as e:
            self._warn.log(logging.WARNING, "begin", "%s", e)

    def _wanted(self) -> dict[bytes, Entry]:
        owner: dict[Network, bytes] = {}
        now = time.time()
        peers = [peer.config for peer in self.peers.values() if not _over(peer, now)]
        for config in peers:
            for network in config.allowed:
                owner[network] = config.public
        return {
            config.public: Entry(
                config.public,
                config.psk,
                int(config.keepalive),
                tuple(network for network in dict.fromkeys(config.allowed) if owner[network] == config.public),
            )
            for config in peers
        }

    def _changes(self) -> list[Change]:
        wanted, inside = self._wanted(), self._inside
        changes = [Change(public, None) for public in inside if public not in wanted]
        for public, entry in wanted.items():
            known = public in inside
            before = inside.get(public)
            if known and before == entry:
                continue
            renew = known and (before is None or before.psk != entry.psk)
            endpoint = self.peers[public].endpoint if not known or renew else None
            changes.append(Change(public, entry, renew, endpoint))
        return changes

    def _kick(self) -> None:
        if self._running:
            self._do("change", self._apply)

    def _do(self, name: str, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """In the background, one of a kind at a time."""
        task = self._tasks.get(name)
        if task is None or task.done():
            self._tasks[name] = asyncio.get_running_loop().create_task(what())

    async def settled(self) -> None:
        """Until the kernel has been told all."""
        self._kick()
        if (task := self._tasks.get("change")) is not None:
            await task

    async def _apply(self) -> None:
        await asyncio.sleep(0)  # all that is changed in this turn of the loop goes together
        while self._interface is not None and (changes := self._changes()):
            interface = self._interface
            try:
                await self._kernel.ask("WireGuard", lambda: interface.change(changes), CHANGE_SECONDS)  # noqa: B023
            except KernelError as e:
                self._inside |= {one.public: None for one in changes}
                self._warn.log(logging.ERROR, "change", "%s; the kernel is asked again", e)
                return
            for one in changes:
                if one.entry is None:
                    self._inside.pop(one.public, None)
                    continue
                self._inside[one.public] = one.entry
                if one.renew and (peer := self.peers.get(one.public)) is not None:
                    peer.told = (0, 0)

    # -- a few times a second

    def _ticked(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK_SECONDS, self._ticked)
        now = time.time()
        for peer in [peer for peer in self.peers.values() if _over(peer, now)]:
            self.remove(peer.config.public)
            self.expired(peer)
        if None in self._inside.values():
            self._kick()
        pause = min(max(LOOK_SECONDS, LOOK_SECONDS_A_PEER * len(self.peers)), LOOK_SECONDS_MOST)
        if loop.time() - self._looked >= pause:
            self._looked = loop.time()
            self._do("look", self.look)
        self._tick()

    async def look(self) -> None:
        """Read back what the kernel has counted. Never raises."""
        interface = self._interface
        if interface is None:
            return
        try:
            _, seen = await self._kernel.ask("WireGuard", interface.look)
            unallowed = await self._kernel.ask("WireGuard", interface.unallowed)
        except KernelError as e:
            self._warn.log(logging.WARNING, "look", "%s", e)
            return
        for one in seen:
            if (peer := self.peers.get(one.public)) is not None:
                _count(peer, one)
        if unallowed - self._unallowed >= UNALLOWED:
            self._warn.log(
                logging.WARNING,
                "unallowed",
                "wireguard: %d packets dropped, their inner source is not among their peer's AllowedIPs: "
                "the client's Address must be what its peer has here",
                unallowed - self._unallowed,
            )
            self._unallowed = unallowed
        self.counted[NOT_ALLOWED] = unallowed


def check() -> None:
    """What can be said before anything is made. :raises Unavailable: it cannot be."""
    if not capabilities() >> _CAP_NET_ADMIN & 1:
        raise Unavailable("the kernel's WireGuard needs root (CAP_NET_ADMIN)")


def _why(error: KernelError) -> str:
    if error.errno == errno.EOPNOTSUPP:
        return "this kernel has no WireGuard; sudo modprobe wireguard, if there is such a module"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "the kernel does not permit WireGuard, although CAP_NET_ADMIN is there: a container, or a user namespace?"
        )
    return str(error)


def _count(peer: KernelPeer, seen: Seen) -> None:
    """Its counters begin at 0 whenever a peer is made anew."""
    now = (seen.received, seen.sent)
    before = peer.told if now[0] >= peer.told[0] and now[1] >= peer.told[1] else (0, 0)
    peer.received += now[0] - before[0]
    peer.sent += now[1] - before[1]
    peer.told = now
    peer.last_handshake = seen.last_handshake or peer.last_handshake
    peer.endpoint = seen.endpoint or peer.endpoint


def _over(peer: KernelPeer, now: float) -> bool:
    return bool(peer.config.expires) and now >= peer.config.expires
