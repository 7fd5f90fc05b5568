"""`transparent:lan0` on a machine that is not empty: others' rules and tables, no IPv6, strict rp_filter, children."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway
from tests.lab.labkit import ECHO, Lab
from tests.lab.netns import end_process, wait_for
from tests.lab.test_firewall import ADDON, PORT, echoed, state, udp


@contextmanager
def gateway(lab: Lab, *, addon: str = ADDON, **options: object) -> Iterator[Gateway]:
    with lab.gateway_proc("-m", f"transparent:lan0@{PORT}", addon=addon, options=options) as running:
        running.wait_output("SHA-256")
        yield running


def ip(lab: Lab, words: str) -> str:
    return lab.gateway.run(["ip", *words.split()], check=True).stdout


def test_a_rule_for_everything_that_comes_later(lab: Lab) -> None:
    """A VPN is switched on while we run: its rule, for all that has not its own mark, goes before those there."""
    before = state(lab)
    with gateway(lab):
        ip(lab, "rule add not fwmark 51820 lookup 51820")
        try:
            ip(lab, "route add 10.61.1.0/24 dev lan0 table 51820")
            ip(lab, "route add default via 10.61.2.2 dev wan0 table 51820")
            assert echoed(lab) == b"gateway"
        finally:
            ip(lab, "rule del not fwmark 51820 lookup 51820")
            ip(lab, "route flush table 51820")
    assert state(lab) == before


def test_marks_and_tables_of_others_are_not_taken(lab: Lab) -> None:
    before = state(lab)
    ip(lab, "rule add fwmark 0x6c670001 lookup main")
    ip(lab, "-6 rule add fwmark 0x2/0x2 lookup main")
    ip(lab, "route add 192.0.2.0/24 dev wan0 table 6704")
    try:
        theirs = state(lab)
        with gateway(lab):
            # 1 and 2 (and 3) are somebody's marks, 4 somebody's table
            rules = re.findall(r"fwmark (0x6c67\S+) lookup (\w+)", ip(lab, "rule"))
            assert sorted(rules) == [("0x6c670001", "main"), ("0x6c670005", "6705")]
            assert echoed(lab) == b"gateway"
        assert state(lab) == theirs
    finally:
        ip(lab, "route flush table 6704")
        ip(lab, "-6 rule del fwmark 0x2/0x2 lookup main")
        ip(lab, "rule del fwmark 0x6c670001 lookup main")
    assert state(lab) == before


def test_ipv6_switched_off(lab: Lab) -> None:
    """IPv4 is taken by TPROXY all the same, UDP included."""
    # lo alone: it has the local route. Switching all of it off would take the lab's addresses.
    lab.gateway.sysctl("net.ipv6.conf.lo.disable_ipv6", 1)
    try:
        with gateway(lab) as running:
            assert "redirect takes its place" not in running.output
            assert (echoed(lab), udp(lab, 4)) == (b"gateway", b"gateway")
            running.wait_output("IPv6 is switched off")
    finally:
        lab.gateway.sysctl("net.ipv6.conf.lo.disable_ipv6", 0)


def test_strict_reverse_path_filter(lab: Lab) -> None:
    keys = [f"net.ipv4.conf.{name}.rp_filter" for name in ("all", "lan0")]
    for key in keys:
        lab.gateway.sysctl(key, 1)
    try:
        with gateway(lab):
            assert (echoed(lab), udp(lab, 4)) == (b"gateway", b"gateway")
    finally:
        for key in keys:
            lab.gateway.sysctl(key, 0)


def test_a_child_of_an_add_on_does_not_keep_the_table(lab: Lab) -> None:
    """It inherits every descriptor that is not close-on-exec; the socket that owns the table must be."""
    before = state(lab)
    addon = f"import subprocess\ndef tcp_start(flow):\n    subprocess.Popen(['sleep', '8'], close_fds=False)\n{ADDON}"
    with gateway(lab, addon=addon) as running:
        assert echoed(lab) == b"gateway"
        running.signal(signal.SIGKILL)
        running.process.wait(5)
        wait_for(lambda: state(lab) == before, 5, "the table is gone")


def test_a_killed_guardian_is_replaced(lab: Lab) -> None:
    before = state(lab)
    with gateway(lab) as running:
        first = guardian(running)
        os.kill(first, signal.SIGKILL)
        running.wait_output("guardian process was killed")
        wait_for(lambda: guardian(running) not in (0, first), 5, "there is a new one")
        running.signal(signal.SIGKILL)
        running.process.wait(5)
        wait_for(lambda: state(lab) == before, 5, "it does its work")


def guardian(running: Gateway) -> int:
    """Its pid, 0 when there is none."""
    children = Path(f"/proc/{running.process.pid}/task").glob("*/children")
    for pid in (pid for file in children for pid in file.read_text().split()):
        try:
            if b"guardian.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        except OSError:
            continue
    return 0


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft"])
def test_excluded_ports(lab: Lab, backend: str) -> None:
    with lab.forwarding(), gateway(lab, firewall=backend, firewall_exclude_ports=f"{ECHO - 10}-{ECHO}"):
        assert (echoed(lab), udp(lab, 4)) == (b"client", b"client")  # forwarded, not touched
        with lab.connect("origin.test", 2525) as sock:
            assert sock.recv(10)


def test_excluded_ports_under_closed(lab: Lab) -> None:
    """Forwarded while there is a gateway, and then no more."""
    with lab.forwarding(), gateway(lab, firewall_fail="closed", firewall_exclude_ports=ECHO) as running:
        assert (echoed(lab), udp(lab, 4)) == (b"client", b"client")
        running.stop()
        assert echoed(lab) != b"client"
    lab.gateway.run([*LOCKGATE, "firewall", "clean"], cwd=ROOT, check=True)


def test_plan_says_what_is_excluded(lab: Lab) -> None:
    command = [*LOCKGATE, "firewall", "plan", "--set", "mode=transparent:lan0", "--set", "firewall_exclude_ports=22"]
    told = lab.gateway.run(command, cwd=ROOT, check=True).stdout
    assert "th dport { 22 } return" in told
    assert "flags owner" in told
    told = lab.gateway.run([*command, "--set", "firewall=none"], cwd=ROOT, check=True).stdout
    assert "tproxy" in told
    assert "flags owner" not in told  # to be laid by hand
    assert "timeout" not in told


@pytest.mark.parametrize(
    ("backend", "how"),
    [
        ("nftables", "SIGKILL"),
        ("nftables", "SIGSTOP"),
        pytest.param("iptables-nft", "SIGKILL", marks=pytest.mark.slow),
        pytest.param("iptables-nft", "SIGSTOP", marks=pytest.mark.slow),
        pytest.param("iptables-legacy", "SIGKILL", marks=pytest.mark.slow),
        pytest.param("iptables-legacy", "SIGSTOP", marks=pytest.mark.slow),
    ],
)
def test_no_private_source_leaves_where_the_box_masquerades_by_itself(lab: Lab, backend: str, how: str) -> None:
    """One UDP flow, sent on and on while the gateway dies or hangs; as the server sees it."""
    rules = 'table ip own { chain post { type nat hook postrouting priority srcnat; oifname "wan0" masquerade; }; }'
    lab.gateway.run(["nft", "-f", "-"], input=rules, check=True)
    with lab.server.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("", 5353))
    server.settimeout(5)
    try:
        with (
            lab.forwarding(),
            gateway(lab, firewall=backend) as running,
            lab.client.udp("origin.test", 5353, family=4) as client,
            server,
        ):
            client.send(b"x")
            through = server.recvfrom(100)[1]
            server.settimeout(0.05)
            running.signal(signal.Signals[how])
            seen, end = set(), time.monotonic() + 4
            while time.monotonic() < end:
                client.send(b"x")
                with suppress(TimeoutError):
                    seen.add(server.recvfrom(100)[1])
            if how == "SIGSTOP":
                running.signal(signal.SIGCONT)
            else:
                running.process.wait(5)
        assert {address for address, _ in seen} == {through[0]}, seen
        assert seen - {through}, "the flow went past the gateway"
    finally:
        lab.gateway.run(["nft", "delete", "table", "ip", "own"], check=True)


def test_two_gateways_that_masquerade(lab: Lab) -> None:
    """Forwarding is put back to what it was before the first, by the last that ends, in whatever order."""
    before = state(lab)

    def asked() -> str:
        return lab.gateway.run(["cat", "/proc/sys/net/ipv4/ip_forward"], check=True).stdout.strip()

    assert asked() == "0"
    with gateway(lab, masquerade="wan0") as first:
        with lab.gateway_proc("-m", f"transparent:wan0@{PORT + 1}", options={"masquerade": "lan0"}) as second:
            second.wait_output("SHA-256")
            assert asked() == "1"
            first.stop()
            assert asked() == "1"
            assert "table inet lockgate_nat_2" in state(lab)
        assert asked() == "0"
    assert state(lab) == before


def test_one_interface_in_two_modes(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match=f"lan0 is intercepted by transparent:lan0@{PORT} already"):
        lab.gateway_proc("-m", f"transparent:lan0@{PORT}", "-m", f"transparent:wan0,lan0@{PORT + 1}", ports=[PORT + 9])


@pytest.mark.parametrize("backend", ["nftables", pytest.param("iptables-legacy", marks=pytest.mark.slow)])
def test_ip_rules_and_routes_that_somebody_removes(lab: Lab, backend: str) -> None:
    """systemd-networkd removes rules that are not its own when it starts again."""
    with gateway(lab, firewall=backend) as running:
        laid = state(lab)
        for words in ("rule del fwmark 0x6c670001", "-6 route flush table 6701"):
            ip(lab, words)
            wait_for(lambda: state(lab) == laid, 5, "all is there again")
            assert (echoed(lab), udp(lab, 6)) == (b"gateway", b"gateway")
        running.wait_output("somebody has removed rules of ours .*ip -4 rule")
        running.wait_output("somebody has removed rules of ours .*ip -6 rule")


@pytest.mark.slow
def test_another_program_changes_nftables_all_the_time(lab: Lab) -> None:
    """libnftables gets itself a new socket when it meets a change of somebody else's; ours must not go with it."""
    busy = "while :; do nft add table ip busy; nft add chain ip busy c; nft delete table ip busy; done"
    with gateway(lab, masquerade="wan0") as running:
        process = lab.gateway.popen(["sh", "-c", busy])
        try:
            end = time.monotonic() + 6
            while time.monotonic() < end:
                assert echoed(lab) == b"gateway" or echoed(lab) == b"gateway"
        finally:
            end_process(process)
            lab.gateway.run(["nft", "delete", "table", "ip", "busy"])
        assert "heartbeat" not in running.output
        assert "somebody" not in running.output
