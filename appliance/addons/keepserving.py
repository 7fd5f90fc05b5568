"""Ends the gateway once all that it was started for is done: files read, requests and responses replayed."""

from __future__ import annotations

import asyncio
from typing import Final

from appliance import ctx

LOOK_EVERY: Final = 0.1
"""Seconds."""
_COUNTS: Final = ("readfile.reading", "replay.client.count", "replay.server.count")


class KeepServing:
    """At work when the gateway was started with `client_replay` or `server_replay`, and without `keepserving`."""

    name = "keepserving"

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def running(self) -> None:
        options = ctx.options
        if (options.client_replay or options.server_replay) and not options.keepserving:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def done(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def keepgoing(self) -> bool:
        """Whether there is anything left to be done."""
        commands = ctx.master.commands
        return any(commands.call(name) for name in _COUNTS if name in commands) or bool(ctx.master.worker.handlers)

    async def _watch(self) -> None:
        await asyncio.sleep(LOOK_EVERY)
        while self.keepgoing():  # noqa: ASYNC110 - what is waited for has no event in common
            await asyncio.sleep(LOOK_EVERY)
        if not ctx.options.keepserving:  # it may have been set meanwhile
            ctx.master.shutdown()
