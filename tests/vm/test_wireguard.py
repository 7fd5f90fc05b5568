"""The kernel's WireGuard (Linux 6.1), at both ends of the tunnel and against an unprivileged gateway."""

from __future__ import annotations

from tests.vm.machine import Machine

SETUP = "export LOCKGATE_PATIENCE=8\nmodprobe tun\nchmod 0666 /dev/net/tun\nexec python3 -m tests.vm.inside.wireguard"


def test_the_kernels_wireguard_at_both_ends(vm: Machine) -> None:
    """HTTPS, DNS, raw TCP and UDP, IPv4 and IPv6, with a preshared key; peers are told apart, come, go and expire, and
    are counted; kill -9 leaves nothing.
    """
    done = vm.run(f"{SETUP} kernel\n", timeout=900)
    assert done.code == 0, done.output + done.console
    lines = done.output.splitlines()
    assert lines[0] == "the kernel is chosen" and lines[-1] == "stop leaves nothing", done.output


def test_which_backend_is_taken(vm: Machine) -> None:
    """CAP_NET_ADMIN alone is enough for the kernel's; what else is asked for, or cannot be, is said; MTU 1280."""
    done = vm.run(f"{SETUP} faults\n", timeout=900)
    assert done.code == 0 and "nothing is left\n" in done.output, done.output + done.console


def test_the_kernel_as_client_of_an_unprivileged_gateway(vm: Machine) -> None:
    """With a rekey, during which no request is lost."""
    done = vm.run(f"{SETUP} rootless\n", timeout=900)
    assert done.code == 0 and "no request was lost" in done.output, done.output + done.console
