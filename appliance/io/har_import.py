"""From HAR to flows. Browsers and other programs write it each in its own way: what is missing is made up."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from appliance.connection import Client, Server
from appliance.exceptions import FlowReadException
from appliance.flow import Error
from appliance.headers import Field, Headers
from appliance.http import HTTPFlow, Message, Request, Response
from appliance.io.har import as_bytes
from appliance.websocket import Opcode, WebSocketData, WebSocketMessage

_VERSIONS = {"h2": "HTTP/2.0", "http/2": "HTTP/2.0", "http/2.0": "HTTP/2.0", "h3": "HTTP/3", "http/3": "HTTP/3",
             "http/3.0": "HTTP/3", "http/1.0": "HTTP/1.0"}  # fmt: skip
_UNKNOWN = {"status": 0}


def flows_of(data: bytes) -> Iterator[HTTPFlow]:
    """The entries of a HAR, in its order. Raises FlowReadException: it is none, or (after the others) which are not."""
    try:
        entries = json.loads(data.decode("utf-8-sig"))["log"]["entries"]
        if not isinstance(entries, list):
            raise TypeError("its log.entries is no list")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FlowReadException(f"this is no HAR file: {type(error).__name__} {error}") from None
    faults: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            flow = flow_of(entry)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
            faults.append(f"entry {number}: {type(error).__name__} {error}")
            continue
        yield flow
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise FlowReadException(f"{'; '.join(faults[:5])}{more} ({len(entries) - len(faults)} entries were read)")


def flow_of(entry: Any) -> HTTPFlow:
    """One entry. Raises ValueError, TypeError, KeyError and the like for what is none."""
    asked, answered = entry["request"], entry.get("response") or _UNKNOWN
    begun = _seconds(entry.get("startedDateTime"))
    timings = entry.get("timings") or {}
    sent = begun + _length(timings, "blocked", "dns", "connect", "send")
    seen = sent + _length(timings, "wait")
    client = Client(peername=None, sockname=None, timestamp_start=begun)
    request = _request(asked, begun, sent)
    server = Server(address=(request.host, request.port), timestamp_start=begun)
    server.tls = request.scheme == "https"
    if ip := str(entry.get("serverIPAddress") or "").strip("[]"):
        server.peername = (ip, request.port)
    flow = HTTPFlow(client, server)
    flow.request = request
    if error := entry.get("_error") or (answered.get("_error") if isinstance(answered, dict) else None):
        flow.error = Error(str(error), seen)
    if answered.get("status") or flow.error is None:
        flow.response = _response(answered, seen, seen + _length(timings, "receive"))
    if comment := entry.get("comment"):
        flow.comment = str(comment)
    if (messages := entry.get("_webSocketMessages")) is not None:
        flow.websocket = WebSocketData([_message(message) for message in messages])
    flow.timestamp_created = begun
    return flow


def _seconds(text: Any) -> float:
    if not isinstance(text, str):
        return 0.0
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _length(timings: dict[str, Any], *names: str) -> float:
    """Seconds; -1 and what is no number count as nothing."""
    values = (timings.get(name) for name in names)
    return sum(value for value in values if isinstance(value, (int, float)) and value > 0) / 1000


def _raw(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogateescape")


def _headers(found: Any) -> Headers:
    """A list of names and values, or (Slack, Insomnia) an object. Pseudo-headers of HTTP/2 are not among them."""
    pairs: list[tuple[Any, Any]]
    if isinstance(found, dict):
        pairs = list(found.items())
    else:
        pairs = [(item["name"], item.get("value", "")) for item in found or ()]
    fields: list[Field] = [(_raw(name), _raw(value)) for name, value in pairs if not str(name).startswith(":")]
    return Headers(fields)


def _version(found: Any) -> bytes:
    return _VERSIONS.get(str(found or "").lower(), "HTTP/1.1").encode()


def _request(asked: Any, begun: float, sent: float) -> Request:
    headers = _headers(asked.get("headers"))
    request = Request.make(asked["method"], asked["url"].replace("ws", "http", 1)
                           if asked["url"].startswith(("ws:", "wss:")) else asked["url"])  # fmt: skip
    if request.method == "CONNECT":
        request.authority, request.path = f"{request.host}:{request.port}", ""
    request.headers = headers
    request.raw_http_version = _version(asked.get("httpVersion"))
    request.trailers = _headers(asked["_trailers"]) if asked.get("_trailers") else None
    request.timestamp_start, request.timestamp_end = begun, sent
    post = asked.get("postData") or {}
    _set_body(request, post, post.get("mimeType") or "")
    if not post:
        request.raw_content = b""
    elif post.get("text") is None and post.get("params") and not post.get("_truncated"):
        kept = request.headers.copy()
        request.urlencoded_form = [(str(pair["name"]), str(pair.get("value", ""))) for pair in post["params"]]
        request.headers = kept
    return request


def _response(answered: Any, begun: float, ended: float) -> Response:
    content = answered.get("content") or {}
    headers = _headers(answered.get("headers"))
    version, status = _version(answered.get("httpVersion")), int(answered.get("status") or 0)
    response = Response(version, status, b"", headers, b"", None, begun, ended)
    response.raw_reason = str(answered.get("statusText") or "").encode("latin-1", "replace")
    response.trailers = _headers(answered["_trailers"]) if answered.get("_trailers") else None
    _set_body(response, content, content.get("mimeType") or "")
    return response


def _set_body(message: Message, found: Any, mime_type: str) -> None:
    """Headers stay as they are, but for a Content-Encoding that we cannot apply, and the length."""
    text = found.get("text")
    if found.get("_truncated"):
        message.raw_content = None
        message.moved = found.get("size") if isinstance(found.get("size"), int) else None
        return
    if text is None:
        message.raw_content = b""
        return
    if "base64" in (found.get("encoding"), found.get("_encoding")):
        content = base64.b64decode(text)
    else:
        content = as_bytes(str(text), message.headers.get("content-type") or mime_type)
    if found.get("_raw") or not content:
        message.raw_content = content
        return
    lengths = message.headers.get_all("content-length")
    message.set_content(content)
    if not lengths:
        message.headers.pop("content-length", None)


def _message(found: Any) -> WebSocketMessage:
    opcode = Opcode(int(found.get("opcode", 1)))
    data = str(found.get("data", ""))
    binary = opcode is not Opcode.TEXT or found.get("_encoding") == "base64"
    content = base64.b64decode(data) if binary else data.encode("utf-8", "surrogatepass")
    return WebSocketMessage(
        opcode, found.get("type") in ("send", "request"), content, float(found.get("time") or 0.0),
        bool(found.get("_dropped")),
    )  # fmt: skip
