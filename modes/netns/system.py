"""System calls and commands of the processes inside an interception namespace. Standard library only, and no import of
ours: these files are run by themselves (`helper.py` says why).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Sequence

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, _PR_CAP_AMBIENT = 1, 36, 47
_CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_SYS_ADMIN = 12, 13, 21
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_COMMAND_SECONDS = 20
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """stage: what was being done, in one word that remedies.py knows. text: more, if there is more."""

    def __init__(self, stage: str, code: int, text: str = "") -> None:
        super().__init__(stage)
        self.told = [stage, code, text]


def _call(stage: str, result: int, text: str = "") -> None:
    if result != 0:
        raise Failed(stage, ctypes.get_errno(), text)


def enter() -> None:
    """Into a new network namespace and, for whoever may not make one, a user namespace around it. :raises Failed: it
    is not permitted.
    """
    effective = capabilities()
    if effective >> _CAP_SYS_ADMIN & 1 and effective >> _CAP_NET_ADMIN & 1 and _libc.unshare(CLONE_NEWNET) == 0:
        return
    uid, gid = os.geteuid(), os.getegid()
    _call("user", _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
    # One's own numbers, so that a program sees itself as the user who started it.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as e:
            if name != "setgroups":
                raise Failed("user", e.errno or 0, name) from None


def capabilities() -> int:
    """Bit set of this process's effective ones."""
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("CapEff:")), 16)


def unshare(what: int, stage: str) -> None:
    """:raises Failed: it is not permitted."""
    _call(stage, _libc.unshare(what))


def lo_up() -> None:
    """Also the test of what the namespace is worth: where AppArmor restricts them (Ubuntu), making one works, and this
    does not. :raises Failed: it is worth nothing.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
            flags = struct.unpack_from("16sH", found)[1]
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
        except OSError as e:
            raise Failed("capability", e.errno or 0) from None


def keep_capabilities(keep: bool) -> None:
    """Whether programs that are executed from here on have our capabilities of the network, as `ip` and `nft` need
    them. :raises Failed: the kernel does not let us.
    """
    header = struct.pack("=II", 0x20080522, 0)
    data = ctypes.create_string_buffer(24)
    _call("capability", _libc.capget(header, data))
    words = list(struct.unpack("=6I", data.raw))  # effective, permitted, inheritable; twice, for 64 bits
    words[2], words[5] = 1 << _CAP_NET_ADMIN | 1 << _CAP_NET_RAW if keep else 0, 0
    _call("capability", _libc.capset(header, struct.pack("=6I", *words)))
    for capability in (_CAP_NET_ADMIN, _CAP_NET_RAW) if keep else ():
        _call("capability", _libc.prctl(_PR_CAP_AMBIENT, 2, capability, 0, 0))
    if not keep:
        _libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)


def prctl(option: int, value: int) -> None:
    _libc.prctl(option, value, 0, 0, 0)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). :raises OSError: it is refused."""
    words = [text.encode() if text is not None else None for text in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), data.encode() if data else None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def run(argv: Sequence[str], input: str = "") -> None:
    """A command to its end. :raises Failed: it is missing, or says no."""
    program = shutil.which(argv[0], path=f"{_PATH}:{os.environ.get('PATH', '')}")
    if program is None:
        raise Failed("missing", errno.ENOENT, argv[0])
    try:
        done = subprocess.run(
            [program, *argv[1:]], input=input, capture_output=True, text=True, timeout=_COMMAND_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Failed("command", getattr(e, "errno", 0) or 0, f"{argv[0]}: {e}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed("command", 0, f"{argv[0]}: {said[0]}")


def sysctl(name: str, value: str) -> None:
    """Set it if it may be set."""
    with contextlib.suppress(OSError), open("/proc/sys/net/" + name, "w") as file:
        file.write(value)


def has_ipv6() -> bool:
    """Not where the kernel was started with ipv6.disable=1, or has none."""
    return os.path.exists("/proc/net/if_inet6")


def use_ipv6() -> None:
    """In a namespace of our own, also where ipv6.disable_ipv6=1 has it off in every new one."""
    for name in ("all", "default"):
        sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")


def make_tun(name: str) -> int:
    """:raises Failed: /dev/net/tun is not to be had."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as e:
        raise Failed("tun", e.errno or 0) from None
    return fd


def end_descendants(grace: float) -> None:
    """End every process that descends from this one: by SIGTERM, and after `grace` seconds by SIGKILL."""
    end = time.monotonic() + grace
    while _to_descendants(signal.SIGTERM if time.monotonic() < end else signal.SIGKILL):
        time.sleep(0.02)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _to_descendants(number: int) -> bool:
    """Whether there was any."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = False, [os.getpid()]
    while todo:
        for pid in children.get(todo.pop(), ()):
            todo.append(pid)
            found = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
    return found
