"""Kernel settings (`/proc/sys`) that forwarding and TPROXY depend on. `all` and the interface's own both count."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.doctor.finding import Finding, Level, Subject, fault, note, ok, warning
from appliance.doctor.system import sysctl

FULL, NEARLY_FULL = 0.95, 0.8
"""Fill of the connection-tracking table from which new connections are about to be refused."""


def forwarding(subject: Subject) -> Iterator[Finding]:
    """Routing of what is not intercepted."""
    for family, name in (("IPv4", "net.ipv4.ip_forward"), ("IPv6", "net.ipv6.conf.all.forwarding")):
        value = sysctl(name.replace(".", "/"))
        check = f"sysctl.{name}"
        if value is None:
            yield note(check, f"{family}: the kernel has no {name}", f"there is no {family} on this machine")
        elif value:
            yield ok(check, f"{name} = {value}")
        else:
            level = Level.WARNING if subject.wan else Level.NOTE
            why = f"{family} that is not intercepted (ping, other protocols) ends here; what is intercepted does not"
            yield Finding(check, level, f"{name} = 0: {family} is not forwarded", why, f"sysctl -w {name}=1")


def reverse_path(subject: Subject) -> Iterator[Finding]:
    """rp_filter: the larger of `all` and the interface's own counts. 0 off, 1 strict, 2 loose."""
    for interface in subject.interfaces:
        values = [sysctl(f"net/ipv4/conf/{name}/rp_filter") for name in ("all", interface)]
        effective = max((value for value in values if value is not None), default=0)
        check = f"sysctl.rp_filter.{interface}"
        if effective == 1:
            yield note(
                check,
                f"rp_filter is strict on {interface}",
                "packets of clients whose way back is not this interface (behind another router) are dropped unseen",
                f"sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{interface}.rp_filter=2",
            )
        else:
            yield ok(check, f"rp_filter is {'loose' if effective else 'off'} on {interface}")


def source_mark(subject: Subject) -> Iterator[Finding]:
    """src_valid_mark makes the kernel look for the way back in TPROXY's own table, where it finds itself."""
    on = [name for name in ("all", *subject.lan) if sysctl(f"net/ipv4/conf/{name}/src_valid_mark")]
    if not on:
        yield ok("sysctl.src_valid_mark", "src_valid_mark is off")
        return
    names = [f"net.ipv4.conf.{name}.src_valid_mark" for name in on]
    yield fault(
        "sysctl.src_valid_mark",
        f"{' and '.join(names)} = 1",
        "the kernel then takes every packet that TPROXY marks for a forged one (martian) and drops it; "
        "wg-quick sets it for tunnels that carry all traffic",
        "sysctl -w " + " ".join(f"{name}=0" for name in names) + "   (or set firewall_method to redirect: TCP only)",
    )


def router_advertisements(subject: Subject) -> Iterator[Finding]:
    """A machine that forwards ignores router advertisements unless accept_ra is 2."""
    if not subject.wan:
        return
    value, check = sysctl(f"net/ipv6/conf/{subject.wan}/accept_ra"), f"sysctl.accept_ra.{subject.wan}"
    if value == 1 and sysctl(f"net/ipv6/conf/{subject.wan}/forwarding"):
        yield warning(
            check,
            f"accept_ra = 1 on {subject.wan}, and IPv6 is forwarded",
            "a router ignores router advertisements, so the IPv6 default route runs out after some minutes",
            f"sysctl -w net.ipv6.conf.{subject.wan}.accept_ra=2",
        )
    elif value is not None:
        yield ok(check, f"accept_ra = {value} on {subject.wan}")


def switched_off(subject: Subject) -> Iterator[Finding]:
    """IPv6 switched off on an interface."""
    for interface in subject.interfaces:
        if sysctl(f"net/ipv6/conf/{interface}/disable_ipv6"):
            yield note(
                f"sysctl.disable_ipv6.{interface}",
                f"IPv6 is off on {interface}",
                "clients there have IPv4 only, or another way out that is not seen",
                f"sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0",
            )


def loopback_routed(subject: Subject) -> Iterator[Finding]:
    """route_localnet lets clients reach what listens on 127.0.0.1 here."""
    for interface in subject.lan or ("all",):
        if any(sysctl(f"net/ipv4/conf/{name}/route_localnet") for name in ("all", interface)):
            yield warning(
                f"sysctl.route_localnet.{interface}",
                f"route_localnet = 1 on {interface}",
                "clients there can reach services that listen on 127.0.0.1 of this machine; lockgate does not need it",
                f"sysctl -w net.ipv4.conf.all.route_localnet=0 net.ipv4.conf.{interface}.route_localnet=0",
            )


def conntrack(subject: Subject) -> Iterator[Finding]:
    """Room in the connection-tracking table."""
    count, most = (sysctl(f"net/netfilter/nf_conntrack_{name}") for name in ("count", "max"))
    if count is None or not most:
        yield note("sysctl.nf_conntrack", "connection tracking is not loaded yet, or not visible here")
        return
    seen = f"connection tracking holds {count} of at most {most} entries"
    why = "when it is full the kernel drops new connections (`nf_conntrack: table full` in its log)"
    remedy = f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}"
    if count >= FULL * most:
        yield fault("sysctl.nf_conntrack", seen, why, remedy)
    elif count >= NEARLY_FULL * most:
        yield warning("sysctl.nf_conntrack", seen, why, remedy)
    elif most < 32768:
        yield note("sysctl.nf_conntrack", seen, "small for a network of devices: " + why, remedy)
    else:
        yield ok("sysctl.nf_conntrack", seen)
