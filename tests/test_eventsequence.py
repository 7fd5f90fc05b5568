from __future__ import annotations

from typing import Any

import pytest

from appliance import eventsequence
from appliance.test import tflow


@pytest.mark.parametrize(
    "flow, events",
    [
        (tflow.tflow(), "requestheaders request"),
        (tflow.tflow(resp=True), "requestheaders request responseheaders response"),
        (tflow.tflow(err=True), "requestheaders request error"),
        (tflow.tflow(resp=True, err=True), "requestheaders request responseheaders response error"),
        (
            tflow.twebsocketflow(err=True),
            "requestheaders request responseheaders response websocket_start websocket_message websocket_message "
            "websocket_message websocket_end",
        ),
        (tflow.ttcpflow(), "tcp_start tcp_message tcp_message tcp_end"),
        (tflow.ttcpflow(err=True, messages=False), "tcp_start tcp_error"),
        (tflow.tudpflow(), "udp_start udp_message udp_message udp_end"),
        (tflow.tudpflow(err=True), "udp_start udp_message udp_message udp_error"),
        (tflow.tdnsflow(), "dns_request"),
        (tflow.tdnsflow(resp=True), "dns_request dns_response"),
        (tflow.tdnsflow(err=True), "dns_request dns_error"),
    ],
)
def test_events(flow: Any, events: str) -> None:
    assert [(event, one) for event, one in eventsequence.iterate(flow)] == [(e, flow) for e in events.split()]


def test_messages_grow() -> None:
    flow = tflow.ttcpflow()
    counts = {event: len(flow.messages) for event, _ in eventsequence.iterate(flow)}
    assert counts == {"tcp_start": 0, "tcp_message": 2, "tcp_end": 2}
    steps = eventsequence.iterate(flow)
    next(steps)
    next(steps)
    assert len(flow.messages) == 1
    steps.close()  # type: ignore[attr-defined]
    assert len(flow.messages) == 2  # whoever stops half-way leaves the flow whole


def test_unknown_kinds() -> None:
    with pytest.raises(TypeError, match="dummy"):
        list(eventsequence.iterate(tflow.tdummyflow()))
