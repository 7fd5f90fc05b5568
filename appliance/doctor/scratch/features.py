"""Kernel features, each tried by having the kernel do it once. "" where it works, else the error."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

from appliance.doctor import system
from appliance.doctor.scratch.rules import nft

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_T = "lockgate_doctor_try"


def _rule(rule: str, kind: str = "filter hook prerouting priority mangle") -> Callable[[], str]:
    def attempt() -> str:
        try:
            return nft(f"table inet {_T} {{\nchain c {{\ntype {kind};\n{rule}\n}}\n}}\n")
        finally:
            nft(f"delete table inet {_T}")

    return attempt


def _heartbeat() -> str:
    try:
        elements = "elements = { 10.0.0.1 timeout 3s }"
        return nft(f"table inet {_T} {{\nset s {{\ntype ipv4_addr; flags timeout; {elements}\n}}\n}}\n")
    finally:
        nft(f"delete table inet {_T}")


def _recent() -> str:
    """Under iptables only: where that is not installed it is not needed."""
    words = ("-w", "2", "-t", "raw", "OUTPUT", "-m", "recent", "--rcheck", "--seconds", "2", "--name", _T)
    if not system.program("iptables"):
        return ""
    code, output = system.run("iptables", *words[:4], "-A", *words[4:])
    if code:
        return system.first_line(output)
    system.run("iptables", *words[:4], "-D", *words[4:])
    return ""


def _owner() -> str:
    # The table goes with the library's context, before the next try.
    return nft(f"add table inet {_T} {{ flags owner; }}")


def _conntrack_netlink() -> str:
    from pyroute2 import NFCTSocket

    try:
        with NFCTSocket() as netlink:
            list(netlink.dump())
    except Exception as error:  # pyroute2's own, and OSError
        return str(error) or type(error).__name__
    return ""


def _tun() -> str:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
        finally:
            os.close(fd)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _wireguard() -> str:
    from pyroute2 import IPRoute

    try:
        with IPRoute() as netlink:
            netlink.link("add", ifname="wg0", kind="wireguard")
            netlink.link("del", index=netlink.link_lookup(ifname="wg0")[0])
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


_NAT = "nat hook prerouting priority dstnat"
FEATURES: dict[str, Callable[[], str]] = {
    "nf_tables": _rule("counter"),
    "nft_tproxy": _rule("meta l4proto tcp tproxy to :8080 meta mark set 1 accept"),
    "nft_redir": _rule("meta l4proto tcp redirect to :8080", _NAT),
    "nft_masq": _rule("masquerade", "nat hook postrouting priority srcnat"),
    "nft_fib": _rule("fib daddr type local accept"),
    "nft_socket": _rule("meta l4proto tcp socket transparent 1 accept"),
    "nf_conntrack": _rule("ct state new counter"),
    "nf_conntrack_netlink": _conntrack_netlink,
    "xt_recent": _recent,
    "set timeouts": _heartbeat,
    "flags owner": _owner,
    "tun": _tun,
    "wireguard": _wireguard,
}


def all_tried() -> dict[str, str]:
    return {name: attempt() for name, attempt in FEATURES.items()}
