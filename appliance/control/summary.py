"""Flows as JSON: a few lines of facts for lists (`summary`), and all of one flow (`details`)."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from appliance.dns import DNSFlow, response_codes, types
from appliance.http import HTTPFlow, Message
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow

if TYPE_CHECKING:
    from appliance.connection import Address, Client, Server
    from appliance.flow import Flow
    from appliance.headers import Headers

MAX_TEXT = 2000
"""Characters of one text in a summary; the rest is cut off and an ellipsis says so."""
MAX_ANSWERS = 8
MAX_MESSAGES = 100
"""The last so many messages of a conversation are among the details."""
CONTENT = 64 << 10
"""Bytes of each body in the details unless asked for otherwise."""
MOST_CONTENT = 1 << 20
MOST_MESSAGES = 8 << 20
"""Bytes of messages in the details."""
NO_BODIES: Mapping[str, bytes | None] = {}


def summary(flow: Flow) -> dict[str, Any]:
    """Facts of bounded size. Times are seconds since the epoch, sizes bytes, durations seconds."""
    about: dict[str, Any] = {
        "id": flow.id,
        "type": flow.type,
        "time": flow.timestamp_start,
        "client": _address(flow.client_conn.peername),
        "server": _address(flow.server_conn.address),
        "verdict": verdict(flow.client_conn),
        "live": flow.live,
        "intercepted": flow.intercepted,
        "error": _cut(flow.error.msg) if flow.error is not None else None,
        "is_replay": flow.is_replay,
        "marked": _cut(flow.marked) if flow.marked else "",
        "comment": _cut(flow.comment),
    }
    if isinstance(flow, HTTPFlow):
        about |= _http(flow)
    elif isinstance(flow, TCPFlow | UDPFlow):
        up, down = flow.moved or _moved(flow.messages)
        about |= {"up": up, "down": down, "messages": len(flow.messages)}
    elif isinstance(flow, DNSFlow):
        about |= _dns(flow)
    return about


def _http(flow: HTTPFlow) -> dict[str, Any]:
    request, response = flow.request, flow.response
    if request is None:
        return {}
    about: dict[str, Any] = {
        "method": _cut(request.method),
        "url": _cut(request.url),
        "version": _cut(request.http_version),
        "request_size": size(request),
        "status": None,
        "response_size": None,
        "content_type": None,
        "duration": None,
    }
    if response is not None:
        about["status"] = response.status_code
        about["response_size"] = size(response)
        about["content_type"] = _cut(response.headers.get("content-type", ""))
    ended = response.timestamp_end if response is not None else None
    if ended is None and flow.error is not None:
        ended = flow.error.timestamp
    if ended is not None:
        about["duration"] = max(0.0, ended - request.timestamp_start)
    if flow.websocket is not None:
        about["messages"] = len(flow.websocket.messages)
    return about


def _dns(flow: DNSFlow) -> dict[str, Any]:
    response = flow.response
    about: dict[str, Any] = {
        "questions": [
            {"name": _cut(one.name), "type": types.to_str(one.type)} for one in flow.request.questions[:MAX_ANSWERS]
        ],
        "code": None,
        "answers": [],
        "duration": None,
    }
    if response is not None:
        about["code"] = response_codes.to_str(response.response_code)
        about["answers"] = [_cut(str(one)) for one in response.answers[:MAX_ANSWERS]]
        about["duration"] = max(0.0, response.timestamp - flow.request.timestamp)
    return about


def connection(client: Client) -> dict[str, Any]:
    """A connection that had no flow because it was passed or blocked, at its end."""
    up, down = client.passed or (0, 0)
    started, ended = client.timestamp_start or 0.0, client.timestamp_end or time.time()
    return {
        "id": client.id,
        "time": started,
        "client": _address(client.peername),
        "server": _address(client.wanted),
        "sni": _cut(client.sni) if client.sni else None,
        "verdict": verdict(client),
        "up": up,
        "down": down,
        "duration": max(0.0, ended - started),
    }


def verdict(client: Client) -> dict[str, Any] | None:
    found = getattr(client, "verdict", None)
    if found is None:
        return None
    return {"action": found.action, "reason": _cut(found.reason), "rule": _cut(found.rule) if found.rule else None}


def details(flow: Flow, limit: int = CONTENT, bodies: Mapping[str, bytes | None] = NO_BODIES) -> dict[str, Any]:
    """The summary, and connections, heads and bodies, of these at most `limit` bytes each.

    bodies: those of `request` and `response` that are decoded already; see `decoded`.
    """
    about = summary(flow)
    about["modified"] = flow.modified()
    about["client_conn"] = _connection(flow.client_conn)
    about["server_conn"] = _connection(flow.server_conn)
    if isinstance(flow, HTTPFlow) and flow.request is not None:
        request, response = flow.request, flow.response
        about["request"] = {
            "method": request.method,
            "url": request.url,
            "scheme": request.scheme,
            "host": request.host,
            "port": request.port,
            "path": request.path,
            **_message(request, limit, bodies["request"] if "request" in bodies else request.get_content(strict=False)),
        }
        about["response"] = None
        if response is not None:
            about["response"] = {
                "status_code": response.status_code,
                "reason": response.reason,
                **_message(
                    response, limit, bodies["response"] if "response" in bodies else response.get_content(strict=False)
                ),
            }
    messages = flow.websocket.messages if isinstance(flow, HTTPFlow) and flow.websocket else None
    if isinstance(flow, TCPFlow | UDPFlow):
        messages = flow.messages  # type: ignore[assignment]
    if messages is not None:
        about["last_messages"] = _last(messages[-MAX_MESSAGES:], limit)
    return about


def _last(messages: Sequence[Any], limit: int) -> list[dict[str, Any]]:
    """Of the older ones the sizes alone, where it becomes too much."""
    made, room = [], MOST_MESSAGES
    for one in reversed(messages):
        shown = min(limit, max(room, 0))
        room -= min(len(one.content), shown)
        made.append({"from_client": one.from_client, "time": one.timestamp, **content(one.content, shown)})
    return made[::-1]


async def decoded(flow: Flow) -> dict[str, bytes | None]:
    """Bodies without their content codings, for `details`: a few kB may become 128 MB, so that is done in a thread."""
    found: dict[str, bytes | None] = {}
    for part in ("request", "response"):
        message = getattr(flow, part, None)
        if isinstance(message, Message) and message.raw_content and "content-encoding" in message.headers:
            found[part] = await asyncio.to_thread(message.get_content, False)
    return found


def _message(message: Message, limit: int, body: bytes | None) -> dict[str, Any]:
    return {
        "http_version": message.http_version,
        "headers": fields(message.headers),
        "trailers": None if message.trailers is None else fields(message.trailers),
        "content": content(body, limit),
    }


def _connection(conn: Client | Server) -> dict[str, Any]:
    return {
        "address": _address(conn.peername or getattr(conn, "address", None)),
        "tls": conn.tls,
        "tls_version": conn.tls_version,
        "cipher": conn.cipher,
        "sni": _cut(conn.sni) if conn.sni else None,
        "alpn": conn.alpn.decode("latin-1") if conn.alpn else None,
    }


def fields(headers: Headers) -> list[list[str]]:
    """Pairs; what is no UTF-8 stands as lone surrogates, so that it can be given back as it was."""
    return [[name.decode("latin-1"), value.decode("utf-8", "surrogateescape")] for name, value in headers.fields]


def content(data: bytes | None, limit: int, offset: int = 0) -> dict[str, Any]:
    """`size` bytes in all, null when they were streamed; from `offset` up to `limit` of them as `text`, or `base64`."""
    if data is None:
        return {"size": None, "text": None}
    part = data[offset : offset + limit]
    about: dict[str, Any] = {"size": len(data)}
    try:
        about["text"] = part.decode()
    except UnicodeDecodeError as error:
        if error.end == len(part) < len(data) - offset and 0 < error.start >= len(part) - 3:
            part = part[: error.start]  # the cut went through a character
            about["text"] = part.decode()
        else:
            about["base64"] = base64.b64encode(part).decode()
    if offset + len(part) < len(data):
        about["next"] = offset + len(part)
    return about


def size(message: Message) -> int | None:
    """Bytes of the body as transferred, None while they are not known."""
    if message.raw_content is not None:
        return len(message.raw_content)
    if message.moved is not None:
        return message.moved
    declared = message.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdecimal() and len(declared) < 16 else None


def _moved(messages: Any) -> tuple[int, int]:
    up = sum(len(one.content) for one in messages if one.from_client)
    return up, sum(len(one.content) for one in messages) - up


def _address(address: Address | None) -> str | None:
    if address is None:
        return None
    host = _cut(str(address[0]))
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def _cut(given: object) -> str:
    """Texts, though an add-on may have set something else."""
    text = given if isinstance(given, str) else str(given)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
