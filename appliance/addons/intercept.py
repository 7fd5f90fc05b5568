"""Holds flows that match a filter after each of their hooks, until somebody resumes them."""

from __future__ import annotations

from appliance import ctx
from appliance.addons.filters import insist, option_filter
from appliance.addons.switch import Switch
from appliance.flow import Flow
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow


class Intercept(Switch):
    """On while the option `intercept` holds a filter and `intercept_active` is on; setting the first does both."""

    name = "intercept"

    def configure(self, updated: frozenset[str]) -> None:
        options = ctx.options
        if "intercept" in updated:
            flt = option_filter("intercept")
            if options.intercept_active != (flt is not None) and options.is_default("intercept_active"):
                options.update(intercept_active=True)  # comes back here
        if "intercept" in updated or "intercept_active" in updated:
            flt = option_filter("intercept")
            self.use(Holding(flt) if flt is not None and options.intercept_active else None)


class Holding:
    """Bodies are held where the filter matches, so that there is something to be edited."""

    name = "intercept flows"

    def __init__(self, flt: FlowFilter) -> None:
        self.flt = flt

    def _process(self, flow: Flow) -> None:
        if flow.live and not flow.is_replay and self.flt(flow):
            flow.intercept()

    def requestheaders(self, flow: HTTPFlow) -> None:
        if not self.flt.heads or self.flt(flow):
            insist(flow.request)

    def responseheaders(self, flow: HTTPFlow) -> None:
        if flow.response is not None and (not self.flt.heads or self.flt(flow)):
            insist(flow.response)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        self._process(flow)

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
        self._process(flow)

    def tcp_message(self, flow: Flow) -> None:
        self._process(flow)

    def udp_message(self, flow: Flow) -> None:
        self._process(flow)

    def dns_request(self, flow: Flow) -> None:
        self._process(flow)

    def dns_response(self, flow: Flow) -> None:
        self._process(flow)

    def websocket_message(self, flow: Flow) -> None:
        self._process(flow)
