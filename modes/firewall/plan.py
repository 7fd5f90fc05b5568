"""What is laid for a redirect, and how it is taken away: pure text and commands, nothing here touches the system."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Method = Literal["tproxy", "redirect"]
MARK = 0x6C670000
TABLE = 6700
BEAT_TIMEOUT = 2
"""Seconds after the last beat in which traffic is still intercepted."""
"""Of the gateway numbered n: mark MARK + n and routing table TABLE + n."""
PREFERENCE = "0"
"""Of our ip rule: right after `local`. The kernel gives a rule without a preference the place before the second one
there is, so that of a VPN which comes later (all that has not its mark) would carry what is for us on to the VPN; only
0 is never undercut."""
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
_LINK_LOCAL = {4: "169.254.0.0/16", 6: "fe80::/10"}


@dataclass(frozen=True, slots=True)
class Redirect:
    """What is wanted. listeners: family (4, 6) and address ("": any). number: which gateway of the host (1...).

    owned: the table goes with the process, and the interfaces are matched by a set that must be renewed (`beat`).
    closed: without a gateway that works nothing of these interfaces is forwarded.
    """

    number: int
    interfaces: tuple[str, ...]
    port: int
    listeners: tuple[tuple[int, str], ...]
    method: Method = "tproxy"
    masquerade: str = ""
    owned: bool = True
    closed: bool = False
    exclude: tuple[tuple[int, int], ...] = ()
    """Destination ports, from and to, that are not redirected."""

    @property
    def mark(self) -> int:
        return MARK + self.number

    @property
    def table(self) -> int:
        return TABLE + self.number


@dataclass(frozen=True, slots=True)
class Step:
    """One command: its words, what it reads from standard input, and the commands that undo it (in this order)."""

    argv: tuple[str, ...]
    input: str = ""
    undo: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        shown = "# " + " ".join(self.argv)
        return f"{shown} <<END\n{self.input}END" if self.input else shown


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order. interception goes at every ending; routing is the box's, and goes at an orderly stop or clean;
    closed stays until `clean`, or until the next gateway has laid its own.
    """

    interception: tuple[Step, ...]
    routing: tuple[Step, ...]
    closed: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return "\n".join(str(step) for step in (*self.closed, *self.routing, *self.interception))


def nftables(want: Redirect) -> Plan:
    """By nft: one table, laid in one transaction; with `owned`, the kernel removes it when its process is gone."""
    name = f"lockgate_{want.number}"
    names = ", ".join(f'"{interface}"' for interface in want.interfaces)
    if want.method == "tproxy":
        kind = "filter hook prerouting priority mangle"
    else:
        kind = "nat hook prerouting priority dstnat"
    which = "@alive" if want.owned else f"{{ {names} }}"
    lines = [f"iifname != {which} return", "fib daddr type { local, broadcast, multicast, anycast } return"]
    if want.exclude:
        lines.append(f"{_ports_by_nftables(want)} return")
    lines += [f"{'ip' if family == 4 else 'ip6'} daddr {_LINK_LOCAL[family]} return" for family, _ in want.listeners]
    excluded = list(lines)
    for family, address in want.listeners:
        ip = "ip" if family == 4 else "ip6"
        at = (f"[{address}]" if family == 6 and address else address) + f":{want.port}"
        match = f"meta nfproto ipv{family} meta l4proto {{ tcp, udp }}"
        if want.method == "tproxy":
            lines.append(f"{match} tproxy {ip} to {at} meta mark set {want.mark:#x} accept")
        else:
            lines.append(f"{match} ct mark set {want.mark:#x} redirect to :{want.port}")
    text = f"add table inet {name}" + (" { flags owner; }" if want.owned else "") + "\n"
    if want.owned:
        text += _alive(name, names)
    text += f"add chain inet {name} prerouting {{ type {kind}; policy accept; }}\n"
    text += "".join(f"add rule inet {name} prerouting {line}\n" for line in lines)
    if want.method == "tproxy":
        text += _untracked(want, name, excluded, names)
    steps = (*_policy_routing(want), Step(("nft", "-f", "-"), text, (("nft", "delete", "table", "inet", name),)))
    closed = _closed_by_nftables(want, names)
    if not want.masquerade:
        return Plan(steps, (), closed)
    nat = f"lockgate_nat_{want.number}"
    text = f"add table inet {nat}\n"
    text += f"add chain inet {nat} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}\n"
    text += f'add rule inet {nat} postrouting iifname {{ {names} }} oifname "{want.masquerade}" masquerade\n'
    # What was delivered here is marked, and has "no source NAT" for life: between our end and the guardian's flush of
    # such entries it would be forwarded with its private source. While we run, nothing that is marked is forwarded.
    text += f"add chain inet {nat} forward {{ type filter hook forward priority filter; policy accept; }}\n"
    text += f"add rule inet {nat} forward ct mark {want.mark:#x} drop\n"
    return Plan(steps, (Step(("nft", "-f", "-"), text, (("nft", "delete", "table", "inet", nat),)),), closed)


