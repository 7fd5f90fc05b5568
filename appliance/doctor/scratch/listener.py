"""A bare listener: takes one connection or datagram, finds out where it was going, and answers as that address."""

from __future__ import annotations

import contextlib
import select
import socket
import struct

from appliance.doctor.scratch.wire import PORT

SECONDS = 1.5
_ORIGINAL_DST = 80  # SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
_SOL_IPV6 = 41
Found = tuple[str, int]


class Listener:
    """TCP and UDP, IPv4 and IPv6, all transparent, on one port. Raises OSError."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        for protocol in ("tcp", "udp"):
            for family in (4, 6):
                sock = _transparent(protocol, family)
                sock.bind(("::" if family == 6 else "0.0.0.0", PORT))
                if protocol == "tcp":
                    sock.listen(5)
                self._sockets[protocol, family] = sock

    def take(self, protocol: str, family: int, method: str) -> tuple[Found | None, str]:
        """Wait for one, answer it. Where it was going, and "" or what is wrong."""
        sock = self._sockets[protocol, family]
        if not select.select([sock], [], [], SECONDS)[0]:
            return None, "nothing arrived at the listener"
        try:
            if protocol == "tcp":
                return self._connection(sock, family, method), ""
            return self._datagram(sock, family, method), ""
        except OSError as error:
            return None, error.strerror or str(error)

    def drain(self) -> None:
        """Away with what came too late."""
        for (protocol, _), sock in self._sockets.items():
            while select.select([sock], [], [], 0)[0]:
                with contextlib.suppress(OSError):
                    if protocol == "tcp":
                        sock.accept()[0].close()
                    else:
                        sock.recv(1)

    def _connection(self, listener: socket.socket, family: int, method: str) -> Found:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(SECONDS)
            if method == "tproxy":
                found: Found = sock.getsockname()[:2]
            elif family == 6:
                found = _address(sock.getsockopt(_SOL_IPV6, _ORIGINAL_DST, 28))
            else:
                found = _address(sock.getsockopt(socket.SOL_IP, _ORIGINAL_DST, 16))
            sock.send(sock.recv(100))
            return found

    def _datagram(self, sock: socket.socket, family: int, method: str) -> Found:
        data, ancillary, _, peer = sock.recvmsg(100, 100)
        if method == "redirect":
            # The answer is translated back by conntrack; the way there is in its table too.
            sock.sendto(data, peer)
            return _tracked(family, peer)
        found = _address(ancillary[0][2])
        with _transparent("udp", family) as answering:
            answering.bind(found)
            answering.sendto(data, peer)
        return found


def _transparent(protocol: str, family: int) -> socket.socket:
    sock = socket.socket(
        socket.AF_INET6 if family == 6 else socket.AF_INET,
        socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM,
    )
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        sock.setsockopt(_SOL_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(_SOL_IPV6, 75, 1)  # IPV6_TRANSPARENT
        sock.setsockopt(_SOL_IPV6, 74, 1)  # IPV6_RECVORIGDSTADDR
    else:
        sock.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
        sock.setsockopt(socket.SOL_IP, 20, 1)  # IP_RECVORIGDSTADDR
    return sock


def _address(told: bytes) -> Found:
    """sockaddr_in (16 bytes) or sockaddr_in6 (28)."""
    if len(told) == 28:
        port, six = struct.unpack_from("!2xH4x16s", told)
        return socket.inet_ntop(socket.AF_INET6, six), port
    port, four = struct.unpack_from("!2xH4s", told)
    return socket.inet_ntoa(four), port


def _tracked(family: int, peer: tuple[str, int]) -> Found:
    """Where a client's datagram was going before REDIRECT, by connection tracking. Raises OSError."""
    from pyroute2 import NFCTSocket

    with NFCTSocket(nfgen_family=socket.AF_INET6 if family == 6 else socket.AF_INET) as netlink:
        for entry in netlink.dump():
            tuple_ = entry.get_attr("CTA_TUPLE_ORIG")
            addresses, ports = tuple_.get_attr("CTA_TUPLE_IP"), tuple_.get_attr("CTA_TUPLE_PROTO")
            version = f"CTA_IP_V{family}"
            source = addresses.get_attr(f"{version}_SRC"), ports.get_attr("CTA_PROTO_SRC_PORT")
            if source == tuple(peer[:2]) and ports.get_attr("CTA_PROTO_NUM") == socket.IPPROTO_UDP:
                return addresses.get_attr(f"{version}_DST"), ports.get_attr("CTA_PROTO_DST_PORT")
    raise OSError(2, "connection tracking does not know it")
