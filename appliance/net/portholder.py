"""Who holds a port: read from /proc, for the message that says why we cannot listen."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

_LISTEN = 0x0A


def who_holds(host: str, port: int) -> str | None:
    """The listener that keeps a TCP socket from binding `host`:`port`: `nginx (pid 812)`, or that it belongs to another
    user.

    `host` is a literal address, "" or a name for any. None if nobody holds it (any more). Reads /proc; never raises.
    """
    inodes = {inode for address, inode in _listeners(port) if _clash(host, address)}
    if not inodes:
        return None
    return _owner(inodes) or "a process of another user (run with sudo to see it)"


def _listeners(port: int) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, str]]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                next(file, None)
                rows = [line.split() for line in file]
        except OSError:
            continue
        for row in rows:
            address, _, number = row[1].partition(":")
            if int(row[3], 16) == _LISTEN and int(number, 16) == port:
                # Groups of 32 bits, each in the machine's own byte order.
                words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
                yield ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)), row[9]


def _clash(host: str, held: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return True
    if wanted.is_unspecified or held.is_unspecified:
        # An unspecified IPv6 listener usually takes IPv4 too.
        return wanted.version == held.version or (held if held.is_unspecified else wanted).version == 6
    return wanted in (held, getattr(held, "ipv4_mapped", None))


def _owner(inodes: set[str]) -> str | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with os.scandir(f"/proc/{pid}/fd") as descriptors:
                held = any(os.readlink(entry.path) in wanted for entry in descriptors)
            if held:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().decode("utf-8", "replace").split("\0")
                return f"{_shown(words, pid)} (pid {pid})"
        except OSError:
            continue
    return None


def _shown(words: list[str], pid: str) -> str:
    command = os.path.basename(words[0].split(" ")[0])
    # `python3 -m http.server` says more than `python3`.
    command = " ".join([command, *words[1:]]).strip() or f"process {pid}"
    return "".join(char if char.isprintable() else "?" for char in command)[:60]


def in_use(host: str, port: int) -> str:
    """One line for an EADDRINUSE, with the remedy."""
    shown = f"[{host}]" if ":" in host else host or "*"
    holder = who_holds(host, port)
    held = f" by {holder}" if holder else ""
    return (
        f"{shown}:{port} is in use{held}; listen elsewhere with -p {_free_port(host, port)}, or stop the other program"
    )


def _free_port(host: str, port: int) -> int:
    for candidate in range(port + 1, min(port + 50, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return candidate
    return 0
