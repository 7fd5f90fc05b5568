"""From flows to HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/). Names that begin with "_" are beyond it.

Nothing is cut short in silence: bodies are there in full, in base64 where they are no text, and a body that streamed
past without being kept is marked ``_truncated`` (its ``size`` says how much went by).
"""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from appliance import __version__, charset
from appliance.connection import Server
from appliance.cookies import CookieAttrs
from appliance.flow import Flow
from appliance.headers import parse_content_type
from appliance.http import Headers, HTTPFlow, Message, Request, Response
from appliance.websocket import WebSocketMessage

Entry = dict[str, Any]
_KNOWN_CONNECTIONS: Final = 10_000
_VERSIONS = {"HTTP/2.0": "HTTP/2"}
_TYPES = (("text/html", "document"), ("text/css", "stylesheet"), ("image/", "image"), ("font/", "font"),
          ("application/font", "font"), ("audio/", "media"), ("video/", "media"),
          ("text/event-stream", "eventsource"))  # fmt: skip

HEAD: Final = (
    '{"log": {"version": "1.2", "creator": {"name": "lockgate", "version": ' + json.dumps(__version__) + '}, "pages": '
    '[], "entries": ['
)
TAIL: Final = "]}}\n"


class HarWriter:
    """Makes entries. Connecting and TLS are told with the first exchange of a connection, as §timings wants it."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, None] = OrderedDict()

    def entry(self, flow: HTTPFlow) -> Entry:
        request, response, server = flow.request, flow.response, flow.server_conn
        timings = _timings(flow, self._is_new(server))
        made: Entry = {
            "startedDateTime": _time(request.timestamp_start),
            "time": sum(value for name, value in timings.items() if value > 0 and name != "ssl"),  # ssl is in connect
            "request": _request(request),
            "response": _response(response) if response is not None else _no_response(flow),
            "cache": {},
            "timings": timings,
        }
        if server.peername:
            made["serverIPAddress"] = str(server.peername[0])
        if server.timestamp_start is not None:
            made["connection"] = server.id
        if kind := _resource_type(flow):
            made["_resourceType"] = kind
        if flow.comment:
            made["comment"] = _text(str(flow.comment))
        if flow.error is not None:
            made["_error"] = _text(str(flow.error.msg))
        if flow.websocket is not None:
            made["_webSocketMessages"] = [_message(message) for message in flow.websocket.messages]
        return made

    def text(self, flow: HTTPFlow) -> str:
        """The entry as JSON in ASCII, on one line."""
        return json.dumps(self.entry(flow))

    def _is_new(self, server: Server) -> bool:
        if server.id in self._told:
            return False
        self._told[server.id] = None
        if len(self._told) > _KNOWN_CONNECTIONS:
            self._told.popitem(last=False)
        return True


def dump(flows: Iterable[Flow], write: Callable[[str], object]) -> tuple[int, list[str]]:
    """A whole HAR in pieces; what is not HTTP is left out. Returns (how many entries it has, what was wrong with other
    flows: an add-on, or a file, may have put anything into them).
    """
    har, count, faults = HarWriter(), 0, []
    write(HEAD)
    for flow in flows:
        if isinstance(flow, HTTPFlow):
            try:
                text = har.text(flow)
            except Exception as error:
                faults.append(f"flow {flow.id}: {type(error).__name__}: {error}")
                continue
            write((",\n" if count else "\n") + text)
            count += 1
    write("\n" + TAIL)
    return count, faults


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _version(message: Message) -> str:
    return _VERSIONS.get(message.http_version, message.http_version)


def _text(value: str) -> str:
    """JSON has no lone surrogates: bytes that are no UTF-8 are shown as \\xNN."""
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode()


def _headers(message: Message) -> list[Entry]:
    fields = [*message.headers.items(multi=True)]
    return [{"name": _text(name), "value": _text(value)} for name, value in fields]


def _trailers(trailers: Headers | None) -> Entry:
    if not trailers:
        return {}
    return {"_trailers": [{"name": _text(name), "value": _text(value)} for name, value in trailers.items(multi=True)]}


def _sizes(message: Message) -> Entry:
    raw = message.raw_content
    return {
        "headersSize": -1 if message.is_http2 or message.is_http3 else _head_size(message),
        "bodySize": len(raw) if raw is not None else -1 if message.moved is None else message.moved,
    }


def _head_size(message: Message) -> int:
    if isinstance(message, Request):
        target = message.url if message.first_line_format != "relative" else message.path
        line = len(message.raw_method) + len(target.encode("utf-8", "surrogateescape"))
    else:
        assert isinstance(message, Response)
        line = 3 + len(message.raw_reason)
    return line + len(message.raw_http_version) + 4 + len(bytes(message.headers)) + 2


def _request(request: Request) -> Entry:
    made = {
        "method": _text(request.method),
        "url": _text(request.pretty_url if request.first_line_format != "authority" else f"https://{request.url}"),
        "httpVersion": _version(request),
        "cookies": [{"name": _text(n), "value": _text(v)} for n, v in request.cookies.items(multi=True)],
        "headers": _headers(request),
        "queryString": [{"name": _text(n), "value": _text(v)} for n, v in request.query.items(multi=True)],
        **_sizes(request),
        **_trailers(request.trailers),
    }
    if request.raw_content or request.raw_content is None:
        body = _body(request)
        post: Entry = {
            "mimeType": _text(request.headers.get("content-type", "")),
            "params": [],
            "text": body.pop("text", ""),
        }
        post |= {name if name.startswith("_") else f"_{name}": value for name, value in body.items() if name != "size"}
        post["params"] = [
            {"name": _text(n), "value": _text(v)} for n, v in request.urlencoded_form.items(multi=True)
        ]  # fmt: skip
        made["postData"] = post
    return made


def _response(response: Response) -> Entry:
    body = _body(response)
    if response.raw_content is not None and (saved := body["size"] - len(response.raw_content)):
        body["compression"] = saved
    return {
        "status": response.status_code,
        "statusText": _text(response.reason),
        "httpVersion": _version(response),
        "cookies": [_cookie(name, *value) for name, value in response.cookies.items(multi=True)],
        "headers": _headers(response),
        "content": {"mimeType": _text(response.headers.get("content-type", "")), **body},
        "redirectURL": _text(response.headers.get("location", "")),
        **_sizes(response),
        **_trailers(response.trailers),
    }


def _no_response(flow: HTTPFlow) -> Entry:
    """As browsers write it."""
    return {
        "status": 0, "statusText": "", "httpVersion": "", "cookies": [], "headers": [],
        "content": {"size": 0, "mimeType": ""}, "redirectURL": "", "headersSize": -1, "bodySize": -1,
    }  # fmt: skip


def _cookie(name: str, value: str, attributes: CookieAttrs) -> Entry:
    made: Entry = {"name": _text(name), "value": _text(value)}
    for attribute in ("path", "domain", "expires"):
        if given := attributes.get(attribute):
            made[attribute if attribute != "expires" else "_expires"] = _text(given)
    made["httpOnly"], made["secure"] = "httponly" in attributes, "secure" in attributes
    if same := attributes.get("samesite"):
        made["sameSite"] = _text(same)
    return made


def _body(message: Message) -> Entry:
    """`size` and `text`, with `encoding` where it is base64, `_raw` where the content coding could not be taken off."""
    if message.raw_content is None:
        return {"size": message.moved or 0, "_truncated": True}
    made: Entry = {}
    try:
        content = message.get_content() or b""
    except ValueError:
        content, made["_raw"] = message.raw_content, True
    made["size"] = len(content)
    text = as_text(content, message.headers.get("content-type", ""))
    if text is None or "_raw" in made:
        made["text"], made["encoding"] = base64.b64encode(content).decode(), "base64"
    else:
        made["text"] = text
    return made


def as_text(content: bytes, content_type: str) -> str | None:
    """`content` as a text that `as_bytes` makes the same bytes of; None where that cannot be."""
    name = _charset(content_type)
    try:
        text = content.decode(name)
        if text.encode(name) != content:
            return None
    except (ValueError, LookupError):
        return None
    odd = sum(1 for char in text[:4096] if (char < " " and char not in "\t\r\n\f\x1b") or char == "\x7f")
    return None if odd else text


def as_bytes(text: str, content_type: str) -> bytes:
    try:
        return text.encode(_charset(content_type))
    except (ValueError, LookupError):
        return text.encode("utf-8", "surrogatepass")


def _charset(content_type: str) -> str:
    declared = (parse_content_type(content_type) or ("", "", {}))[2].get("charset", "")
    try:
        charset.encode("", declared)
    except (ValueError, LookupError):
        return "utf-8"
    return declared or "utf-8"


def _timings(flow: HTTPFlow, new: bool) -> dict[str, float]:
    """Milliseconds; -1: does not apply."""
    request, response, server = flow.request, flow.response, flow.server_conn
    begun = server.timestamp_start
    connect = _span(begun, server.timestamp_tcp_setup) if new else -1
    ssl = _span(server.timestamp_tcp_setup, server.timestamp_tls_setup) if new else -1
    sent = request.timestamp_end or request.timestamp_start
    made = {
        "blocked": -1.0,
        "dns": -1.0,
        "connect": connect + max(ssl, 0.0) if connect >= 0 else -1.0,
        "ssl": ssl,
        "send": max(_span(request.timestamp_start, sent), 0.0),
        "wait": 0.0,
        "receive": 0.0,
    }
    if response is not None:
        made["wait"] = max(_span(sent, response.timestamp_start), 0.0)
        made["receive"] = max(_span(response.timestamp_start, response.timestamp_end), 0.0)
    return made


def _span(start: float | None, end: float | None) -> float:
    return -1.0 if start is None or end is None or end < start else round((end - start) * 1000, 3)


def _resource_type(flow: HTTPFlow) -> str:
    if flow.websocket is not None:
        return "websocket"
    declared = flow.response.headers.get("content-type", "").lower() if flow.response else ""
    if "javascript" in declared:
        return "script"
    return next((name for start, name in _TYPES if declared.startswith(start)), "")


def _message(message: WebSocketMessage) -> Entry:
    """As Chrome has it: binary messages in base64."""
    text = message.content.decode("utf-8", "replace") if message.is_text else None
    if text is None or text.encode() != message.content:
        text = base64.b64encode(message.content).decode()
    made: Entry = {
        "type": "send" if message.from_client else "receive",
        "time": message.timestamp,
        "opcode": int(message.type),
        "data": text,
    }
    if message.is_text and text.encode() != message.content:
        made["_encoding"] = "base64"
    if message.dropped:
        made["_dropped"] = True
    return made
