"""Run inside the VM: the real gateway hangs (SIGSTOP) under each firewall. A line for each: what a new connection meets
three seconds later, and once the gateway runs again."""

from __future__ import annotations

import contextlib
import platform
import signal
import sys
import time

from tests.lab.labkit import ECHO, Lab
from tests.lab.netns import wait_for
from tests.lab.test_firewall import gateway, state

WAYS = (("nftables", "open", "process"), ("nftables", "closed", "process"), ("nftables", "open", "unit"),
        ("iptables-nft", "open", "process"), ("iptables-legacy", "closed", "process"))  # fmt: skip
SECONDS = 3
NAMES = {b"client": "flows by", b"gateway": "intercepted", b"": "stopped"}


def met(lab: Lab, patience: float = 20) -> str:
    """What a new connection meets."""
    with contextlib.suppress(OSError), lab.connect("origin.test", ECHO, family=4, timeout=patience) as sock:
        sock.sendall(b"client")
        return NAMES[sock.recv(100)]
    return NAMES[b""]


def main() -> int:
    print("kernel", platform.release(), flush=True)
    lab = Lab()
    try:
        with lab.forwarding():
            for six in ("", "6"):
                for table in ("raw", "mangle", "nat", "filter"):
                    lab.gateway.run([f"ip{six}tables-legacy", "-w", "-t", table, "-S"], check=True)
            before = state(lab)
            for backend, fail, owner in WAYS:
                with gateway(lab, backend, "tproxy", firewall_fail=fail, firewall_owner=owner) as running:
                    time.sleep(SECONDS)
                    found = [met(lab)]
                    running.signal(signal.SIGSTOP)
                    time.sleep(SECONDS)
                    found.append(met(lab, 20 if fail == "open" else 4))
                    running.signal(signal.SIGCONT)
                    wait_for(lambda: met(lab) == "intercepted", 5, "it intercepts again")
                    running.stop(timeout=60)
                lab.gateway.run([sys.executable, "-m", "appliance.cli", "firewall", "clean"], check=True, timeout=60)
                left = "" if state(lab) == before else ", and leaves something"
                print(f"{backend} {fail} {owner}: {', '.join(found)}{left}", flush=True)
    finally:
        lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
