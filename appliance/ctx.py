"""What add-ons reach without being handed it: `ctx.options`, `ctx.master`, and the old `ctx.log`.

The only module with state. `options` and `master` are there once a gateway was made: use them inside hooks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from appliance.log import Log

if TYPE_CHECKING:
    from appliance.addonmanager import AddonManager
    from appliance.command import CommandManager
    from appliance.options import Options
    from appliance.worker import Worker

    class Master(Protocol):
        """The gateway, as add-ons see it."""

        exit_code: int
        """Of the process, once it has ended in good order."""

        @property
        def addons(self) -> AddonManager: ...
        @property
        def commands(self) -> CommandManager: ...
        @property
        def options(self) -> Options: ...
        @property
        def worker(self) -> Worker: ...
        def shutdown(self) -> None: ...
        async def settle(self) -> None: ...

    options: Options
    master: Master

log = Log(logging.getLogger("appliance.ctx"))


def __getattr__(name: str) -> object:
    if name in ("options", "master"):
        raise AttributeError(f"ctx.{name} is there once the gateway is up: use it inside a hook")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
