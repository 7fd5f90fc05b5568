"""lockgate inside another program, by the name that such programs know: `DumpMaster`."""

from __future__ import annotations

import asyncio
from typing import Any

from appliance.gateway import Gateway
from appliance.log import setup
from appliance.options import RUN_TIME, Options

__all__ = ["DumpMaster"]


class DumpMaster(Gateway):
    """A gateway to embed: make it in a running loop, `addons.add(...)`, `await run()`; `shutdown()` ends it.

    Unlike the program it reads no config.yaml and handles no signals.
    """

    def __init__(
        self,
        options: Options,
        loop: asyncio.AbstractEventLoop | None = None,
        with_termlog: bool = True,
        with_dumper: bool = True,
    ) -> None:
        super().__init__(options)
        self.event_loop = loop or asyncio.get_running_loop()
        if with_termlog:
            setup(options.termlog_verbosity)
        if not with_dumper:
            values: dict[str, Any] = {"flow_detail": (0, RUN_TIME), "termlog_verbosity": ("error", RUN_TIME)}
            options.apply(values)

    def shutdown(self) -> None:
        """May be called from any thread."""
        self.event_loop.call_soon_threadsafe(super().shutdown)
