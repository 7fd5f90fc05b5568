"""The undo list: written before the first change, replayed at whatever ending. Standard library only, for guardian.py
runs it by path in an interpreter of its own.

One file of JSON a gateway in /run/lockgate, which is empty after a boot, as the firewall is. Its name says which
network namespace and which number; making it reserves the number. Numbers are used again: `id` in it tells whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from modes.firewall import nfnetlink
else:
    import nfnetlink

FOLDER = "/run/lockgate"
_COMMAND_SECONDS = 10
_OWNER_SECONDS = 3
_LOCK_SECONDS = 5
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
            write(path)
            return number, path
    raise OSError(errno.ENOSPC, "no number is free: `lockgate firewall clean`, and see `ip rule`")


def write(
    path: str,
    *,
    mark: int = 0,
    interception: Sequence[Sequence[str]] = (),
    routing: Sequence[Sequence[str]] = (),
    closed: Sequence[Sequence[str]] = (),
    sysctls: Sequence[str] = (),
    tuned: Sequence[str] = (),
    tables: Sequence[tuple[str, str]] = (),
) -> None:
    """Replace the list, and have it on disk before this returns. The first three are commands; sysctls
    (with routing) and tuned (sysctls, with interception) will be changed; tables (family and name, of iptables) may
    come into being. What these were before is noted, and is what they were before the first of several gateways: the
    last one to end puts it back.
    """
    with _locked(path):
        before, made = _noted(path)
        earlier, own = read(path), os.getpid()
        before |= earlier.get("sysctls", {}) | earlier.get("tuned", {})
        made |= {(family, table) for family, table in earlier.get("tables", ())}
        data = {
            "id": earlier.get("id") or os.urandom(8).hex(),
            "pid": own,
            "birth": birth(own),
            "mark": mark,
            "interception": interception,
            "routing": routing,
            "closed": closed,
            "sysctls": {name: before[name] if name in before else sysctl(name) for name in sysctls},
            "tuned": {name: before[name] if name in before else sysctl(name) for name in tuned},
            "tables": [t for t in tables if t in made or not nfnetlink.has_table(*t)],
        }
        _save(path, data)


def _noted(path: str) -> tuple[dict[str, str], set[tuple[str, str]]]:
    """sysctls and tables of all other lists of this one's network namespace."""
    sysctls: dict[str, str] = {}
    tables: set[tuple[str, str]] = set()
    folder, own = os.path.split(path)
    for name in os.listdir(folder):
        if name != own and name.startswith(own.partition("-")[0] + "-") and name.endswith(".json"):
            data = read(f"{folder}/{name}")
            sysctls |= data.get("sysctls", {}) | data.get("tuned", {})
            tables |= {(family, table) for family, table in data.get("tables", ())}
    return sysctls, tables


def read(path: str) -> dict[str, Any]:
    """Empty if it is damaged or not there."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        data = json.load(file)
        return data if isinstance(data, dict) else {}
    return {}


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """What the other lists note is looked at. After _LOCK_SECONDS without the lock: whoever has it hangs."""
    with open(os.open(f"{os.path.dirname(path)}/lock", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
        end = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        yield


def _save(path: str, data: dict[str, Any]) -> None:
    new = f"{path}.new"
    with open(os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def identity(path: str) -> str:
    """Of the list that is there now; "" = there is none."""
    return str(read(path).get("id", ""))


def replay(path: str, routing: bool, closed: bool = False, whose: str = "") -> None:
    """Undo what the list says; routing and what is closed only if asked for, else they stay listed. Idempotent, and no
    error stops it. whose: only if it is this one's still (see `identity`).
    """
    data = read(path)
    if whose and data.get("id") != whose:
        return
    for argv in data.get("interception", ()):
        run(argv)
    # After the rules: before, a datagram could still mark a new entry.
    if data.get("mark"):
        with contextlib.suppress(OSError):
            nfnetlink.flush_conntrack(data["mark"])
    left = {**data, "interception": [], "mark": 0}
    for argv in data.get("routing", ()) if routing else ():
        run(argv)
    for argv in data.get("closed", ()) if closed else ():
        run(argv)
    left |= {"routing": []} if routing else {}
    left |= {"closed": []} if closed else {}
    left |= {"sysctls": {}} if routing else {}
    with contextlib.suppress(OSError), _locked(path):
        if read(path).get("id") != data.get("id"):
            return  # somebody else has replayed it meanwhile, and the number is a new gateway's
        others = _noted(path)
        found = data.get("tuned", {}) | (data.get("sysctls", {}) if routing else {})
        for name, value in reversed(found.items()):
            if name not in others[0]:
                with contextlib.suppress(OSError):
                    sysctl(name, value)
        left["tuned"] = {}
        if left.get("routing") or left.get("sysctls") or left.get("closed"):
            _save(path, left)
            return
        for table in data.get("tables", ()):  # iptables leaves them, empty; not if somebody else has come to use them
            if tuple(table) not in others[1]:
                with contextlib.suppress(OSError):
                    nfnetlink.delete_if_empty(*table)
        os.unlink(path)


def forget_intercepted(path: str, whose: str = "") -> None:
    """Flush the connection tracking of the list's gateway. whose: as for `replay`. No error."""
    with contextlib.suppress(OSError):
        data = read(path)
        if data.get("mark") and (not whose or data.get("id") == whose):
            nfnetlink.flush_conntrack(data["mark"])


def stale(folder: str = FOLDER) -> dict[str, str]:
    """Lists of this network namespace whose process is gone, and their identity."""
    found = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.startswith(f"{namespace()}-") and name.endswith(".json"):
                data = read(f"{folder}/{name}")
                # An empty one is being written this moment.
                if data and not birth(data.get("pid", 0)) == data.get("birth") != "":
                    found[f"{folder}/{name}"] = str(data.get("id", ""))
    return found


def sysctl(name: str, value: str | None = None) -> str:
    """Read it, or write it. name: as sysctl(8) writes it, `/` for a dot in an interface's name.

    :raises OSError: there is none, or it cannot be written.
    """
    path = "/proc/sys/" + name.translate({ord("."): "/", ord("/"): "."})
    if value is not None:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
        return value
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def run(argv: list[str]) -> None:
    """Try it. The kernel closes a killed process's socket in its own time, and refuses its table to others until then:
    that is waited for, as what comes next (the connection tracking) must find no rule any more.
    """
    end = time.monotonic() + _OWNER_SECONDS
    while argv[:3] == ["nft", "delete", "table"]:  # nft need not be installed
        try:
            nfnetlink.delete_table(argv[3], argv[4])
        except OSError as e:
            if e.errno == errno.EPERM and time.monotonic() < end:
                time.sleep(0.02)
                continue
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
        )  # fmt: skip
