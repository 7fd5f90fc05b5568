"""Answers requests that match a filter with a status of its own, or with nothing at all."""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance import __version__, ctx, flowfilter
from appliance.addons.filters import insist, parse, untouched
from appliance.addons.switch import Switch
from appliance.exceptions import OptionsError
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow, Response

NO_RESPONSE: Final = 444
"""nginx's own status: the connection is closed without an answer."""


class Rule(NamedTuple):
    filter: flowfilter.FlowFilter
    status: int


def parse_rule(text: str) -> Rule:
    """``/FILTER/STATUS``; the first character is what separates. Raises OptionsError."""
    parts = text[1:].split(text[:1]) if text else []
    if len(parts) != 2:
        raise OptionsError(f"block_list: {text!r} should be /FILTER/STATUS, with any separator for /")
    if not parts[1].isdecimal() or not (100 <= int(parts[1]) <= 599):
        raise OptionsError(f"block_list: {parts[1]!r} is not a status: write 100 to 599 (444 = close, say nothing)")
    return Rule(parse("block_list", parts[0]), int(parts[1]))


class BlockList(Switch):
    """On while there is something in the option `block_list`."""

    name = "blocklist"

    def configure(self, updated: frozenset[str]) -> None:
        if "block_list" in updated:
            rules = tuple(map(parse_rule, ctx.options.block_list))
            self.use(Refusing(rules) if rules else None)


class Refusing:
    """Rules that need no body act before there is one: nothing of the request goes anywhere."""

    name = "blocklist requests"

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._early = tuple(rule for rule in rules if rule.filter.heads)
        self._late = tuple(rule for rule in rules if not rule.filter.heads)

    def requestheaders(self, flow: HTTPFlow) -> None:
        self._apply(self._early, flow)
        if self._late and flow.response is None:
            insist(flow.request)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        self._apply(self._late, flow)

    def _apply(self, rules: tuple[Rule, ...], flow: HTTPFlow) -> None:
        if flow.response is not None or flow.is_replay or not untouched(flow):
            return
        for rule in rules:
            if rule.filter(flow):
                flow.metadata["blocklisted"] = True
                if rule.status == NO_RESPONSE:
                    flow.kill()
                else:
                    flow.response = Response.make(rule.status, headers={"Server": f"lockgate {__version__}"})
                return
