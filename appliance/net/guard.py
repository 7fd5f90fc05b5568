"""The proxy never dials itself, nor link-local metadata addresses."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.connection import Address

METADATA = frozenset({"169.254.169.254", "fd00:ec2::254"})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})


class LoopGuard:
    """Knows our listeners, and refuses them as destinations."""

    def __init__(self, allow_metadata: bool = False) -> None:
        self.allow_metadata = allow_metadata
        self._ports: dict[int, set[str]] = {}

    def listening(self, address: Address) -> None:
        """We listen here."""
        self._ports.setdefault(address[1], set()).add(address[0].partition("%")[0])

    def forget(self, address: Address) -> None:
        """We no longer do."""
        self._ports.get(address[1], set()).discard(address[0].partition("%")[0])

    def refuse(self, ip: str, port: int) -> str | None:
        """Why this resolved address must not be dialled, None when it may."""
        hosts = self._ports.get(port)
        if not hosts and "254" not in ip and ":" not in ip:
            return None
        given, ip = ip, unmapped(ip)
        if ip in METADATA and not self.allow_metadata:
            return f"{ip} is a link-local metadata address (option allow_metadata_addresses)"
        if hosts and (ip in hosts or (hosts & _WILDCARDS and is_local(given)) or ip in _WILDCARDS):
            return f"{ip} port {port} is this gateway itself"
        return None


def unmapped(ip: str) -> str:
    """The IPv4 address in an IPv4-mapped IPv6 one; any other as it is, without a scope."""
    ip = ip.partition("%")[0]
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def is_local(ip: str) -> bool:
    """Whether this address is one of this host's: then the kernel would send to it from itself. No packet leaves."""
    ip, _, scope = ip.partition("%")
    plain = unmapped(ip)
    try:
        if ipaddress.ip_address(plain).is_loopback:  # all of 127.0.0.0/8, of which the kernel says 127.0.0.1
            return True
        family = socket.AF_INET6 if ":" in plain else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((plain, 9, 0, socket.if_nametoindex(scope)) if scope else (plain, 9))
            return unmapped(s.getsockname()[0]) == plain
    except (OSError, ValueError):
        return False
