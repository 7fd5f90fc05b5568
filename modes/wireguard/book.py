"""The configuration on disk: the server's file, clients' files beside it, and what must outlive the process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from appliance.exceptions import ModeError
from modes.wireguard import config
from modes.wireguard.config import ServerConfig, encode_key
from modes.wireguard.noise import NO_PSK, PrivateKey
from modes.wireguard.peer import PeerConfig, Tallied

FILE = "wireguard.conf"
_SUBNET4 = "10.87.0.1/24"
KEEPALIVE = 25
KEEP_SECONDS = 366 * 86400.0
"""How long a peer that is gone is remembered."""
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[?[0-9A-Fa-f:.]+\]?")


class Book:
    """path: of the server's file. Clients' files are in `<path>.d`, the state in `<path>.state`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clients = path.with_name(path.name + ".d")
        self.state = path.with_name(path.name + ".state")
        self.noted = 0  # lines since it was last written as a whole

    # -- the server's file

    def load(self) -> ServerConfig:
        """:raises ModeError: it is not there, or has a fault."""
        return config.parse(self._text(), str(self.path))

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ModeError(f"{self.path}: there is no such file; `lockgate wireguard init` makes one") from None
        except (OSError, UnicodeDecodeError) as e:
            raise ModeError(f"{self.path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the server's file meanwhile, or one of two peers would be lost. :raises ModeError: it is
        not there.
        """
        self._text()
        while True:
            with open(self.path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):  # else it was replaced meanwhile
                    yield
                    return

    def changed(self) -> tuple[int, int, int] | None:
        """Something else whenever the file is; None: it is gone."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def init(self, endpoint: str = "", port: int | None = None) -> ServerConfig:
        """A new server without peers. :raises ModeError: there is one, or it cannot be written."""
        if self.path.exists():
            raise ModeError(f"{self.path} exists already; `lockgate wireguard add NAME` adds a peer to it")
        if endpoint:
            check_endpoint(endpoint)
        six = f"fd{secrets.token_hex(1)}:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1/64"  # RFC 4193 §3.2.2
        server = ServerConfig(PrivateKey(), (ip_interface(_SUBNET4), ip_interface(six)), port, endpoint=endpoint)
        _write(self.path, config.render(server))
        return server

    # -- peers

    def add(
        self,
        name: str,
        *,
        label: str = "",
        expires: float = 0.0,
        endpoint: str = "",
        port: int = config.PORT,
        reach: tuple[str, ...] = ("0.0.0.0/0", "::/0"),
        public: bytes | None = None,
        psk: bool = True,
    ) -> str:
        """A new peer. Returns its file. reach: what it sends through the tunnel. public: of a key made elsewhere: then
        its file has none. :raises ModeError: the name or the addresses are taken, or it cannot be written.
        """
        if config.NAME.fullmatch(name) is None:
            raise ModeError(f"{name!r} is no name for a peer: letters, digits, and . _ - after the first")
        for other in reach:
            try:
                ip_network(other)
            except ValueError:
                raise ModeError(f"{other!r} is no network such as 192.168.7.0/24") from None
        if not label.isprintable():
            raise ModeError("a label is one line of printable text")
        if endpoint:
            check_endpoint(endpoint)
        private = None if public is not None else PrivateKey()
        shared = secrets.token_bytes(32) if psk else NO_PSK
        with self._alone():
            text = self._text()
            server = config.parse(text, str(self.path))
            if any(peer.name == name for peer in server.peers):
                raise ModeError(f"there is a peer named {name} already; `lockgate wireguard remove {name}` removes it")
            key = private.public if private else public or b""
            if any(other.public == key for other in server.peers):
                raise ModeError("a peer with this key is there already")
            peer = PeerConfig(key, _free(server), shared, name, label, expires=expires)
            given = client_file(server, peer, private, endpoint or server.endpoint, port, reach)
            _write(self.path, config.with_peer(text, str(self.path), peer))
        if private is not None:
            _write(self.clients / f"{name}.conf", given)
        return given

    def remove(self, name: str) -> None:
        """:raises ModeError: there is none of that name, or it cannot be written."""
        with self._alone():
            text = self._text()
            server = config.parse(text, str(self.path))
            peer = next((peer for peer in server.peers if peer.name == name), None)
            if peer is None:
                raise _unknown(name, server)
            _write(self.path, config.without_peer(text, str(self.path), peer.public))
        with contextlib.suppress(OSError):
            (self.clients / f"{name}.conf").unlink()

    def show(self, name: str) -> str:
        """The client's file. :raises ModeError: there is no such peer, or its file was not made here."""
        if config.NAME.fullmatch(name) is None:
            raise ModeError(f"{name!r} is no name of a peer")
        server = self.load()
        if all(peer.name != name for peer in server.peers):
            raise _unknown(name, server)
        try:
            return (self.clients / f"{name}.conf").read_text()
        except OSError:
            raise ModeError(
                f"the file of {name} is not here: whoever made its key has it, and nobody else can make it again; "
                f"`lockgate wireguard remove {name}` and `add {name}` make a new one"
            ) from None

    # -- what outlives the process

    def recall(self) -> dict[str, dict[str, Any]]:
        """By public key in base64: stamp, received, sent, last_handshake, endpoint. Empty when there is none.

        The file's first line is what `remember` wrote; those that follow are by `note`. What has a fault is left out.
        """
        found: dict[str, dict[str, Any]] = {}
        try:
            lines = self.state.read_text().split("\n")
        except (OSError, ValueError):
            return found
        for line in lines:
            try:
                said = json.loads(line)
            except (ValueError, RecursionError):
                continue
            match said:
                case dict():
                    found = {key: one for key, one in said.items() if isinstance(one, dict)}
                case [str(key), str(stamp)]:
                    found.setdefault(key, {})["stamp"] = stamp
        return found

    def note(self, peer: Tallied) -> None:
        """Its stamp alone, at once and at the end of the file: what it costs does not grow with the number of peers.

        :raises ModeError: it cannot be written.
        """
        line = "\n" + json.dumps([encode_key(peer.config.public), peer.stamp.hex()])  # whatever a full disk cut short
        try:
            fd = os.open(self.state, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(line)
        except OSError as e:
            raise ModeError(f"{self.state}: cannot be written: {e.strerror}") from None
        self.noted += 1

    def remember(self, peers: Mapping[bytes, Tallied], before: dict[str, dict[str, Any]]) -> None:
        """before: of peers that are gone too, as `recorded`: what was captured of one must not open a session when it
        is added again. After KEEP_SECONDS they are forgotten. :raises ModeError: it cannot be written.
        """
        now = time.time()
        data = {encode_key(public): recorded(peer) for public, peer in peers.items()}
        for key, one in before.items():
            gone = one.get("gone")
            gone = gone if isinstance(gone, (int, float)) else now
            if key not in data and now - gone < KEEP_SECONDS:
                data[key] = {**one, "gone": gone}
        _write(self.state, json.dumps(data))
        self.noted = 0


def recorded(peer: Tallied) -> dict[str, Any]:
    """What is kept of a peer."""
    return {
        "name": peer.config.name,
        "stamp": peer.stamp.hex(),
        "received": peer.received,
        "sent": peer.sent,
        "last_handshake": peer.last_handshake,
        "endpoint": list(peer.endpoint[:2]) if peer.endpoint else None,
    }


def stamp_of(remembered: dict[str, Any]) -> bytes:
    """TAI64N; b"" for what is none."""
    try:
        stamp = bytes.fromhex(str(remembered.get("stamp", "")))
    except ValueError:
        return b""
    return stamp if len(stamp) == 12 else b""


def client_file(
    server: ServerConfig,
    peer: PeerConfig,
    private: PrivateKey | None,
    endpoint: str,
    port: int,
    reach: tuple[str, ...],
) -> str:
    """What a client imports. private: None where its key was made elsewhere."""
    host = _with_port(endpoint or "ADDRESS-OF-THE-GATEWAY", port)
    lines = ["[Interface]", f"PrivateKey = {encode_key(private.data) if private else 'YOUR-PRIVATE-KEY'}"]
    lines += [f"Address = {', '.join(map(str, peer.allowed))}", f"DNS = {', '.join(server.name_servers)}"]
    lines += [f"MTU = {server.mtu}", "", "[Peer]", f"PublicKey = {encode_key(server.private.public)}"]
    lines += [f"PresharedKey = {encode_key(peer.psk)}"] if peer.psk != NO_PSK else []
    lines += [f"AllowedIPs = {', '.join(_with_dns(reach, server))}", f"Endpoint = {host}"]
    return "\n".join([*lines, f"PersistentKeepalive = {KEEPALIVE}", ""])


def _unknown(name: str, server: ServerConfig) -> ModeError:
    known = ", ".join(peer.name for peer in server.peers) or "none; `lockgate wireguard add NAME` makes one"
    return ModeError(f"there is no peer named {name}; there are: {known}")


def check_endpoint(text: str) -> None:
    """:raises ModeError: it is no HOST, HOST:PORT or [IPv6]:PORT."""
    host, colon, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "")
    right = not colon or (port.isascii() and port.isdecimal() and 0 < int(port) < 65536)
    if not right or _HOST.fullmatch(host) is None or (":" in host and not _is_address(host.strip("[]"))):
        raise ModeError(f"{text!r} is no endpoint: write HOST, HOST:PORT or [IPv6]:PORT")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _with_port(text: str, port: int) -> str:
    if text.startswith("["):
        return text if "]:" in text else f"{text}:{port}"
    if text.count(":") > 1:
        return f"[{text}]:{port}"
    return text if ":" in text else f"{text}:{port}"


def _with_dns(reach: tuple[str, ...], server: ServerConfig) -> list[str]:
    """A split tunnel must carry the name servers too."""
    networks = [ip_network(text) for text in reach]
    beside = [
        text
        for text in server.name_servers
        if not any(ip_network(text).version == one.version and ip_network(text).subnet_of(one) for one in networks)  # type: ignore[arg-type]
    ]
    return [*reach, *(str(ip_network(text)) for text in beside)]


def _free(server: ServerConfig) -> tuple[IPv4Network | IPv6Network, ...]:
    """The first address of each network that nobody has, with the same number in all where that can be."""
    taken = {int(address.ip) for address in server.addresses}
    ranges: list[tuple[int, int]] = []
    for network in (network for peer in server.peers for network in peer.allowed):
        first, last = int(network.network_address), int(network.broadcast_address)
        if first == last:
            taken.add(first)
        # What holds all of ours, such as 0.0.0.0/0, is what is left for that peer, and not its own.
        elif not any(first <= int(a.network[0]) and int(a.network[-1]) <= last for a in server.addresses):
            ranges.append((first, last))
    found: list[IPv4Network | IPv6Network] = []
    for number in range(2, config.MAX_PEERS + 2):
        found = []
        for address in server.addresses:
            network = address.network
            host = int(network.network_address) + number
            last = int(network.broadcast_address) - (network.version == 4)
            if host > last or host in taken or any(low <= host <= high for low, high in ranges):
                break
            found.append(ip_network(network.network_address + number))
        else:
            if found:
                return tuple(found)
    raise ModeError("[Interface] has no Address with a free one for another peer, such as 10.87.0.1/24")


def _give(what: Path | int, like: os.stat_result) -> None:
    """To the owner that `like` has, if we may."""
    with contextlib.suppress(PermissionError):
        os.chown(what, like.st_uid, like.st_gid)


def _write(path: Path, text: str) -> None:
    """All or nothing. A new file is for its owner's eyes only; one that was there keeps owner and permissions, for
    `sudo lockgate wireguard add` must not take it away from a user's gateway. :raises ModeError: it cannot be written.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _give(path.parent, os.stat(path.parent.parent))
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            try:
                before = os.stat(path)
                os.fchmod(fd, stat.S_IMODE(before.st_mode))
            except FileNotFoundError:
                before = os.stat(path.parent)
            _give(fd, before)
            file.write(text)
        os.replace(temporary, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ModeError(f"{path}: cannot be written: {e.strerror}") from None
