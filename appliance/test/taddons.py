"""Runs an add-on without a gateway.

with taddons.context(MyAddon()) as tctx:
    tctx.configure(addon, my_option=3)
    addon.request(flow)
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from appliance import ctx
from appliance.addonmanager import AddonManager, walk
from appliance.addons.core import Core
from appliance.addons.script import Script, ScriptLoader, read_script, script_path
from appliance.command import CommandManager
from appliance.hooks import Hooks
from appliance.options import Options


class TestMaster:
    """What `ctx.master` is during the test."""

    __test__ = False

    def __init__(self, options: Options) -> None:
        self.options = options
        self.addons = AddonManager(self, options, Hooks())  # type: ignore[arg-type]
        self.addons.is_configured = True
        self.asked_to_end = False
        self.exit_code = 0
        self.log = ctx.log

    @property
    def commands(self) -> CommandManager:
        return self.addons.commands

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @property
    def view(self) -> Any:
        return self.addons.get("view")

    async def load_flow(self, f: Any) -> None:
        """Fire the events of a flow that is over."""
        from appliance.addons.readfile import load_flow

        await load_flow(f)

    def shutdown(self) -> None:
        self.asked_to_end = True


class context:
    """The surroundings of a test: `ctx`, options and commands, with the add-ons given."""

    def __init__(self, *addons: object, options: Options | None = None, loadcore: bool = True) -> None:
        self.options = options or Options()
        self._before = {name: vars(ctx).get(name) for name in ("options", "master")}
        self.master = TestMaster(self.options)
        if loadcore:
            self.master.addons.add(Core())
        self.master.addons.add(*addons)

    def __enter__(self) -> Self:
        ctx.options, ctx.master = self.options, self.master  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, value in self._before.items():
            if value is None:
                vars(ctx).pop(name, None)
            else:
                setattr(ctx, name, value)

    async def cycle(self, addon: object, flow: Any) -> None:
        """Fire the events that a flow like this has had, at all add-ons."""
        from importlib import import_module

        for event in import_module("appliance.eventsequence").iterate(flow):
            if isinstance(event, tuple):
                await self.master.addons.trigger_event(*event)
            else:
                await self.master.addons.trigger_event(event.name, *event.args())

    def configure(self, addon: object, **values: Any) -> None:
        """Set options, and tell `addon` of them also where they were so already. Raises OptionsError."""
        if addon not in self.master.addons:
            self.master.addons.add(addon)
        before = {name: getattr(self.options, name, None) for name in values}
        self.options.update(**values)
        if same := frozenset(name for name, value in before.items() if getattr(self.options, name) == value):
            self.master.addons.hooks.call(addon, "configure", same)

    def script(self, path: str) -> Any:
        """Load a script; returns what it is as an add-on: the first of its `addons`, or the module."""
        loader = self.master.addons.get("scriptloader")
        if loader is None:
            loader = ScriptLoader()
            self.master.addons.add(loader)
        script = Script(script_path(path))
        script.module = read_script(script.path)
        loader.scripts.append(script)
        self.master.addons.register(script.module)
        return next(iter(list(walk([script.module]))[1:]), script.module)

    def command(self, func: Any, *args: str) -> Any:
        """Call a command's function with texts."""
        from appliance.command import Command

        return Command(self.master.commands, "test.command", func).call(args)

    async def running(self) -> None:
        await self.master.addons.running()
        await asyncio.sleep(0)
