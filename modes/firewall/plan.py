"""What is laid for a redirect, and how it is taken away: pure text and commands, nothing here touches the system."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Method = Literal["tproxy", "redirect"]
MARK = 0x6C670000
TABLE = 6700
"""Of the gateway numbered n: mark MARK + n and routing table TABLE + n."""
BEAT_TIMEOUT = 2
"""Seconds after the last beat in which traffic is still intercepted."""
PREFERENCE = "0"
"""Of our ip rule: right after `local`. The kernel gives a rule without a preference the place before the second one
there is, so that of a VPN which comes later (all that has not its mark) would carry what is for us on to the VPN; only
0 is never undercut."""
FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
"""Sysctls of masquerade."""
REDIRECTING = {"net.ipv4.tcp_early_demux": "0"}
"""Of the redirect method, IPv6 included. A client may use one port towards two servers; behind REDIRECT both are for
one place, so NAT gives the second another port. But the kernel has looked for its socket before, by the first port, and
found the first connection; Linux 6.1 then does not look again, and the second hangs."""
_MAPPED = "::ffff:0:0/96"
_LINK_LOCAL = {4: "169.254.0.0/16", 6: "fe80::/10"}


@dataclass(frozen=True, slots=True)
class Redirect:
    """What is wanted. listeners: family (4, 6) and address ("": any). number: which gateway of the host (1...).

    owned: nftables' table goes with the process. beats: nothing is taken unless somebody has renewed that (`beat`,
    `beat_files`) within BEAT_TIMEOUT. survives: the rules outlive the process; what nobody takes meanwhile is dropped.
    closed: without a gateway that works nothing of these interfaces is forwarded.
    """

    number: int
    interfaces: tuple[str, ...]
    port: int
    listeners: tuple[tuple[int, str], ...]
    method: Method = "tproxy"
    masquerade: str = ""
    owned: bool = True
    beats: bool = True
    survives: bool = False
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


def undoing(steps: Sequence[Step]) -> list[list[str]]:
    """The commands that undo them, the last one first."""
    return [list(argv) for step in reversed(steps) for argv in step.undo]


def nftables(want: Redirect) -> Plan:
    """By nft: one table, laid in one transaction; with `owned`, the kernel removes it when its process is gone."""
    name = f"lockgate_{want.number}"
    names = ", ".join(f'"{interface}"' for interface in want.interfaces)
    if want.method == "tproxy":
        kind = "filter hook prerouting priority mangle"
    else:
        kind = "nat hook prerouting priority dstnat"
    which = "@alive" if want.beats else f"{{ {names} }}"
    lines = [f"iifname != {which} return", "fib daddr type { local, broadcast, multicast, anycast } return"]
    if want.exclude:
        lines.append(f"{_ports_by_nftables(want)} return")
    lines += [f"{'ip' if family == 4 else 'ip6'} daddr {_LINK_LOCAL[family]} return" for family, _ in want.listeners]
    excluded = list(lines)
    if want.method == "tproxy" and 6 in dict(want.listeners):
        # No network has these; but a socket that dials one is IPv4's, and may be for this machine.
        lines.append(f"ip6 daddr {_MAPPED} drop")
    for family, address in want.listeners:
        ip = "ip" if family == 4 else "ip6"
        at = (f"[{address}]" if family == 6 and address else address) + f":{want.port}"
        match = f"meta nfproto ipv{family} meta l4proto {{ tcp, udp }}"
        if want.method == "tproxy":
            lines.append(f"{match} tproxy {ip} to {at} meta mark set {want.mark:#x} accept")
            if want.survives:  # no listener at the moment: whoever asks again meets the next one
                lines.append(f"{match} drop")
        else:
            lines.append(f"{match} ct mark set {want.mark:#x} redirect to :{want.port}")
    text = f"add table inet {name}" + (" { flags owner; }" if want.owned else "") + "\n"
    if want.beats:
        text += _alive(name, names)
    text += f"add chain inet {name} prerouting {{ type {kind}; policy accept; }}\n"
    text += "".join(f"add rule inet {name} prerouting {line}\n" for line in lines)
    if want.method == "tproxy":
        text += _untracked(want, name, excluded, names)
    steps = (*_policy_routing(want), Step(("nft", "-f", "-"), text, (("nft", "delete", "table", "inet", name),)))
    closed = _closed_by_nftables(want, names)
    if not want.masquerade:
        return Plan(steps, (), closed)
    return Plan(steps, (_masquerade_by_nftables(want, names),), closed)


def _masquerade_by_nftables(want: Redirect, names: str) -> Step:
    nat = f"lockgate_nat_{want.number}"
    text = f"add table inet {nat}\n"
    text += f"add chain inet {nat} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}\n"
    text += f'add rule inet {nat} postrouting iifname {{ {names} }} oifname "{want.masquerade}" masquerade\n'
    # What was delivered here is marked, and has "no source NAT" for life: between our end and the guardian's flush of
    # such entries it would be forwarded with its private source. While we run, nothing that is marked is forwarded.
    text += f"add chain inet {nat} forward {{ type filter hook forward priority filter; policy accept; }}\n"
    text += f"add rule inet {nat} forward ct mark {want.mark:#x} drop\n"
    return Step(("nft", "-f", "-"), text, (("nft", "delete", "table", "inet", nat),))


def replaced(step: Step) -> str:
    """The text of an nft step, for a table that may be there: it is laid anew, in the same transaction."""
    add = step.input.partition("\n")[0]
    return f"{add}\n{' '.join(step.undo[0][1:])}\n{step.input}"


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
    if want.beats:
        text += _alive(name, names)
        if want.exclude:
            text += f"add rule inet {name} forward iifname @alive {_ports_by_nftables(want)} accept\n"
    text += f"add rule inet {name} forward iifname {{ {names} }} meta l4proto {{ tcp, udp }} drop\n"
    if want.beats:
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


def beat(table: str, interfaces: Sequence[str]) -> str:
    """nftables: the set of a table holds on for another BEAT_TIMEOUT. Adding alone does not renew what is there."""
    names = ", ".join(f'"{interface}"' for interface in interfaces)
    words = f"element inet {table} alive {{ {names} }}\n"
    return f"add {words}delete {words}add {words}"


_ANY = {4: "0.0.0.0", 6: "::"}


def beat_files(want: Redirect) -> list[tuple[str, str]]:
    """iptables: the same, as what is to be written to which file. They are there as long as the rules are."""
    return [(f"/proc/net/xt_recent/{_recent(want, family)}", f"+{_ANY[family]}\n") for family, _ in want.listeners]


def _recent(want: Redirect, family: int) -> str:
    return f"lockgate{family}_{want.number}"


def _beaten(want: Redirect, family: int, not_: str = "") -> str:
    """The match for "beaten within BEAT_TIMEOUT". xt_recent knows addresses; under a mask of zeros there is just one,
    whose time `beat_files` sets.
    """
    name, mask = _recent(want, family), _ANY[family]
    return f"-m recent {not_}--rcheck --seconds {BEAT_TIMEOUT} --name {name} --mask {mask}"


@dataclass(frozen=True, slots=True)
class _Chain:
    """Of iptables: a chain of ours in a table, and the places from which it is jumped to."""

    table: str
    name: str
    rules: list[str]
    jumps: list[str]


BUILT_IN = ("raw", "mangle", "nat", "filter")
"""Tables of iptables that a plan may use."""


def iptables(want: Redirect, flavour: str = "") -> Plan:
    """By iptables. flavour: "", "-nft" or "-legacy". One iptables-restore for each family and kind of step."""
    steps, routing, closed = list(_policy_routing(want)), [], []
    chain = f"LOCKGATE_{want.number}"
    for family, address in want.listeners:
        program = f"ip{'6' if family == 6 else ''}tables{flavour}"
        taken = [f"PREROUTING -i {interface} -j " for interface in want.interfaces]
        rules = _excluded_by_iptables(want, family)
        if want.method == "tproxy":
            on = f" --on-ip {address}" if address else ""
            to = f"-j TPROXY --on-port {want.port}{on} --tproxy-mark {want.mark:#x}"  # drops where nobody listens
            # No tracking, in either direction: see _untracked(). An answer's source is somebody else's address.
            outwards = [f"OUTPUT -o {interface} -j {chain}_OUT" for interface in want.interfaces]
            chains = [
                _Chain(
                    "raw", f"{chain}_RAW", rules + _both("-j CT --notrack"), [f"{jump}{chain}_RAW" for jump in taken]
                ),
                _Chain("raw", f"{chain}_OUT", ["-m addrtype ! --src-type LOCAL -j CT --notrack"], outwards),
                _Chain("mangle", chain, rules + _both(to), [jump + chain for jump in taken]),
            ]
        else:
            rules += _both(f"-j CONNMARK --set-mark {want.mark:#x}") + _both(f"-j REDIRECT --to-ports {want.port}")
            chains = [_Chain("nat", chain, rules, [jump + chain for jump in taken])]
        steps.append(_restore(program, chains, f"/proc/net/xt_recent/{_recent(want, family)}" if want.beats else ""))
        if want.masquerade:
            drop = [f"-m connmark --mark {want.mark:#x} -j DROP"]  # why: see _masquerade_by_nftables()
            out = [f"POSTROUTING -o {want.masquerade} -j {chain}_NAT"]
            chains = [
                _Chain("nat", f"{chain}_NAT", ["-j MASQUERADE"], out),
                _Chain("filter", f"{chain}_GAP", drop, [f"FORWARD -j {chain}_GAP"]),
            ]
            routing.append(_restore(program, chains))
        if want.closed:
            jumps = [f"FORWARD -i {interface} -j {chain}_SHUT" for interface in want.interfaces]
            closed.append(_restore(program, [_Chain("filter", f"{chain}_SHUT", _shut(want, family), jumps)]))
    return Plan(tuple(steps), tuple(routing), tuple(closed))


def _both(rule: str) -> list[str]:
    return [f"-p {protocol} {rule}" for protocol in ("tcp", "udp")]


def _excluded_by_iptables(want: Redirect, family: int) -> list[str]:
    rules = [f"{_beaten(want, family, '! ')} -j RETURN"] if want.beats else []
    rules += [f"-m addrtype --dst-type {kind} -j RETURN" for kind in ("LOCAL", "MULTICAST", "ANYCAST")]
    if family == 4:
        rules.append("-m addrtype --dst-type BROADCAST -j RETURN")
    rules.append(f"-d {_LINK_LOCAL[family]} -j RETURN")
    for first, last in want.exclude:
        rules += _both(f"--dport {first}:{last} -j RETURN")
    return rules


def _shut(want: Redirect, family: int) -> list[str]:
    """As _closed_by_nftables()."""
    if not want.beats:
        return ["-j DROP"]
    rules = []
    for first, last in want.exclude:
        rules += _both(f"--dport {first}:{last} {_beaten(want, family)} -j RETURN")
    return [*rules, *_both("-j DROP"), f"{_beaten(want, family, '! ')} -j DROP"]


def _restore(program: str, chains: list[_Chain], forget: str = "") -> Step:
    """forget: the heartbeat's file. Emptied first when it is undone, so that all chains let go at once."""
    text = ""
    undo: list[tuple[str, ...]] = [("sh", "-c", f"echo / >{forget}")] if forget else []
    for table in sorted({chain.table for chain in chains}, key=BUILT_IN.index):
        mine = [chain for chain in chains if chain.table == table]
        text += f"*{table}\n" + "".join(f":{chain.name} - [0:0]\n" for chain in mine)
        for chain in mine:
            text += "".join(f"-A {chain.name} {rule}\n" for rule in chain.rules)
        text += "".join(f"-I {jump}\n" for chain in mine for jump in chain.jumps) + "COMMIT\n"
        base = (program, "-w", "-t", table)
        undo += [(*base, "-D", *jump.split()) for chain in mine for jump in chain.jumps]
        undo += [(*base, verb, chain.name) for chain in mine for verb in ("-F", "-X")]
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
