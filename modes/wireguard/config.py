"""The server's configuration in WireGuard's own form (wg-quick(8)), with a little more in comments that `wg` ignores:

    [Interface]                          [Peer]
    PrivateKey = …                       # Name = phone
    Address = 10.87.0.1/24, fd87::1/64   # Label = Anna's
    ListenPort = 51820                   # Expires = 2027-01-31T00:00:00Z
    # Endpoint = lab.example:51820       PublicKey = …
    # DNS = 10.87.0.1                    AllowedIPs = 10.87.0.2/32, fd87::2/128

mitmproxy's wireguard.conf (JSON with server_key and client_key) is read too.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import Any

from appliance.exceptions import ModeError
from modes.wireguard.noise import NO_PSK, PrivateKey
from modes.wireguard.peer import PeerConfig

PORT = 51820
MTU = 1420
"""What fits into 1500 bytes over IPv6 too."""
LARGEST = 4 << 20
MAX_PEERS = 4096
_COMMENTED = {"interface": {"endpoint", "dns"}, "peer": {"name", "label", "expires"}}
_OF_WG_QUICK = frozenset({"table", "preup", "postup", "predown", "postdown", "saveconfig", "fwmark"})
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """addresses: ours inside the tunnel, with the network clients are in. endpoint: where clients find us, "" = not
    said. dns: servers for clients; empty: our addresses. ignored: keys that were there and mean nothing here.
    """

    private: PrivateKey
    addresses: tuple[Interface, ...] = ()
    port: int | None = None
    mtu: int = MTU
    endpoint: str = ""
    dns: tuple[str, ...] = ()
    peers: tuple[PeerConfig, ...] = ()
    ignored: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name_servers(self) -> tuple[str, ...]:
        """Addresses inside at which a client asks us."""
        return self.dns or tuple(str(address.ip) for address in self.addresses)


def parse(text: str, where: str) -> ServerConfig:
    """where: the file's name. :raises ModeError: it is not of that form; names the line."""
    if len(text) > LARGEST:
        raise ModeError(f"{where}: too large for a WireGuard configuration")
    if text.lstrip().startswith("{"):
        return _mitmproxy(text, where)
    sections: list[tuple[str, dict[str, tuple[str, int]]]] = []
    ignored: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        plain, hash_, comment = line.partition("#")
        plain = plain.strip()
        if not plain:
            if sections and hash_:
                key, equals, value = comment.partition("=")
                key = key.strip().lower()
                if equals and key in _COMMENTED[sections[-1][0]]:
                    sections[-1][1].setdefault(key, (value.strip(), number))
            continue
        if plain.startswith("["):
            name = plain.strip("[]").strip().lower()
            if name not in _COMMENTED:
                raise ModeError(f"{where}, line {number}: {plain} is neither [Interface] nor [Peer]")
            sections.append((name, {}))
            continue
        key, equals, value = plain.partition("=")
        key = key.strip().lower()
        if not equals or not sections:
            # Not repeated: it may be a secret.
            raise ModeError(f"{where}, line {number}: this is no KEY = VALUE in an [Interface] or [Peer] section")
        if key in _OF_WG_QUICK:
            ignored.append(key)
            continue
        if key not in _KEYS[sections[-1][0]]:
            raise ModeError(f"{where}, line {number}: [{sections[-1][0].title()}] has no {key!r}")
        if key in ("address", "allowedips", "dns") and key in sections[-1][1]:
            value = f"{sections[-1][1][key][0]}, {value}"
        sections[-1][1][key] = value.strip(), number
    interfaces = [values for name, values in sections if name == "interface"]
    if len(interfaces) != 1:
        raise ModeError(f"{where}: there must be one [Interface] section, there are {len(interfaces)}")
    peers = [values for name, values in sections if name == "peer"]
    if len(peers) > MAX_PEERS:
        raise ModeError(f"{where}: more than {MAX_PEERS} peers")
    return _server(interfaces[0], peers, where, tuple(dict.fromkeys(ignored)))


