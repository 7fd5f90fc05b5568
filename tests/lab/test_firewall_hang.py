"""A gateway that hangs, under each firewall: its rules let go of new connections, and of flows begun before."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.lab.gateway_proc import LOCKGATE, ROOT, Gateway
from tests.lab.labkit import ECHO, Lab
from tests.lab.netns import wait_for
from tests.lab.test_firewall import ADDON, answered, echoed, gateway, state
from tests.lab.test_firewall_host import guardian

WITHOUT_LIBRARY = (sys.executable, "-c", "import sys\nsys.modules['nftables'] = None\n"
                   "from appliance.cli.main import main\nsys.exit(main())")  # fmt: skip
"""lockgate where the bindings of libnftables are missing: it uses the program nft."""
LOOP = f"""{ADDON}
from itertools import count

def tcp_start(flow):
    if flow.server_conn.address[1] == 2525:
        for _ in count():
            pass
"""
pytestmark = pytest.mark.usefixtures("primed")
slow = pytest.mark.slow


def command(backend: str) -> tuple[str, ...]:
    return WITHOUT_LIBRARY if backend == "nft" else LOCKGATE


@pytest.mark.parametrize(
    ("backend", "method"),
    [
        ("nftables", "tproxy"),
        pytest.param("nftables", "redirect", marks=slow),
        pytest.param("nft", "tproxy", marks=slow),
        ("iptables-nft", "tproxy"),
        pytest.param("iptables-nft", "redirect", marks=slow),
        pytest.param("iptables-legacy", "tproxy", marks=slow),
        pytest.param("iptables-legacy", "redirect", marks=slow),
    ],
)
def test_a_stopped_process_lets_traffic_flow_by(lab: Lab, backend: str, method: str) -> None:
    """SIGSTOP: the rules stay, but nothing beats. New connections flow; when it runs again it intercepts."""
    before, kind = state(lab), backend if backend != "nft" else "nftables"
    with gateway(lab, kind, method, masquerade="wan0", command=command(backend)) as running:
        time.sleep(3)  # longer than the timeout: it is renewed
        assert echoed(lab) == b"gateway"
        sock = lab.client.udp("origin.test", ECHO, family=4, timeout=0.1)
        if method == "tproxy":
            sock.send(b"client")
            assert sock.recv(100) == b"gateway"
        running.signal(signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            wait_for(lambda: echoed(lab) == b"client", 6, "new connections flow by")
            assert time.monotonic() - stopped < 3.5
            wait_for(lambda: answered(sock) == b"client", 5, "a UDP flow begun before flows by")
        finally:
            running.signal(signal.SIGCONT)
            sock.close()
        wait_for(lambda: echoed(lab) == b"gateway", 5, "it intercepts again")
        assert "heartbeat" not in running.output
    assert state(lab) == before


@pytest.mark.parametrize(
    ("backend", "fail"),
    [
        ("nftables", "open"),
        pytest.param("nftables", "closed", marks=slow),
        pytest.param("nft", "open", marks=slow),
        pytest.param("iptables-nft", "open", marks=slow),
        pytest.param("iptables-legacy", "closed", marks=slow),
    ],
)
def test_a_hook_that_never_returns(lab: Lab, backend: str, fail: str) -> None:
    """As a hang by SIGSTOP; and what is left is taken away after a kill -9."""
    kind = backend if backend != "nft" else "nftables"
    with lab.forwarding():
        before = state(lab)
        with gateway(lab, kind, "tproxy", firewall_fail=fail, addon=LOOP, command=command(backend)) as running:
            hangs(lab, running, fail)
        wait_for(lambda: state(lab) == before, 5, "nothing is left")


def hangs(lab: Lab, running: Gateway, fail: str) -> None:
    assert echoed(lab) == b"gateway"
    with lab.connect("origin.test", 2525) as sock:
        sock.sendall(b"x")
        used = running.cpu_seconds()
        wait_for(lambda: running.cpu_seconds() > used + 0.5, 10, "the hook holds the loop")
    if fail == "open":
        wait_for(lambda: echoed(lab) == b"client", 6, "new connections flow by")
    else:
        time.sleep(3)
        assert echoed(lab) == b""
    running.kill()
    if fail == "closed":
        assert echoed(lab) == b""
        lab.gateway.run([*LOCKGATE, "firewall", "clean"], cwd=ROOT, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["nftables", "iptables-legacy"])
def test_the_guardian_hangs_as_well(lab: Lab, backend: str) -> None:
    """As in a frozen cgroup: it is the kernel that lets go."""
    with lab.forwarding(), gateway(lab, backend, "tproxy") as running:
        both = (guardian(running), running.process.pid)
        for pid in both:
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: echoed(lab) == b"client", 6, "new connections flow by")
        for pid in both:
            os.kill(pid, signal.SIGKILL)
        running.process.wait(5)
    lab.gateway.run([*LOCKGATE, "firewall", "clean"], cwd=ROOT, check=True)
