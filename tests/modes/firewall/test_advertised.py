"""A machine that gets its IPv6 default route by router advertisement keeps it while it masquerades."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modes.firewall import advertised, undo

_ROUTES = """\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 \
00000001 00000000 00450003     wan0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 \
00000001 00000000 00450003  wan1.7
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 \
00000001 00000000 00000003    byhand
"""

_SCRIPT = """
import asyncio, contextlib, json, socket, struct, subprocess, sys, time

def shell(text):
    return subprocess.run(text, shell=True, check=True, capture_output=True, text=True).stdout.strip()

def conf(name, value=None):
    path = f"/proc/sys/net/ipv6/conf/{name}"
    return shell(f"cat {path}" if value is None else f"echo {value} > {path}")

def until(true):
    end = time.monotonic() + 8
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)

def route():
    return "default via fe80::" in shell("ip -6 route show default dev wan.0")

def advertise():
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        index = socket.if_nametoindex("router")
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.bind(("fe80::1", 0, 0, index))
        with contextlib.suppress(OSError):  # the kernel is a moment late with the link's routes: it is tried again
            sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, index))

shell("ip link set lo up; ip link add wan.0 type veth peer name router; "
      "ip addr add fe80::1/64 dev router nodad; ip link set router up")
conf("wan.0/accept_ra_from_local", 1)  # the router is in this namespace too
conf("wan.0/accept_dad", 0)
shell("ip link set wan.0 up")
assert conf("wan.0/accept_ra") == "1"
until(lambda: advertise() or route())

from modes.firewall.lay import Firewall

async def main():
    async def probe():
        return True

    wall = Firewall(("lan0",), [("0.0.0.0", 8080), ("::", 8080)], masquerade="wan.0", probe=probe, folder=sys.argv[1])
    await wall.lay()
    told = {"forwards": conf("all/forwarding"), "while": route()}
    shell("ip -6 route del default dev wan.0")
    until(lambda: advertise() or route())  # and takes further ones
    await wall.remove()
    print(json.dumps(told | {"after": route(), "accepts": conf("wan.0/accept_ra"), "still": conf("all/forwarding")}))

asyncio.run(main())
"""


def test_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"wan0": "1 0", "wan1.7": "2 1", "byhand": "1 0", "lan0": "0 0", "ppp0": "1 1"}

    def sysctl(name: str) -> str:
        words = name.translate({ord("."): "/", ord("/"): "."}).split("/")
        if words[3] not in values:
            raise FileNotFoundError
        return values[words[3]].split()[words[4] == "forwarding"]

    monkeypatch.setattr(undo, "sysctl", sysctl)
    routes = tmp_path / "ipv6_route"
    routes.write_text(_ROUTES)
    held = {"net.ipv6.conf.wan0.accept_ra": "2", "net.ipv6.conf.wan1/7.accept_ra": "2"}
    for name in ("wan0", "lan0", "ppp0", "nowhere"):
        assert advertised.kept(name, str(routes)) == held
    assert advertised.kept("byhand", str(routes)) == held | {"net.ipv6.conf.byhand.accept_ra": "2"}
    assert advertised.kept("nowhere", str(tmp_path / "none")) == {}


@pytest.mark.lab
def test_the_default_route_stays(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", _SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {"forwards": "1", "while": True, "after": True, "accepts": "1", "still": "0"}
