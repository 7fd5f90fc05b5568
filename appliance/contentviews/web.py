"""Views of what the web sends beside documents: forms, queries, GraphQL, Socket.IO, DNS."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from typing import Any

from appliance import url
from appliance.contentviews.api import Contentview, Metadata
from appliance.contentviews.text import bounded
from appliance.multipart import decode_multipart


def _pairs(pairs: Iterable[tuple[Any, Any]]) -> str:
    shown = [(_text(key), _text(value)) for key, value in pairs]
    width = min(max((len(key) for key, _ in shown), default=0), 30)
    return "\n".join(f"{key + ':':<{width + 1}} {value}" if value else f"{key}:" for key, value in shown)


def _text(value: str | bytes) -> str:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value.decode("utf-8", "backslashreplace")


class URLEncoded(Contentview):
    syntax_highlight = "yaml"
    _name = "URL-encoded"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return _pairs(url.decode(data.decode("ascii")))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return float(bool(data) and metadata.content_type == "application/x-www-form-urlencoded")


class MultipartForm(Contentview):
    syntax_highlight = "yaml"
    _name = "Multipart Form"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        message = metadata.http_message
        kind = message.headers.get("content-type", "") if message else ""
        pairs = decode_multipart(kind, data)
        if not pairs:
            raise ValueError("no parts found")
        return _pairs(pairs)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return float(bool(data) and metadata.content_type == "multipart/form-data")


class GraphQL(Contentview):
    """Queries with their line ends, then what else was sent."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        found = json.loads(data)
        shown = []
        for one in found if isinstance(found, list) else [found]:
            if not isinstance(one, dict) or not isinstance(one.get("query"), str):
                raise ValueError("no query in it")
            rest = {key: value for key, value in one.items() if key != "query"}
            shown.append(one["query"].strip() + (f"\n---\n{bounded(rest)}" if rest else ""))
        return "\n===\n".join(shown)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        if metadata.content_type != "application/json" or b'"query"' not in data[:65536]:
            return 0
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return 0
        first = found[0] if isinstance(found, list) and found else found
        query = first.get("query") if isinstance(first, dict) else None
        return 2 if isinstance(query, str) and "{" in query else 0


class Query(Contentview):
    """The query of a request without a body."""

    syntax_highlight = "yaml"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        query: Any = getattr(metadata.http_message, "query", None)
        return _pairs(query.items(multi=True)) if query else ""

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        query = getattr(metadata.http_message, "query", None)
        return 0.3 if not data and query else 0


_ENGINE = {"0": "open", "1": "close", "2": "ping", "3": "pong", "4": "message", "5": "upgrade", "6": "noop"}
_SOCKET = ("CONNECT", "DISCONNECT", "EVENT", "ACK", "ERROR", "BINARY_EVENT", "BINARY_ACK")


class SocketIO(Contentview):
    """Engine.IO packets, and the Socket.IO packets in them."""

    _name = "Socket.IO"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        text = data.decode("utf-8")
        kind = _ENGINE[text[0]]
        if kind != "message" or len(text) < 2:
            return f"{kind} {text[1:]}".rstrip()
        name, rest = _SOCKET[int(text[1])], text[2:]
        start = min((at for mark in "[{" if (at := rest.find(mark)) >= 0), default=len(rest))
        shown = bounded(json.loads(rest[start:])) if start < len(rest) else ""
        return f"{kind} {name} {rest[:start]}".rstrip() + (f"\n{shown}" if shown else "")

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        path = getattr(getattr(metadata.flow, "request", None), "path", "")
        return float(bool(data) and metadata.websocket_message is not None and "/socket.io/" in path)


class DNS(Contentview):
    syntax_highlight = "yaml"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        dns = importlib.import_module("appliance.dns")
        body = data[2:] if metadata.tcp_message is not None else data
        return bounded(dns.DNSMessage.unpack(body).to_json())

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        address = metadata.flow.server_conn.address if metadata.flow else None
        raw = metadata.udp_message is not None and address is not None and address[1] in (53, 5353)
        return float(bool(data) and (raw or metadata.content_type == "application/dns-message"))


VIEWS = (URLEncoded(), MultipartForm(), GraphQL(), Query(), SocketIO(), DNS())
