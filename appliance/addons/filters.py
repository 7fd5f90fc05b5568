"""What add-ons with a filter share: reading it from an option, and acting in time when a body streams."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, NamedTuple

from appliance import ctx, flowfilter
from appliance.exceptions import OptionsError
from appliance.home import expanded
from appliance.layers.http.bodies import is_streaming_kind

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.flowfilter import FlowFilter
    from appliance.http import HTTPFlow, Message

_ESCAPE = re.compile(rb"\\(?:x[0-9a-fA-F]{2}|[nrt])")


def option_filter(name: str) -> FlowFilter | None:
    """The filter in a str option; None if it is unset. Raises OptionsError, which says where it cannot be read."""
    text = getattr(ctx.options, name)
    return parse(name, text) if text else None


def parse(name: str, text: str) -> FlowFilter:
    """Raises OptionsError naming the option."""
    try:
        return flowfilter.parse(text)
    except ValueError as error:
        raise OptionsError(f"{name}: {error}") from None


def regex(name: str, pattern: str) -> re.Pattern[str]:
    """Raises OptionsError naming the option."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise OptionsError(f"{name}: {pattern!r} is not a regular expression: {error}") from None


class Spec(NamedTuple):
    """``/FILTER/SUBJECT/REPLACEMENT``; the first character is what separates, the filter may be left out."""

    filter: FlowFilter
    subject: str
    replacement: str


def parse_spec(name: str, text: str) -> Spec:
    """Raises OptionsError naming the option and what is wrong."""
    parts = text[1:].split(text[:1], 2) if text else []
    if len(parts) not in (2, 3):
        raise OptionsError(f"{name}: {text!r} should be [/FILTER]/WHAT/REPLACEMENT, with any separator for /")
    if len(parts) == 2:
        return Spec(flowfilter.match_all, parts[0], parts[1])
    return Spec(parse(name, parts[0]), parts[1], parts[2])


def unescaped(text: str) -> bytes:
    r"""Bytes of an option's text; ``\n \r \t \xNN`` are what they are in Python."""
    data = text.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda found: codecs.escape_decode(found[0])[0], data)


class Replacement:
    """Bytes from an option: as they stand there, or (``@PATH``) of a file that is read anew each time."""

    def __init__(self, name: str, text: str) -> None:
        """Raises OptionsError for a file that cannot be read."""
        self.path = expanded(text[1:]) if text.startswith("@") else None
        self._bytes = b"" if self.path else unescaped(text)
        try:
            self.read()
        except OSError as error:
            raise OptionsError(f"{name}: {self.path}: {error.strerror or error}") from None

    def read(self) -> bytes:
        """Raises OSError."""
        return self.path.read_bytes() if self.path else self._bytes


# -- bodies


def untouched(flow: Flow) -> bool:
    """Whether it is for us to change: in progress, and neither failed nor (a request) answered already."""
    return flow.live and flow.error is None


def insist(message: Message) -> None:
    """Have this body held, whatever its size up to the engine's bound, unless it never ends or a script streams it."""
    if "stream" not in vars(message) and not is_streaming_kind(message.headers):
        message.stream = False


def will_stream(flow: HTTPFlow, event: str = "request") -> bool:
    """At `requestheaders`: whether the head leaves before `request` is fired, so that it has to be changed now."""
    request = flow.request
    if vars(request).get("stream") is False:
        return False
    if request.stream:
        return True
    declared = request.headers.get("content-length", "")
    if declared == "0" or not (declared or "transfer-encoding" in request.headers or request.is_http2):
        return False
    if not ctx.master.addons.hooks.holds[event] or is_streaming_kind(request.headers):
        return True
    limit = ctx.options.size("stream_large_bodies")
    return limit is not None and declared.isdecimal() and int(declared) > limit
