"""lockgate inside another program, by the names that such programs know: `DumpMaster`, `mitmdump`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from appliance.addons import default_addons
from appliance.gateway import Gateway
from appliance.log import setup
from appliance.options import RUN_TIME, Options

__all__ = ["DumpMaster", "Master", "mitmdump"]

Master = Gateway


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
        self.addons.add(*default_addons())


def mitmdump(args: Sequence[str] | None = None) -> int:
    """`lockgate run` with these arguments (default: those of the process); returns when the gateway has ended."""
    import sys

    from appliance.cli.main import main

    return main(["run", *(sys.argv[1:] if args is None else args)])
