"""Run inside the VM: the real gateway hangs (SIGSTOP) under each firewall. A line for each: what a new connection meets
before, and three seconds later. And one port of a client's towards two servers, by redirect."""

from __future__ import annotations

import contextlib
import platform
import signal
import socket
import sys
import time

from tests.lab.labkit import ECHO, Lab
from tests.lab.netns import resolve, wait_for
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


def one_port(lab: Lab, family: int) -> str:
    """What two connections at once from the same port meet."""
    found = []
    with contextlib.ExitStack() as stack:
        port = 0
        for name in ("origin.test", "alt.test"):
            with lab.client.inside():
                sock = stack.enter_context(socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(20)
            sock.bind((lab.client.v6 if family == 6 else lab.client.v4, port))
            port = sock.getsockname()[1]
            try:
                sock.connect((resolve(name, family), ECHO))
                sock.sendall(b"client")
                found.append(NAMES[sock.recv(100)])
            except OSError as error:
                found.append(str(error))
    return ", ".join(found)


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
            with gateway(lab, "nftables", "redirect"):
                for family in (4, 6):
                    print(f"redirect, one port, IPv{family}: {one_port(lab, family)}", flush=True)
    finally:
        lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
