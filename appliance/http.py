"""The HTTP model that add-ons hold: `http.HTTPFlow`, `http.Request`, `http.Response`, `http.Headers`."""

from __future__ import annotations

from . import cookies, encoding, multipart, status_codes, url
from .connection import State
from .cookies import CookieAttrs
from .flow import Error, Flow
from .headers import Headers, assemble_content_type, parse_content_type
from .message import Message
from .multidict import MultiDict, MultiDictView
from .request import Request
from .response import Response
from .websocket import WebSocketData

__all__ = [
    "CookieAttrs",
    "Error",
    "HTTPFlow",
    "Headers",
    "Message",
    "MultiDict",
    "MultiDictView",
    "Request",
    "Response",
    "assemble_content_type",
    "cookies",
    "encoding",
    "multipart",
    "parse_content_type",
    "status_codes",
    "url",
]


HTTPRequest = Request
HTTPResponse = Response
"""Names of old: releases before mitmproxy 7 had them, and scripts still do."""


class HTTPFlow(Flow):
    """One HTTP exchange. A hook gets a flow whose request is set; the response is there from `responseheaders` on."""

    type = "http"
    request: Request = None  # type: ignore[assignment]
    response: Response | None = None
    websocket: WebSocketData | None = None  # messages after an upgrade

    _content_keys = frozenset({"request", "response", "websocket"})

    @property
    def timestamp_start(self) -> float:
        return self.request.timestamp_start

    @property
    def mode(self) -> str:
        """The older way to `client_conn.proxy_mode.type_name`."""
        return self.client_conn.proxy_mode.type_name

    def __repr__(self) -> str:
        return f"<HTTPFlow {self.request!r} -> {self.response or self.error!r}>"

    def _get_content(self) -> State:
        return {
            "request": self.request.get_state(),
            "response": self.response.get_state() if self.response else None,
            "websocket": self.websocket.get_state() if self.websocket else None,
        }

    def _set_content(self, state: State) -> None:
        self.request = Request.from_state(state["request"])
        self.response = Response.from_state(state["response"]) if state["response"] else None
        self.websocket = WebSocketData.from_state(state["websocket"]) if state["websocket"] else None