def _untracked(want: Redirect, name: str, excluded: list[str], names: str) -> str:
    """No connection tracking of what is taken, in either direction. The kernel settles a flow's source address with its
    first packet: one that began here and is forwarded later (we hang, or are gone) would leave as the client's own,
    whoever masquerades.
    """
    taken = [f"meta nfproto ipv{family} meta l4proto {{ tcp, udp }} notrack" for family, _ in want.listeners]
    text = f"add chain inet {name} untracked {{ type filter hook prerouting priority raw; policy accept; }}\n"
    text += "".join(f"add rule inet {name} untracked {line}\n" for line in (*excluded, *taken))
    text += f"add chain inet {name} answers {{ type filter hook output priority raw; policy accept; }}\n"
    return text + f"add rule inet {name} answers oifname {{ {names} }} socket transparent 1 notrack\n"


def _closed_by_nftables(want: Redirect, names: str) -> tuple[Step, ...]:
    """TCP and UDP are never forwarded: while a gateway works, it has them. The rest is, while one is alive."""
    if not want.closed:
        return ()
    name = f"lockgate_closed_{want.number}"
    text = f"add table inet {name}\n"
    text += f"add chain inet {name} forward {{ type filter hook forward priority filter; policy accept; }}\n"
    if want.owned:
        text += _alive(name, names)
        if want.exclude:
            text += f"add rule inet {name} forward iifname @alive {_ports_by_nftables(want)} accept\n"
    text += f"add rule inet {name} forward iifname {{ {names} }} meta l4proto {{ tcp, udp }} drop\n"
    if want.owned:
        text += f"add rule inet {name} forward iifname {{ {names} }} iifname != @alive drop\n"
    else:
        text += f"add rule inet {name} forward iifname {{ {names} }} drop\n"
    return (Step(("nft", "-f", "-"), text, (("nft", "delete", "table", "inet", name),)),)


def _ports_by_nftables(want: Redirect) -> str:
    ports = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in want.exclude)
    return f"meta l4proto {{ tcp, udp }} th dport {{ {ports} }}"


def _alive(table: str, names: str) -> str:
    """A set of the interfaces that a gateway looks after; it empties itself."""
    text = f"add set inet {table} alive {{ type ifname; flags timeout; timeout {BEAT_TIMEOUT}s; }}\n"
    return text + f"add element inet {table} alive {{ {names} }}\n"


def beat(want: Redirect) -> str:
    """The interfaces are intercepted for another BEAT_TIMEOUT. Adding alone does not renew what is there."""
    names = ", ".join(f'"{interface}"' for interface in want.interfaces)
    said = ""
    for table in ("lockgate", "lockgate_closed") if want.closed else ("lockgate",):
        words = f"element inet {table}_{want.number} alive {{ {names} }}\n"
        said += f"add {words}delete {words}add {words}"
    return said


