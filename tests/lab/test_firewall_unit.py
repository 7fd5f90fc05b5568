"""`firewall_owner: unit`, for a service that restarts: nothing passes unseen, and nothing is left. And tables that a
process does not own, which somebody else's `nft flush ruleset` removes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

import pytest

from tests.lab.gateway_proc import LOCKGATE, ROOT
from tests.lab.labkit import ECHO, Lab
from tests.lab.netns import wait_for
from tests.lab.test_firewall import PORT, echoed, gateway, state, udp
from tests.lab.test_firewall_host import guardian

pytestmark = pytest.mark.usefixtures("primed")
slow = pytest.mark.slow
BACKENDS = ["nftables", pytest.param("iptables-nft", marks=slow), pytest.param("iptables-legacy", marks=slow)]


def clean(lab: Lab) -> str:
    """What ExecStopPost= of a unit calls."""
    return lab.gateway.run([*LOCKGATE, "firewall", "clean"], cwd=ROOT, check=True).stdout


def datagrams(lab: Lab, seconds: float) -> set[bytes]:
    """Who answers within this time: nobody, the server itself, or the gateway."""
    heard, end = set(), time.monotonic() + seconds
    while time.monotonic() < end:
        with lab.client.udp("origin.test", ECHO, family=4, timeout=0.05) as sock, contextlib.suppress(OSError):
            sock.send(b"client")
            heard.add(sock.recv(100))
    return heard


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_restart_within_two_seconds(lab: Lab, backend: str) -> None:
    """Killed, with its guardian, and started again, as a unit does: no datagram goes past."""
    before = state(lab)
    with lab.forwarding():
        with gateway(lab, backend, "tproxy", firewall_owner="unit") as running:
            assert udp(lab, 4) == b"gateway"
            killed = time.monotonic()
            for pid in (running.process.pid, guardian(running)):
                os.kill(pid, signal.SIGKILL)
            running.process.wait(5)
            assert datagrams(lab, 0.6) == set()
        with lab.gateway_proc(
            "-m", f"transparent:lan0@{PORT}", options={"firewall": backend, "firewall_owner": "unit"}
        ) as again:
            again.wait_output("SHA-256")
            laid = time.monotonic()
            again.wait_output("an earlier run has left its rules")
            assert state(lab).count("table inet lockgate_") == (backend == "nftables")
            assert (echoed(lab), udp(lab, 4)) == (b"client", b"client")  # by the new one, which has no add-on
            again.wait_output(f"tcp {lab.server.v4}:{ECHO}")
        assert laid - killed < 20
    assert state(lab) == before


@slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fail", ["open", pytest.param("closed", marks=slow)])
def test_no_restart(lab: Lab, backend: str, fail: str) -> None:
    """After two seconds its rules have let go, and the guardian removes them."""
    before = state(lab)
    with lab.forwarding():
        with gateway(lab, backend, "tproxy", firewall_owner="unit", firewall_fail=fail) as running:
            running.signal(signal.SIGKILL)
            running.process.wait(5)
            assert "fwmark" in state(lab)
            assert datagrams(lab, 0.5) == set()
            wait_for(lambda: "fwmark" not in state(lab), 5, "the guardian does its work")
            assert (udp(lab, 4) if fail == "open" else datagrams(lab, 0.5)) in (b"client", set())
        if fail == "closed":
            assert "removed" in clean(lab)
    wait_for(lambda: state(lab) == before, 5, "nothing is left")  # empty tables of iptables go last


def test_clean_after_the_whole_unit_was_killed(lab: Lab) -> None:
    """ExecStopPost=: with the guardian gone as well."""
    before = state(lab)
    with gateway(lab, "nftables", "tproxy", firewall_owner="unit", masquerade="wan0") as running:
        for pid in (guardian(running), running.process.pid):
            os.kill(pid, signal.SIGKILL)
        running.process.wait(5)
        assert "table inet lockgate_" in state(lab)
        assert "removed" in clean(lab)
    assert state(lab) == before
    assert "nothing was left" in clean(lab)


@slow
def test_a_guardian_that_is_told_to_go_waits_no_more(lab: Lab) -> None:
    """systemd sends SIGTERM to what is left in the unit, and restarts it once that is gone."""
    before = state(lab)
    with gateway(lab, "nftables", "tproxy", firewall_owner="unit") as running:
        other = guardian(running)
        os.kill(other, signal.SIGTERM)
        time.sleep(0.3)
        assert guardian(running) == other, "as long as there is a gateway, it guards it"
        descriptor = os.pidfd_open(other)
        running.signal(signal.SIGKILL)
        running.process.wait(5)
        wait_for(lambda: gone(descriptor), 1, "it is gone")
        os.close(descriptor)
        assert "table inet lockgate_" in state(lab)
    clean(lab)
    assert state(lab) == before


def gone(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


@pytest.mark.parametrize(
    ("backend", "owner", "fail"),
    [
        ("nftables", "unit", "open"),
        pytest.param("nftables", "process", "closed", marks=slow),
        pytest.param("iptables-nft", "process", "open", marks=slow),
        pytest.param("iptables-nft", "unit", "closed", marks=slow),
    ],
)
def test_flush_ruleset(lab: Lab, backend: str, owner: str, fail: str) -> None:
    """What was removed is laid again: interception, masquerade, and what keeps traffic from passing."""
    before = state(lab)
    with gateway(
        lab, backend, "tproxy", firewall_owner=owner, firewall_fail=fail, masquerade="wan0", firewall_exclude_ports=ECHO
    ) as running:
        laid = sorted(state(lab).split("\n"))  # in another order, where one of the tables is owned
        for _ in range(2):
            lab.gateway.run(["nft", "flush", "ruleset"], check=True)
            wait_for(lambda: sorted(state(lab).split("\n")) == laid, 5, "all is there again")
            assert echoed(lab) == b"client"
            with lab.connect("origin.test", 2525) as sock:
                assert sock.recv(10)
        running.wait_output("somebody has removed rules of ours")
    if fail == "closed":
        clean(lab)
    assert state(lab) == before
