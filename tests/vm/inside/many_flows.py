"""Run inside the VM, where root may raise the limit of open files: 20,000 TCP flows at once. Prints the figures."""

from __future__ import annotations

import platform
import sys

from tests.lab.labkit import Lab
from tests.lab.test_many_flows import test_twenty_thousand_flows as twenty_thousand_flows


def main() -> int:
    print("kernel", platform.release(), flush=True)
    lab = Lab()
    try:
        lab.gateway.sysctl("net.ipv4.tcp_early_demux", 0)  # plan.REDIRECTING says why
        for addon in (None, "def tcp_message(flow): pass\n"):
            twenty_thousand_flows(lab, addon)
    finally:
        lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