def iptables(want: Redirect, flavour: str = "") -> Plan:
    """By iptables. flavour: "", "-nft" or "-legacy". One chain for each family, put in by one iptables-restore."""
    steps, routing, closed = list(_policy_routing(want)), [], []
    chain = f"LOCKGATE_{want.number}"
    for family, address in want.listeners:
        six = "6" if family == 6 else ""
        table = "mangle" if want.method == "tproxy" else "nat"
        rules = [f"-m addrtype --dst-type {kind} -j RETURN" for kind in ("LOCAL", "MULTICAST", "ANYCAST")]
        if family == 4:
            rules.append("-m addrtype --dst-type BROADCAST -j RETURN")
        rules.append(f"-d {_LINK_LOCAL[family]} -j RETURN")
        for first, last in want.exclude:
            rules += [f"-p {protocol} --dport {first}:{last} -j RETURN" for protocol in ("tcp", "udp")]
        for protocol in ("tcp", "udp"):
            rules.append(f"-p {protocol} -j CONNMARK --set-mark {want.mark:#x}")
            if want.method == "tproxy":
                on = f" --on-ip {address}" if address else ""
                rules.append(f"-p {protocol} -j TPROXY --on-port {want.port}{on} --tproxy-mark {want.mark:#x}")
            else:
                rules.append(f"-p {protocol} -j REDIRECT --to-ports {want.port}")
        jumps = [f"PREROUTING -i {interface} -j {chain}" for interface in want.interfaces]
        steps.append(_restore(f"ip{six}tables{flavour}", table, chain, rules, jumps))
        if want.masquerade:
            jumps = [f"POSTROUTING -o {want.masquerade} -j {chain}_NAT"]
            routing.append(_restore(f"ip{six}tables{flavour}", "nat", f"{chain}_NAT", ["-j MASQUERADE"], jumps))
            drop = [f"-m connmark --mark {want.mark:#x} -j DROP"]  # why: see nftables() above
            routing.append(
                _restore(f"ip{six}tables{flavour}", "filter", f"{chain}_GAP", drop, [f"FORWARD -j {chain}_GAP"])
            )
        if want.closed:
            drops = [f"FORWARD -i {interface} -j DROP" for interface in want.interfaces]
            closed.append(_restore(f"ip{six}tables{flavour}", "filter", f"{chain}_SHUT", ["-j RETURN"], drops))
    return Plan(tuple(steps), tuple(routing), tuple(closed))


def _restore(program: str, table: str, chain: str, rules: list[str], jumps: list[str]) -> Step:
    text = f"*{table}\n:{chain} - [0:0]\n"
    text += "".join(f"-A {chain} {rule}\n" for rule in rules) + "".join(f"-I {jump}\n" for jump in jumps) + "COMMIT\n"
    base = (program, "-w", "-t", table)
    undo = [(*base, "-D", *jump.split()) for jump in jumps]
    undo += [(*base, "-F", chain), (*base, "-X", chain)]
    name, dash, flavour = program.partition("-")
    return Step((f"{name}{dash}{flavour}-restore", "-w", "--noflush"), text, tuple(undo))


def _policy_routing(want: Redirect) -> tuple[Step, ...]:
    """TPROXY only chooses the socket; that the marked packet is delivered here at all, a routing table must say."""
    if want.method != "tproxy":
        return ()
    steps = []
    for family, _ in want.listeners:
        ip, table = ("ip", f"-{family}"), str(want.table)
        rule = ("pref", PREFERENCE, "fwmark", f"{want.mark:#x}", "lookup", table)
        steps.append(
            Step((*ip, "route", "add", "local", "default", "dev", "lo", "table", table),
                 undo=((*ip, "route", "flush", "table", table),))
        )  # fmt: skip
        steps.append(Step((*ip, "rule", "add", *rule), undo=((*ip, "rule", "del", *rule),)))
    return tuple(steps)


def ports(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """`22`, `5000-5010` as from and to, overlapping ones joined. :raises ValueError: not a port or a range of them."""
    found = []
    for text in texts:
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", text, re.ASCII)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"{text!r} is no port: write one from 1 to 65535 such as 22, or a range such as 5000-5010")
        found.append((first, last))
    joined: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return tuple(joined)
