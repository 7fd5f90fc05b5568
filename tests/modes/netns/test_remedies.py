"""What a failing helper's stage is told as: the switch at fault is looked for, and named."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from modes.netns.remedies import told

CLONE, APPARMOR, MOST = (
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "user/max_user_namespaces",
)


@pytest.mark.parametrize(
    ("stage", "code", "text", "switches", "remedy"),
    [
        ("user", errno.EPERM, "", {CLONE: "0"}, "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("user", errno.ENOSPC, "", {MOST: "0"}, "sudo sysctl user.max_user_namespaces="),
        ("user", errno.EPERM, "uid_map", {APPARMOR: "1"}, "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user", errno.EPERM, "", {CLONE: "1"}, "in a container"),
        ("capability", errno.EPERM, "", {APPARMOR: "1"}, "apparmor_restrict_unprivileged_userns=0"),
        ("capability", errno.EPERM, "", {}, "a security module"),
        ("tun", errno.EACCES, "", {}, "sudo chmod 0666 /dev/net/tun"),
        ("tun", errno.ENOENT, "", {}, "--device /dev/net/tun"),
        ("tun", errno.ENODEV, "", {}, "sudo modprobe tun"),
        ("missing", errno.ENOENT, "ip", {}, "sudo apt install iproute2"),
        ("missing", errno.ENOENT, "nft", {}, "sudo apt install nftables"),
        ("command", 0, "nft: Error: Could not process rule", {}, "nft_tproxy"),
        ("command", 0, "ip: Error: Unknown device type.", {}, "veth"),
        ("loopback", errno.EADDRINUSE, "5432", {}, "port 5432"),
        ("anything", errno.EIO, "", {}, "Input/output error"),
    ],
)
def test_remedy(tmp_path: Path, stage: str, code: int, text: str, switches: dict[str, str], remedy: str) -> None:
    for name, value in switches.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(value + "\n")
    assert remedy in told(stage, code, text, str(tmp_path))
