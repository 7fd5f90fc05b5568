"""Replaces what matches a regular expression in the bodies of requests and responses."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

from appliance import ctx
from appliance.addons.filters import Replacement, insist, parse_spec, unescaped, untouched
from appliance.addons.switch import Switch
from appliance.exceptions import OptionsError
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow, Message
from appliance.log import RateLimited

_told = RateLimited(logging.getLogger(__name__), per_minute=1)


class Rule(NamedTuple):
    filter: FlowFilter
    pattern: re.Pattern[bytes]
    value: Replacement


def parse_rule(text: str) -> Rule:
    r"""``[/FILTER]/REGEX/[@]REPLACEMENT``; one that is no file may name groups (``\1``). Raises OptionsError."""
    spec = parse_spec("modify_body", text)
    value = Replacement("modify_body", spec.replacement)
    try:
        pattern = re.compile(unescaped(spec.subject), re.DOTALL)
        if value.path is None:
            re.sub(pattern, value.read(), b"")
    except (re.error, IndexError) as error:
        raise OptionsError(f"modify_body: {text!r}: {error}") from None
    return Rule(spec.filter, pattern, value)


class ModifyBody(Switch):
    """On while there is something in the option `modify_body`."""

    name = "modifybody"

    def configure(self, updated: frozenset[str]) -> None:
        if "modify_body" in updated:
            rules = tuple(map(parse_rule, ctx.options.modify_body))
            self.use(Bodies(rules) if rules else None)


class Bodies:
    """Bodies are held only where a rule may apply: the others stream as if this were not here."""

    name = "modifybody messages"

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules

    def requestheaders(self, flow: HTTPFlow) -> None:
        if flow.response is None and untouched(flow):
            self._hold(flow, flow.request)

    def responseheaders(self, flow: HTTPFlow) -> None:
        if flow.response is not None and untouched(flow):
            self._hold(flow, flow.response)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        if flow.response is None and untouched(flow):
            self._apply(flow, flow.request)

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
        if flow.response is not None and untouched(flow):
            self._apply(flow, flow.response)

    def _hold(self, flow: HTTPFlow, message: Message) -> None:
        if any(not rule.filter.heads or rule.filter(flow) for rule in self._rules):
            insist(message)

    def _apply(self, flow: HTTPFlow, message: Message) -> None:
        for rule in self._rules:
            if not rule.filter(flow):
                continue
            if message.raw_content is None:
                _told.log(logging.WARNING, rule.pattern, "modify_body: %s: the body streamed past, nothing is replaced",
                          flow.request.pretty_url)  # fmt: skip
                return
            content = message.get_content(strict=False)
            if not content:
                return
            try:
                value = rule.value.read()
            except OSError as error:
                _told.log(logging.WARNING, rule.value.path, "modify_body: %s: %s", rule.value.path, error)
                continue
            changed = rule.pattern.sub(value if rule.value.path is None else lambda _, to=value: to, content)
            if changed != content:
                message.content = changed
