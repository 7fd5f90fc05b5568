"""Debian 12 with its own 6.1 kernel as a disk image, and the pinned wheels for its Python 3.11 as another.

Made once and kept outside the checkout, in $LOCKGATE_VM_CACHE or ~/.cache/lockgate-vm, named after what they are made
of; 1.5 GB. `python -m tests.vm.image` makes them beforehand.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PROGRAMS = ("qemu-system-x86_64", "mmdebstrap", "mkfs.ext4")
PACKAGES = (
    "linux-image-cloud-amd64", "systemd", "systemd-sysv", "udev", "kmod", "procps", "util-linux", "iproute2",
    "nftables", "iptables", "libnftables1", "conntrack", "ethtool", "tcpdump", "python3", "ca-certificates", "curl",
    "openssl", "dnsutils", "nginx-light", "wireguard-tools",
)  # fmt: skip
NOT_INSIDE = frozenset(("mypy", "mypy-extensions", "ruff", "grpcio", "types-cffi", "librt", "pathspec"))
"""Of the development constraints: what no test needs in there."""
PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
BUILD_SECONDS = 900
KEPT_SECONDS = 30 * 86400
INIT = """\
#!/bin/sh
# PID 1: runs the job of the third disk, its output to the second serial line, and switches off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sys /sys
mountpoint -q /run || mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm /site /job /usr/local/lib/python3.11/dist-packages
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -o ro /dev/vdb /site
mount -o ro /dev/vdc /job
hostname vm
ip link set lo up
stty -F /dev/ttyS1 raw -echo
echo /site >/usr/local/lib/python3.11/dist-packages/site.pth
export PYTHONPATH=/job/tree PYTHONDONTWRITEBYTECODE=1
cd /job/tree
setsid sh /job/job >/dev/ttyS1 2>&1 </dev/null
echo "@@exit $?" >/dev/ttyS1
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True, slots=True)
class Image:
    """Files to boot from; the disks are only read (QEMU's snapshot mode)."""

    disk: Path
    kernel: Path
    initrd: Path
    site: Path


def missing() -> str:
    """Why no VM can be had here, "" if it can."""
    if os.geteuid():
        return "making the image needs root"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    return f"not installed: {', '.join(absent)} (apt install qemu-system-x86 mmdebstrap e2fsprogs)" if absent else ""


def cache() -> Path:
    """The folder they are kept in, made if it is not there."""
    folder = Path(os.environ.get("LOCKGATE_VM_CACHE") or Path.home() / ".cache" / "lockgate-vm")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def get() -> Image:
    """The image, made first if need be (one to two minutes). Raises RuntimeError with the tool's last lines."""
    with _locked():
        name = _digest(SUITE, *PACKAGES, INIT)
        image = Image(*(cache() / f"{part}-{name}" for part in ("root.ext4", "vmlinuz", "initrd")), _site())
        if not image.disk.exists():
            _system(image)
        _forget_old(image)
    return image


def _forget_old(image: Image) -> None:
    """Away with what no checkout has used for a month."""
    for path in (image.disk, image.kernel, image.initrd, image.site):
        path.touch()
    for path in cache().glob("*-*"):
        if path.is_file() and path.stat().st_mtime < time.time() - KEPT_SECONDS:
            path.unlink(missing_ok=True)


def _system(image: Image) -> None:
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        root = Path(scratch, "root")
        root.mkdir()
        tar = Path(scratch, "root.tar")
        _do("mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(PACKAGES)}", SUITE, tar)
        _do("tar", "-C", root, "-xf", tar)
        tar.unlink()
        shutil.rmtree(root / "var/cache/apt")
        init = root / "lockgate-init"
        init.write_text(INIT)
        init.chmod(0o755)
        for part, target in (("vmlinuz", image.kernel), ("initrd.img", image.initrd)):
            (found,) = (root / "boot").glob(f"{part}-*")
            shutil.copy(found, target)
        disk(root, image.disk, "1500M")


def _site() -> Path:
    """The wheels of constraints-dev.txt, installed for the VM's Python, as a disk. Needs an index or a local one."""
    lines = (ROOT / "constraints-dev.txt").read_text()
    # A requirement and the lines of its hashes.
    blocks = re.findall(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", lines, re.MULTILINE | re.DOTALL)
    wanted = "".join(block for block in blocks if block.partition("==")[0].lower() not in NOT_INSIDE)
    path = cache() / f"site.ext4-{_digest(wanted)}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            requirements, site = Path(scratch, "constraints.txt"), Path(scratch, "site")
            requirements.write_text(wanted)
            platforms = [word for name in PLATFORMS for word in ("--platform", name)]
            _do(sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--require-hashes",
                "--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp", *platforms,
                "--target", site, "-r", requirements)  # fmt: skip
            disk(site, path, "400M")
    return path


def disk(folder: Path, target: Path, size: str) -> None:
    """An ext4 image of a folder, whole or not at all; no loop device is needed."""
    draft = target.with_name(f".{target.name}.new")
    draft.unlink(missing_ok=True)
    _do("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", folder, draft, size)
    draft.rename(target)


def _do(*command: str | Path) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=BUILD_SECONDS, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise RuntimeError(f"{command[0]} failed ({done.returncode}):\n{last}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    with open(cache() / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(missing() or get())
