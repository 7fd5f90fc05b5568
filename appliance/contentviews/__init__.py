"""Content views: bodies and messages as people read them. Add-ons bring their own with `add`.

Input is hostile: a view gets a bounded piece, what it raises is caught, and what it gives is cut and freed of control
characters before anybody shows it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from appliance.contentviews.api import Contentview, InteractiveContentview, Metadata, SyntaxHighlight
from appliance.contentviews.legacy import (
    KEY_MAX,
    LegacyView,
    TViewLine,
    TViewResult,
    View,
    format_dict,
    format_pairs,
    format_text,
)
from appliance.contentviews.viewregistry import Registry
from appliance.conversation import ContentMessage
from appliance.flow import Flow
from appliance.http import HTTPFlow, Message
from appliance.log import escape

__all__ = [
    "KEY_MAX",
    "Contentview",
    "InteractiveContentview",
    "Metadata",
    "Prettified",
    "SyntaxHighlight",
    "TViewLine",
    "TViewResult",
    "View",
    "add",
    "format_dict",
    "format_pairs",
    "format_text",
    "get",
    "prettify_message",
    "reencode_message",
    "registry",
    "remove",
]

logger = logging.getLogger(__name__)

MAX_INPUT = 1 << 19
"""Bytes that a view is given; the rest is left out, and said to be."""
MAX_OUTPUT = 8 << 20
"""Characters that are kept of what a view gives."""


@dataclass(frozen=True, slots=True)
class Prettified:
    """What is shown. `text` holds no control characters but line ends and tabs."""

    text: str
    syntax_highlight: SyntaxHighlight
    view_name: str | None
    description: str


registry = Registry()


def add(view: Any) -> None:
    """Register a view (an instance, or a class to be made one). It goes before those of the same priority."""
    if isinstance(view, type):
        view = view()
    registry.register(LegacyView(view) if isinstance(view, View) else view)


def remove(view: Any) -> None:
    """Take out a view that `add` was given (or its class): for `done`. Nothing happens if it is not there."""
    name = (view() if isinstance(view, type) else view).name
    registry.unregister(name or type(view).__name__)


def get(name: str) -> Contentview | None:
    """The view of this name."""
    return registry.get(name)


def prettify_message(
    message: Any, flow: Flow, view_name: str = "auto", view_registry: Registry = registry
) -> Prettified:
    """Show the content of a message of `flow`. Raises nothing: what fails is shown as text, with the reason."""
    data, notes = _data(message)
    if data is None:
        return Prettified("Content is missing.", "error", None, notes)
    if len(data) > MAX_INPUT:
        notes = _joined(notes, f"cut: {len(data)} bytes, {MAX_INPUT} shown")
        data = data[:MAX_INPUT]
    metadata = make_metadata(message, flow)
    try:
        view = view_registry.get_view(data, metadata, view_name)
    except KeyError:
        notes, view = _joined(notes, f"unknown view {view_name!r}"), view_registry["raw"]
    return _shown(view, data, metadata, notes, view_registry, asked=view_name.lower() != "auto")


def _shown(
    view: Contentview, data: bytes, metadata: Metadata, notes: str, views: Registry, *, asked: bool
) -> Prettified:
    try:
        text = view.prettify(data, metadata)
        if not isinstance(text, str):
            raise TypeError(f"it gave {type(text).__name__}, not str")
    except RecursionError:
        return _failed(view, data, metadata, "nested too deeply", notes, views, asked=asked)
    except Exception as error:
        logger.debug("content view %s failed", view.name, exc_info=True)
        return _failed(view, data, metadata, str(error) or type(error).__name__, notes, views, asked=asked)
    return Prettified(clean(text), view.syntax_highlight, view.name, notes)


def _failed(
    view: Contentview, data: bytes, metadata: Metadata, why: str, notes: str, views: Registry, *, asked: bool
) -> Prettified:
    reason = clean(why[:200])
    if asked:
        return Prettified(f"Couldn't parse as {view.name}: {reason}", "error", view.name, notes)
    raw, notes = views["raw"], _joined(notes, f"[failed to parse as {view.name}]")
    return Prettified(clean(raw.prettify(data, metadata)), raw.syntax_highlight, raw.name, notes)


def _joined(*notes: str) -> str:
    return ", ".join(filter(None, notes))


def clean(text: str) -> str:
    """Control characters spelt out, line ends and tabs as they are; cut at `MAX_OUTPUT` characters."""
    if len(text) > MAX_OUTPUT:
        text = text[:MAX_OUTPUT] + "\n(cut here)"
    return "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.replace("\r\n", "\n").split("\n"))


def reencode_message(prettified: str, message: Any, flow: Flow, view_name: str) -> bytes:
    """The content from its edited form. Raises ValueError: the view cannot do that, or the text is wrong."""
    view = registry.get(view_name.lower())
    if not isinstance(view, InteractiveContentview):
        raise ValueError(f"the view {view_name} cannot be edited")
    return view.reencode(prettified, make_metadata(message, flow))


def make_metadata(message: Any, flow: Flow) -> Metadata:
    metadata = Metadata(flow=flow)
    if isinstance(message, Message):
        metadata.http_message = message
        kind = message.headers.get("content-type", "")
        metadata.content_type = kind.partition(";")[0].strip().lower() or None
    elif flow.type == "tcp":
        metadata.tcp_message = message
    elif flow.type == "udp":
        metadata.udp_message = message
    elif flow.type == "dns":
        metadata.dns_message = message
        metadata.content_type = "application/dns-message"
    elif isinstance(flow, HTTPFlow):
        metadata.websocket_message = message
    metadata.original_data = (
        getattr(message, "content", None) if not isinstance(message, Message) else message.raw_content
    )
    return metadata


def _data(message: Any) -> tuple[bytes | None, str]:
    """The bytes of a message, and a note on how they were got."""
    if isinstance(message, ContentMessage):
        return message.content, ""
    if not isinstance(message, Message):
        return message.content, ""
    raw = message.raw_content
    if raw is None:
        return None, "" if message.moved is None else f"{message.moved} bytes were streamed, not kept"
    coding = message.headers.get("content-encoding", "")
    try:
        content = message.get_content(strict=True)
    except ValueError:
        return raw, f"[cannot decode {coding}]"
    return content, f"[decoded {coding}]" if coding and raw else ""


def _builtin() -> None:
    from appliance.contentviews import binary, text, web

    for module in (text, web, binary):
        for view in module.VIEWS:
            registry.register(view)


_builtin()
