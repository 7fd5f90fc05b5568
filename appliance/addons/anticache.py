"""Has servers send whole answers: what could make them say 304 is taken out of requests."""

from __future__ import annotations

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.http import HTTPFlow


class AntiCache(Switch):
    """On while the option `anticache` is."""

    name = "anticache"

    def configure(self, updated: frozenset[str]) -> None:
        if "anticache" in updated:
            self.use(WithoutConditions() if ctx.options.anticache else None)


class WithoutConditions:
    name = "anticache requests"

    def requestheaders(self, flow: HTTPFlow) -> None:
        flow.request.anticache()
