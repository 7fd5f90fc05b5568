"""The events of a flow that is over, in the order in which they would have been fired while it went on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .flow import Flow


def iterate(flow: Flow) -> Iterator[tuple[str, Flow]]:
    """Event names with the flow. Messages come back one by one: `messages` grows as the iteration goes on."""
    steps = {"http": _http, "tcp": _conversation, "udp": _conversation, "dns": _dns}.get(flow.type)
    if steps is None:
        raise TypeError(f"no events are known of a flow of type {flow.type!r}")
    for event in steps(flow):
        yield event, flow


def _http(flow: Any) -> Iterator[str]:
    if flow.request:
        yield "requestheaders"
        yield "request"
    if flow.response:
        yield "responseheaders"
        yield "response"
    if flow.websocket:
        yield from _growing(flow.websocket, "websocket_start", "websocket_message", "websocket_end")
    elif flow.error:
        yield "error"


def _conversation(flow: Any) -> Iterator[str]:
    kind = flow.type
    yield from _growing(flow, f"{kind}_start", f"{kind}_message", f"{kind}_error" if flow.error else f"{kind}_end")


def _growing(holder: Any, start: str, message: str, end: str) -> Iterator[str]:
    messages, holder.messages = holder.messages, []
    try:
        yield start
        while messages:
            holder.messages.append(messages.pop(0))
            yield message
    finally:  # whoever stops half-way leaves the flow whole
        holder.messages += messages
    yield end


def _dns(flow: Any) -> Iterator[str]:
    if flow.request:
        yield "dns_request"
    if flow.response:
        yield "dns_response"
    if flow.error:
        yield "dns_error"
