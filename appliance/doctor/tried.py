"""What was tried in scratch namespaces, as findings: kernel features, and the redirect end to end."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.doctor import system
from appliance.doctor.finding import Finding, Level, Subject, fault, note, ok, warning

SECONDS = 120.0
"""All tries together; they take about one second where all is well, one and a half for each that gets no answer."""

FEATURES: dict[str, tuple[Level, str]] = {
    "nf_tables": (Level.WARNING, "without nftables the rules are laid by iptables, and no heartbeat guards them"),
    "nft_tproxy": (Level.WARNING, "without TPROXY by nftables: redirect, which carries TCP but hides where UDP goes"),
    "nft_redir": (Level.WARNING, "the method redirect needs it, the fallback where there is no TPROXY"),
    "nft_masq": (Level.WARNING, "masquerade needs it: what is not intercepted leaves with the clients' own addresses"),
    "nft_fib": (Level.WARNING, "the rules leave out local, broadcast and multicast addresses by it"),
    "nft_socket": (Level.NOTE, "packets of connections that are taken already are found by it"),
    "nf_conntrack": (Level.WARNING, "redirect and masquerade need connection tracking"),
    "nf_conntrack_netlink": (
        Level.NOTE,
        "under redirect UDP's destination is looked up by it, and stale entries removed",
    ),
    "xt_recent": (
        Level.NOTE,
        "under iptables the heartbeat is a match of it; without, a gateway that hangs holds traffic",
    ),
    "set timeouts": (Level.WARNING, "the heartbeat is an element that times out"),
    "flags owner": (
        Level.NOTE,
        "tables that go with their process need Linux 5.12; without it a guardian removes them",
    ),
    "tun": (Level.NOTE, "not for this mode: user-space tunnels need it"),
    "wireguard": (Level.NOTE, "not for this mode: tunnels in the kernel need it"),
}
"""By the names of `scratch.features`: how bad it is when it does not work, and why."""

_MODULES = {"set timeouts": "nf_tables", "flags owner": "nf_tables"}


def tried(subject: Subject) -> Iterator[Finding]:
    """Runs `appliance.doctor.scratch` and tells what came of it."""
    yield from findings(outcome(subject.plans))


def outcome(plans: Mapping[str, Any]) -> dict[str, Any]:
    """What the scratch process prints, or {"error": …}. Never raises."""
    # -P: as root, nothing is to be imported from the folder that the person happens to be in.
    command = [sys.executable, "-P", "-m", "appliance.doctor.scratch", str(os.getpid())]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    try:
        done = subprocess.run(
            command, input=json.dumps(plans), capture_output=True, text=True, timeout=SECONDS, env=environment
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    except ValueError:
        return {"error": system.first_line(done.stderr)}
    return found if isinstance(found, dict) else {"error": "no answer"}


def findings(outcome: Mapping[str, Any]) -> Iterator[Finding]:
    """Out of what the scratch process printed."""
    if problem := outcome.get("error"):
        yield note(
            "try",
            f"the redirect could not be tried: {problem}",
            "it needs a network namespace of its own: root may make one, others where user namespaces are allowed",
            "sudo lockgate doctor",
        )
    for name, error in outcome.get("features", {}).items():
        yield _feature(name, error)
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in outcome.get("combinations", ()):
        cells.setdefault((cell["tool"], cell["method"]), []).append(cell)
    told = [_combination(tool, method, found) for (tool, method), found in cells.items()]
    yield from told
    if cells and not any(not cell["error"] for found in cells.values() for cell in found):
        yield fault(
            "redirect",
            "no way of redirecting works on this machine",
            "nothing can be intercepted; explicit proxies (the mode regular) can",
            "see the lines about nf_tables, and about libnftables or iptables",
        )


def _feature(name: str, error: str) -> Finding:
    level, why = FEATURES[name]
    module = _MODULES.get(name, name)
    if not error:
        return ok(f"kernel.{name}", f"{name} works" + (f" ({how})" if (how := _how(module)) else ""))
    where = _how(module)
    if where == "a module":
        remedy = f"modprobe {module}   (dmesg says why it does not load by itself)"
    else:
        remedy = f"a kernel that has it: apt install linux-image-{'generic' if _ubuntu() else 'amd64'}, then reboot"
        if _ubuntu():
            remedy = f"apt install linux-modules-extra-{platform.release()}   (or {remedy})"
    return Finding(f"kernel.{name}", level, f"{name} does not work: {error}", why, remedy)


def _how(module: str) -> str:
    """How the running kernel has it: "built in", "a module", "" where that is not told."""
    plain = module.replace("-", "_")
    if Path("/sys/module", plain).exists():
        return "a module" if (Path("/sys/module", plain) / "initstate").exists() else "built in"
    folder = Path("/lib/modules", platform.release())
    for listing, how in (("modules.builtin", "built in"), ("modules.dep", "a module")):
        if f"/{plain}.ko" in (system.text(folder / listing) or "").replace("-", "_"):
            return how
    return ""


def _ubuntu() -> bool:
    return "ID=ubuntu" in (system.text("/etc/os-release") or "")


def _combination(tool: str, method: str, cells: list[Mapping[str, Any]]) -> Finding:
    """One line for the four of TCP and UDP, IPv4 and IPv6."""
    check = f"redirect.{tool}.{method}"
    bad = {_name(cell): str(cell["error"]) for cell in cells if cell["error"]}
    if not bad:
        return ok(check, f"{method} by {tool}: TCP and UDP, IPv4 and IPv6 arrive, and where they were going is known")
    reasons: dict[str, list[str]] = {}
    for name, error in bad.items():
        reasons.setdefault(error, []).append(name)
    told = "; ".join(f"{' and '.join(names)}: {error}" for error, names in reasons.items())
    good = [_name(cell) for cell in cells if not cell["error"]]
    if all("not installed" in error for error in bad.values()) and tool != "nftables":
        return ok(check, f"{method} by {tool}: not installed, and not needed beside nftables")
    works = f"; works for {' and '.join(good)}" if good else ""
    remedy = {
        "nftables": "see the line about nft_tproxy" if method == "tproxy" else "see the line about nft_redir",
        "iptables-nft": "firewall: nftables   (or: modprobe nft_compat xt_TPROXY xt_addrtype)",
        "iptables-legacy": "firewall: nftables   (or: modprobe ip_tables ip6_tables xt_TPROXY xt_addrtype)",
    }[tool]
    make = warning if tool == "nftables" else note
    return make(check, f"{method} by {tool} does not work for {told}{works}", f"not to be had with {tool}", remedy)


def _name(cell: Mapping[str, Any]) -> str:
    return f"{str(cell['protocol']).upper()} over IPv{cell['family']}"
