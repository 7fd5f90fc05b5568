"""Faults of `transparent:lan0`: no memory, no programs, floods from spoofed sources. Hangs have a file of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway
from tests.lab.labkit import ECHO, Lab
from tests.lab.netns import wait_for
from tests.lab.test_firewall import ADDON, PORT, echoed, gateway, state, udp
from tests.lab.test_firewall_hang import WITHOUT_LIBRARY
from tests.lab.test_firewall_host import guardian
from tests.lab.test_udp_faults import flooded, served, sources

pytestmark = pytest.mark.usefixtures("primed")
HOG = f"""{ADDON}
held = []

def tcp_start(flow):
    while flow.server_conn.address[1] == 2525:
        held.append(b"x" * 5_000_000)
"""
SYN_FLOOD = """
import os, socket, struct, sys, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
target, until, sent = socket.inet_aton(sys.argv[1]), time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    source = b"\\x0a\\x63" + os.urandom(2)  # 10.99.0.0/16
    tcp = struct.pack("!HHIIBBHHH", 1024 + sent % 60000, 7000, sent, 0, 5 << 4, 2, 65535, 0, 0)
    words = source + target + struct.pack("!HH", 6, len(tcp)) + tcp
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    total = (total >> 16) + (total & 0xFFFF)
    tcp = tcp[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + tcp[18:]
    raw.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, 6, 0) + source + target + tcp, (sys.argv[1], 0))
    sent += 1
    if not sent % 64:
        time.sleep(0.03)
