"""Changes to a flow that is held (or over), as one step: all of them, or none."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from appliance.control.protocol import ControlError, nearest
from appliance.headers import Headers, to_bytes
from appliance.http import HTTPFlow, Message, Request, Response
from appliance.layers.http.h1_fields import is_token
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow

if TYPE_CHECKING:
    from appliance.flow import Flow

_UNFIT_VALUE = re.compile(rb"[\0\r\n]")
_UNFIT_PATH = re.compile(rb"[\0-\x20\x7f]")
_UNFIT_HOST = re.compile(r"[\s/?#@\\\x00-\x20]")


def edit(flow: Flow, changes: dict[str, Any]) -> None:
    """`changes`: what `request`, `response`, `message`, `comment` and `marked` are to be. Raises ControlError, with the
    flow as it was.
    """
    if flow.live and not flow.intercepted:
        raise ControlError(
            "refused", f"flow {flow.id} is under way and not held", "hold such flows first: the option intercept"
        )
    known = {"request": _request, "response": _response, "message": _message, "comment": _comment, "marked": _marked}
    wrong = _unknown(changes, known, "a change")
    if wrong is not None:
        raise wrong
    before, backup = flow.get_state(), flow._backup
    request, response = getattr(flow, "request", None), getattr(flow, "response", None)
    flow.backup()
    try:
        for name, change in changes.items():
            known[name](flow, change)
    except (ControlError, ValueError, TypeError) as error:
        _restore(flow, before, request, response)
        flow._backup = backup
        if isinstance(error, ControlError):
            raise
        raise ControlError("bad_params", str(error)) from None


def _restore(flow: Flow, state: dict[str, Any], request: Any, response: Any) -> None:
    # The engine holds the messages themselves: they get their content back, not others in their place.
    if isinstance(flow, HTTPFlow):
        request.set_state(state["request"])
        if response is not None:
            response.set_state(state["response"])
        flow.response = response
        if flow.websocket is not None:
            for message, (_, _, content, *_rest) in zip(
                flow.websocket.messages, state["websocket"]["messages"], strict=True
            ):
                message.content = content
    elif isinstance(flow, TCPFlow | UDPFlow):
        for one, (_, content, _) in zip(flow.messages, state["messages"], strict=True):
            one.content = content
    flow.comment, flow.marked = state["comment"], state["marked"]


def _unknown(given: object, known: dict[str, Any], what: str) -> ControlError | None:
    if not isinstance(given, dict) or not given:
        return ControlError("bad_params", f"{what} should be an object", f"with some of {', '.join(known)}")
    for name in given:
        if name not in known:
            hint = nearest(name, known) or f"there are {', '.join(known)}"
            return ControlError("bad_params", f"{name!r} cannot be edited", hint)
    return None


# -- HTTP


def _request(flow: Flow, change: dict[str, Any]) -> None:
    if not isinstance(flow, HTTPFlow):
        raise ControlError("bad_params", f"a flow of {flow.type} has no request that could be edited")
    if wrong := _unknown(change, _OF_REQUEST, "request"):
        raise wrong
    for name in _OF_REQUEST:  # in this order: the URL before its parts, the body after the fields that describe it
        if name in change:
            _OF_REQUEST[name](flow.request, change[name])


def _response(flow: Flow, change: dict[str, Any]) -> None:
    if not isinstance(flow, HTTPFlow):
        raise ControlError("bad_params", f"a flow of {flow.type} has no response that could be edited")
    if wrong := _unknown(change, _OF_RESPONSE, "response"):
        raise wrong
    if flow.response is None:
        if "status_code" not in change:
            raise ControlError(
                "bad_params", "there is no response yet", "give a status_code to answer without asking the server"
            )
        flow.response = Response.make(_status(change["status_code"]))
    for name in _OF_RESPONSE:
        if name in change:
            _OF_RESPONSE[name](flow.response, change[name])


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise ControlError("bad_params", f"{what} should be a text")
    try:
        to_bytes(value)
    except UnicodeEncodeError:
        raise ControlError("bad_params", f"{what} holds half a surrogate pair") from None
    return value


def _method(request: Request, value: Any) -> None:
    if not is_token(to_bytes(_text(value, "method"))):
        raise ControlError("bad_params", f"{value!r} is no method", "such as GET")
    request.method = value


def _url(request: Request, value: Any) -> None:
    if _UNFIT_PATH.search(to_bytes(_text(value, "url"))):
        raise ControlError("bad_params", "a URL has no spaces or control characters", "write them as %20 and the like")
    request.url = value


def _scheme(request: Request, value: Any) -> None:
    if value not in ("http", "https"):
        raise ControlError("bad_params", f"{value!r} is no scheme", "http or https")
    request.scheme = value


def _host(request: Request, value: Any) -> None:
    if not _text(value, "host") or _UNFIT_HOST.search(value):
        raise ControlError("bad_params", f"{value!r} is no host")
    request.host = value


def _port(request: Request, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ControlError("bad_params", f"{value!r} is no port", "1 to 65535")
    request.port = value


def _path(request: Request, value: Any) -> None:
    raw = to_bytes(_text(value, "path"))
    if not raw.startswith((b"/", b"*")) or _UNFIT_PATH.search(raw):
        raise ControlError(
            "bad_params", "a path begins with / and has no spaces or control characters", "such as /a%20b"
        )
    request.path = value


def _status(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 101 or 200 <= value <= 999):
        raise ControlError("bad_params", f"{value!r} is no final status code", "200 to 999")
    return value


def _status_code(response: Response, value: Any) -> None:
    if value != response.status_code:
        response.status_code = _status(value)


def _reason(response: Response, value: Any) -> None:
    try:
        raw = _text(value, "reason").encode("latin-1")
    except UnicodeEncodeError:
        raise ControlError("bad_params", "a reason is Latin-1 text") from None
    if _UNFIT_VALUE.search(raw):
        raise ControlError("bad_params", "a reason has no line feeds")
    response.reason = raw


def _field(name: object, value: object) -> tuple[bytes, bytes]:
    raw = _text(name, "the name of a header field").encode("utf-8", "surrogateescape")
    if not is_token(raw):
        raise ControlError("bad_params", f"{name!r} is no name of a header field", "letters, digits and dashes")
    content = to_bytes(_text(value, f"the value of {name}")).strip(b" \t")
    if _UNFIT_VALUE.search(content):
        raise ControlError(
            "bad_params", f"the value of {name} has a line feed or NUL in it", "give each field by itself"
        )
    return raw, content


def _headers(message: Message, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 2 for one in value):
        raise ControlError("bad_params", "headers should be a list of pairs", 'such as [["Accept", "*/*"]]')
    message.headers = Headers([_field(name, text) for name, text in value])


def _set_headers(message: Message, value: Any) -> None:
    if not isinstance(value, dict):
        raise ControlError("bad_params", "set_headers should be an object", 'such as {"Accept": "*/*", "Cookie": null}')
    for name, text in value.items():
        raw, content = _field(name, "" if text is None else text)
        if text is None:
            message.headers.pop(raw.decode(), None)
        else:
            message.headers[raw.decode()] = content.decode("utf-8", "surrogateescape")


def _body(read: Callable[[Any], bytes]) -> Callable[[Message, Any], None]:
    def change(message: Message, value: Any) -> None:
        if message.raw_content is None:
            raise ControlError(
                "refused", "this body streams past and is not held", "raise stream_large_bodies, or edit the head alone"
            )
        message.set_content(read(value))

    return change


def _utf8(value: Any) -> bytes:
    return to_bytes(_text(value, "text"))


def _base64(value: Any) -> bytes:
    try:
        return base64.b64decode(_text(value, "base64"), validate=True)
    except (binascii.Error, ValueError):
        raise ControlError("bad_params", "this is no base64") from None


_OF_BOTH: dict[str, Callable[[Any, Any], None]] = {
    "headers": _headers,
    "set_headers": _set_headers,
    "text": _body(_utf8),
    "base64": _body(_base64),
}
_OF_REQUEST: dict[str, Callable[[Any, Any], None]] = {
    "url": _url,
    "scheme": _scheme,
    "host": _host,
    "port": _port,
    "path": _path,
    "method": _method,
    **_OF_BOTH,
}
_OF_RESPONSE: dict[str, Callable[[Any, Any], None]] = {"status_code": _status_code, "reason": _reason, **_OF_BOTH}


# -- all flows


def _message(flow: Flow, change: dict[str, Any]) -> None:
    """The last message of a conversation: the one that is held."""
    messages: list[Any] = []
    if isinstance(flow, TCPFlow | UDPFlow):
        messages = list(flow.messages)
    elif isinstance(flow, HTTPFlow) and flow.websocket is not None:
        messages = list(flow.websocket.messages)
    if not messages:
        raise ControlError("bad_params", "this flow has no message that could be edited")
    readers = {"text": _utf8, "base64": _base64}
    if wrong := _unknown(change, readers, "message"):
        raise wrong
    for name, value in change.items():
        content = readers[name](value)
        if getattr(messages[-1], "is_text", False):
            try:
                content.decode()
            except UnicodeDecodeError:
                raise ControlError("bad_params", "a text message of a WebSocket is UTF-8 (RFC 6455 §5.6)") from None
        messages[-1].content = content


def _comment(flow: Flow, value: Any) -> None:
    flow.comment = _text(value, "comment")


def _marked(flow: Flow, value: Any) -> None:
    flow.marked = _text(value, "marked")
