"""The proxy never dials itself, nor where clouds tell a machine its secrets: their metadata addresses."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.connection import Address

METADATA = frozenset(
    (
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe"),  # AWS, its EKS, Google, OpenStack
        *("100.100.100.200", "192.0.0.192", "168.63.129.16"),  # Alibaba, Oracle, Azure
    )
)
LINK_LOCAL = "169.254."
"""All other metadata services of IPv4 are there, and nothing that is to be reached through a gateway (RFC 3927 §7)."""
_DNS = 53
"""Here clouds have their resolvers, at some of the same addresses, and no metadata."""
_NAT64 = bytes.fromhex("0064ff9b0000000000000000")  # RFC 6052
_NAT64_LOCAL = bytes.fromhex("0064ff9b0001")  # RFC 8215, if it is used as a /96
_6TO4 = bytes.fromhex("2002")  # RFC 3056
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
        if not hosts and ip[:8] != LINK_LOCAL and ":" not in ip and ip not in METADATA:
            return None
        given, ip = ip, reached(ip)
        if (ip[:8] == LINK_LOCAL or ip in METADATA) and port != _DNS and not self.allow_metadata:
            return f"{ip} is a link-local or metadata address (option allow_metadata_addresses)"
        local = ip if "." in ip else given  # with its scope
        if hosts and (ip in hosts or (hosts & _WILDCARDS and is_local(local)) or ip in _WILDCARDS):
            return f"{ip} port {port} is this gateway itself"
        return None


def nowhere(ip: str, client: str) -> bool:
    """Whether no packet on a network is for this destination, as it came from `client`: loopback (unless that is, too),
    unspecified, IPv4-mapped. The kernel takes the last for IPv6 when it comes, and for IPv4 when it is dialled, so that
    ::ffff:127.0.0.1 would be this machine's own services.
    """
    if not ip.startswith(("127.", "0.", "::")):
        return False
    address = ipaddress.ip_address(ip.partition("%")[0])
    if address.is_loopback:
        return not ipaddress.ip_address(unmapped(client)).is_loopback
    return address.is_unspecified or getattr(address, "ipv4_mapped", None) is not None


def reached(ip: str) -> str:
    """The IPv4 address that a translator (NAT64) or relay (6to4) sends on to, or that of `unmapped`."""
    ip = unmapped(ip)
    if ip[:2] not in ("64", "20"):
        return ip
    try:
        packed = socket.inet_pton(socket.AF_INET6, ip)
    except OSError:
        return ip
    if packed.startswith((_NAT64, _NAT64_LOCAL)):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET, packed[2:6]) if packed.startswith(_6TO4) else ip


def unmapped(ip: str) -> str:
    """The IPv4 address in an IPv4-mapped IPv6 one; any other as it is, without a scope."""
    ip = ip.partition("%")[0]
    if ":" not in ip:
        return ip
    try:
        plain = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, ip))
    except OSError:
        return ip
    return plain[7:] if plain.startswith("::ffff:") and "." in plain else plain


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