print(sent)
"""


@contextlib.contextmanager
def little_memory(bytes_: int) -> Iterator[Path]:
    """A cgroup (version 1 or 2) with a bound; its file for processes."""
    one = Path("/sys/fs/cgroup/memory")
    folder = (one if one.is_dir() else Path("/sys/fs/cgroup")) / f"lockgate-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        try:
            (folder / ("memory.limit_in_bytes" if one.is_dir() else "memory.max")).write_text(str(bytes_))
        except OSError as error:
            pytest.skip(f"no bound of memory can be set here: {error}")
        yield folder / "cgroup.procs"
    finally:
        wait_for(lambda: not (folder / "cgroup.procs").read_text(), 10, "the cgroup is empty")
        folder.rmdir()


def test_out_of_memory(lab: Lab) -> None:
    """The kernel kills the gateway in its cgroup, under traffic of one UDP flow; as the server sees it."""
    before = state(lab)
    with lab.server.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("", 5353))
    server.settimeout(5)
    with (
        server,
        little_memory(80_000_000) as processes,
        gateway(lab, "nftables", "tproxy", masquerade="wan0", addon=HOG) as running,
        lab.client.udp("origin.test", 5353, family=4) as client,
    ):
        for pid in (running.process.pid, guardian(running)):
            processes.write_text(str(pid))
        client.send(b"x")
        through = server.recvfrom(100)[1]
        server.settimeout(0.05)
        with lab.connect("origin.test", 2525) as sock:
            sock.sendall(b"x")
            seen = set()
            end = time.monotonic() + 20
            while time.monotonic() < end and (running.process.poll() is None or len(seen) < 2):
                client.send(b"x")
                with contextlib.suppress(TimeoutError):
                    seen.add(server.recvfrom(100)[1])
        assert running.process.wait(1) == -signal.SIGKILL
        assert {address for address, _ in seen} == {through[0]}, seen
        assert seen - {through}, "the flow went past the gateway"
        wait_for(lambda: "fwmark" not in state(lab), 5, "interception is gone")
    assert "removed" in lab.gateway.run([*LOCKGATE, "firewall", "clean"], cwd=ROOT, check=True).stdout
    assert state(lab) == before


def only(folder: Path, *names: str) -> tuple[str, ...]:
    """`env PATH=…` with just these programs."""
    (folder / "programs").mkdir(parents=True)
    for name in names:
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert found, name
        (folder / "programs" / name).symlink_to(found)
    return ("/usr/bin/env", f"PATH={folder / 'programs'}")


def test_without_the_program_nft(lab: Lab, tmp_path: Path) -> None:
    """libnftables lays, and netlink removes, also what survives a kill."""
    before, path = state(lab), only(tmp_path, "ip")
    with gateway(lab, "auto", "tproxy", masquerade="wan0", command=(*path, *LOCKGATE)) as running:
        assert (echoed(lab), udp(lab, 6)) == (b"gateway", b"gateway")
        running.signal(signal.SIGKILL)
        running.process.wait(5)
        wait_for(lambda: "fwmark" not in state(lab), 5, "interception is gone")
    lab.gateway.run([*path, *LOCKGATE, "firewall", "clean"], cwd=ROOT, check=True)
    assert state(lab) == before


@pytest.mark.slow
def test_without_nft_and_libnftables(lab: Lab, tmp_path: Path) -> None:
    """iptables takes its place. Where there is none either, or one was asked for, the error says what to install."""
    before = state(lab)
    programs = ("ip", "sh", *(f"ip{six}tables{rest}" for six in ("", "6") for rest in ("", "-restore")))
    with gateway(lab, "auto", "auto", command=(*only(tmp_path, *programs), *WITHOUT_LIBRARY)):
        assert (echoed(lab), udp(lab, 6)) == (b"gateway", b"gateway")
        assert "LOCKGATE_1" in lab.gateway.run(["iptables-save"]).stdout
    assert state(lab) == before
    command = (*only(tmp_path / "none"), *WITHOUT_LIBRARY)
    for backend, words in (("auto", "neither nftables nor iptables is installed"), ("nftables", "apt install nftables"),
                           ("iptables", "apt install iptables")):  # fmt: skip
        with pytest.raises(RuntimeError, match=words):
            lab.gateway_proc(
                "-m", f"transparent:lan0@{PORT}", options={"firewall": backend}, ports=[PORT + 9], command=command
            )


@pytest.fixture
def strangers(lab: Lab) -> Iterator[None]:
    """10.99.0.0/16 is behind the client, and answers nothing."""
    lab.client.run(["ip", "route", "add", "local", "10.99.0.0/16", "dev", "lo"], check=True)
    try:
        yield
    finally:
        lab.client.run(["ip", "route", "del", "local", "10.99.0.0/16", "dev", "lo"])


@pytest.mark.slow
def test_udp_flood_from_spoofed_sources(lab: Lab, strangers: None) -> None:
    """Others are served; processor, files and memory are bounded, and it is quiet afterwards."""
    with gateway(lab, "nftables", "tproxy", addon="def udp_message(flow): pass\n", max_connections=400) as running:
        used, memory = running.cpu_seconds(), running.rss_kb()
        flood = lab.client.popen(sources("10.99.0.1", "10.99.200.250", 3), output=subprocess.PIPE)
        for family in (4, 6) * 3:
            with lab.client.udp("origin.test", ECHO, family=family) as sock:
                assert served(sock)
        with lab.connect(port=ECHO) as sock:
            sock.sendall(b"\0tcp")
            assert sock.recv(10) == b"\0tcp"
        sent = flooded(flood)
        assert sent > 400
        assert running.open_files() < 900
        assert running.rss_kb() - memory < 60_000
        assert (running.cpu_seconds() - used) / sent < 0.004
        quiet(running)


@pytest.mark.slow
def test_syn_flood_from_spoofed_sources(lab: Lab) -> None:
    """The kernel keeps them out (its queue, and then cookies): the gateway does not hear of them."""
    route = ["10.99.0.0/16", "via", lab.client.v4]
    lab.gateway.run(["ip", "route", "add", *route], check=True)  # what is answered goes nowhere
    try:
        with gateway(lab, "nftables", "tproxy") as running:
            used, memory, files, half_open = running.cpu_seconds(), running.rss_kb(), running.open_files(), 0
            command = [sys.executable, "-c", SYN_FLOOD, lab.server.v4, "3"]
            flood = lab.client.popen(command, output=subprocess.PIPE)
            for _ in range(8):
                half_open = max(half_open, lab.gateway.run(["cat", "/proc/net/tcp"]).stdout.count(" 03 "))
                assert echoed(lab) == b"gateway" or echoed(lab) == b"gateway"
                time.sleep(0.2)
            sent = flooded(flood)
            assert sent > 1000
            assert half_open > 50
            assert running.open_files() < files + 30
            assert running.rss_kb() - memory < 20_000
            assert running.cpu_seconds() - used < 2
            assert echoed(lab) == b"gateway"
            quiet(running)
    finally:
        lab.gateway.run(["ip", "route", "del", *route])


def quiet(running: Gateway) -> None:
    """It does next to nothing."""

    def idle() -> bool:
        used = running.cpu_seconds()
        time.sleep(0.5)
        return running.cpu_seconds() - used < 0.1

    wait_for(idle, 10, "it is quiet again")
