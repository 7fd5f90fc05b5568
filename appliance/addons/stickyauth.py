"""Remembers the Authorization of each host and sets it on later requests that have none."""

from __future__ import annotations

from typing import Final

from appliance.addons.filters import insist, option_filter, will_stream
from appliance.addons.switch import Switch
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow

HOSTS: Final = 10_000


class StickyAuth(Switch):
    """On while the option `stickyauth` holds a filter."""

    name = "stickyauth"

    def configure(self, updated: frozenset[str]) -> None:
        if "stickyauth" in updated:
            flt = option_filter("stickyauth")
            self.use(Authorizations(flt) if flt else None)


class Authorizations:
    name = "stickyauth requests"

    def __init__(self, flt: FlowFilter) -> None:
        self.flt = flt
        self.hosts: dict[str, str] = {}

    def requestheaders(self, flow: HTTPFlow) -> None:
        if self.flt.tree.needs_body:
            insist(flow.request)
        if will_stream(flow):
            self._apply(flow)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        if not flow.request.stream:
            self._apply(flow)

    def _apply(self, flow: HTTPFlow) -> None:
        host, headers = flow.request.host, flow.request.headers
        if given := headers.get("authorization"):
            self.hosts.pop(host, None)
            self.hosts[host] = given
            if len(self.hosts) > HOSTS:
                del self.hosts[next(iter(self.hosts))]
        elif (kept := self.hosts.get(host)) and self.flt(flow):
            headers["authorization"] = kept
