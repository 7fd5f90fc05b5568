"""Sockets towards servers that carry the client's own address (option spoof_source_address).

The answers come back to an address that is not ours: the firewall must hand them to the socket. See
docs/decisions/spoofing.md for the rules.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from appliance.net.unreachable import IP_TRANSPARENT, IPV6_TRANSPARENT

if TYPE_CHECKING:
    from appliance.connection import Address

_TRIES = 5


def literal(client: Address) -> tuple[int, str]:
    """Family and address of a client, an IPv4-mapped one as IPv4."""
    host = client[0].partition("%")[0]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), host


def open_as(client: Address, family: int, kind: int) -> socket.socket:
    """A non-blocking socket bound to the client's address and a port that the client does not use just here.

    The same port would make both connections one to connection tracking. :raises OSError: it cannot be had; the text
    names the remedy.
    """
    own, host = literal(client)
    if own != family:
        raise OSError(
            errno.EAFNOSUPPORT,
            f"the client {host} has no address of this IP version to come from (option spoof_source_address)",
        )
    for _ in range(_TRIES):
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
            else:
                sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            sock.bind((host, 0))
        except PermissionError:
            sock.close()
            raise PermissionError(
                errno.EPERM, "the client's address may only be used with CAP_NET_ADMIN (option spoof_source_address)"
            ) from None
        except BaseException:
            sock.close()
            raise
        if sock.getsockname()[1] != client[1]:
            return sock
        sock.close()
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def answers_rule(interface: str, mark: int, action: str = "accept") -> str:
    """The nftables rule, for a prerouting chain at mangle priority or before, that hands answers coming in by
    `interface` to these sockets. `mark`: what the policy route to the local table goes by.

    Bound sockets alone: the transparent listeners, bound to every address, would take what is merely forwarded. It
    names no protocol, so that ICMP errors find the socket they are about as well.
    """
    return f'iifname "{interface}" socket transparent 1 socket wildcard 0 meta mark set {mark:#x} {action}'
