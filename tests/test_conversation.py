from __future__ import annotations

from typing import Any

import pytest

from appliance.connection import Client, Server
from appliance.conversation import ContentMessage
from appliance.tcp import TCPFlow, TCPMessage
from appliance.udp import UDPFlow, UDPMessage

KINDS = [("tcp", TCPFlow, TCPMessage), ("udp", UDPFlow, UDPMessage)]


@pytest.mark.parametrize(("name", "kind", "message"), KINDS)
def test_flow(name: str, kind: Any, message: Any) -> None:
    flow = kind(Client(peername=None, sockname=None), Server(address=("a", 1)))
    assert flow.type == name
    assert flow.messages == []
    flow.messages.append(message(True, b"ping", 1.0))
    flow.messages.append(message(False, b"pong"))
    assert repr(flow) == f"<{kind.__name__} 2 messages>"
    assert flow.timestamp_start == flow.timestamp_created
    state = flow.get_state()
    again = kind.from_state(state)
    assert again.get_state() == state
    assert all(type(m) is message for m in again.messages)
    flow.backup()
    flow.messages[0].content = b"changed"
    assert flow.modified()
    assert again.messages[0].content == b"ping"


def test_message() -> None:
    m = TCPMessage(True, b"x")
    assert m.timestamp > 1e9
    assert repr(m) == "-> b'x'"
    assert repr(UDPMessage(False, b"y")) == "<- b'y'"
    assert isinstance(m, ContentMessage)
