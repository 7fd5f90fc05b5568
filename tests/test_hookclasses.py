"""Events as classes, as scripts fire them, and events that only add-ons know."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from appliance import hooks
from appliance.events import EVENTS
from appliance.exceptions import AddonHalt
from appliance.flow import Flow
from appliance.hookclasses import Hook, find
from appliance.proxy import server_hooks
from appliance.test import taddons, tflow


@dataclass
class SomethingHappenedHook(Hook):
    what: str
    often: int = 1


@dataclass
class OddHook(Hook):
    name = "quite_odd"


def test_every_event_has_a_class() -> None:
    for event in EVENTS.values():
        kind = find("".join(part.capitalize() for part in event.name.split("_")) + "Hook")
        made = kind(*event.args)
        assert made.name == event.name and made.args() == list(event.args)
        assert made == kind(*event.args)
    assert hooks.UpdateHook([1]).args() == [[1]] and hooks.Hook is Hook
    assert server_hooks.ServerConnectHook("d").name == "server_connect"
    for module in (hooks, server_hooks):
        for name in ("NosuchHook", "nosuch"):
            with pytest.raises(AttributeError, match=name):
                getattr(module, name)


def test_names() -> None:
    assert SomethingHappenedHook("x").name == "something_happened" and SomethingHappenedHook("x").args() == ["x", 1]
    assert OddHook().name == "quite_odd" and OddHook().args() == []


class Listening:
    def __init__(self, name: str, heard: list[str], fails: BaseException | None = None) -> None:
        self.name, self.heard, self.fails = name, heard, fails

    def request(self, flow: Flow) -> None:
        self.heard.append(f"{self.name} request")

    async def response(self, flow: Flow) -> None:
        self.heard.append(f"{self.name} response")

    async def something_happened(self, what: str, often: int) -> None:
        self.heard.append(f"{self.name} {what} {often}")
        if self.fails:
            raise self.fails


async def test_firing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    a, b = Listening("a", heard, ValueError("oops")), Listening("b", heard, AddonHalt())
    with taddons.context(a, b, Listening("c", heard)) as tctx:
        addons = tctx.master.addons
        addons.trigger(hooks.RequestHook(tflow.tflow()))
        assert heard == ["a request", "b request", "c request"]
        heard.clear()
        await addons.trigger_event(hooks.ResponseHook(tflow.tflow(resp=True)))
        assert heard == ["a response", "b response", "c response"]
        heard.clear()
        await addons.trigger_event(SomethingHappenedHook("rain", 2))
        assert heard == ["a rain 2", "b rain 2"]
        assert "add-on a failed in something_happened: ValueError: oops" in caplog.text
        heard.clear()
        addons.trigger("something_happened", "snow", 3)
        async with asyncio.timeout(5):
            while len(heard) < 2:  # noqa: ASYNC110 - a task of the manager's own
                await asyncio.sleep(0.001)
        addons.trigger("nobody_knows_this")
        await asyncio.sleep(0)
