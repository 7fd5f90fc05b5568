"""The interfaces that were named: there, up, not a port of a bridge; MTU; offloads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from appliance.doctor import system
from appliance.doctor.finding import Finding, Subject, fault, note, ok, warning

MIN_MTU6 = 1280
"""RFC 8200, section 5: below it the kernel takes IPv6 off the interface."""
_UP = 1


def _about(interface: str, what: str) -> str | None:
    return system.text(f"/sys/class/net/{interface}/{what}")


def present(subject: Subject) -> Iterator[Finding]:
    """Each is there and up."""
    here = system.interfaces()
    for interface in subject.interfaces:
        check = f"interface.{interface}"
        if interface not in here:
            close = difflib.get_close_matches(interface, here, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            yield fault(
                check,
                f"there is no interface {interface}",
                "nothing that arrives can be redirected",
                f"{hint}`ip -br link` lists them: {system.join(here)}",
            )
        elif not int(_about(interface, "flags") or "1", 16) & _UP:
            yield fault(check, f"{interface} is down", "nothing arrives there", f"ip link set {interface} up")
        elif _about(interface, "carrier") == "0":
            yield warning(
                check, f"{interface} has no carrier", "nothing is plugged in", f"ip -br link show {interface}"
            )
        else:
            yield ok(check, f"{interface} is up")
    if not subject.lan:
        yield note(
            "interface",
            "no interface was named",
            "checks of interfaces were left out",
            "lockgate doctor LAN [LAN…] --wan WAN",
        )


def bridged(subject: Subject) -> Iterator[Finding]:
    """What arrives on a port of a bridge is seen under the bridge's name only."""
    for interface in subject.interfaces:
        master = Path(f"/sys/class/net/{interface}/master")
        if master.exists() and (master.resolve() / "bridge").exists():
            bridge = master.resolve().name
            yield fault(
                f"interface.bridge.{interface}",
                f"{interface} is a port of the bridge {bridge}",
                f"the firewall sees what arrives there as coming from {bridge}, so rules for {interface} match nothing",
                f"name {bridge} instead of {interface}",
            )


def mtu(subject: Subject) -> Iterator[Finding]:
    """MTU of each, and between them."""
    found = {name: int(_about(name, "mtu") or 0) for name in subject.interfaces}
    for interface, size in found.items():
        if 0 < size < MIN_MTU6:
            yield fault(
                f"interface.mtu.{interface}",
                f"the MTU of {interface} is {size}",
                f"IPv6 needs {MIN_MTU6}; the kernel takes it off the interface below that",
                f"ip link set {interface} mtu {MIN_MTU6}",
            )
    sizes = {size for size in found.values() if size}
    told = system.join([f"{name} {size}" for name, size in found.items() if size])
    if len(sizes) > 1:
        yield note(
            "interface.mtu",
            f"the MTUs differ: {told}",
            "what is intercepted does not care (two connections); UDP and what is forwarded must be cut, or relies on "
            "ICMP that says so",
            f"ip link set {max(found, key=lambda name: found[name])} mtu {min(sizes)}   (or let ICMP through)",
        )
    elif sizes:
        yield ok("interface.mtu", f"MTU: {told}")


def offloads(subject: Subject) -> Iterator[Finding]:
    """LRO merges what cannot be parted again; GRO is wanted."""
    for interface in subject.interfaces:
        if interface not in system.interfaces():
            continue
        check = f"interface.offload.{interface}"
        code, output = system.run("ethtool", "-k", interface)
        if code:
            why = "offloads were not looked at"
            yield note(check, f"{interface}: {system.first_line(output)}", why, "apt install ethtool")
            continue
        on = {
            line.partition(":")[0].strip() for line in output.splitlines() if line.partition(":")[2].startswith(" on")
        }
        if "large-receive-offload" in on:
            yield warning(
                check,
                f"LRO is on at {interface}",
                "segments that it merges cannot be parted again: what is forwarded is lost or slow",
                f"ethtool -K {interface} lro off",
            )
        elif "generic-receive-offload" not in on:
            yield note(
                check,
                f"GRO is off at {interface}",
                "each segment goes through the network stack alone: more CPU for each byte",
                f"ethtool -K {interface} gro on",
            )
        else:
            udp = "on" if "rx-udp-gro-forwarding" in on else "off"
            yield ok(check, f"{interface}: GRO on, LRO off, UDP GRO forwarding {udp}")
