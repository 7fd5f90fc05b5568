"""Every check, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from appliance.doctor import authority, firewalls, host, interfaces, process, store, sysctls, tried
from appliance.doctor.finding import Finding, Subject, note

Check = Callable[[Subject], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    interfaces.present,
    interfaces.bridged,
    interfaces.mtu,
    interfaces.offloads,
    process.capabilities,
    process.files,
    process.ports,
    sysctls.forwarding,
    sysctls.reverse_path,
    sysctls.source_mark,
    sysctls.router_advertisements,
    sysctls.switched_off,
    sysctls.loopback_routed,
    sysctls.conntrack,
    firewalls.looked_at,
    host.nftables,
    host.iptables,
    host.tun,
    host.clock,
    host.disk,
    host.versions,
    authority.authority,
    store.store,
)
TRIED: tuple[Check, ...] = (tried.tried,)
"""Those that take a second, in namespaces of their own."""


def examine(subject: Subject, checks: Sequence[Check] = CHECKS + TRIED) -> list[Finding]:
    """All findings. A check that fails itself is a finding, and keeps none of the others away."""
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(subject)
        except Exception as error:
            name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"
            found.append(note(name, f"not looked at: {type(error).__name__}: {error}", "this check failed itself"))
    return found
