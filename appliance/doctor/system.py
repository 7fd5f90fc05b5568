"""What checks read from the machine. Nothing here raises for what is missing: None or "" says so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PROGRAM_SECONDS = 10.0
CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN = 10, 12, 13, 21
_ADMIN_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"))


def text(path: str | Path) -> str | None:
    """Content of a small file without the newline at its end; None if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def sysctl(name: str) -> int | None:
    """`net/ipv4/ip_forward` as a number, in the calling process's network namespace."""
    found = text(Path("/proc/sys", name))
    try:
        return None if found is None else int(found.split()[0])
    except (ValueError, IndexError):
        return None


def program(name: str) -> str | None:
    """Path of a program; also where administrators' programs are but a user's PATH is not."""
    return shutil.which(name, path=_ADMIN_PATH)


def run(*command: str, input: str | None = None) -> tuple[int, str]:
    """Exit code and what it wrote, stderr after stdout; (127, why) if it cannot be run or takes too long."""
    path = program(command[0])
    if path is None:
        return 127, f"{command[0]} is not installed"
    try:
        done = subprocess.run(
            [path, *command[1:]],
            input=input or "", capture_output=True, text=True, errors="replace", timeout=PROGRAM_SECONDS,
            env={**os.environ, "LC_ALL": "C", "PATH": _ADMIN_PATH},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()


def capabilities() -> int:
    """Bit set of this process's effective capabilities."""
    for line in (text("/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def capable(number: int) -> bool:
    return bool(capabilities() >> number & 1)


def interfaces() -> list[str]:
    """Of the calling process's network namespace."""
    lines = (text("/proc/self/net/dev") or "").splitlines()[2:]
    return [line.partition(":")[0].strip() for line in lines]


def first_line(output: str) -> str:
    """The line of a program's output that says what went wrong; never empty."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line), lines[-1] if lines else "no message")


def join(words: Sequence[str]) -> str:
    return ", ".join(words)
