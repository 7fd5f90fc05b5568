"""UDP under bad conditions: a flood from one client, spoofed sources, a narrow path. Fragments are in test_udp.py."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.lab import netns
from tests.lab.gateway_proc import ROOT, Gateway
from tests.lab.labkit import ECHO, Lab

ADDON = "def udp_message(flow): pass\n"
FLOOD = """
import socket, sys, time
first, last, until = int(sys.argv[1]), int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
sent = 0
while time.monotonic() < until:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        host = first + sent % (last - first + 1)
        sock.bind((f"10.{host >> 16}.{host >> 8 & 255}.{host & 255}", 0))
        sock.sendto(b"flood", ("10.61.2.2", 7000))
    sent += 1
    if not sent % 32:
        time.sleep(0.03)  # about 1,000 a second: what two cores shared with other tests can carry
print(sent)
"""


@contextlib.contextmanager
def gateway(lab: Lab, **options: object) -> Iterator[Gateway]:
    with (
        lab.gateway_proc("-m", "transparent@8081", addon=ADDON, options=options) as gateway,
        lab.redirect(8081, "tproxy", udp=True),
    ):
        yield gateway


def served(sock: socket.socket, seconds: float = 15) -> bool:
    """Whether a client that asks again, as they all do, hears something."""
    sock.settimeout(0.3)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sock.send(b"hello?")
        with contextlib.suppress(TimeoutError):
            return sock.recv(100) == b"hello?"
    return False


def sources(first: str, last: str, seconds: float) -> list[str]:
    numbers = [str(int.from_bytes(socket.inet_aton(a)[1:], "big")) for a in (first, last)]
    return [sys.executable, "-c", FLOOD, *numbers, str(seconds)]


def flooded(process: subprocess.Popen[bytes]) -> int:
    return int(process.communicate(timeout=20)[0])


def test_one_client_floods_and_others_are_served(lab: Lab) -> None:
    with gateway(lab, max_connections=400) as gw:
        lab.client.run(["ip", "addr", "add", "10.61.1.3/24", "dev", "eth0"], check=True)
        try:
            flood = lab.client.popen(sources("10.61.1.3", "10.61.1.3", 3), output=subprocess.PIPE)
            gw.wait_output("10.61.1.3 has 75 UDP flows open")
            for family in (4, 6) * 5:
                with lab.client.udp("origin.test", ECHO, family=family) as udp:
                    assert served(udp)
            with lab.connect(port=ECHO) as tcp:
                tcp.sendall(b"\0tcp")
                assert tcp.recv(10) == b"\0tcp"
            assert flooded(flood) > 400
            assert gw.open_files() < 400
        finally:
            lab.client.run(["ip", "addr", "del", "10.61.1.3/24", "dev", "eth0"])


def test_spoofed_sources(lab: Lab) -> None:
    """Each flow of theirs is of one datagram; those under way keep their place and new ones find one."""
    with gateway(lab, max_connections=400) as gw, lab.client.udp("origin.test", ECHO, family=4) as old:
        assert served(old)
        assert served(old)
        lab.client.run(["ip", "route", "add", "local", "10.99.0.0/16", "dev", "lo"], check=True)
        try:
            flood = lab.client.popen(sources("10.99.0.1", "10.99.200.250", 3), output=subprocess.PIPE)
            time.sleep(0.5)
            for _ in range(5):
                with lab.client.udp("origin.test", ECHO, family=4) as udp:
                    assert served(udp)
                assert served(old)
            assert flooded(flood) > 400
            assert gw.open_files() < 800
            with lab.client.udp("origin.test", ECHO, family=4) as udp:
                assert served(udp)
        finally:
            lab.client.run(["ip", "route", "del", "local", "10.99.0.0/16", "dev", "lo"])


@pytest.fixture
def narrow(lab: Lab) -> Iterator[tuple[str, str]]:
    """A host behind the server, by a wire of MTU 1280; its addresses."""
    far = netns.Host("far", f"{lab.net.tag}-far", "10.61.3.2", "fd61:3::2")
    server, gate = lab.server.name, lab.gateway.name
    with contextlib.ExitStack() as undo:

        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True, capture_output=True)

        ip("netns", "add", far.name)
        undo.callback(ip, "netns", "del", far.name)
        ip("link", "add", "eth0", "mtu", "1280", "netns", far.name, "type", "veth",
           "peer", "name", "far0", "mtu", "1280", "netns", server)  # fmt: skip
        for name, device, number in ((far.name, "eth0", 2), (server, "far0", 1)):
            ip("-n", name, "addr", "add", f"10.61.3.{number}/24", "dev", device)
            ip("-n", name, "addr", "add", f"fd61:3::{number}/64", "dev", device, "nodad")
            ip("-n", name, "link", "set", device, "up")
        ip("-n", far.name, "route", "add", "default", "via", "10.61.3.1")
        ip("-n", far.name, "route", "add", "default", "via", "fd61:3::1")
        ip("-n", gate, "route", "add", "10.61.3.0/24", "via", "10.61.2.2")
        undo.callback(ip, "-n", gate, "route", "del", "10.61.3.0/24")
        ip("-n", gate, "route", "add", "fd61:3::/64", "via", "fd61:2::2")
        undo.callback(ip, "-n", gate, "route", "del", "fd61:3::/64")
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            lab.server.sysctl(key, 1)
            undo.callback(lab.server.sysctl, key, 0)
        command = [sys.executable, "-m", "tests.lab.origins", "--serve", f"echo:{ECHO}", "--serve", f"udp-echo:{ECHO}"]
        origin = far.popen(command, output=subprocess.PIPE, cwd=ROOT)
        undo.callback(netns.end_process, origin)
        assert origin.stdout is not None
        assert origin.stdout.readline() == b"ready\n"
        yield far.v4, far.v6


@pytest.mark.parametrize("family", [4, 6])
def test_path_mtu_1280(lab: Lab, narrow: tuple[str, str], family: int) -> None:
    address = narrow[family == 6]
    with gateway(lab), lab.client.udp(address, ECHO) as udp:
        udp.settimeout(0.5)
        for size in (1200, 1400, 4000):
            data, answers = os.urandom(size), 0
            for _ in range(10):  # the first may be lost: that is how the gateway learns of the path
                udp.send(data)
                with contextlib.suppress(TimeoutError):
                    answers += udp.recv(65535) == data
                if answers == 2:
                    break
            assert answers == 2, size
        with lab.connect(address, ECHO) as tcp:
            data = b"\0" + os.urandom(100_000)
            tcp.sendall(data)
            tcp.shutdown(socket.SHUT_WR)
            heard = bytearray()
            while part := tcp.recv(65536):
                heard += part
            assert heard == data
