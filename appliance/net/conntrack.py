"""What the kernel's connection tracking knows of one connection: where it was going before NAT, and from where.

By hand and not by pyroute2 (net/kernel.py): the kernel answers such a question within sendto(), so nobody waits and
the loop needs no thread, and a look-up costs tens of microseconds instead of about a millisecond.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETLINK_NETFILTER = 12
_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_FOUND = 1 << 8  # IPCTNL_MSG_CT_NEW
_ERROR = 2  # NLMSG_ERROR
_REQUEST = 1  # NLM_F_REQUEST
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_HEAD = _HEADER.size + 4  # and nfgenmsg
_ORIG, _REPLY = 1, 2  # CTA_TUPLE_*
_REMEDY = {
    errno.EPERM: "connection tracking can only be asked with CAP_NET_ADMIN",
    errno.EACCES: "connection tracking can only be asked with CAP_NET_ADMIN",
    errno.EPROTONOSUPPORT: "this kernel has no nfnetlink: load the module nf_conntrack_netlink",
    errno.EOPNOTSUPP: "this kernel cannot be asked: load the module nf_conntrack_netlink",
    errno.EINVAL: "this kernel cannot be asked: load the module nf_conntrack_netlink",
}


class CannotAsk(Exception):
    """The kernel does not tell; the text names cause and remedy."""


class Tuple(NamedTuple):
    """One direction of a connection: literal addresses and ports."""

    source: tuple[str, int]
    destination: tuple[str, int]


class Conntrack:
    """Asks for single entries. Never waits: the kernel has answered when the question has left."""

    def __init__(self) -> None:
        """:raises CannotAsk: no nfnetlink in this kernel."""
        try:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._sock = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        except OSError as e:
            raise CannotAsk(_REMEDY.get(e.errno or 0, f"connection tracking: {e.strerror}")) from None
        self._number = 0

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()

    def original(self, protocol: int, here: tuple[str, int], peer: tuple[str, int]) -> Tuple | None:
        """How the connection began that `peer` now has with us at `here` (literals); None: the kernel knows none.

        :raises CannotAsk: not permitted, or not possible in this kernel.
        """
        self._number = number = self._number + 1 & 0xFFFFFFFF
        try:
            self._sock.sendto(question(number, protocol, here, peer), (0, 0))
            for _ in range(8):  # answers to earlier questions that were given up, if any
                answer = self._sock.recv(65536)
                if _HEADER.unpack_from(answer)[3] == number:
                    return read(answer)
        except (OSError, struct.error) as e:
            code = (e.errno if isinstance(e, OSError) else None) or errno.EIO
            raise CannotAsk(_REMEDY.get(code, f"connection tracking cannot be asked: {os.strerror(code)}")) from None
        return None


def question(number: int, protocol: int, here: tuple[str, int], peer: tuple[str, int]) -> bytes:
    """The message that asks for the entry whose answers go from `here` to `peer`. :raises OSError: no literals."""
    if ":" in here[0]:
        family, first = socket.AF_INET6, 3  # CTA_IP_V6_SRC, _DST
    else:
        family, first = socket.AF_INET, 1  # CTA_IP_V4_SRC, _DST
    addresses = b"".join(
        _attribute(first + i, socket.inet_pton(family, address[0].partition("%")[0]))
        for i, address in enumerate((here, peer))
    )
    ports = struct.pack("!HH", here[1], peer[1])
    proto = _attribute(1, bytes((protocol,))) + _attribute(2, ports[:2]) + _attribute(3, ports[2:])
    body = _attribute(_NESTED | _REPLY, _attribute(_NESTED | 1, addresses) + _attribute(_NESTED | 2, proto))
    return _HEADER.pack(_HEAD + len(body), _GET, _REQUEST, number, 0) + bytes((family, 0, 0, 0)) + body


def read(answer: bytes) -> Tuple | None:
    """The original direction in the kernel's answer; None: there is no such entry, or it is not to be understood.

    :raises OSError: the kernel's refusal.
    """
    length, kind = struct.unpack_from("=IH", answer)
    if kind == _ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if code == errno.ENOENT:
            return None
        raise OSError(code, os.strerror(code) if code > 0 else "no answer")
    if kind != _FOUND:
        return None
    addresses: dict[int, bytes] = {}
    protocol: dict[int, bytes] = {}
    for name, found in _attributes(answer[_HEAD:length]):
        if name == _ORIG:
            for part, inner in _attributes(found):
                if part == 1:
                    addresses = dict(_attributes(inner))
                elif part == 2:
                    protocol = dict(_attributes(inner))
    first, size, family = (3, 16, socket.AF_INET6) if 3 in addresses else (1, 4, socket.AF_INET)
    pair = [addresses.get(first, b""), addresses.get(first + 1, b"")]
    ports = [protocol.get(2, b""), protocol.get(3, b"")]
    if any([len(address) != size for address in pair]) or any([len(port) != 2 for port in ports]):
        return None
    source, destination = (
        (socket.inet_ntop(family, address), int.from_bytes(port, "big"))
        for address, port in zip(pair, ports, strict=True)
    )
    return Tuple(source, destination)


def _attribute(name: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), name) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Name and value of each; stops at what cannot be one."""
    at = 0
    while at + 4 <= len(data):
        size, name = struct.unpack_from("=HH", data, at)
        if size < 4 or at + size > len(data):
            return
        yield name & 0x3FFF, data[at + 4 : at + size]
        at += size + 3 & ~3
