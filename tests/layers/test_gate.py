"""The gate after every flow hook."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.connection import Client, Server
from appliance.exceptions import AddonHalt
from appliance.flow import Error
from appliance.handler import ConnectionHandler
from appliance.hooks import Hooks
from appliance.layers.gate import gate
from appliance.net.reasons import Gone, Killed, Reason
from appliance.tcp import TCPFlow


class Handler:
    """As much of a ConnectionHandler as the gate needs."""

    def __init__(self, *addons: object) -> None:
        self.hooks = Hooks(*addons)
        self.worker = self
        self.gated = 0
        self.held: dict[str, Any] = {}

    def gate(self, flow: TCPFlow, end: Any = None) -> Any:
        me: Any = self
        handler: ConnectionHandler = me
        return gate(handler, "tcp_message", flow, end)


class Live:
    def kill(self) -> None:
        pass


class End:
    why: Reason | None = None


def new() -> TCPFlow:
    return TCPFlow(Client(peername=None, sockname=None), Server(address=None), Live())


def addon(**hooks: Any) -> object:
    return type("Addon", (), {name: staticmethod(hook) for name, hook in hooks.items()})()


async def test_sync_hooks_cost_no_coroutine() -> None:
    seen: list[object] = []
    flow = new()
    handler = Handler(addon(tcp_message=seen.append, update=lambda flows: seen.append(list(flows))))
    assert handler.gate(flow) is None
    assert seen == [flow, [flow]]
    assert Handler().gate(flow) is None


async def test_async_hooks_are_waited_for_then_update() -> None:
    seen: list[str] = []

    async def hook(flow: TCPFlow) -> None:
        assert handler.gated
        await asyncio.sleep(0.01)
        seen.append("hook")

    handler = Handler(addon(tcp_message=hook, update=lambda flows: seen.append("update")))
    wait = handler.gate(new())
    assert wait is not None
    await wait
    assert seen == ["hook", "update"]
    assert handler.gated == 0


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_killed(how: str) -> None:
    def sync(flow: TCPFlow) -> None:
        flow.kill()

    async def later(flow: TCPFlow) -> None:
        await asyncio.sleep(0)
        flow.kill()

    handler = Handler(addon(tcp_message=sync if how == "sync" else later))
    with pytest.raises(Killed):
        wait = handler.gate(new())
        assert wait is not None
        await wait
    assert handler.gated == 0


async def test_any_other_error_that_is_set_goes_on() -> None:
    flow = new()
    flow.error = Error("an add-on's own idea")
    assert Handler().gate(flow) is None


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_intercept_waits_for_resume_with_clocks_standing(how: str) -> None:
    async def later(flow: TCPFlow) -> None:
        await asyncio.sleep(0)
        flow.intercept()

    flow = new()
    handler = Handler(addon(tcp_message=TCPFlow.intercept if how == "sync" else later))
    wait = handler.gate(flow)
    assert wait is not None
    task = asyncio.ensure_future(wait)
    await asyncio.sleep(0.02)
    assert not task.done()
    assert handler.gated == 1
    flow.resume()
    await asyncio.wait_for(task, 1)
    assert handler.gated == 0


async def test_intercepted_before_although_nobody_listens() -> None:
    flow = new()
    flow.intercept()
    task = asyncio.ensure_future(Handler().gate(flow))
    await asyncio.sleep(0)
    assert not task.done()
    flow.resume()
    await asyncio.wait_for(task, 1)


async def test_intercepted_by_update() -> None:
    flow = new()
    task = asyncio.ensure_future(Handler(addon(update=lambda flows: flows[0].intercept())).gate(flow))
    await asyncio.sleep(0)
    assert not task.done()
    flow.resume()
    await asyncio.wait_for(task, 1)


async def test_killed_while_intercepted() -> None:
    flow = new()
    flow.intercept()
    task = asyncio.ensure_future(Handler().gate(flow))
    await asyncio.sleep(0)
    flow.kill()
    with pytest.raises(Killed):
        await asyncio.wait_for(task, 1)


async def test_gone_meanwhile() -> None:
    end, flow = End(), new()
    flow.intercept()
    task = asyncio.ensure_future(Handler().gate(flow, end))
    await asyncio.sleep(0)
    end.why = Reason("closed", "the client disconnected")
    flow.resume()
    with pytest.raises(Gone, match="disconnected"):
        await asyncio.wait_for(task, 1)


async def test_a_hook_that_raises_or_halts_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def bad(flow: TCPFlow) -> None:
        raise ValueError("oops")

    def halt(flow: TCPFlow) -> None:
        raise AddonHalt

    after: list[object] = []
    assert Handler(addon(tcp_message=bad), addon(tcp_message=after.append)).gate(new()) is None
    assert len(after) == 1
    assert "oops" in caplog.text
    assert Handler(addon(tcp_message=halt), addon(tcp_message=after.append)).gate(new()) is None
    assert len(after) == 1


async def test_cancelled_while_waiting_leaves_no_clock_stopped() -> None:
    handler = Handler(addon(tcp_message=lambda flow: asyncio.sleep(60)))
    task = asyncio.ensure_future(handler.gate(new()))
    await asyncio.sleep(0)
    assert handler.gated == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert handler.gated == 0
