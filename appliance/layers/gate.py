"""The one gate after every flow hook, for all layers: fire, `update`, wait if intercepted, then killed? gone?"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from appliance.flow import Error
from appliance.net.reasons import KILLED, Killed, Reason

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.handler import ConnectionHandler


class End(Protocol):
    """Anything that can be gone: a stream, an inbound side. `why` is set when it is."""

    @property
    def why(self) -> Reason | None: ...


def gate(handler: ConnectionHandler, event: str, flow: Flow, end: End | None = None) -> Awaitable[None] | None:
    """Fire `event` and see what is left to do: None when the flow may go on at once, else a coroutine to await.

    :raises Killed: the flow was killed. :raises Gone: `end` was lost while a hook was waited for.
    """
    hooks = handler.worker.hooks
    if hooks.table[event]:
        pending = hooks.fire(event, flow)
        if pending is not None:
            return _wait(handler, pending, flow, end)
    if hooks.table["update"]:
        pending = hooks.fire("update", [flow])
        if pending is not None:
            return _settle(handler, pending, flow, end)
    if flow.intercepted:
        return _settle(handler, None, flow, end)
    if flow.error is not None:
        raise_if_killed(flow)
    return None


def raise_if_killed(flow: Flow) -> None:
    """:raises Killed: as it says."""
    if flow.error is not None and flow.error.msg == Error.KILLED_MESSAGE:
        raise Killed(KILLED)


async def _wait(handler: ConnectionHandler, pending: Awaitable[None], flow: Flow, end: End | None) -> None:
    handler.gated += 1
    try:
        await pending
    finally:
        handler.gated -= 1
    await _settle(handler, handler.worker.hooks.fire("update", [flow]), flow, end)


async def _settle(handler: ConnectionHandler, pending: Awaitable[None] | None, flow: Flow, end: End | None) -> None:
    handler.gated += 1
    try:
        if pending is not None:
            await pending
        while flow.intercepted:
            held = handler.worker.held
            held[flow.id] = flow
            try:
                await flow.wait_for_resume()
            finally:
                held.pop(flow.id, None)
    finally:
        handler.gated -= 1
    raise_if_killed(flow)
    if end is not None and end.why is not None:
        raise end.why.error()
