"""The kernel's WireGuard (6.1) against each backend of the mode."""

from __future__ import annotations

import pytest

from tests.vm.machine import Machine


@pytest.mark.timeout(1200)
def test_kernel_client_against_both_backends(vm: Machine) -> None:
    done = vm.run("export LOCKGATE_PATIENCE=8\nmodprobe tun\nexec python3 -m tests.vm.inside.wireguard\n", timeout=900)
    expected = []
    for backend in ("userspace", "kernel"):
        lines = ["told True"]
        for family in (4, 6):
            lines += [f"https IPv{family} 200 phone", f"tcp IPv{family} tcp", f"udp IPv{family} udp"]
        lines += [f"download {10 << 20}", "dns 10.61.2.3", "host sees wg0 False", "peers True", "removed 28"]
        expected += [f"{backend} {line}" for line in lines]
    assert done.code == 0 and done.output.splitlines() == expected, done.output + done.console
