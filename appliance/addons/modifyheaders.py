"""Sets, replaces and removes header fields of requests and responses."""

from __future__ import annotations

import logging
from typing import NamedTuple

from appliance import ctx
from appliance.addons.filters import Replacement, insist, parse_spec, untouched
from appliance.addons.switch import Switch
from appliance.exceptions import OptionsError
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import Headers, HTTPFlow, Message
from appliance.log import RateLimited

_told = RateLimited(logging.getLogger(__name__), per_minute=1)


class Rule(NamedTuple):
    filter: FlowFilter
    field: bytes
    value: Replacement


def parse_rule(text: str) -> Rule:
    """``[/FILTER]/NAME/[@]VALUE``. Raises OptionsError."""
    spec = parse_spec("modify_headers", text)
    name = spec.subject.encode("utf-8", "surrogateescape")
    if not name:
        raise OptionsError(f"modify_headers: {text!r} names no header field")
    return Rule(spec.filter, name, Replacement("modify_headers", spec.replacement))


class ModifyHeaders(Switch):
    """On while there is something in the option `modify_headers`."""

    name = "modifyheaders"

    def configure(self, updated: frozenset[str]) -> None:
        if "modify_headers" in updated:
            rules = tuple(map(parse_rule, ctx.options.modify_headers))
            self.use(Fields(rules) if rules else None)


class Fields:
    """All matching rules first remove their fields, then those with a value add it: several may add to one field.

    Rules whose filter looks into the body act once it is there.
    """

    name = "modifyheaders messages"

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._early = tuple(rule for rule in rules if rule.filter.heads)
        self._late = tuple(rule for rule in rules if not rule.filter.heads)

    def requestheaders(self, flow: HTTPFlow) -> None:
        if flow.response is None and untouched(flow):
            self._apply(self._early, flow, flow.request)
            if self._late:
                insist(flow.request)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        if self._late and flow.response is None and untouched(flow):
            self._apply(self._late, flow, flow.request)

    def responseheaders(self, flow: HTTPFlow) -> None:
        if flow.response is not None and untouched(flow):
            self._apply(self._early, flow, flow.response)
            if self._late:
                insist(flow.response)

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
        if self._late and flow.response is not None and untouched(flow):
            self._apply(self._late, flow, flow.response)

    def _apply(self, rules: tuple[Rule, ...], flow: HTTPFlow, message: Message) -> None:
        matching = [rule for rule in rules if rule.filter(flow)]  # all of them on the flow as it came
        values = []
        for rule in matching:
            try:
                values.append((rule.field, rule.value.read()))
            except OSError as error:
                _told.log(logging.WARNING, rule.value.path, "modify_headers: %s: %s", rule.value.path, error)
        for field, _ in values:
            message.headers.set_all(field, ())
        if values:
            message.headers = Headers((*message.headers.fields, *(pair for pair in values if pair[1])))
