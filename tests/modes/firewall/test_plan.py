"""The plan as text: what is excluded comes first, and what is done can be undone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modes.firewall import others
from modes.firewall.plan import MARK, TABLE, Method, Plan, Redirect, iptables, nftables, ports, replaced

BOTH = ((4, ""), (6, ""))


def plan(backend: str, method: Method, masquerade: str = "") -> Plan:
    want = Redirect(3, ("lan0", "lan1"), 8081, BOTH, method, masquerade)
    return nftables(want) if backend == "nftables" else iptables(want, backend.removeprefix("iptables"))


def test_nftables_text() -> None:
    step = plan("nftables", "tproxy").interception[-1]
    assert step.input == (
        "add table inet lockgate_3 { flags owner; }\n"
        "add set inet lockgate_3 alive { type ifname; flags timeout; timeout 2s; }\n"
        'add element inet lockgate_3 alive { "lan0", "lan1" }\n'
        "add chain inet lockgate_3 prerouting { type filter hook prerouting priority mangle; policy accept; }\n"
        "add rule inet lockgate_3 prerouting iifname != @alive return\n"
        "add rule inet lockgate_3 prerouting fib daddr type { local, broadcast, multicast, anycast } return\n"
        "add rule inet lockgate_3 prerouting ip daddr 169.254.0.0/16 return\n"
        "add rule inet lockgate_3 prerouting ip6 daddr fe80::/10 return\n"
        "add rule inet lockgate_3 prerouting ip6 daddr ::ffff:0:0/96 drop\n"
        "add rule inet lockgate_3 prerouting meta nfproto ipv4 meta l4proto { tcp, udp } "
        "tproxy ip to :8081 meta mark set 0x6c670003 accept\n"
        "add rule inet lockgate_3 prerouting meta nfproto ipv6 meta l4proto { tcp, udp } "
        "tproxy ip6 to :8081 meta mark set 0x6c670003 accept\n"
        "add chain inet lockgate_3 untracked { type filter hook prerouting priority raw; policy accept; }\n"
        "add rule inet lockgate_3 untracked iifname != @alive return\n"
        "add rule inet lockgate_3 untracked fib daddr type { local, broadcast, multicast, anycast } return\n"
        "add rule inet lockgate_3 untracked ip daddr 169.254.0.0/16 return\n"
        "add rule inet lockgate_3 untracked ip6 daddr fe80::/10 return\n"
        "add rule inet lockgate_3 untracked meta nfproto ipv4 meta l4proto { tcp, udp } notrack\n"
        "add rule inet lockgate_3 untracked meta nfproto ipv6 meta l4proto { tcp, udp } notrack\n"
        "add chain inet lockgate_3 answers { type filter hook output priority raw; policy accept; }\n"
        'add rule inet lockgate_3 answers oifname { "lan0", "lan1" } socket transparent 1 notrack\n'
    )


def test_an_address_to_listen_on_is_in_the_rule() -> None:
    want = Redirect(1, ("lan0",), 8081, ((6, "fd00::1"),))
    assert "tproxy ip6 to [fd00::1]:8081" in nftables(want).interception[-1].input
    assert "--on-ip fd00::1" in iptables(want).interception[-1].input


@pytest.mark.parametrize("method", ["tproxy", "redirect"])
@pytest.mark.parametrize("backend", ["iptables", "iptables-nft", "iptables-legacy"])
def test_iptables_excludes_first(backend: str, method: Method) -> None:
    steps = [step for step in plan(backend, method).interception if "restore" in step.argv[0]]
    assert [step.argv[0] for step in steps] == [
        backend.replace("iptables", program) + "-restore" for program in ("iptables", "ip6tables")
    ]
    for step in steps:
        for chain in ("LOCKGATE_3", "LOCKGATE_3_RAW") if method == "tproxy" else ("LOCKGATE_3",):
            rules = [line for line in step.input.splitlines() if line.startswith(f"-A {chain} ")]
            returns = [line.endswith("RETURN") for line in rules]
            assert returns == sorted(returns, reverse=True)
            assert "-m recent ! --rcheck --seconds 2 --name lockgate" in rules[0]
            assert any("LOCAL" in line for line in rules)
            assert any("MULTICAST" in line for line in rules)
        assert "-p udp" in step.input


@pytest.mark.parametrize("method", ["tproxy", "redirect"])
@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_every_step_can_be_undone(backend: str, method: Method) -> None:
    made = plan(backend, method, "wan0")
    assert made.routing
    assert all(step.undo for step in (*made.interception, *made.routing))
    assert "wan0" in str(made)


def test_a_table_that_outlives_its_process_lets_nothing_past_for_that_long() -> None:
    lines = nftables(Redirect(3, ("lan0",), 8081, BOTH, owned=False, survives=True)).interception[-1].input.splitlines()
    assert lines[0] == "add table inet lockgate_3"
    for number, line in enumerate(lines):
        if " tproxy " in line:
            assert lines[number + 1] == f"{line.partition(' tproxy ')[0]} drop"
    assert "} drop" not in nftables(Redirect(3, ("lan0",), 8081, BOTH)).interception[-1].input


def test_for_laying_by_hand_nothing_has_to_beat() -> None:
    want = Redirect(3, ("lan0",), 8081, BOTH, owned=False, beats=False, closed=True)
    for plan in (nftables(want), iptables(want)):
        assert not any(word in str(plan) for word in ("alive", "owner", "recent"))


def test_replacing_is_one_text() -> None:
    step = plan("nftables", "tproxy", "wan0").routing[0]
    first, second, third = replaced(step).splitlines()[:3]
    assert (first, second, third) == (
        "add table inet lockgate_nat_3",
        "delete table inet lockgate_nat_3",
        "add table inet lockgate_nat_3",
    )


def test_redirect_needs_no_policy_routing() -> None:
    assert not [step for step in plan("nftables", "redirect").interception if step.argv[0] == "ip"]


def test_excluded_ports_stand_before_what_is_taken() -> None:
    want = Redirect(1, ("lan0",), 8081, BOTH, exclude=((22, 22), (5000, 5010)))
    text = nftables(want).interception[-1].input
    rule = "meta l4proto { tcp, udp } th dport { 22, 5000-5010 } return"
    assert 0 < text.index(rule) < text.index("tproxy")
    text = iptables(want).interception[-1].input
    for protocol in ("tcp", "udp"):
        assert 0 < text.index(f"-p {protocol} --dport 5000:5010 -j RETURN") < text.index("TPROXY")


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "5-4", "-1", "1-", "1-2-3", "²", "1 2", "9" * 5000])
def test_bad_ports(text: str) -> None:
    with pytest.raises(ValueError, match="is no port"):
        ports([text])


@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(1, 65535)), max_size=8))
def test_ports_are_joined_and_none_is_lost(pairs: list[tuple[int, int]]) -> None:
    ranges = [(min(pair), max(pair)) for pair in pairs]
    found = ports([str(first) if first == last else f"{first}-{last}" for first, last in ranges])
    assert all(last < first - 1 for (_, last), (first, _) in itertools.pairwise(found))  # nft refuses overlaps
    for port in {port for first, last in ranges for port in (first - 1, first, last, last + 1)}:
        assert any(a <= port <= b for a, b in found) == any(a <= port <= b for a, b in ranges)


@given(st.lists(st.text(max_size=12), max_size=3))
def test_any_text_is_ports_or_a_value_error(texts: list[str]) -> None:
    try:
        found = ports(texts)
    except ValueError:
        return
    assert all(1 <= first <= last <= 65535 for first, last in found)


def test_numbers_of_others() -> None:
    assert others.numbers([], []) == set()
    assert others.numbers(
        [{"fwmark": hex(MARK + 5)}, {"table": "main"}, {"table": str(TABLE + 7)}, 1], [TABLE + 6]
    ) == {5, 6, 7}
    assert 4 in (odd := others.numbers([{"fwmark": "0", "fwmask": "0x1"}], []))  # a rule for all even marks
    assert not {number for number in odd if number % 2}
    assert others.numbers([{"fwmark": "0x80000", "fwmask": "0xff0000"}, {"fwmark": "x"}], []) == set()  # Tailscale's
