"""Leaving for namespaces of one's own, and dying with whoever started us."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from appliance.doctor import system

_NEWNS, _NEWUSER, _NEWNET = 0x20000, 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int) -> None:
    """SIGKILL for this process as soon as `parent`, which must be its parent, is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def leave() -> None:
    """Into a network and a mount namespace of our own, with /run to ourselves (iptables has its lock there).

    Who may not (no CAP_SYS_ADMIN): into a user namespace first, in which we are root. Raises OSError that says which
    step was refused.
    """
    uid, gid = os.geteuid(), os.getegid()
    mapped = not system.capable(system.CAP_SYS_ADMIN)
    _call("unshare", _libc.unshare(_NEWNET | _NEWNS | (_NEWUSER if mapped else 0)))
    if mapped:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _call("making mounts private", _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    _call("mounting /run", _libc.mount(b"none", b"/run", b"tmpfs", 0, None))


def another_network() -> None:
    """Into one more network namespace. Raises OSError."""
    _call("unshare", _libc.unshare(_NEWNET))


def _call(what: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
