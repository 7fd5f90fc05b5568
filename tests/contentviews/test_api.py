"""The interface of views, today's and the older one, and the choice between views."""

from __future__ import annotations

from typing import Any

import pytest

from appliance import contentviews
from appliance.contentviews import Contentview, InteractiveContentview, Metadata
from appliance.contentviews.base import KEY_MAX, View, format_dict, format_pairs, format_text
from appliance.contentviews.legacy import LegacyView
from appliance.contentviews.viewregistry import Registry
from appliance.test import tflow


class Upper(Contentview):
    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return data.decode().upper()


class ByPathContentview(Contentview):
    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        if metadata.content_type is None:
            raise ValueError("no type")
        return 3

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return "by path"


class Older(View):
    name = "Older One"

    def __call__(self, data: bytes, **metadata: Any) -> Any:
        self.given = metadata
        return ("Older", [*format_text(data), *format_dict({"a": b"\xff", "long": "x"})]) if data else None

    def render_priority(self, data: bytes, **metadata: Any) -> float:
        return 2 if metadata["content_type"] == "text/old" else 0


def test_defaults() -> None:
    view, metadata = Contentview(), Metadata()
    assert Upper().name == "Upper" and ByPathContentview().name == "ByPath"
    assert view.render_priority(b"", metadata) == 0 and view.syntax_highlight == "none"
    with pytest.raises(NotImplementedError):
        view.prettify(b"", metadata)
    with pytest.raises(NotImplementedError):
        InteractiveContentview().reencode("", metadata)
    assert sorted([Upper(), ByPathContentview()])[0].name == "ByPath"


def test_the_registry() -> None:
    views = Registry()
    upper, by_path = Upper(), ByPathContentview()
    raw = Contentview()
    raw._name = "Raw"
    for view in (raw, upper, by_path):
        views.register(view)
    assert views.available_views() == ["auto", "bypath", "raw", "upper"]
    assert views["UPPER"] is upper and len(views) == 3 and set(views) == {"raw", "upper", "bypath"}
    typed, untyped = Metadata(content_type="text/x"), Metadata()
    assert views.get_view(b"", typed) is by_path
    assert views.get_view(b"", untyped) is raw  # a view that raises is passed over
    assert views.get_view(b"", typed, "Upper") is upper
    with pytest.raises(KeyError):
        views.get_view(b"", typed, "nosuch")
    newer = Upper()
    views.register(newer)
    assert views["upper"] is newer and len(views) == 3


def test_older_views() -> None:
    older = Older()
    view = LegacyView(older)
    flow = tflow.ttcpflow()
    metadata = Metadata(flow=flow, content_type="text/old", tcp_message=flow.messages[0])
    assert view.name == "Older One" and view.render_priority(b"x", metadata) == 2
    assert view.prettify(b"one\ntwo", metadata) == "one\ntwo\na:    \\xff\nlong: x"
    assert older.given["message"] is flow.messages[0] and older.given["flow"] is flow
    with pytest.raises(ValueError, match="does not know"):
        view.prettify(b"", metadata)
    with pytest.raises(NotImplementedError):
        View()(b"")
    assert View().render_priority(b"") == 0


def test_lines() -> None:
    assert list(format_text("a\nb")) == [[("text", "a")], [("text", "b")]]
    pairs = list(format_pairs([("k" * 50, "v"), (b"b", b"w")]))
    assert [len(line[0][1]) for line in pairs] == [51, KEY_MAX + 2]
    assert list(format_dict({"k": "v"})) == [[("header", "k: "), ("text", "v")]]


def test_what_a_view_is_told() -> None:
    flow = tflow.tdnsflow(resp=True)
    metadata = contentviews.make_metadata(flow.response, flow)
    assert metadata.dns_message is flow.response and metadata.content_type == "application/dns-message"
    http = tflow.tflow(resp=True)
    assert http.response is not None
    http.response.headers["content-type"] = "Text/Plain; charset=utf-8"
    metadata = contentviews.make_metadata(http.response, http)
    assert metadata.http_message is http.response and metadata.content_type == "text/plain"
    assert metadata.original_data == b"message" and metadata.flow is http
    socket = tflow.twebsocketflow()
    assert socket.websocket is not None
    assert contentviews.make_metadata(socket.websocket.messages[0], socket).websocket_message
    udp = tflow.tudpflow()
    assert contentviews.make_metadata(udp.messages[0], udp).udp_message is udp.messages[0]


def test_clean() -> None:
    assert contentviews.clean("a\tb\r\nc\x1b[0m") == "a\tb\nc\\x1b[0m"
    long = contentviews.clean("x" * (contentviews.MAX_OUTPUT + 5))
    assert long.endswith("(cut here)") and len(long) < contentviews.MAX_OUTPUT + 20


def test_added_and_removed() -> None:
    """The idiom of scripts: `add` in load, `remove` in done."""

    class Shout(contentviews.View):
        name = "lgtest shout"

        def __call__(self, data: bytes, **metadata: Any) -> contentviews.TViewResult:
            return "shouted", contentviews.format_text(data.upper())

        def render_priority(self, data: bytes, *, content_type: str | None = None, **metadata: Any) -> float:
            return 50 if content_type == "text/x-shout" else 0

    view = Shout()
    contentviews.add(view)
    flow = tflow.tflow(resp=True)
    assert flow.response is not None
    flow.response.headers["content-type"] = "text/x-shout"
    shown = contentviews.prettify_message(flow.response, flow)
    assert (shown.text, shown.view_name) == ("MESSAGE", "lgtest shout")
    assert contentviews.get("LGTEST shout") is not None
    contentviews.remove(view)
    contentviews.remove(view)
    assert contentviews.get("lgtest shout") is None
    contentviews.add(Upper)
    contentviews.remove(Upper)
    assert contentviews.get("upper") is None
