"""The operators of filters: what each looks at."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, AnyStr, Final

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.flowfilter.tree import Match

CONTENT_LIMIT: Final = 32 << 20
"""Bytes of a decoded body that are searched."""
_CASE_SENSITIVE = ("LOCKGATE_CASE_SENSITIVE_FILTERS", "MITMPROXY_CASE_SENSITIVE_FILTERS")


@dataclass(frozen=True)
class Operator:
    """One of them. `argument`: what it is called in the help; None where there is none."""

    code: str
    help: str
    argument: str | None
    make: Callable[[Any], Match]
    needs_body: bool = False

    def compile(self, argument: str | int | None) -> Match:
        """Raises re.error for an argument that is no regular expression."""
        return self.make(argument)


OPERATORS: Final[dict[str, Operator]] = {}


def _plain(code: str, help: str) -> Callable[[Match], Match]:
    def register(match: Match) -> Match:
        OPERATORS[code] = Operator(code, help, None, lambda _: match)
        return match

    return register


def _compiled(pattern: AnyStr, flags: int) -> re.Pattern[AnyStr]:
    """What Python warns of (a set in a set, some day) is the pattern's writer's, who does not see it here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(pattern, flags)


def _flags() -> int:
    return 0 if any(os.environ.get(name) == "1" for name in _CASE_SENSITIVE) else re.IGNORECASE


def _text(code: str, help: str) -> Callable[[Callable[[Any], Iterable[str]]], None]:
    """A regular expression for any of the texts that the function takes out of a flow."""

    def register(texts: Callable[[Any], Iterable[str]]) -> None:
        def make(argument: str) -> Match:
            search = _compiled(argument, _flags()).search
            return lambda flow: any(search(text) is not None for text in texts(flow))

        OPERATORS[code] = Operator(code, help, "REGEX", make)

    return register


def _bytes(
    code: str, help: str, flags: int = 0, body: bool = False
) -> Callable[[Callable[[Any], Iterable[bytes]]], None]:
    """The same for bytes; the regular expression is taken in UTF-8."""

    def register(pieces: Callable[[Any], Iterable[bytes]]) -> None:
        def make(argument: str) -> Match:
            search = _compiled(argument.encode("utf-8", "surrogateescape"), _flags() | flags).search
            return lambda flow: any(search(piece) is not None for piece in pieces(flow))

        OPERATORS[code] = Operator(code, help, "REGEX", make, body)

    return register


# -- what kind of flow


@_plain("all", "every flow")
def _all(flow: Flow) -> bool:
    return True


def _of_type(name: str, help: str) -> None:
    OPERATORS[name] = Operator(name, help, None, lambda _: lambda flow: flow.type == name)


_of_type("http", "HTTP flows")
_of_type("tcp", "TCP flows")
_of_type("udp", "UDP flows")
_of_type("dns", "DNS flows")


@_plain("websocket", "HTTP flows that became a WebSocket connection")
def _websocket(flow: Any) -> bool:
    return flow.type == "http" and flow.websocket is not None


@_plain("e", "flows that failed")
def _error(flow: Flow) -> bool:
    return flow.error is not None


@_plain("q", "requests without a response")
def _request(flow: Any) -> bool:
    return flow.type in _PAIRED and flow.request is not None and flow.response is None


@_plain("s", "flows with a response")
def _response(flow: Any) -> bool:
    return flow.type in _PAIRED and flow.response is not None


_PAIRED = ("http", "dns")


@_plain("replay", "replayed flows")
def _replay(flow: Flow) -> bool:
    return flow.is_replay is not None


@_plain("replayq", "replayed requests")
def _replay_request(flow: Flow) -> bool:
    return flow.is_replay == "request"


@_plain("replays", "replayed responses")
def _replay_response(flow: Flow) -> bool:
    return flow.is_replay == "response"


@_plain("marked", "marked flows")
def _marked(flow: Flow) -> bool:
    return bool(flow.marked)


_ASSET = re.compile(
    rb"^(?:text/javascript|application/(?:x-)?javascript|text/css|image/|font/|application/font|"
    rb"application/x-font|application/vnd\.ms-fontobject|application/x-shockwave-flash)",
    re.IGNORECASE,
)


@_plain("a", "responses that are assets: CSS, JavaScript, images, fonts")
def _asset(flow: Any) -> bool:
    if flow.type != "http" or not flow.response:
        return False
    return _ASSET.match(flow.response.headers.raw("content-type") or b"") is not None


