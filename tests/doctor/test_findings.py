"""What the doctor makes of what it is shown: pure functions, and the report."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.doctor import checks, firewalls, report, store, tried
from appliance.doctor.finding import Finding, Level, Subject, fault, note, ok, warning
from appliance.doctor.firewalls import Obstacle
from appliance.store.recovery import open_index
from tests import flowkit
from tests.store.storekit import fill

JSON = st.recursive(
    st.sampled_from([None, True, 1, "input", "forward", "drop", "inet"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["nftables", "chain", "rule", "expr", "hook", "policy", "name", "left", "match"]), inner
        )
    ),
    max_leaves=20,
)


def chain(hook: str, policy: str = "accept", table: str = "t", name: str = "c") -> dict[str, Any]:
    return {"chain": {"family": "inet", "table": table, "name": name, "hook": hook, "policy": policy}}


def rule(*expression: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "t", "chain": "c", "expr": list(expression)}}


def state(operator: str, states: object) -> dict[str, Any]:
    return {"match": {"op": operator, "left": {"ct": {"key": "state"}}, "right": states}}


UNTRACKED = "if it is not tracked, as what TPROXY takes"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([chain("forward", "drop")], [("forward", "by policy")]),
        ([chain("input"), rule({"counter": None}, {"reject": None})], [("input", "by a rule for all the rest")]),
        ([chain("input"), rule({"match": {}}, {"drop": None})], []),
        ([chain("output", "drop"), chain("prerouting", "drop")], [("output", "by policy")]),
        ([chain("input"), rule(state("in", ["invalid", "untracked"]), {"drop": None})], [("input", UNTRACKED)]),
        ([chain("input"), rule(state("!=", "new"), {"counter": None}, {"drop": None})], [("input", UNTRACKED)]),
        ([chain("input"), rule(state("in", "invalid"), {"drop": None})], []),
        ([chain("input"), rule(state("!=", "new"), {"match": {}}, {"drop": None})], []),
        ([chain("forward"), rule(state("in", "untracked"), {"drop": None})], []),
        ([chain("input", "drop", table="lockgate_17")], []),
    ],
)
def test_chains_that_drop(entries: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    found = firewalls.obstacles({"nftables": entries})
    assert [(each.hook, each.how) for each in found] == expected


@given(st.dictionaries(st.just("nftables"), JSON))
def test_a_ruleset_that_is_not_as_expected_is_passed_over(ruleset: dict[str, Any]) -> None:
    firewalls.obstacles(ruleset)


@given(st.text(alphabet="-PAN INPUTFORWARDjDOP\n"))
def test_any_output_of_iptables(text: str) -> None:
    firewalls.legacy_obstacles("iptables-legacy", text)


def test_docker_and_ufw_are_known_by_their_chains() -> None:
    saved = "-P INPUT DROP\n-P FORWARD DROP\n-N DOCKER-USER\n-N ufw-before-input\n-A FORWARD -j DOCKER-USER\n"
    to_us, through = firewalls.legacy_obstacles("iptables-legacy", saved)
    assert (to_us.owner, through.owner) == ("ufw", "docker")
    assert firewalls.remedy(through, ("lan0",)) == "iptables -I DOCKER-USER -i lan0 -j ACCEPT"
    assert firewalls.remedy(to_us, ("lan0",)) == "ufw allow in on lan0"
    plain = Obstacle("iptables-legacy filter INPUT", "input", "by policy", "")
    assert firewalls.remedy(plain, ("lan0",)) == "iptables-legacy -I INPUT -i lan0 -j ACCEPT"


def test_rules_that_accept_by_connection_state_are_no_help() -> None:
    accepts = rule(state("in", ["established", "related"]), {"accept": None})
    looks_up = rule({"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": []}}})
    for entries in ([chain("input", "drop"), accepts], [chain("output", "drop"), looks_up]):
        assert [each.by_state for each in firewalls.obstacles({"nftables": entries})] == [True]
    assert not firewalls.obstacles({"nftables": [chain("input", "drop")]})[0].by_state
    saved = "-P OUTPUT DROP\n-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"
    (leaving,) = firewalls.legacy_obstacles("iptables-legacy", saved)
    assert leaving.by_state
    assert firewalls.remedy(leaving, ("lan0",)) == "iptables-legacy -I OUTPUT -o lan0 -j ACCEPT"


def cells(error: str, **only: str) -> list[dict[str, Any]]:
    return [
        {"tool": "nftables", "method": "tproxy", "protocol": protocol, "family": family,
         "error": error if only.get("protocol", protocol) == protocol else ""}
        for protocol in ("tcp", "udp") for family in (4, 6)
    ]  # fmt: skip


def test_a_combination_that_works_in_part_says_which_part() -> None:
    (found,) = tried.findings({"combinations": cells("no answer", protocol="udp")})
    assert found.level == Level.WARNING
    assert "UDP over IPv4 and UDP over IPv6: no answer; works for TCP over IPv4 and TCP over IPv6" in found.seen


def test_nothing_that_works_is_a_fault() -> None:
    found = {finding.check: finding.level for finding in tried.findings({"combinations": cells("Not supported")})}
    assert found["redirect"] == Level.FAULT


def test_a_missing_feature_has_its_error_and_a_remedy() -> None:
    (found,) = tried.findings({"features": {"nft_tproxy": "No such file or directory"}})
    assert found.level == Level.WARNING
    assert "No such file or directory" in found.seen
    assert found.remedy


def test_what_could_not_be_tried_is_said() -> None:
    (found,) = tried.findings({"error": "unshare: Operation not permitted"})
    assert "unshare: Operation not permitted" in found.seen
    assert "sudo" in found.remedy


FOUND = [ok("a", "all well"), note("b", "noted", "because"), fault("c", "broken", "so", "mend it"),
         warning("d", "odd", "so", "look")]  # fmt: skip


def test_faults_come_first_and_what_is_well_is_folded() -> None:
    lines = report.as_text(FOUND).splitlines()
    assert lines[0] == "fault    broken"
    assert lines[2].split() == ["remedy", "mend", "it"]
    assert not any("all well" in line for line in lines)
    assert "ok       1 checks (-v shows them)" in lines
    assert lines[-1] == "Transparent interception would not work here as asked: 1 fault, 1 warning, 1 note."
    assert "ok       all well" in report.as_text(FOUND, verbose=True)


def test_json_and_exit_code() -> None:
    document = json.loads(report.as_json(FOUND))
    assert document["ok"] is False
    assert document["findings"][2] == {
        "check": "c",
        "level": "fault",
        "seen": "broken",
        "why": "so",
        "remedy": "mend it",
    }
    assert (report.exit_code(FOUND), report.exit_code(FOUND[:2])) == (1, 0)


def test_a_check_that_fails_keeps_none_of_the_others_away() -> None:
    def broken(subject: Subject) -> list[Finding]:
        raise ZeroDivisionError("oh")

    def sound(subject: Subject) -> list[Finding]:
        return [ok("x", "well")]

    found = checks.examine(Subject(), [broken, sound])  # type: ignore[list-item]
    assert [finding.level for finding in found] == [Level.NOTE, Level.OK]
    assert "ZeroDivisionError: oh" in found[0].seen


def test_whatever_is_bad_names_its_remedy() -> None:
    """On this machine, as it is, without the tries."""
    for finding in checks.examine(Subject(lan=("nosuch0",)), checks.CHECKS):
        assert finding.seen
        if finding.level >= Level.WARNING:
            assert finding.why and finding.remedy, finding


def test_the_flow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "flows"

    def found(**more: Any) -> dict[str, Finding]:
        return {each.check: each for each in store.store(Subject(store=folder, **more))}

    assert next(store.store(Subject())).level is Level.NOTE
    assert "no flows" in found()["store"].seen
    fill(folder, [flowkit.http()] * 3)
    assert found()["store"].seen.startswith("3 flows") and len(found()) == 1
    (folder / "damaged").mkdir()
    (folder / "damaged" / "0000000001.seg.20260101T000000").touch()
    folder.chmod(0o755)
    with closing(open_index(folder)) as db:
        db.execute("UPDATE segment SET dropped = 17")
    now = found(store_bytes=1 << 60)
    assert {name for name, each in now.items() if each.level is Level.WARNING} == {
        "store.mode", "store.dropped", "store.damaged", "store.room"
    }  # fmt: skip
    stuck = {"fault": "No space left on device", "dropped": 5}
    assert "No space left on device; 5 are lost so far" in found(recording=stuck)["store.fault"].seen
    monkeypatch.setattr(store, "LITTLE", 1 << 60)
    assert "are left on the disk of" in found()["store.full"].seen
    assert now["store.dropped"].seen == "17 flows could not be recorded"
    (folder / "index.db").write_bytes(b"rubbish" * 100)
    assert found()["store"].level is Level.WARNING
