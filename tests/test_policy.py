"""ignore_hosts and allow_hosts."""

from __future__ import annotations

import pytest

from appliance.policy import Candidate, HostPolicy

ADDRESS: Candidate = ("192.0.2.1:443", "accept")
NAME: Candidate = ("shop.example:443", "hello")


@pytest.mark.parametrize(
    ("ignore", "allow", "candidates", "complete", "passes"),
    [
        ([], [], [ADDRESS], True, False),
        ([r"192\.0\.2\.1"], [], [ADDRESS], False, True),
        (["shop"], [], [ADDRESS], True, False),
        (["SHOP"], [], [ADDRESS, NAME], False, True),
        ([r"shop\.example:443$"], [], [ADDRESS, NAME], True, True),
        ([r"^example"], [], [ADDRESS, NAME], True, False),
        ([], ["shop"], [ADDRESS], False, False),
        ([], ["shop"], [ADDRESS], True, True),
        ([], ["shop"], [ADDRESS, NAME], True, False),
        (["443"], ["shop"], [ADDRESS, NAME], True, True),
        (["other"], ["shop"], [ADDRESS, NAME], True, False),
        ([".*"], [], [], True, False),
        ([], ["shop"], [], True, False),
        ([".*"], [], [ADDRESS], False, True),
    ],
)
def test_rules(ignore: list[str], allow: list[str], candidates: list[Candidate], complete: bool, passes: bool) -> None:
    verdict = HostPolicy(ignore, allow).decide(candidates, complete)
    assert (verdict is not None) is passes
    if verdict:
        assert verdict.action == "pass"


def test_the_verdict_says_what_and_why() -> None:
    verdict = HostPolicy(["shop"], []).decide([ADDRESS, NAME], True)
    assert verdict is not None
    assert verdict.at == "hello"
    assert verdict.rule == "ignore_hosts shop"
    assert verdict.reason == "shop.example:443 matches ignore_hosts"
    verdict = HostPolicy([], ["bank"]).decide([ADDRESS, NAME], True)
    assert verdict is not None
    assert verdict.rule == "allow_hosts"
    assert "shop.example:443 is not in allow_hosts" in verdict.reason


def test_active() -> None:
    assert not HostPolicy([], []).active
    assert HostPolicy(["a"], []).active
    assert HostPolicy([], ["a"]).active
