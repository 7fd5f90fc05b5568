"""Other firewalls: chains that drop what arrives, is forwarded or leaves, and the own command of whoever laid them.

The rules themselves are not run through: a chain that drops by policy, or by a rule without conditions, is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.doctor import system
from appliance.doctor.finding import Finding, Subject, note, ok, warning

OWN = "lockgate"
"""Tables whose names begin so are the gateway's."""
_DROPS = ("drop", "reject")
_WHY = {
    "input": "what is redirected to the gateway arrives as input, so it may be dropped there",
    "forward": "what is not intercepted may be dropped instead of forwarded",
    "output": "the gateway's answers to its clients leave as output, so they may be dropped there",
}
_WHAT = {"input": "what arrives", "forward": "what is forwarded", "output": "what leaves"}
_UNTRACKED = "; a rule that accepts by connection state (ct state) is no help: what TPROXY takes is not tracked"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A chain that drops. where: `inet filter input`; hook: input, forward, output; how: "by policy", …

    by_state: beside it there are rules that look at the state of connections.
    """

    where: str
    hook: str
    how: str
    owner: str
    by_state: bool = False


def looked_at(subject: Subject) -> Iterator[Finding]:
    """nftables (iptables-nft included) and iptables-legacy."""
    if not system.capable(system.CAP_NET_ADMIN):
        yield note(
            "firewall", "not looked at: the rules can only be read with CAP_NET_ADMIN", "", "sudo lockgate doctor"
        )
        return
    obstacles = [*_nftables(), *_legacy()]
    for obstacle in obstacles:
        of = f" (of {obstacle.owner})" if obstacle.owner else ""
        yield warning(
            f"firewall.{obstacle.hook}",
            f"{obstacle.where}{of} drops {_WHAT[obstacle.hook]} {obstacle.how}",
            _WHY[obstacle.hook] + (_UNTRACKED if obstacle.by_state and obstacle.hook != "forward" else ""),
            remedy(obstacle, subject.lan or ("LAN",)),
        )
    if not obstacles:
        yield ok("firewall", "no other firewall drops by default")


def remedy(obstacle: Obstacle, interfaces: tuple[str, ...]) -> str:
    """The command of whoever owns the chain that lets the interfaces' traffic through."""
    forwarded, leaves = obstacle.hook == "forward", obstacle.hook == "output"
    if obstacle.owner == "firewalld":
        return "; ".join(f"firewall-cmd --zone=trusted --change-interface={name}" for name in interfaces)
    if obstacle.owner == "ufw":
        return "; ".join(
            f"ufw {'route ' if forwarded else ''}allow {'out' if leaves else 'in'} on {name}" for name in interfaces
        )
    if obstacle.owner == "docker" and forwarded:
        return "; ".join(f"iptables -I DOCKER-USER -i {name} -j ACCEPT" for name in interfaces)
    program, _, rest = obstacle.where.partition(" ")
    if program.startswith("ip") and "tables" in program:
        chain = rest.split()[-1]
        return "; ".join(f"{program} -I {chain} -{'o' if leaves else 'i'} {name} -j ACCEPT" for name in interfaces)
    return "; ".join(
        f"nft insert rule {obstacle.where} {'o' if leaves else 'i'}ifname {name} accept" for name in interfaces
    )


def _nftables() -> list[Obstacle]:
    try:
        import nftables

        library = nftables.Nftables()
        library.set_json_output(True)
        code, output, _ = library.cmd("list ruleset")
        ruleset = json.loads(output) if not code and output else {}
    except (ImportError, OSError, AttributeError, ValueError):
        code, output = system.run("nft", "-j", "list", "ruleset")
        try:
            ruleset = {} if code else json.loads(output)
        except ValueError:
            return []
    return obstacles(ruleset)


