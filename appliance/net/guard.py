"""The proxy never dials itself, nor link-local metadata addresses."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.connection import Address

METADATA = frozenset({"169.254.169.254", "fd00:ec2::254"})
_RTN_LOCAL, _RTN_ANYCAST = 2, 4
_RTM_NEWROUTE, _RTM_GETROUTE, _REQUEST = 24, 26, 1
_RTA_DST, _RTA_OIF = 1, 4
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
        return _route(plain, socket.if_nametoindex(scope) if scope else 0) in (_RTN_LOCAL, _RTN_ANYCAST)
    except (OSError, ValueError):
        return False


def _route(ip: str, index: int) -> int:
    """The kind (RTN_*) of the kernel's route to an address, 0: none. Which source it would choose tells less: for a
    second address in one network it is the first. index: of the interface, 0 = any.

    :raises OSError: it cannot be asked.
    """
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    address = socket.inet_pton(family, ip)
    ask = struct.pack("=8BI", family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
    ask += struct.pack("=HH", 4 + len(address), _RTA_DST) + address
    if index:
        ask += struct.pack("=HHI", 8, _RTA_OIF, index)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0) as s:
        s.sendto(struct.pack("=IHHII", 16 + len(ask), _RTM_GETROUTE, _REQUEST, 1, 0) + ask, (0, 0))
        answer = s.recv(8192)  # the kernel has answered within sendto()
    return answer[16 + 7] if struct.unpack_from("=H", answer, 4)[0] == _RTM_NEWROUTE else 0
