"""The kernel's WireGuard (Linux 6.1), at both ends of the tunnel and against an unprivileged gateway."""

from __future__ import annotations

import pytest

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


IPV6 = r"""
export HOME=/tmp LOCKGATE_CONFDIR=/tmp/conf; modprobe tun; modprobe veth; ip link set lo up
exec='python3 -m appliance.cli exec -q --no-store -- ip -br addr'
$exec | tr -s ' ' | cut -d ' ' -f 1,3- || exit
python3 -m appliance.cli run -m wireguard --no-store --set wireguard_backend=userspace >/tmp/said 2>&1 &
until grep -qE 'is listening|^lockgate: ' /tmp/said; do sleep 1; done
grep -E 'is listening|^lockgate: ' /tmp/said
kill $!; wait
"""


@pytest.mark.parametrize(
    ("boot", "six", "listening"),
    [
        ("ipv6.disable=1", "", ""),
        ("ipv6.disable_ipv6=1", " fd6c:6f63:6b67::2/126", ", wireguard on [::]:51820"),
    ],
)
def test_where_ipv6_is_switched_off(vm: Machine, boot: str, six: str, listening: str) -> None:
    """By either of the kernel's switches: no IPv6 at all, or off in every namespace, and on in ours."""
    done = vm.run(IPV6, timeout=420, boot=boot)
    assert done.code == 0, done.output + done.console
    wire = next(line for line in done.output.splitlines() if line.startswith("eth0"))
    assert wire.partition(" fe80")[0].rstrip() == f"eth0@if2 192.0.0.2/30{six}"
    assert f"is listening: wireguard on 0.0.0.0:51820{listening}\n" in done.output, done.output
