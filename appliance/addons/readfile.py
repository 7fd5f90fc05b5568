"""Reads flows from a file (option `rfile`, `-r`; ``-`` is standard input) and fires their events again."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import IO

from appliance import ctx, eventsequence
from appliance.addonmanager import Loader
from appliance.addons.filters import option_filter
from appliance.exceptions import FlowReadException, OptionsError
from appliance.flow import Flow
from appliance.flowfilter import FlowFilter
from appliance.home import expanded
from appliance.io import FlowReader

logger = logging.getLogger(__name__)


class ReadFile:
    """Listens to nothing but its options. When all is read the gateway ends, unless `keepserving` is on."""

    name = "readfile"

    def __init__(self, stdin: IO[bytes] | None = None) -> None:
        self._stdin = stdin
        self._filter: FlowFilter | None = None
        self._task: asyncio.Task[None] | None = None

    def load(self, loader: Loader) -> None:
        loader.add_command("readfile.reading", self.reading)

    def configure(self, updated: frozenset[str]) -> None:
        if "readfile_filter" in updated:
            self._filter = option_filter("readfile_filter")
        path = ctx.options.rfile
        if "rfile" in updated and path and path != "-":
            file = expanded(path, "rfile")
            if not file.exists() or file.is_dir():  # a pipe is as good: `-r <(zcat flows.gz)`
                raise OptionsError(f"rfile: {path}: no such file")

    def running(self) -> None:
        if path := ctx.options.rfile:
            self._task = asyncio.get_running_loop().create_task(self._read(path))

    def done(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def reading(self) -> bool:
        """Whether flows are being read now."""
        return self._task is not None and not self._task.done()

    async def _read(self, path: str) -> None:
        count = 0
        try:
            with await asyncio.to_thread(self._open, path) as file:  # a pipe opens when somebody writes
                count = await self._load(FlowReader(file))
        except (OSError, FlowReadException) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            logger.error("rfile: %s: %s", path, reason)
            ctx.master.exit_code = 1
        else:
            logger.debug("rfile: %d flows were read", count)
        options = ctx.options
        if not (options.keepserving or options.client_replay or options.server_replay):  # else see KeepServing
            while ctx.options.server and ctx.master.worker.handlers:  # noqa: ASYNC110 - seconds at the very end
                await asyncio.sleep(0.1)
            ctx.master.shutdown()

    def _open(self, path: str) -> IO[bytes]:
        if path == "-":
            return self._stdin or sys.stdin.buffer
        return expanded(path).open("rb")

    async def _load(self, reader: FlowReader) -> int:
        """One flow at a time, read in a thread: a slow disk or a silent pipe holds up nobody."""
        flows: Iterator[Flow] = reader.stream()
        count = 0
        while (flow := await asyncio.to_thread(next, flows, None)) is not None:
            if self._filter is None or self._filter(flow):
                await load_flow(flow)
                count += 1
        return count


async def load_flow(flow: Flow) -> None:
    """Fire the events of a flow that is over; add-ons that hold flows do not hold this one."""
    manager = ctx.master.addons
    for event, _ in eventsequence.iterate(flow):
        await manager.trigger_event(event, flow)
        await manager.trigger_event("update", [flow])
        flow.resume()
