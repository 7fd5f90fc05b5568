"""This machine's own name servers and names: resolv.conf(5) and hosts(5), read again when they change."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.net.dial import literal_family
from appliance.net.dns import DNSError
from appliance.net.dns import names as dns_names

if TYPE_CHECKING:
    from appliance.connection import Address

RESOLV_CONF = Path("/etc/resolv.conf")
HOSTS = Path("/etc/hosts")
DNS_PORT = 53
MAX_SIZE = 8 << 20
LOOK_SECONDS = 1.0
MAX_SERVERS = 3
"""resolv.conf(5): further ones are ignored."""


def parse_server(text: str) -> Address:
    """`ADDRESS`, `ADDRESS:PORT` or `[IPv6]:PORT`. :raises ValueError: it is none."""
    host, port = text.strip(), str(DNS_PORT)
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(_not_a_server(text))
        port = rest[1:] or port
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(_not_a_server(text)) from None
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(_not_a_server(text))
    return host, int(port)


def _not_a_server(text: str) -> str:
    return f"{text!r} is no name server: write an IP address, such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"


class _File:
    """A file that is looked at again when it has changed, at most once in `LOOK_SECONDS`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._next = 0.0

    def fresh(self) -> str | None:
        """Its text if it is new since the last call, "" when it cannot be read; None: as it was."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + LOOK_SECONDS
        try:
            stat = os.stat(self.path)
            stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino
            if stamp == self._stamp:
                return None
            with self.path.open("rb") as file:
                text = file.read(MAX_SIZE).decode("utf-8", "replace")
        except OSError:
            self._stamp = None
            return ""
        self._stamp = stamp
        return text


class System:
    """What this machine knows."""

    def __init__(self, resolv_conf: Path | None = None, hosts: Path | None = None) -> None:
        self._resolv_conf = _File(resolv_conf or RESOLV_CONF)
        self._hosts = _File(hosts or HOSTS)
        self._servers: Sequence[Address] = ()
        self._addresses: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        self._wires: frozenset[bytes] = frozenset()
        self._added: dict[str, Sequence[str]] = {}

    def add(self, name: str, addresses: Sequence[str]) -> None:
        """As if the hosts file said so too."""
        self._added[name.lower().rstrip(".")] = addresses
        self._hosts = _File(self._hosts.path)

    def servers(self) -> Sequence[Address]:
        """The name servers of resolv.conf; empty when there are none."""
        if (text := self._resolv_conf.fresh()) is not None:
            words = [line.split() for line in text.splitlines()]
            found = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and literal_family(w[1]) is not None]
            self._servers = tuple((host, DNS_PORT) for host in found[:MAX_SERVERS])
        return self._servers

    def knows(self, name: bytes) -> bool:
        """Whether the hosts file has this name, or this reverse name (as on the wire)."""
        self._read()
        return name.lower() in self._wires

    def addresses(self, name: str) -> Sequence[str]:
        """Of a name in the hosts file, v4 and v6; empty when it is not there."""
        self._read()
        return self._addresses.get(name.lower(), ())

    def names(self, reverse: str) -> Sequence[str]:
        """The first name of each line with the address whose in-addr.arpa or ip6.arpa name this is."""
        self._read()
        return self._names.get(reverse.lower(), ())

    def _read(self) -> None:
        if (text := self._hosts.fresh()) is None:
            return
        self._addresses, self._names = {}, {}
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            try:
                address = ipaddress.ip_address(words[0].partition("%")[0]) if len(words) > 1 else None
            except ValueError:
                continue
            if address is None:
                continue
            names = [name for word in words[1:] if (name := word.rstrip("."))]
            for name in names:
                known = self._addresses.setdefault(name.lower(), [])
                if str(address) not in known:
                    known.append(str(address))
            self._names.setdefault(address.reverse_pointer, []).extend(names[:1])
        self._addresses |= {name: list(addresses) for name, addresses in self._added.items()}
        self._wires = frozenset([wire for name in (*self._addresses, *self._names) if (wire := _wire(name))])


def _wire(name: str) -> bytes:
    """b"" for what is no name on the wire."""
    try:
        return dns_names.pack(name)
    except DNSError:
        return b""
