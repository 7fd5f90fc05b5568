"""What the gateway must not dial."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from appliance.net.guard import LoopGuard, is_local, unmapped


def own_address() -> str:
    """An address of this host that is not loopback, else the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(s.getsockname()[0])


@pytest.mark.parametrize(
    ("listens", "dialled"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("127.0.0.1", "::ffff:7f00:1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "::"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.9.9.9"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::1"),
        ("::", "::"),
        ("0.0.0.0", own_address()),
        ("0.0.0.0", f"::ffff:{own_address()}"),
        ("fe80::1%lo", "fe80::1"),
    ],
)
def test_own_listeners(listens: str, dialled: str) -> None:
    guard = LoopGuard()
    guard.listening((listens, 8080))
    why = guard.refuse(dialled, 8080)
    assert why is not None
    assert "this gateway itself" in why
    assert guard.refuse(dialled, 8081) is None, "only on that port"
    guard.forget((listens, 8080))
    assert guard.refuse(dialled, 8080) is None


@pytest.mark.parametrize("dialled", ["192.0.2.1", "2001:db8::1", "127.0.0.2"])
def test_others_on_the_same_port(dialled: str) -> None:
    guard = LoopGuard()
    guard.listening(("127.0.0.1", 443))
    assert guard.refuse(dialled, 443) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::FFFF:A9FE:A9FE",
        "fd00:ec2::254",
        "fd00:0ec2:0:0:0:0:0:0254",
        "fd00:ec2::254%lo",
    ],
)
def test_metadata_addresses(address: str) -> None:
    why = LoopGuard().refuse(address, 80)
    assert why is not None
    assert "allow_metadata_addresses" in why
    assert LoopGuard(allow_metadata=True).refuse(address, 80) is None


@pytest.mark.parametrize("address", ["192.0.2.254", "169.254.169.253", "fe80::254", "::1"])
def test_what_only_looks_like_it(address: str) -> None:
    assert LoopGuard().refuse(address, 80) is None


def test_unmapped() -> None:
    assert unmapped("::ffff:192.0.2.1") == "192.0.2.1"
    assert unmapped("fe80::1%eth0") == "fe80::1"
    assert unmapped("2001:DB8:0::1") == "2001:db8::1"
    assert unmapped("nonsense") == "nonsense"


ADDRESSES = """
import subprocess, sys
from appliance.net.guard import is_local
for line in (
    "link set lo up",
    "link add lan0 type veth peer name lan1",
    "link set lan1 up",
    "link set lan0 up",
    "addr add 192.0.2.1/24 dev lan0",
    "addr add 192.0.2.2/24 dev lan0",
    "addr add 2001:db8::1/64 dev lan0 nodad",
    "addr add 2001:db8::2/64 dev lan0 nodad",
    "route add local 198.51.100.0/24 dev lo",
):
    subprocess.run(["ip", *line.split()], check=True)
for ip in sys.argv[1:]:
    if is_local(ip):
        print(ip)
"""


def test_every_address_of_the_host_is_local() -> None:
    """A second one in a network too, from which the kernel would not send by itself."""
    if os.geteuid():
        pytest.skip("needs root")
    local = "192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2 ::ffff:192.0.2.2 198.51.100.9 127.0.0.1 ::1 2001:db8::2%lan0"
    others = "192.0.2.3 192.0.2.255 2001:db8::3 203.0.113.1 2001:db8:1::1 224.0.0.1 ff02::1%lan0"
    words = ["unshare", "-n", sys.executable, "-c", ADDRESSES, *local.split(), *others.split()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == local.split(), done


def test_is_local() -> None:
    assert is_local("127.0.0.1")
    assert is_local("127.200.0.1")
    assert is_local(own_address())
    assert not is_local("192.0.2.77")
    assert not is_local("nonsense")
