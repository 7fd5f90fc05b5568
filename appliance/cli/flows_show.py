"""`lockgate flows show`: one flow, all that is known of it, bodies by content views."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterator
from typing import Any

from appliance.connection import Address, Connection
from appliance.contentviews import prettify_message, registry
from appliance.dns import DNSFlow, response_codes, types
from appliance.exceptions import OptionsError
from appliance.flow import Flow
from appliance.headers import Headers
from appliance.http import HTTPFlow, Message
from appliance.human import format_timestamp_with_milli, pretty_duration, pretty_size
from appliance.log import escape
from appliance.options import Options
from appliance.store.folder import folder_of
from appliance.store.records import Kept
from appliance.store.segment import Damaged
from appliance.store.store import Row, Store


def show(args: argparse.Namespace, options: Options) -> int:
    """0: all shown; 1: one of them cannot be read. Raises StoreError, OptionsError."""
    view = view_of(args.view)
    bad = False
    with Store(folder_of(options)) as store:
        for at, reference in enumerate(args.flows):
            row = store.row(reference)
            try:
                flow = store.load(row)
            except Damaged as error:
                print(f"lockgate: flow {row.n}: {error}", file=sys.stderr)
                bad = True
                continue
            if args.json:
                print(json.dumps({"n": row.n, **as_json(flow)}))
            else:
                if at:
                    print()
                for line in lines(row, flow, view):
                    print(line)
    return int(bad)


def view_of(text: str) -> str:
    """The content view that is called so, or begins so. Raises OptionsError."""
    names = registry.available_views()
    for name in sorted(names, key=lambda name: name != text.lower()):
        if name.startswith(text.lower()):
            return name
    raise OptionsError(f"there is no content view {text!r}; there are {', '.join(names)}")


def lines(row: Row, flow: Flow, view: str) -> Iterator[str]:
    """Free of control characters but tabs."""
    kind = "websocket" if row.websocket else row.kind
    yield f"flow {row.n}  {kind}  {flow.id}  {format_timestamp_with_milli(row.begun)}" + (
        "" if row.took is None else f"  {pretty_duration(row.took)}"
    )
    yield f"  client  {_end(flow.client_conn, flow.client_conn.peername)}  by {flow.client_conn.proxy_mode.full_spec}"
    peer = flow.server_conn.peername
    shown = f" at {_place(peer)}" if peer is not None and peer[:2] != flow.server_conn.address else ""
    yield f"  server  {_end(flow.server_conn, flow.server_conn.address)}{shown}"
    if (verdict := flow.client_conn.verdict) is not None:
        rule = f" (rule {escape(verdict.rule)})" if verdict.rule else ""
        yield f"  verdict {verdict.action}: {escape(verdict.reason)}{rule}"
    if flow.error is not None:
        yield f"  error   {escape(flow.error.msg)}"
    for name, value in (("comment", flow.comment), ("marked", flow.marked), ("metadata", flow._metadata)):
        if value:
            yield f"  {name:<7} {escape(str(value))}"
    if row.going_on:
        yield "  (it has not ended)"
    if isinstance(flow, HTTPFlow):
        yield ""
        request = flow.request
        yield f"> {escape(request.method)} {escape(request.pretty_url)} {escape(request.http_version)}"
        yield from _message(">", request, flow, view)
        if flow.response is not None:
            yield ""
            response = flow.response
            yield f"< {escape(response.http_version)} {response.status_code} {escape(response.reason)}"
            yield from _message("<", response, flow, view)
        said: list[Any] = flow.websocket.messages if flow.websocket is not None else []
    elif isinstance(flow, DNSFlow):
        yield ""
        yield from (f"> {types.to_str(q.type)} {escape(q.name or '.')}" for q in flow.request.questions)
        if (answer := flow.response) is not None:
            yield f"< {response_codes.to_str(answer.response_code)}"
            for record in (*answer.answers, *answer.authorities, *answer.additionals):
                yield f"< {escape(repr(record)[1:-1])}"
        return
    else:
        up, down = row.up or 0, row.down or 0
        yield f"  bytes   {pretty_size(up)} up, {pretty_size(down)} down"
        said = flow.messages  # type: ignore[attr-defined]
    for message in said:
        yield ""
        mark = ">" if message.from_client else "<"
        yield f"{mark} {format_timestamp_with_milli(message.timestamp)}  {pretty_size(len(message.content))}"
        pretty = prettify_message(message, flow, view)
        yield from (f"    {line}" for line in pretty.text.split("\n"))
    if row.cut and not isinstance(flow, HTTPFlow):
        yield "  (more was said: store_messages_limit)"


def _place(address: Address | tuple[str, int] | None) -> str:
    if address is None:
        return "-"
    return escape(f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}")


def _end(conn: Connection, address: Address | tuple[str, int] | None) -> str:
    words = [_place(address)]
    if conn.tls_version:
        words.append(f"{conn.tls_version} {conn.cipher or ''}".strip())
    if conn.sni:
        words.append(f"SNI {escape(conn.sni)}")
    if conn.alpn:
        words.append(f"ALPN {escape(conn.alpn.decode('latin-1'))}")
    if conn.chain:
        words.append(f"certificate {escape(conn.chain[0].subject.rfc4514_string() or '(no subject)')}")
    return ", ".join(words)


def _fields(mark: str, headers: Headers) -> Iterator[str]:
    for name, value in headers.fields:
        yield f"{mark} {escape(name.decode('latin-1'))}: {escape(value.decode('utf-8', 'backslashreplace'))}"


def _message(mark: str, message: Message, flow: Flow, view: str) -> Iterator[str]:
    yield from _fields(mark, message.headers)
    kept = message.tee
    if message.raw_content is None and isinstance(kept, Kept):
        sha = f", SHA-256 {kept.sha256.hex()}" if kept.sha256 else ""
        yield f"    (the first {pretty_size(len(kept.content))} of {pretty_size(kept.size)} are kept: {kept.why}{sha})"
        message = message.copy()
        message.raw_content = kept.content
    if message.raw_content is None:
        size = "" if message.moved is None else f": {pretty_size(message.moved)}"
        yield f"    (the body was not kept{size})"
    elif message.raw_content:
        pretty = prettify_message(message, flow, view)
        about = ", ".join(filter(None, (pretty.view_name, pretty.description)))
        yield f"    [{escape(about)}]"
        yield from (f"    {line}" for line in pretty.text.split("\n"))
    if message.trailers:
        yield from _fields(mark, message.trailers)


def as_json(flow: Flow) -> dict[str, Any]:
    """The flow's state; bytes as text where they are UTF-8, else ``{"base64": ...}``."""
    made: dict[str, Any] = _plain({k: v for k, v in flow.get_state().items() if k not in ("backup", "intercepted")})
    verdict = flow.client_conn.verdict
    made["verdict"] = None if verdict is None else {
        "action": verdict.action, "reason": verdict.reason, "rule": verdict.rule, "at": verdict.at
    }  # fmt: skip
    if isinstance(flow, HTTPFlow):
        for name, message in (("request", flow.request), ("response", flow.response)):
            if message is not None and isinstance(message.tee, Kept):
                kept = message.tee
                made[name]["kept"] = {
                    "size": kept.size, "sha256": kept.sha256.hex() if kept.sha256 else None, "why": kept.why,
                    "content": _plain(kept.content),
                }  # fmt: skip
    elif (moved := getattr(flow, "moved", None)) is not None:
        made["moved"] = list(moved)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
