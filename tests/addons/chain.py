"""A chain of add-ons of its own, for tests that fire events by hand."""

from __future__ import annotations

from typing import Any

from appliance.addonmanager import AddonManager
from appliance.events import EVENTS
from appliance.flow import Flow
from appliance.hooks import Hooks
from appliance.options import Options


class Chain:
    """`ctx.master` while it lasts."""

    def __init__(self, *addons: object, **options: Any) -> None:
        """Raises OptionsError like the start of the gateway."""
        self.exit_code = 0
        self.ended = False
        self.options = Options(**options)
        self.hooks = Hooks()
        self.addons = AddonManager(self, self.options, self.hooks)  # type: ignore[arg-type]
        self.addons.add(*addons)
        self.addons.configure()

    def fire(self, flow: Flow, *events: str) -> None:
        for event in events:
            assert self.hooks.fire(event, flow) is None, f"{event} is async"

    async def fire_all(self, flow: Flow, *events: str) -> None:
        for event in events:
            await self.addons.trigger_event(event, flow)

    def listens(self) -> set[str]:
        """The flow events that anybody listens to."""
        return {name for name, event in EVENTS.items() if self.hooks.table[name] and name not in _LIFE}

    def call(self, command: str, *arguments: object) -> Any:
        return self.addons.commands.call(command, *arguments)

    def shutdown(self) -> None:
        self.ended = True


_LIFE = frozenset({"load", "configure", "running", "done"})
HEAD_AND_BODY = ("requestheaders", "request", "responseheaders", "response")