_KEYS = {
    "interface": {"privatekey", "address", "listenport", "mtu", "dns"},
    "peer": {"publickey", "presharedkey", "allowedips", "endpoint", "persistentkeepalive"},
}


class _Values:
    """Of one section, each read by what it must be. :raises ModeError: it is not, naming the line."""

    def __init__(self, values: dict[str, tuple[str, int]], where: str) -> None:
        self._values = values
        self._where = where

    def fail(self, key: str, why: str) -> ModeError:
        number = self._values[key][1]
        return ModeError(f"{self._where}, line {number}: {why}")

    def text(self, key: str) -> str:
        return self._values.get(key, ("", 0))[0]

    def words(self, key: str) -> list[str]:
        return [word for part in self.text(key).split(",") if (word := part.strip())]

    def key(self, key: str) -> bytes | None:
        if key not in self._values:
            return None
        try:
            return decode_key(self.text(key))
        except ValueError as e:
            raise self.fail(key, str(e)) from None

    def number(self, key: str, least: int, most: int) -> int | None:
        text = self.text(key)
        if not text or text.lower() == "off":
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
            raise self.fail(key, f"{text!r} is no number from {least} to {most}")
        return int(text)


def _server(
    interface: dict[str, tuple[str, int]], peers: list[dict[str, tuple[str, int]]], where: str, ignored: tuple[str, ...]
) -> ServerConfig:
    values = _Values(interface, where)
    private = values.key("privatekey")
    if private is None:
        raise ModeError(f"{where}: [Interface] has no PrivateKey; `lockgate wireguard init` makes a file")
    addresses = []
    for word in values.words("address"):
        try:
            addresses.append(ip_interface(word))
        except ValueError:
            raise values.fail("address", f"{word!r} is no address such as 10.87.0.1/24") from None
    dns = []
    for word in values.words("dns"):
        try:
            dns.append(str(ip_address(word)))  # as the kernel tells where a client's question went
        except ValueError:
            raise values.fail("dns", f"{word!r} is no IP address") from None
    found: dict[bytes, PeerConfig] = {}
    names: set[str] = set()
    for section in peers:
        peer = _peer(_Values(section, where), where)
        if peer.public in found:
            raise ModeError(f"{where}: the key of peer {peer.name!r} is there twice")
        if peer.name in names:
            raise ModeError(f"{where}: there are two peers named {peer.name!r}")
        names.add(peer.name)
        found[peer.public] = peer
    return ServerConfig(
        PrivateKey(private),
        tuple(addresses),
        values.number("listenport", 0, 65535),
        values.number("mtu", 1280, 65535) or MTU,
        values.text("endpoint"),
        tuple(dns),
        tuple(found.values()),
        ignored,
    )


def _peer(values: _Values, where: str) -> PeerConfig:
    public = values.key("publickey")
    if public is None:
        raise ModeError(f"{where}: a [Peer] has no PublicKey")
    allowed = []
    for word in values.words("allowedips"):
        try:
            allowed.append(ip_network(word, strict=False))
        except ValueError:
            raise values.fail("allowedips", f"{word!r} is no network such as 10.87.0.2/32") from None
    expires = 0.0
    if text := values.text("expires"):
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            raise values.fail("expires", f"{text!r} is no time such as 2027-01-31T00:00:00Z") from None
        expires = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    endpoint = None
    if text := values.text("endpoint"):
        host, _, port = text.rpartition(":")
        try:
            host = str(ip_address(host.strip("[]")))
            endpoint = host, int(port)
        except ValueError:
            raise values.fail("endpoint", f"{text!r} is no ADDRESS:PORT; a peer may well have no endpoint") from None
        if not 0 < endpoint[1] < 65536:
            raise values.fail("endpoint", f"{endpoint[1]} is no port")
    name = values.text("name") or encode_key(public)[:8]
    return PeerConfig(
        public,
        tuple(allowed),
        values.key("presharedkey") or NO_PSK,
        name,
        values.text("label"),
        endpoint,
        float(values.number("persistentkeepalive", 0, 65535) or 0),
        expires,
    )


