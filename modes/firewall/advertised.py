"""IPv6 routes that a router has advertised, which forwarding would cost the machine.

A kernel that begins to forward is a router: it deletes the default routes it has from advertisements, and takes no more
of them, except on interfaces whose accept_ra is 2. (Where a daemon does that in place of the kernel, accept_ra is 0.)
"""

from __future__ import annotations

import contextlib

from modes.firewall import undo

_DEFAULT, _ADVERTISED = 0x10000, 0x40000  # RTF_DEFAULT, RTF_ADDRCONF


def kept(masquerade: str, routes: str = "/proc/net/ipv6_route") -> dict[str, str]:
    """The sysctls, and their values, that keep such routes; to be set before forwarding is. masquerade: the interface
    that may get one yet. routes: the kernel's table.
    """
    names = {masquerade}
    with contextlib.suppress(OSError), open(routes, encoding="utf-8") as file:
        for line in file:
            *_, flags, name = line.split()
            if int(flags, 16) & _DEFAULT and int(flags, 16) & _ADVERTISED:
                names.add(name)
    found = {}
    for name in sorted(names):
        with contextlib.suppress(OSError):
            base = f"net.ipv6.conf.{name.replace('.', '/')}"
            accepts = undo.sysctl(f"{base}.accept_ra")
            # 2 also if another gateway has set it: then this one holds it too. 1 with forwarding: none are taken.
            if accepts == "2" or (accepts == "1" and undo.sysctl(f"{base}.forwarding") == "0"):
                found[f"{base}.accept_ra"] = "2"
    return found