def _code(number: int) -> Match:
    def match(flow: Any) -> bool:
        return flow.type == "http" and flow.response is not None and flow.response.status_code == number

    return match


OPERATORS["c"] = Operator("c", "the response's status code", "INT", _code)

# -- texts


@_text("comment", "the flow's comment")
def _comment(flow: Flow) -> Iterable[str]:
    return (flow.comment,)


@_text("marker", "the flow's marker")
def _marker(flow: Flow) -> Iterable[str]:
    return (":default:" if flow.marked is True else flow.marked or "",)


@_text("meta", "the flow's metadata, as lines of `key: value`")
def _meta(flow: Flow) -> Iterable[str]:
    return ("\n".join(f"{key}: {value}" for key, value in flow.metadata.items()),)


def _place(address: Any) -> Iterable[str]:
    return (f"{address[0]}:{address[1]}",) if address else ()


@_text("src", "the client's HOST:PORT")
def _source(flow: Flow) -> Iterable[str]:
    return _place(flow.client_conn.peername)


@_text("dst", "the server's HOST:PORT")
def _destination(flow: Flow) -> Iterable[str]:
    return _place(flow.server_conn.address)


@_text("device", "the client's device: its name or label")
def _device(flow: Flow) -> Iterable[str]:
    device = getattr(flow.client_conn, "device", None)
    if device is None:
        return ()
    return (str(getattr(device, "name", device)), str(getattr(device, "label", "") or ""))


@_text("verdict", "what was decided about the connection: decrypt, pass or block")
def _verdict(flow: Flow) -> Iterable[str]:
    verdict = flow.client_conn.verdict
    return (verdict.action,) if verdict is not None else ()


@_text("reason", "why that was decided: the reason, or the rule")
def _reason(flow: Flow) -> Iterable[str]:
    verdict = flow.client_conn.verdict
    return (verdict.reason, verdict.rule or "") if verdict is not None else ()


@_text("d", "the domain")
def _domain(flow: Any) -> Iterable[str]:
    return (flow.request.host, flow.request.pretty_host) if flow.type == "http" else ()


@_text("u", "the URL; of DNS the name asked for")
def _url(flow: Any) -> Iterable[str]:
    if flow.type == "http":
        return (flow.request.pretty_url,)
    if flow.type == "dns" and flow.request is not None:
        return [question.name for question in flow.request.questions[:1]]
    return ()


NAKED: Final = OPERATORS["u"]

# -- bytes


@_bytes("m", "the method")
def _method(flow: Any) -> Iterable[bytes]:
    return (flow.request.raw_method,) if flow.type == "http" else ()


def _messages(flow: Any, client: bool, server: bool) -> list[Any]:
    if flow.type != "http":
        return []
    return [message for message, wanted in ((flow.request, client), (flow.response, server)) if wanted and message]


def _content_types(flow: Any, client: bool, server: bool) -> Iterable[bytes]:
    for message in _messages(flow, client, server):
        if (found := message.headers.raw("content-type")) is not None:
            yield found


def _bodies(flow: Any, client: bool, server: bool) -> Iterable[bytes]:
    for message in _messages(flow, client, server):
        if content := message.get_content(strict=False, limit=CONTENT_LIMIT):
            yield content
    if flow.type == "http":
        spoken = flow.websocket.messages if flow.websocket else ()
    elif flow.type == "dns":
        for message, wanted in ((flow.request, client), (flow.response, server)):
            if wanted and message:
                records = [*message.questions, *message.answers, *message.authorities, *message.additionals]
                yield " ".join(map(str, records)).encode("utf-8", "replace")
        return
    else:
        spoken = flow.messages
    for message in spoken:
        if (client if message.from_client else server) and message.content:
            yield message.content


def _header_blocks(flow: Any, client: bool, server: bool) -> Iterable[bytes]:
    return [bytes(message.headers) for message in _messages(flow, client, server)]


for _suffix, _client, _server, _whose in (
    ("", True, True, "request or response"),
    ("q", True, False, "request"),
    ("s", False, True, "response"),
):
    _of = {"client": _client, "server": _server}
    _bytes(f"t{_suffix}", f"the content type of the {_whose}")(partial(_content_types, **_of))
    _bytes(f"h{_suffix}", f"a header line of the {_whose}", re.MULTILINE)(partial(_header_blocks, **_of))
    _bytes(f"b{_suffix}", f"the body of the {_whose}, and messages in that direction", re.DOTALL, body=True)(
        partial(_bodies, **_of)
    )
