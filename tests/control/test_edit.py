"""Editing a flow: what is said and nothing else, or nothing at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.control.edit import edit
from appliance.control.protocol import ControlError
from appliance.control.summary import content, details, summary
from appliance.flow import Flow
from appliance.http import HTTPFlow
from appliance.test import tflow
from tests import flowkit
from tests.control.kit import check
from tests.control.test_protocol import JSON


def flow(response: bool = True) -> HTTPFlow:
    made = tflow.tflow(resp=response)
    made.intercepted = True
    return made


def test_all_of_a_request() -> None:
    one = flow()
    request = one.request
    edit(one, {"request": {
        "base64": "AAH/", "set_headers": {"Header": None, "X-Lab": "ü"}, "port": 8443, "host": "other.test",
        "scheme": "https", "path": "/a?b", "method": "PATCH",
    }, "comment": "c", "marked": ":x:"})  # fmt: skip
    assert one.request is request  # the engine holds it too
    assert (request.method, request.url, request.content) == ("PATCH", "https://other.test:8443/a?b", b"\0\1\xff")
    assert request.headers["x-lab"] == "ü" and "header" not in request.headers
    assert request.headers["content-length"] == "3"
    assert (one.comment, one.marked) == ("c", ":x:")
    assert one.modified()
    one.revert()
    assert one.request.method == "GET"


def test_headers_as_a_whole_keep_odd_bytes() -> None:
    one = flow()
    one.request.headers.fields = ((b"X", b"\xff\xfe"),)
    fields = details(one)["request"]["headers"]
    edit(one, {"request": {"headers": [*fields, ["Y", "2"]]}})
    assert one.request.headers.fields == ((b"X", b"\xff\xfe"), (b"Y", b"2"))


def test_the_body_goes_through_the_content_coding() -> None:
    one = flow()
    assert one.response is not None
    one.response.headers["content-encoding"] = "gzip"
    edit(one, {"response": {"text": "plain"}})
    assert one.response.raw_content != b"plain" and one.response.content == b"plain"
    edit(one, {"response": {"text": "other", "set_headers": {"content-encoding": None}}})
    assert one.response.raw_content == b"other"


def test_a_response_of_ones_own() -> None:
    one = flow(response=False)
    with pytest.raises(ControlError, match="there is no response yet"):
        edit(one, {"response": {"text": "x"}})
    edit(one, {"response": {"status_code": 404, "text": "gone"}})
    assert one.response is not None
    assert (one.response.status_code, one.response.reason, one.response.content) == (404, "Not Found", b"gone")


def test_the_last_message() -> None:
    one = tflow.ttcpflow()
    one.intercepted = True
    before = [message.content for message in one.messages]
    edit(one, {"message": {"text": "new"}})
    assert [message.content for message in one.messages] == [*before[:-1], b"new"]


def test_a_text_message_stays_text() -> None:
    """Or its receiver ends the connection with 1007."""
    one = flowkit.websocket()
    assert one.websocket is not None
    binary = one.websocket.messages.pop()
    with pytest.raises(ControlError, match="is UTF-8"):
        edit(one, {"message": {"base64": "/w=="}})
    edit(one, {"message": {"base64": "w7w="}})
    assert one.websocket.messages[-1].content == "ü".encode()
    one.websocket.messages.append(binary)
    edit(one, {"message": {"base64": "/w=="}})
    assert binary.content == b"\xff"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "some of"),
    ({"reqest": {}}, "did you mean request"),
    ({"request": {}}, "some of url"),
    ({"request": {"metod": "X"}}, "did you mean method"),
    ({"request": {"method": "A B"}}, "no method"),
    ({"request": {"method": 5}}, "a text"),
    ({"request": {"method": "\ud800"}}, "surrogate"),
    ({"request": {"url": "nonsense"}}, "not an absolute URL"),
    ({"request": {"url": "http://a b/"}}, "no spaces"),
    ({"request": {"path": "a"}}, "begins with /"),
    ({"request": {"path": "/a b"}}, "no spaces"),
    ({"request": {"path": "/a\r\nX: 1"}}, "no spaces"),
    ({"request": {"host": ""}}, "no host"),
    ({"request": {"host": "a/b"}}, "no host"),
    ({"request": {"port": 0}}, "1 to 65535"),
    ({"request": {"port": True}}, "1 to 65535"),
    ({"request": {"scheme": "ftp"}}, "http or https"),
    ({"request": {"headers": {"a": "b"}}}, "list of pairs"),
    ({"request": {"headers": [["a"]]}}, "list of pairs"),
    ({"request": {"headers": [["a b", "c"]]}}, "no name"),
    ({"request": {"headers": [["a", "b\r\nc: d"]]}}, "line feed"),
    ({"request": {"set_headers": {"a": "b\0"}}}, "line feed or NUL"),
    ({"request": {"set_headers": {"a": 5}}}, "a text"),
    ({"request": {"base64": "!"}}, "no base64"),
    ({"response": {"status_code": 99}}, "200 to 999"),
    ({"response": {"status_code": 100}}, "200 to 999"),
    ({"response": {"reason": "a\nb"}}, "line feeds"),
    ({"response": {"reason": "€"}}, "Latin-1"),
    ({"message": {"text": "x"}}, "no message"),
    ({"comment": 5}, "a text"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED)
def test_what_is_wrong_leaves_everything_as_it_was(change: dict[str, Any], text: str) -> None:
    one = flow()
    before = one.get_state()
    with pytest.raises(ControlError, match=text):
        edit(one, {**change} if not change else {"comment": "first", "request": {"path": "/first"}, **change})
    assert one.get_state() == before


def test_what_streams_past_cannot_be_edited() -> None:
    one = flow()
    one.request.raw_content = None
    with pytest.raises(ControlError, match="streams past"):
        edit(one, {"request": {"path": "/x", "text": "y"}})
    assert one.request.path == "/path"


def test_what_is_under_way_is_not_edited() -> None:
    one = tflow.tflow()
    assert one.live
    with pytest.raises(ControlError, match="is under way and not held"):
        edit(one, {"comment": "x"})
    one._live = None
    edit(one, {"comment": "x"})


MAKERS: list[Callable[[], Flow]] = [flow, lambda: flow(False), tflow.ttcpflow, tflow.tudpflow, tflow.tdnsflow]
NAMES = ["request", "response", "message", "comment", "marked", "text", "base64", "url", "host", "port", "path",
         "method", "headers", "set_headers", "status_code", "reason", "scheme"]  # fmt: skip
ODD = st.recursive(
    JSON | st.sampled_from(["/", "GET", "http://a/", "\r\n", "a:b", "\udcff", "\ud800", 200, 80]),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(MAKERS), st.dictionaries(st.sampled_from(NAMES[:5]), ODD, max_size=3))
@settings(max_examples=80)
def test_whatever_is_asked_it_is_done_or_refused(make: Callable[[], Flow], changes: dict[str, Any]) -> None:
    one = make()
    one.intercepted = True
    before = one.get_state()
    try:
        edit(one, changes)
    except ControlError:
        assert one.get_state() == before
    else:
        one.get_state()
    check(details(one), "/$defs/details")


# -- as JSON


@pytest.mark.parametrize("make", [*MAKERS, lambda: tflow.tflow(err=True), lambda: tflow.twebsocketflow()])
def test_every_kind_of_flow_is_as_the_schema_says(make: Callable[[], Flow]) -> None:
    one = make()
    check(summary(one), "/$defs/flow")
    check(details(one), "/$defs/details")


def test_summaries_are_of_bounded_size() -> None:
    one = flow()
    one.request.path = "/" + "x" * 1_000_000
    one.comment = "y" * 1_000_000
    assert len(str(summary(one))) < 10_000


def test_a_body_in_pieces_is_the_body() -> None:
    data = "ä€𝄞x".encode() * 50
    for limit in (4, 5, 7, 100):
        offset, text = 0, ""
        while True:
            part = content(data, limit, offset)
            text += part["text"]
            if "next" not in part:
                break
            offset = part["next"]
        assert text == data.decode()
    assert content(b"\xff\xfe", 10) == {"size": 2, "base64": "//4="}
    assert content(None, 10) == {"size": None, "text": None}


async def test_held_flows_are_known_while_they_are_held() -> None:
    from tests.layers.test_gate import Handler, new

    handler, one = Handler(), new()
    one.intercept()
    wait = asyncio.ensure_future(handler.gate(one))
    await asyncio.sleep(0)
    assert handler.held == {one.id: one}
    one.resume()
    await wait
    assert handler.held == {}
