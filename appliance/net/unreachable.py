"""ICMP port unreachable in a destination's name: what a client hears when the server it wanted refuses its datagrams.

Needs CAP_NET_RAW, which a gateway under TPROXY usually has; without it the client hears nothing.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.connection import Address

PER_SECOND = 100.0
BURST = 50.0
IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75
_HOPS = 64
_UDP_HEADER = 8


class Unreachable:
    """Sends them, not more than `PER_SECOND` (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f)."""

    def __init__(self, opened: Callable[[int], socket.socket] | None = None) -> None:
        """opened: gives a raw socket for ICMP of a family, from another network namespace."""
        self._opened = opened or _raw
        self._tokens = BURST
        self._since = time.monotonic()

    def tell(self, client: Address, wanted: Address) -> bool:
        """Say that a datagram from `client` to `wanted` found nobody. False: too many, or not permitted."""
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._since) * PER_SECOND)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        try:
            if ":" in client[0]:
                with self._opened(socket.AF_INET6) as sock:
                    sock.bind((wanted[0], 0))
                    sock.sendto(message6(client, wanted), (client[0], 0, *client[2:]))
            else:
                with self._opened(socket.AF_INET) as sock:
                    sock.bind((wanted[0], 0))
                    sock.sendto(message4(client, wanted), (client[0], 0))
        except OSError:
            return False
        return True


def _raw(family: int) -> socket.socket:
    """:raises OSError: it needs CAP_NET_RAW, and CAP_NET_ADMIN to be transparent."""
    six = family == socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def message4(client: Address, wanted: Address) -> bytes:
    """Type 3, code 3, around the header of a datagram as `client` sent it (RFC 792)."""
    source, destination = (socket.inet_aton(address[0]) for address in (client, wanted))
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + _UDP_HEADER, 0, 0, _HOPS, socket.IPPROTO_UDP, 0, source, destination
    )
    header = header[:10] + checksum(header) + header[12:]
    body = struct.pack("!BBHI", 3, 3, 0, 0) + header + _udp(client, wanted)
    return body[:2] + checksum(body) + body[4:]


def message6(client: Address, wanted: Address) -> bytes:
    """Type 1, code 4 (RFC 4443 §3.1); the kernel fills the checksum in."""
    source, destination = (
        socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0]) for address in (client, wanted)
    )
    header = struct.pack("!IHBB16s16s", 6 << 28, _UDP_HEADER, socket.IPPROTO_UDP, _HOPS, source, destination)
    return struct.pack("!BBHI", 1, 4, 0, 0) + header + _udp(client, wanted)


def _udp(client: Address, wanted: Address) -> bytes:
    return struct.pack("!HHHH", client[1], wanted[1], _UDP_HEADER, 0)


def checksum(data: bytes) -> bytes:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
