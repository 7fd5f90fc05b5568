"""Has servers send bodies without compression."""

from __future__ import annotations

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.http import HTTPFlow


class AntiComp(Switch):
    """On while the option `anticomp` is."""

    name = "anticomp"

    def configure(self, updated: frozenset[str]) -> None:
        if "anticomp" in updated:
            self.use(WithoutCompression() if ctx.options.anticomp else None)


class WithoutCompression:
    name = "anticomp requests"

    def requestheaders(self, flow: HTTPFlow) -> None:
        flow.request.anticomp()
