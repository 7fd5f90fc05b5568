"""Asks the kernel's routing whether TPROXY's packets still come to this machine."""

from __future__ import annotations

import socket
import struct

_SECONDS = 2
_GETROUTE, _NEWROUTE, _REQUEST, _LOCAL = 26, 24, 1, 2
_DST, _MARK = 1, 16
_FOREIGN = {4: socket.inet_pton(socket.AF_INET, "192.0.2.1"), 6: socket.inet_pton(socket.AF_INET6, "2001:db8::1")}
"""Documentation addresses: local only by our rule and table."""


def delivered_here(family: int, mark: int) -> bool:
    """Whether a packet of this mark is, wherever it is going. Taken for granted where that cannot be asked."""
    address = _FOREIGN[family]
    body = struct.pack("=BBBBBBBBI", socket.AF_INET6 if family == 6 else socket.AF_INET, 8 * len(address), *[0] * 7)
    body += struct.pack("=HH", 4 + len(address), _DST) + address + struct.pack("=HHI", 8, _MARK, mark)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(_SECONDS)
            sock.send(struct.pack("=IHHII", 16 + len(body), _GETROUTE, _REQUEST, 1, 0) + body)
            answer = sock.recv(4096)
    except OSError:
        return True
    return len(answer) > 23 and struct.unpack_from("=H", answer, 4)[0] == _NEWROUTE and answer[23] == _LOCAL
