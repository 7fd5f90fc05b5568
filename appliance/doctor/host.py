"""The machine around the gateway: clock, disk, versions, the programs and the library that lay rules."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from appliance.doctor import system
from appliance.doctor.finding import Finding, Subject, fault, note, ok, warning

LITTLE_DISK = 1 << 30
EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""No clock that is right shows an earlier time than this program was written."""


def clock(subject: Subject) -> Iterator[Finding]:
    """Certificates are made with the clock's time."""
    now = time.time()
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    if now < EARLIEST:
        yield fault(
            "host.clock",
            f"the clock shows {shown}",
            "clients refuse certificates from another time, and no server's certificate verifies",
            f"timedatectl set-ntp true   (or: date -s '{datetime.now(UTC).year + 1}-01-01 …')",
        )
    else:
        yield ok("host.clock", f"clock: {shown}")


def disk(subject: Subject) -> Iterator[Finding]:
    """Free space and inodes where the configuration folder is, or will be."""
    place = subject.confdir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    seen = f"{free / 1e9:.1f} GB free for {subject.confdir}"
    if free < LITTLE_DISK:
        yield warning("host.disk", seen, "flows that are recorded go there", f"df -h {place}")
    elif not os.access(place, os.W_OK):
        yield fault(
            "host.disk", f"{place} is not writable", "the CA is made there", f"ls -ld {place}; --set confdir=DIR"
        )
    else:
        yield ok("host.disk", seen)


def versions(subject: Subject) -> Iterator[Finding]:
    """Python, OpenSSL, uvloop, kernel."""
    try:
        loop = f"uvloop {metadata.version('uvloop')}"
    except metadata.PackageNotFoundError:
        loop = ""
        yield note(
            "host.uvloop", "uvloop is not installed", "a small request costs a quarter more", "pip install uvloop"
        )
    from OpenSSL import SSL  # what the gateway's TLS uses, as against Python's own

    library = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode(errors="replace")
    words = [f"Python {platform.python_version()}", library, loop, f"Linux {platform.release()}"]
    yield ok("host.versions", system.join([word for word in words if word]))
    if ssl.OPENSSL_VERSION_INFO < (3,):
        yield note(
            "host.openssl", f"Python's own OpenSSL is {ssl.OPENSSL_VERSION}", "add-ons use it for their requests"
        )


def nftables(subject: Subject) -> Iterator[Finding]:
    """libnftables, through which rules are laid; `nft`, with which a person looks at them."""
    try:
        import nftables

        nftables.Nftables()
    except (ImportError, OSError, AttributeError) as error:
        yield warning(
            "host.libnftables",
            f"libnftables cannot be used: {error}",
            "the nftables backend lays its rules through it; without it iptables is taken",
            "apt install libnftables1",
        )
    else:
        yield ok("host.libnftables", "libnftables is there")
    code, output = system.run("nft", "--version")
    if code:
        yield note("host.nft", output, "you cannot look at the rules yourself", "apt install nftables")
    else:
        yield ok("host.nft", output.splitlines()[0])


def iptables(subject: Subject) -> Iterator[Finding]:
    """Which of the two `iptables` is, and whether the other one is there."""
    code, output = system.run("iptables", "--version")
    if code:
        yield ok("host.iptables", "iptables is not installed; nftables does not need it")
        return
    variants = [name for name in ("iptables-nft", "iptables-legacy") if system.program(name)]
    yield ok("host.iptables", f"{output.splitlines()[0]}; there are {system.join(variants)}")
    if not system.program("ip6tables"):
        yield note(
            "host.ip6tables", "ip6tables is missing", "with iptables only IPv4 is intercepted", "apt install iptables"
        )


def tun(subject: Subject) -> Iterator[Finding]:
    """An outlook: user-space tunnels need the device node."""
    device = Path("/dev/net/tun")
    if not device.exists():
        why = "modes that need it (WireGuard in user space) will not work; transparent mode does"
        yield note("host.tun", "there is no /dev/net/tun", why, "modprobe tun")
    elif not os.access(device, os.R_OK | os.W_OK):
        yield note("host.tun", "/dev/net/tun is not open to this user", "", "chmod 666 /dev/net/tun")
    else:
        yield ok("host.tun", "/dev/net/tun is there")
