"""Keeps HTTP/2 without TLS out, for those who want it by hand.

The engine never lets a client upgrade to h2c, and speaks HTTP/2 with prior knowledge on both sides itself, so nothing
passes it unseen: this is not in the chain.
"""

from __future__ import annotations

import logging

from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow
from appliance.log import RateLimited

_told = RateLimited(logging.getLogger(__name__), per_minute=6)


class DisableH2C:
    """Takes the wish to upgrade out of requests, and kills flows that came as HTTP/2 without TLS."""

    name = "disableh2c"

    def requestheaders(self, flow: HTTPFlow) -> None:
        self.process_flow(flow)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        self.process_flow(flow)

    def process_flow(self, flow: HTTPFlow) -> None:
        request = flow.request
        if request.headers.get("upgrade", "").lower() == "h2c":
            for name in ("upgrade", "connection", "http2-settings"):
                request.headers.pop(name, None)
        preface = request.raw_method == b"PRI" and request.raw_path == b"*"
        if (preface or (request.is_http2 and request.scheme == "http")) and flow.killable and not flow.is_replay:
            _told.log(logging.WARNING, "", "HTTP/2 without TLS is disabled, the flow is killed: %s", request)
            flow.kill()
