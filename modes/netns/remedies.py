"""What a failure in the helper means, and what helps against it, in one sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_USERNS_CLONE = "kernel.unprivileged_userns_clone"
_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
_MOST = "user.max_user_namespaces"


def told(stage: str, code: int, text: str, proc: str = "/proc/sys") -> str:
    """stage, code, text: as `system.Failed` has them."""
    why = os.strerror(code) if code else ""
    if stage == "user":
        return f"no user namespace can be made ({why}): {_user(code, proc)}"
    if stage == "capability":
        return f"a user namespace has no rights here ({why}): {_restricted(proc)}"
    if stage == "tun":
        return f"/dev/net/tun: {why}; {_tun(code)}"
    if stage == "missing":
        package = {"ip": "iproute2", "nft": "nftables"}.get(text, text)
        return f"the program {text} is missing; install it: sudo apt install {package}"
    if stage == "command":
        hint = ""
        if text.startswith("nft"):
            hint = "; the kernel must have nft_tproxy, nft_socket and nft_fib_inet (`lockgate doctor` tries them)"
        elif "veth" in text or "Unknown device type" in text:
            hint = "; the kernel must have veth"
        return f"the interception namespace cannot be set up: {text}{hint}"
    if stage == "loopback":
        return f"port {text} of the program's own loopback cannot be listened on: {why}"
    return f"the interception namespace cannot be set up ({stage}): {text or why}"


def _user(code: int, proc: str) -> str:
    if _read(proc, _USERNS_CLONE) == "0":
        return f"sudo sysctl {_USERNS_CLONE}=1 permits them (Debian's switch), or run as root"
    if code in (errno.ENOSPC, errno.EUSERS) or _read(proc, _MOST) == "0":
        return f"sudo sysctl {_MOST}=10000 permits more of them, or run as root"
    if _read(proc, _APPARMOR) == "1":
        return _restricted(proc)
    return "in a container, its seccomp profile or its missing CAP_SYS_ADMIN may forbid it; or run as root"


def _restricted(proc: str) -> str:
    if _read(proc, _APPARMOR) == "1":
        return (
            f"sudo sysctl {_APPARMOR}=0 lifts Ubuntu's restriction for all programs, an AppArmor profile with "
            "`userns,` for this one; or run as root"
        )
    return "a security module (AppArmor, SELinux) or a container forbids it; run as root"


def _tun(code: int) -> str:
    if code in (errno.EACCES, errno.EPERM):
        return "sudo chmod 0666 /dev/net/tun (what udev sets on Debian and Ubuntu), or run as root"
    if code == errno.ENOENT:
        return "sudo modprobe tun, and in a container hand the device in (--device /dev/net/tun)"
    if code in (errno.ENODEV, errno.ENXIO):
        return "sudo modprobe tun"
    return "the kernel must have TUN (`lockgate doctor` tries it)"


def _read(proc: str, name: str) -> str:
    try:
        return Path(proc, name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""
