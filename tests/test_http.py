from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import http
from appliance.connection import Client, ModeName, Server
from appliance.http import Headers, HTTPFlow, Request, Response

fields = st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), max_size=3).map(Headers)
times = st.floats(0, 2e9)
requests = st.builds(
    Request, st.text(max_size=5), st.integers(0, 65535), st.binary(), st.binary(), st.binary(), st.binary(),
    st.sampled_from([b"HTTP/1.1", b"HTTP/2.0"]), fields, st.none() | st.binary(),
    st.none() | fields, times, st.none() | times,
)  # fmt: skip
responses = st.builds(
    Response, st.just(b"HTTP/1.1"), st.integers(100, 599), st.binary(), fields, st.none() | st.binary(),
    st.none() | fields, times, st.none() | times,
)  # fmt: skip


def make() -> HTTPFlow:
    return HTTPFlow(Client(peername=None, sockname=None), Server(address=None))


@given(requests, st.none() | responses)
def test_state_round_trip(request: Request, response: Response | None) -> None:
    flow = make()
    flow.request, flow.response = request, response
    state = flow.get_state()
    again = HTTPFlow.from_state(state)
    assert again.get_state() == state
    assert again.request.headers == request.headers
    assert again.request.headers is not request.headers
    assert flow.timestamp_start == request.timestamp_start
    assert request.copy().get_state() == state["request"]


def test_odd_websocket_states_are_refused() -> None:
    flow = make()
    flow.request = Request.make("GET", "http://a/")
    with pytest.raises(ValueError, match="WebSocket"):
        HTTPFlow.from_state(flow.get_state() | {"websocket": {"messages": []}})


def test_mode_and_repr() -> None:
    flow = make()
    flow.client_conn.proxy_mode = ModeName("transparent@8080")
    assert flow.mode == "transparent"
    assert repr(flow) == "<HTTPFlow None -> None>"
    flow.request = Request.make("GET", "http://a.example/x")
    flow.response = Response.make(204)
    assert repr(flow) == "<HTTPFlow Request(GET http://a.example/x) -> Response(204, no content type, 0 B)>"


def test_what_add_ons_find_here() -> None:
    assert http.status_codes.NOT_FOUND == 404
    assert http.status_codes.RESPONSES[404] == "Not Found"
    assert http.status_codes.RESPONSES[413] == "Content Too Large"
    assert http.url.parse("http://a/")[1] == "a"
    assert http.encoding.encode(b"", "gzip")
    assert http.cookies.parse_cookie_header("a=b") == [("a", "b")]
    assert http.parse_content_type("a/b") == ("a", "b", {})
    with pytest.raises(AttributeError):
        http.status_codes.NO_SUCH  # noqa: B018
