"""`transparent`: connections that a firewall sends here, by REDIRECT or TPROXY. Lays no rules itself."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from typing import TYPE_CHECKING

from appliance.layers.modes import TransparentProxy
from appliance.net.guard import is_local, nowhere, unmapped
from modes.base import TcpMode, Unwanted
from modes.udp import UdpListener

if TYPE_CHECKING:
    from appliance.arrival import Arrive, Host
    from appliance.connection import Address
    from appliance.layers.base import Context, Layer
    from modes.spec import ModeSpec

logger = logging.getLogger(__name__)

SO_ORIGINAL_DST = 80
IP6T_SO_ORIGINAL_DST = 80
_SOL_IPV6 = 41
_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75


class Transparent(TcpMode):
    """The original destination is what the connection's own address says under TPROXY, else what conntrack knows."""

    @staticmethod
    def top(context: Context) -> Layer:
        return TransparentProxy(context)

    def __init__(self, spec: ModeSpec, host: Host, listen_host: str, listen_port: int | None) -> None:
        super().__init__(spec, host, listen_host, listen_port)
        self.datagrams: list[UdpListener] = []

    async def start(self, arrive: Arrive) -> list[Address]:
        addresses = await super().start(arrive)
        for address in addresses:
            listener = UdpListener(self.spec, self.host, self.top, arrive)
            try:
                listener.bind(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, address)
            except PermissionError:
                logger.debug("%s: TCP only, TPROXY of UDP needs CAP_NET_RAW or CAP_NET_ADMIN", self.spec.full_spec)
            except OSError as e:
                logger.warning("%s: TCP only, UDP port %d: %s", self.spec.full_spec, address[1], e.strerror)
            else:
                self.datagrams.append(listener)
        return addresses

    async def stop(self) -> None:
        await super().stop()
        for listener in self.datagrams:
            listener.close()

    def prepare(self, sock: socket.socket) -> None:
        # Only TPROXY needs it, and only CAP_NET_ADMIN may: with REDIRECT all works without.
        with contextlib.suppress(OSError):
            if sock.family == socket.AF_INET6:
                sock.setsockopt(_SOL_IPV6, _IPV6_TRANSPARENT, 1)
            else:
                sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)

    def wanted(self, sock: socket.socket, peer: Address) -> Address | None:
        own = sock.getsockname()
        plain = unmapped(own[0]), own[1]
        found = original_destination(sock, own) or plain
        if found != plain:
            _not_transparent(sock)
        ours = {address[1] for address in self.addresses}
        # Under TPROXY it is the same too where the destination's port happens to be ours; but then not the address.
        if found[1] in ours and found == plain and is_local(found[0]):
            raise Unwanted(
                f"connected to the transparent listener {own[0]}:{own[1]} itself, so there is no original destination: "
                "redirect its traffic here with nftables, or use the regular mode for explicit proxying"
            )
        mapped = found is plain and own[0].startswith("::ffff:") and _only_ipv6(sock)
        if mapped or nowhere(found[0], peer[0]):
            raise Unwanted(f"{own[0] if mapped else found[0]} is nobody's address on a network, and not served")
        return found


def _only_ipv6(sock: socket.socket) -> bool:
    """Whether an IPv4-mapped address of this socket is what a packet said, and not IPv4."""
    return sock.family == socket.AF_INET6 and bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _not_transparent(sock: socket.socket) -> None:
    """Undo what a redirected connection inherits from the listener, which has it for TPROXY.

    A client may use one port towards two destinations. Behind REDIRECT both are for one place, so NAT changes the
    second one's port; but by then the kernel has looked its socket up (early demux), found the first one's, and looks
    again only if that is not transparent (nf_nat_ipv4_local_in). The second connection would hang.
    """
    with contextlib.suppress(OSError):
        if sock.family == socket.AF_INET6:
            sock.setsockopt(_SOL_IPV6, _IPV6_TRANSPARENT, 0)
        else:
            sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 0)


def original_destination(sock: socket.socket, own: Address) -> tuple[str, int] | None:
    """What the connection's address was before REDIRECT; None when it was not redirected.

    SO_ORIGINAL_DST gives a sockaddr_in (16 bytes), IP6T_SO_ORIGINAL_DST a sockaddr_in6 (28 bytes). Without a conntrack
    entry both fail with ENOENT or ENOPROTOOPT: then the socket's own address is the destination (TPROXY).
    """
    try:
        if ":" in own[0] and "." not in own[0]:
            data = sock.getsockopt(_SOL_IPV6, IP6T_SO_ORIGINAL_DST, 28)
            port, address = struct.unpack_from("!2xH4x16s", data)
            return socket.inet_ntop(socket.AF_INET6, address), port
        data = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, address = struct.unpack_from("!2xH4s", data)
        return socket.inet_ntop(socket.AF_INET, address), port
    except OSError:
        return None