def obstacles(ruleset: Mapping[str, Any]) -> list[Obstacle]:
    """Out of `nft -j list ruleset`. Never raises: what is not as expected is passed over."""
    entries = ruleset.get("nftables", ())
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    chains = [entry["chain"] for entry in entries if isinstance(entry.get("chain"), dict)]
    rules: dict[tuple[str, ...], list[Any]] = {}
    for entry in entries:
        rule = entry.get("rule")
        if isinstance(rule, dict):
            rules.setdefault(_key(rule, "chain"), []).append(rule.get("expr"))
    names = {str(chain.get("name")) for chain in chains}
    found = []
    for chain in chains:
        family, table, name = key = _key(chain, "name")
        hook = str(chain.get("hook"))
        if hook not in _WHY or table.startswith(OWN):
            continue
        how, of_table = "", [rule for where, found in rules.items() if where[:2] == key[:2] for rule in found]
        if any(_unconditional(expression) for expression in rules.get(key, ())):
            how = "by a rule for all the rest"
        elif hook != "forward" and any(_drops_untracked(expression) for expression in rules.get(key, ())):
            how = "if it is not tracked, as what TPROXY takes"
        elif chain.get("policy") == "drop":
            how = "by policy"
        if how:
            by_state = any(_state(rule) for rule in of_table)
            found.append(Obstacle(f"{family} {table} {name}", hook, how, _owner(table, hook, names), by_state))
    return found


def _key(entry: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    return str(entry.get("family")), str(entry.get("table")), str(entry.get(name))


def _unconditional(expression: Any) -> bool:
    """A rule that drops everything that comes to it."""
    if not isinstance(expression, list) or not all(isinstance(part, dict) for part in expression):
        return False
    kinds = [kind for part in expression for kind in part]
    return any(kind in _DROPS for kind in kinds) and all(kind in (*_DROPS, "counter", "log") for kind in kinds)


def _state(expression: Any) -> tuple[str, str] | None:
    """Of a rule that looks at the state of connections: the operator and the states as text."""
    for part in expression if isinstance(expression, list) else ():
        for words in part.values() if isinstance(part, dict) else ():
            if isinstance(words, dict) and {"ct": {"key": "state"}} in (words.get("left"), words.get("key")):
                return str(words.get("op")), str(words.get("right"))
    return None


def _drops_untracked(expression: Any) -> bool:
    """A rule that drops by the state of connections alone, those that are not tracked among them."""
    state = _state(expression)
    if state is None or not _unconditional([part for part in expression if "match" not in part]):
        return False
    matches = sum("match" in part for part in expression)
    return matches == 1 and ("untracked" in state[1]) == (state[0] != "!=")


def _owner(table: str, hook: str, chains: set[str]) -> str:
    if table == "firewalld":
        return "firewalld"
    if f"ufw-before-{hook}" in chains:
        return "ufw"
    if hook == "forward" and "DOCKER-USER" in chains:
        return "docker"
    return ""


def _legacy() -> list[Obstacle]:
    """Of iptables-legacy, where the kernel has its filter table loaded already: asking would load it."""
    found = []
    for six in ("", "6"):
        if "filter" not in (system.text(f"/proc/net/ip{six}_tables_names") or "").split():
            continue
        code, output = system.run(f"ip{six}tables-legacy", "-w", "2", "-S")
        found += legacy_obstacles(f"ip{six}tables-legacy", output) if not code else []
    return found


def legacy_obstacles(program: str, saved: str) -> list[Obstacle]:
    """Out of `iptables -S`."""
    lines = [line.split() for line in saved.splitlines()]
    chains = {words[1] for words in lines if len(words) > 1 and words[0] in ("-N", "-P")}
    found = []
    by_state = any("--ctstate" in words or "--state" in words for words in lines)
    for chain, hook in (("INPUT", "input"), ("FORWARD", "forward"), ("OUTPUT", "output")):
        how = "by policy" if ["-P", chain, "DROP"] in lines else ""
        if any(words[:3] == ["-A", chain, "-j"] and words[3:4] in (["DROP"], ["REJECT"]) for words in lines):
            how = "by a rule for all the rest"
        if how:
            found.append(Obstacle(f"{program} filter {chain}", hook, how, _owner("", hook, chains), by_state))
    return found
