"""The undo list: written before the first change, replayed at whatever ending. Standard library only, for guardian.py
runs it by path in an interpreter of its own.

One file of JSON a gateway in /run/lockgate, which is empty after a boot, as the firewall is. Its name says which
network namespace and which number; making it reserves the number.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Collection
from typing import Any

FOLDER = "/run/lockgate"
_COMMAND_SECONDS = 10
_OWNER_SECONDS = 3
NUMBERS = range(1, 1000)


def birth(pid: int) -> str:
    """When a process began, in ticks after boot ("" if there is none): with the pid, unique until the next boot."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def namespace() -> str:
    return str(os.stat("/proc/self/ns/net").st_ino)


def reserve(folder: str = FOLDER, taken: Collection[int] = ()) -> tuple[int, str]:
    """The number of this gateway, none of those taken, and the path of its list. :raises OSError: it cannot be written,
    or there is none.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for number in NUMBERS:
        if number in taken:
            continue
        path = f"{folder}/{namespace()}-{number}.json"
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            write(path, os.getpid(), 0, [], [], {}, [])
            return number, path
    raise OSError(errno.ENOSPC, "no number is free: `lockgate firewall clean`, and see `ip rule`")


def write(
    path: str,
    pid: int,
    mark: int,
    interception: list[list[str]],
    routing: list[list[str]],
    sysctls: dict[str, str],
    closed: list[list[str]],
) -> None:
    """Replace the list, and have it on disk before this returns. sysctls: what they were before."""
    data = {"pid": pid, "birth": birth(pid), "mark": mark, "interception": interception, "routing": routing,
            "sysctls": sysctls, "closed": closed}  # fmt: skip
    _save(path, data)


def _save(path: str, data: dict[str, Any]) -> None:
    new = f"{path}.new"
    with open(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def replay(path: str, routing: bool, closed: bool = False) -> None:
    """Undo what the list says; routing and what is closed only if asked for, else they stay listed. Idempotent, and no
    error stops it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError):
        data = {}
    for argv in data.get("interception", ()):
        _run(argv)
    # After the rules: before, a datagram could still mark a new entry.
    if data.get("mark"):
        with contextlib.suppress(OSError):
            flush_conntrack(data["mark"])
    left = {**data, "interception": [], "mark": 0}
    if routing:
        for argv in data.get("routing", ()):
            _run(argv)
        for name, value in data.get("sysctls", {}).items():
            with contextlib.suppress(OSError):
                sysctl(name, value)
        left |= {"routing": [], "sysctls": {}}
    if closed:
        for argv in data.get("closed", ()):
            _run(argv)
        left["closed"] = []
    if left.get("routing") or left.get("sysctls") or left.get("closed"):
        _save(path, left)
        return
    with contextlib.suppress(OSError):
        os.unlink(path)


def forget_intercepted(path: str) -> None:
    """Flush the connection tracking of the list's gateway. No error."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open(path, encoding="utf-8") as file:
            mark = json.load(file)["mark"]
        if mark:
            flush_conntrack(mark)


def stale(folder: str = FOLDER) -> list[str]:
    """Lists of this network namespace whose process is gone."""
    found = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.startswith(f"{namespace()}-") and name.endswith(".json"):
                path = f"{folder}/{name}"
                try:
                    with open(path, encoding="utf-8") as file:
                        data = json.load(file)
                    alive = birth(data["pid"]) == data["birth"] != ""
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # being written this moment
                if not alive:
                    found.append(path)
    return found


def sysctl(name: str, value: str | None = None) -> str:
    """Read it, or write it. :raises OSError: there is none, or it cannot be written."""
    path = "/proc/sys/" + name.replace(".", "/")
    if value is not None:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
        return value
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def flush_conntrack(mark: int) -> None:
    """Forget every connection of this mark, IPv4 and IPv6: what was delivered here carries "no source NAT" for life,
    so a datagram of the same flow that is forwarded later would leave with its private source. :raises OSError:
    """
    attributes = struct.pack("=HH", 8, 8) + struct.pack("!I", mark)  # CTA_MARK
    attributes += struct.pack("=HH", 8, 21) + struct.pack("!I", 0xFFFFFFFF)  # CTA_MARK_MASK
    body = struct.pack("=BBH", 0, 0, 0) + attributes  # nfgenmsg: every family
    kind = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12) as sock:
        sock.settimeout(_COMMAND_SECONDS)
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 1, 0) + body)  # REQUEST | ACK
        number = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if number:
        raise OSError(number, os.strerror(number))


def _run(argv: list[str]) -> None:
    """Try it. The kernel closes a killed process's socket in its own time, and refuses its table to others until then:
    that is waited for, as what comes next (the connection tracking) must find no rule any more.
    """
    end = time.monotonic() + _OWNER_SECONDS
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        while True:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                timeout=_COMMAND_SECONDS, env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
            refused = argv[0] == "nft" and done.returncode and b"Operation not permitted" in done.stderr
            if not refused or time.monotonic() > end:
                return
            time.sleep(0.02)
