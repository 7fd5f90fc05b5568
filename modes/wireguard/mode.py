"""`wireguard[:CONF][@[HOST:]PORT]`: clients come through a WireGuard tunnel that ends in an interception namespace.

The UDP socket is in the host's network, the tunnel's other end in the namespace: the host's routes and firewall are not
touched.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from appliance.device import Device as Known
from appliance.exceptions import ModeError
from appliance.home import expanded
from appliance.net.guard import is_local
from appliance.net.kernel import KernelError
from modes.inside import DNS_PORT, Inside
from modes.netns import Namespace
from modes.wireguard import kernel, tunnel
from modes.wireguard.book import FILE, Book, recorded, stamp_of
from modes.wireguard.config import PORT, ServerConfig, decode_key, encode_key
from modes.wireguard.device import Device
from modes.wireguard.kernel import KernelDevice, Unavailable
from modes.wireguard.noise import Rejected
from modes.wireguard.session import REJECT_AFTER_TIME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from appliance.arrival import Arrive, Host
    from appliance.connection import Address, Client
    from modes.spec import ModeSpec
    from modes.wireguard.peer import Tallied

logger = logging.getLogger(__name__)

INTERFACE = "wg0"
FIRST = "phone"
"""Name of the peer that is made with a new configuration."""
_OURS = (DNS_PORT, 80)
"""Ports at which our name server and the portal are, at the addresses inside."""
_LOOK_TICKS, _SAVE_TICKS = 4, 40
_PEERS_A_TICK = 50
"""The state of all peers is written less often the more there are: with 4096 of them every 20 s. Stamps never wait."""
_NOTES = 1000
"""Lines after which the state is written as a whole even if nothing else has changed."""


class WireGuard(Inside):
    """Peers are those of the configuration file, which is read again when it changes. hello: for the first screen."""

    def __init__(self, spec: ModeSpec, host: Host, listen_host: str, listen_port: int | None) -> None:
        super().__init__(spec, host, listen_host, listen_port)
        self.book = Book(expanded(spec.data) if spec.data else host.confdir() / FILE)
        self._explicit_port = spec.port if spec.port is not None else listen_port
        self._config: ServerConfig
        self._device: Device | KernelDevice
        self._closing: Callable[[], Awaitable[None]] | None = None
        self._remembered: dict[str, dict[str, Any]] = {}
        self._known: dict[bytes, Known] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._ticks = self._wrote = 0
        self._saved: dict[bool, Any] = {}

    async def start(self, arrive: Arrive) -> list[Address]:
        wanted = self.host.option("wireguard_backend")
        config = self._open_book()
        self.dns = config.name_servers
        why = ""
        if wanted != "userspace":
            try:
                await self._by_kernel(config, arrive)
                return self.addresses
            except Unavailable as e:
                why = str(e)
            if wanted == "kernel":
                raise ModeError(f"wireguard_backend=kernel: {why}")
        await self._in_userspace(config, arrive)
        told = f": {why}" if why else ""
        logger.info("wireguard: %d peers of %s; in this process (userspace)%s", len(config.peers), self.book.path, told)
        return self.addresses

    async def _by_kernel(self, config: ServerConfig, arrive: Arrive) -> None:
        """:raises Unavailable: the kernel's cannot be had. :raises ModeError: nothing can."""
        if self.listen_host not in ("", "0.0.0.0", "::"):
            raise Unavailable(f"the kernel's WireGuard listens on every address, not on {self.listen_host} alone")
        kernel.check()
        namespace = await Namespace.open(INTERFACE)
        device = KernelDevice(config.private, self._stamps())
        try:
            await device.open(INTERFACE, namespace.netlink(), config.mtu)
            self._begin(device, config)
            port = await device.start(self._port(config), self._tick)
        except BaseException as e:
            await device.close()
            namespace.close()
            await namespace.gone()
            if isinstance(e, OSError):
                raise ModeError(f"UDP {self._cannot('0.0.0.0', self._port(config), e)}") from None
            if isinstance(e, KernelError):
                raise ModeError(str(e)) from None
            raise
        self._closing = device.close
        self.occupy(namespace, arrive)
        self.host.portal(self.dns)
        self._listening([("0.0.0.0", port), ("::", port, 0, 0)])
        await device.begin([peer for peer in device.peers.values() if _recent(peer)])
        logger.info("wireguard: %d peers of %s; in the kernel", len(config.peers), self.book.path)

    async def _in_userspace(self, config: ServerConfig, arrive: Arrive) -> None:
        """:raises ModeError: it cannot be, and what helps."""
        device = Device(config.private, accepted=self._note, stamps=self._stamps())
        device.unallowed = self._unallowed
        self._begin(device, config)
        port = self._port(config)
        try:
            sockets = tunnel.bind(self._hosts(), port)
        except OSError as e:
            raise ModeError(f"UDP {self._cannot(e.filename or self.listen_host, port, e)}") from None
        try:
            namespace = await Namespace.open(
                INTERFACE,
                tun=True,
                setup=(
                    f"link set {INTERFACE} addrgenmode none",  # no address at all, so it asks for no router
                    f"link set {INTERFACE} up mtu {config.mtu}",
                    f"route add 0.0.0.0/0 dev {INTERFACE}",
                    f"route add ::/0 dev {INTERFACE}",
                ),
            )
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        assert namespace.tun is not None
        self.occupy(namespace, arrive)
        self.host.portal(self.dns)
        carrier = tunnel.Tunnel(self.host.net.loop, device, namespace.tun, sockets, config.mtu, self._tick)

        async def close() -> None:
            carrier.close()

        self._closing = close
        self._listening([sock.getsockname() for sock in sockets])
        now = self.host.net.loop.time()
        for peer in device.peers.values():
            if _recent(peer):
                device.begin(peer, now)
        carrier.flush()

    def _listening(self, addresses: list[Address]) -> None:
        for address in addresses:
            self.addresses.append(address)
            self.host.listening(address)

    def _port(self, config: ServerConfig) -> int:
        if self._explicit_port is not None:
            return self._explicit_port
        return config.port if config.port is not None else PORT

    def _stamps(self) -> dict[bytes, bytes]:
        """Also of peers that are not there, and may come again."""
        found: dict[bytes, bytes] = {}
        for key, one in self._remembered.items():
            with contextlib.suppress(ValueError):
                found[decode_key(key)] = stamp_of(one)
        return found

    def _begin(self, device: Device | KernelDevice, config: ServerConfig) -> None:
        self._device = device
        device.expired = self._expired
        self._use(config)

    def _open_book(self) -> ServerConfig:
        book = self.book
        if not self.spec.data and not book.path.exists():
            port = self._explicit_port or PORT
            book.init()
            book.add(FIRST, endpoint=_own_address(), port=port)
            logger.info("%s is new, with a peer named %s", book.path, FIRST)
        self._stamp = book.changed()
        self._config = config = book.load()
        if config.ignored:
            logger.info("%s: %s: not for lockgate, ignored", book.path, ", ".join(config.ignored))
        self._remembered = book.recall()
        if len(config.peers) == 1 and config.peers[0].name == FIRST:
            seen = self._remembered.get(encode_key(config.peers[0].public), {})
            if not seen.get("last_handshake"):  # nobody has scanned it yet
                with contextlib.suppress(ModeError):
                    self.hello = invitation(book.show(FIRST), FIRST)
        return config

    def _use(self, config: ServerConfig) -> None:
        """The peers of a configuration are ours from now on, and no others."""
        device = self._device
        for public in set(device.peers) - {peer.public for peer in config.peers}:
            self._part(device.peers[public])
            logger.info("wireguard: peer %s is removed", device.peers[public].config.name)
            device.remove(public)
        self._known = {}
        for one in config.peers:
            fresh = one.public not in device.peers
            try:
                peer = device.add(one)
            except Rejected as e:
                logger.error("wireguard: peer %s: %s", one.name, e)
                continue
            self._known[one.public] = Known(one.name, one.label)
            if fresh:
                self._recollect(peer)
        self._config = config

    def _part(self, peer: Tallied) -> None:
        """It is going; what is known of it stays, for when it comes again."""
        self._remembered[encode_key(peer.config.public)] = recorded(peer)

    def _recollect(self, peer: Tallied) -> None:
        """What an earlier run has counted."""
        before = self._remembered.get(encode_key(peer.config.public), {})
        for name in ("received", "sent"):
            if isinstance(count := before.get(name), int):
                setattr(peer, name, count)
        if isinstance(when := before.get("last_handshake"), (int, float)):
            peer.last_handshake = when
        match before.get("endpoint"):
            case [str(host), int(port)] if peer.endpoint is None and 0 < port < 65536:
                try:
                    six = ip_address(host).version == 6
                except ValueError:
                    return
                peer.endpoint = (host, port, 0, 0) if six else (host, port)

    def device(self, client: Client) -> Known | None:
        assert client.peername is not None
        host = client.peername[0]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        owner = self._device.routes.owner(socket.inet_pton(family, host.partition("%")[0]))
        return self._known.get(owner.config.public) if owner is not None else None

    def refuses(self, wanted: Address) -> str:
        """Also what is this host's own: a peer would reach it from the host itself, past its firewall."""
        host, port = wanted[:2]
        if why := super().refuses(wanted):
            return why
        if (host in self.dns and port in _OURS) or port in map(int, self.host.option("wireguard_host_ports")):
            return ""
        if is_local(host):
            return f"{host} port {port} is of this machine itself, and not for peers (option wireguard_host_ports)"
        return ""

    def facts(self) -> dict[str, Any]:
        device = self._device
        backend = "kernel" if isinstance(device, KernelDevice) else "userspace"
        return {"peers": len(device.peers), "backend": backend, "dropped": dict(device.counted)}

    # -- a few times a second

    def _tick(self) -> None:
        self._ticks += 1
        if self._ticks % _LOOK_TICKS == 0 and (stamp := self.book.changed()) != self._stamp:
            self._stamp = stamp
            self._reload()
        pause = max(_LOOK_TICKS, len(self._device.peers) // _PEERS_A_TICK)
        if self._ticks % _LOOK_TICKS == 0 and self._ticks - self._wrote >= pause:
            often = self._ticks % _SAVE_TICKS == 0  # counters; handshakes and where a peer is, at once
            now = [
                (peer.last_handshake, peer.endpoint, (peer.received, peer.sent) if often else None)
                for peer in self._device.peers.values()
            ]
            if now != self._saved.get(often) or self.book.noted > _NOTES:
                self._saved[often] = now
                self._wrote = self._ticks
                self._remember()

    def _reload(self) -> None:
        try:
            config = self.book.load()
        except ModeError as e:
            logger.error("reload refused, the peers stay as they were: %s", e)
            return
        if config.private.public != self._config.private.public or config.mtu != self._config.mtu:
            logger.error("%s: PrivateKey and MTU need a restart; the rest is in use", self.book.path)
        self._use(config)
        logger.info("wireguard: %s read again, %d peers", self.book.path, len(self._device.peers))

    def _expired(self, peer: Tallied) -> None:
        self._part(peer)
        logger.warning("wireguard: peer %s has expired and is cut", peer.config.name)

    def _unallowed(self, peer: Tallied, inner: bytes) -> None:
        self._warn.log(
            logging.WARNING,
            (peer.config.public, "unallowed"),
            "wireguard: peer %s: packets from %s are dropped, its AllowedIPs here are %s: the client's Address must be "
            "among them",
            peer.config.name,
            ip_address(inner),
            ", ".join(map(str, peer.config.allowed)) or "none",
        )

    def _note(self, peer: Tallied) -> None:
        """A handshake of this peer's is about to be answered."""
        with self._told():
            self.book.note(peer)

    def _remember(self) -> None:
        with self._told():
            self.book.remember(self._device.peers, self._remembered)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ModeError as e:
            self._warn.log(logging.WARNING, "state", "%s; a handshake could be replayed after a restart", e)

    async def stop(self) -> None:
        if self._closing is not None:
            await self._closing()
            self._closing = None
            self._remember()
        await super().stop()


def _recent(peer: Tallied) -> bool:
    """Whether it may have a session with an earlier run of ours."""
    return time.time() - peer.last_handshake < REJECT_AFTER_TIME


def invitation(text: str, name: str) -> str:
    """A client's file, and the QR code that apps on phones read."""
    import io

    import segno

    out = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out, border=2, compact=True)
    return f"WireGuard peer {name}: scan this in the app, or import the file.\n\n{out.getvalue()}\n{text}"


def _own_address() -> str:
    from appliance.cli.firstscreen import own_address

    return own_address()