def _mitmproxy(text: str, where: str) -> ServerConfig:
    """One client, 10.0.0.1, that may write from any address: so it is there."""
    try:
        data: Any = json.loads(text)
        server, client = (PrivateKey(decode_key(data[name])) for name in ("server_key", "client_key"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModeError(f"{where}: this JSON has no server_key and client_key, as mitmproxy's wireguard.conf") from None
    everything = ip_network("0.0.0.0/0"), ip_network("::/0")
    peer = PeerConfig(client.public, everything, name="mitmproxy")
    return ServerConfig(server, (ip_interface("10.0.0.53/32"),), None, MTU, "", ("10.0.0.53",), (peer,))


def render(config: ServerConfig) -> str:
    """The file of a server."""
    lines = ["[Interface]", f"PrivateKey = {encode_key(config.private.data)}"]
    lines += [f"Address = {', '.join(map(str, config.addresses))}"] if config.addresses else []
    lines += [f"ListenPort = {config.port}"] if config.port is not None else []
    lines += [f"MTU = {config.mtu}"] if config.mtu != MTU else []
    lines += [f"# Endpoint = {config.endpoint}"] if config.endpoint else []
    lines += [f"# DNS = {', '.join(config.dns)}"] if config.dns else []
    for peer in config.peers:
        lines += ["", *_section(peer)]
    return "\n".join(lines) + "\n"


def _section(peer: PeerConfig) -> list[str]:
    lines = ["[Peer]", f"# Name = {peer.name}"]
    lines += [f"# Label = {peer.label}"] if peer.label else []
    lines += [f"# Expires = {datetime.fromtimestamp(peer.expires, UTC):%Y-%m-%dT%H:%M:%SZ}"] if peer.expires else []
    lines += [f"PublicKey = {encode_key(peer.public)}"]
    lines += [f"PresharedKey = {encode_key(peer.psk)}"] if peer.psk != NO_PSK else []
    lines += [f"AllowedIPs = {', '.join(map(str, peer.allowed))}"] if peer.allowed else []
    if peer.endpoint:
        host = f"[{peer.endpoint[0]}]" if ":" in peer.endpoint[0] else peer.endpoint[0]
        lines += [f"Endpoint = {host}:{peer.endpoint[1]}"]
    lines += [f"PersistentKeepalive = {peer.keepalive:.0f}"] if peer.keepalive else []
    return lines


def with_peer(text: str, where: str, peer: PeerConfig) -> str:
    """The file with one more peer; what people have written in it stays. :raises ModeError: as `parse`."""
    server = parse(text, where)
    if text.lstrip().startswith("{"):
        return render(replace(server, peers=(*server.peers, peer)))
    return "\n".join([text.rstrip(), "", *_section(peer), ""])


def without_peer(text: str, where: str, public: bytes) -> str:
    """The file without this peer's section, and the comment right above that. :raises ModeError: as `parse`."""
    server = parse(text, where)
    if text.lstrip().startswith("{"):
        return render(replace(server, peers=tuple(peer for peer in server.peers if peer.public != public)))
    lines = text.split("\n")
    starts: list[int] = []
    for number, line in enumerate(lines):
        if line.strip().startswith("["):
            start = number
            while start > 0 and _of_people(lines[start - 1]):
                start -= 1
            starts.append(start)
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        for line in lines[start:end]:
            key, _, value = line.partition("#")[0].partition("=")
            if key.strip().lower() == "publickey" and decode_key(value.strip()) == public:
                return "\n".join([*lines[:start], *lines[end:]]).rstrip() + "\n"
    return text


def _of_people(line: str) -> bool:
    """A comment that says nothing to us: right above a section it is about that one."""
    plain, hash_, comment = line.partition("#")
    key = comment.partition("=")[0].strip().lower()
    return bool(hash_) and not plain.strip() and key not in _COMMENTED["interface"] | _COMMENTED["peer"]


def decode_key(text: str) -> bytes:
    """:raises ValueError: not base64 of 32 bytes; the text does not repeat it."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise ValueError("this is no key: 44 characters of base64 are one (`wg genkey` makes them)")
    return key


def encode_key(key: bytes) -> str:
    return base64.b64encode(key).decode()
