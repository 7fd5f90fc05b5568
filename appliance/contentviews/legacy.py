"""Views written against the older interface: a callable that gives (description, lines of (style, text))."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from appliance.contentviews.api import Contentview, Metadata

KEY_MAX = 30
Line = list[tuple[str, "str | bytes"]]
TTextType = str
TViewLine = Line
TViewResult = tuple[str, Iterable[Line]]


class View:
    """The older base class."""

    name: str = ""
    syntax_highlight: Any = "none"

    def __call__(
        self,
        data: bytes,
        *,
        content_type: str | None = None,
        flow: Any = None,
        http_message: Any = None,
        **unknown: Any,
    ) -> tuple[str, Iterable[Line]] | None:
        """(description, lines); None if this is nothing for the view."""
        raise NotImplementedError

    def render_priority(
        self,
        data: bytes,
        *,
        content_type: str | None = None,
        flow: Any = None,
        http_message: Any = None,
        **unknown: Any,
    ) -> float:
        return 0


class LegacyView(Contentview):
    """An older view as one of today."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._name = view.name or type(view).__name__

    def _facts(self, metadata: Metadata) -> dict[str, Any]:
        message = metadata.http_message or metadata.tcp_message or metadata.udp_message or metadata.websocket_message
        kind = {"content_type": metadata.content_type, "flow": metadata.flow, "http_message": metadata.http_message}
        return kind | ({} if metadata.http_message else {"message": message})

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        found = self._view(data, **self._facts(metadata))
        if found is None:
            raise ValueError("the view does not know what this is")
        return "\n".join("".join(_text(part) for _, part in line) for line in found[1])

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return self._view.render_priority(data, **self._facts(metadata))


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode("utf-8", "backslashreplace")


def format_text(text: str | bytes) -> Iterator[Line]:
    """A line for each line."""
    for line in _text(text).splitlines():
        yield [("text", line)]


def format_pairs(items: Iterable[tuple[Any, Any]]) -> Iterator[Line]:
    """Keys and values in two columns."""
    pairs = [(_text(key), _text(value)) for key, value in items]
    width = min(max((len(key) for key, _ in pairs), default=0), KEY_MAX)
    for key, value in pairs:
        yield [("header", f"{key + ':':<{width + 2}}"), ("text", value)]


def format_dict(d: Mapping[Any, Any]) -> Iterator[Line]:
    return format_pairs(d.items())
