"""Sends requests elsewhere: what matches in the URL is replaced, and the request follows."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple
from weakref import WeakSet

from appliance import ctx
from appliance.addons.filters import insist, parse_spec, regex, untouched, will_stream
from appliance.addons.switch import Switch
from appliance.exceptions import OptionsError
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow
from appliance.log import RateLimited

_told = RateLimited(logging.getLogger(__name__), per_minute=1)


class Rule(NamedTuple):
    filter: FlowFilter
    pattern: re.Pattern[str]
    replacement: str


def parse_rule(text: str) -> Rule:
    """``[/FILTER]/URL-REGEX/REPLACEMENT``. Raises OptionsError."""
    spec = parse_spec("map_remote", text)
    pattern = regex("map_remote", spec.subject)
    try:
        pattern.sub(spec.replacement, "")
    except (re.error, IndexError) as error:
        raise OptionsError(f"map_remote: {spec.replacement!r}: {error}") from None
    return Rule(spec.filter, pattern, spec.replacement)


class MapRemote(Switch):
    """On while there is something in the option `map_remote`."""

    name = "mapremote"

    def configure(self, updated: frozenset[str]) -> None:
        if "map_remote" in updated:
            rules = tuple(map(parse_rule, ctx.options.map_remote))
            self.use(Elsewhere(rules) if rules else None)


class Elsewhere:
    """Acts in `request`, after scripts; where the body streams that would be too late, so then on the head alone."""

    name = "mapremote requests"

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._done: WeakSet[HTTPFlow] = WeakSet()  # by their heads; once is enough, for what was replaced may match
        self._needs_body = any(rule.filter.tree.needs_body for rule in rules)

    def requestheaders(self, flow: HTTPFlow) -> None:
        if self._needs_body:
            insist(flow.request)
        if will_stream(flow):
            self._done.add(flow)
            self._apply(flow)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        if flow not in self._done:
            self._apply(flow)

    def _apply(self, flow: HTTPFlow) -> None:
        if flow.response is not None or not untouched(flow):
            return
        for rule in self._rules:
            if rule.filter(flow):
                before = flow.request.pretty_url
                after = rule.pattern.sub(rule.replacement, before)
                if after != before:
                    try:
                        flow.request.url = after
                    except ValueError as error:
                        _told.log(logging.WARNING, rule.replacement, "map_remote: %s", error)
