"""The flows that add-on authors' tests are given: each survives a copy and a round trip of its state."""

from __future__ import annotations

from appliance.contentviews import prettify_message
from appliance.test import tflow


def test_round_trips() -> None:
    for flow in [*tflow.tflows(), tflow.tdnsflow(resp=True)]:
        again = type(flow).from_state(flow.get_state())
        assert again.get_state() == flow.get_state()
        assert flow.copy().id != flow.id and flow.live and not flow.copy().live


def test_dns() -> None:
    flow = tflow.tdnsflow(resp=True)
    assert flow.request.question.name == "dns.google"
    assert "8.8.8.8" in prettify_message(flow.response, flow).text
