"""Whose an address is, for whatever is shared out among clients."""

from __future__ import annotations

import socket


def network(ip: str) -> str:
    """An IPv4 address itself; of IPv6 its /64, since one host may use all addresses of it (RFC 8981)."""
    if ":" not in ip or "." in ip:
        return ip
    try:
        packed = socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])
    except OSError:
        return ip
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"
