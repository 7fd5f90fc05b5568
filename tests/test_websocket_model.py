"""The model of WebSocket messages, without a wire."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.test import tflow
from appliance.websocket import Opcode, WebSocketData, WebSocketMessage


def test_opcodes_have_wsprotos_names_and_numbers() -> None:
    assert {code.name: code.value for code in Opcode} == {
        "CONTINUATION": 0, "TEXT": 1, "BINARY": 2, "CLOSE": 8, "PING": 9, "PONG": 10,
    }  # fmt: skip
    message = WebSocketMessage(1, True, b"x")
    assert message.type == Opcode.TEXT and message.type is Opcode.TEXT and message.is_text


def test_text_and_bytes() -> None:
    message = WebSocketMessage(Opcode.TEXT, True, "grüß".encode())
    assert message.text == "grüß" and abs(message.timestamp - time.time()) < 5
    message.text = "gott"
    assert message.content == b"gott"
    assert repr(message) == "-> 'gott'"
    binary = WebSocketMessage(2, False, b"\xff", 3.0)
    assert not binary.is_text and binary.timestamp == 3.0 and repr(binary) == "<- b'\\xff'"
    with pytest.raises(AttributeError, match=r"use \.content"):
        _ = binary.text
    with pytest.raises(AttributeError, match=r"use \.content"):
        binary.text = "x"
    with pytest.raises(ValueError):
        WebSocketMessage(7, True, b"")


def test_dropping() -> None:
    message = WebSocketMessage(1, True, b"x")
    assert not message.dropped and not message.injected
    message.drop()
    assert message.dropped
    older = WebSocketMessage(1, True, b"x", injected=True)
    older.kill()
    assert older.dropped and older.injected


@given(st.text(), st.sampled_from(Opcode), st.booleans())
def test_message_state(text: str, kind: Opcode, flag: bool) -> None:
    message = WebSocketMessage(kind, flag, text.encode("utf-8", "surrogatepass"), 1.5, not flag, flag)
    again = WebSocketMessage.from_state(message.get_state())
    assert again.get_state() == message.get_state() and again.type is kind


def test_data() -> None:
    data = WebSocketData()
    assert (data.messages, data.close_code, data.closed_by_client, data.timestamp_end) == ([], None, None, None)
    full = tflow.twebsocket()
    assert repr(full) == "<WebSocketData 3 messages>"
    assert (full.close_code, full.close_reason, full.closed_by_client) == (1000, "Close Reason", False)
    again = WebSocketData.from_state(full.get_state())
    assert again.get_state() == full.get_state() and again.messages[1].text == "hello text"
    for bad in ({**full.get_state(), "more": 1}, {"messages": []}):
        with pytest.raises(ValueError, match="not WebSocket data"):
            WebSocketData.from_state(bad)


def test_in_a_flow() -> None:
    flow = tflow.twebsocketflow()
    flow.backup()
    assert flow.websocket is not None
    flow.websocket.messages[0].content = b"changed"
    assert flow.modified()
    flow.revert()
    assert flow.websocket.messages[0].content == b"hello binary"
    copy = flow.copy()
    assert copy.websocket is not flow.websocket and copy.websocket.get_state() == flow.websocket.get_state()
    assert tflow.twebsocketflow(messages=False).websocket.messages == []  # type: ignore[union-attr]
