"""Sends recorded requests again (option `client_replay`, `-C`; commands `replay.client…`).

They go through the engine like any client's: hooks fire, certificates are verified, and the response or the error is
the flow's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from appliance import command, ctx
from appliance.addons.recording import Recording
from appliance.connection import State
from appliance.exceptions import CommandError, FlowReadException, OptionsError
from appliance.flow import Error, Flow
from appliance.http import HTTPFlow, Response
from appliance.layers.http.replay import replay
from appliance.log import ALERT

if TYPE_CHECKING:
    from appliance.worker import Worker

logger = logging.getLogger(__name__)

WAITING: Final = 10_000
"""Flows that wait, files not counted: these are read when it is their turn."""
AT_ONCE: Final = 20
"""Replays side by side where `client_replay_concurrency` sets no limit: each may hold a response of 64 MiB."""

Before = tuple[Response | None, Error | None, str | None, State | None]
"""A flow's response, error, is_replay and backup."""


class ClientPlayback:
    """Listens to no event of a flow. Replays run in the order in which they were asked for."""

    name = "clientplayback"

    def __init__(self) -> None:
        self._queue: deque[HTTPFlow | Recording] = deque()
        self._pending: dict[int, Before] = {}  # by id(): of the flows that wait or are under way
        self._running: set[asyncio.Task[None]] = set()
        self._work: asyncio.Task[None] | None = None
        self._up = False
        self._begun: tuple[str, ...] = ()

    def configure(self, updated: frozenset[str]) -> None:
        if "client_replay" in updated:
            for path in ctx.options.client_replay:
                try:
                    Recording(path).close()
                except FlowReadException as error:
                    raise OptionsError(f"client_replay: {error}") from None
            if self._up:  # once the change is certain: others may still refuse it
                asyncio.get_running_loop().call_soon(self._as_the_option_says)

    def running(self) -> None:
        self._up = True
        self._as_the_option_says()
        self._start()

    def done(self) -> None:
        self._up = False
        for task in (self._work, *self._running):
            if task is not None:
                task.cancel()

    def _as_the_option_says(self) -> None:
        paths = tuple(ctx.options.client_replay)
        if paths == self._begun:
            return
        self._begun = paths
        for path in paths:
            try:
                self.file(path)
            except CommandError as error:  # it has gone meanwhile
                logger.error("client_replay: %s", error)
                ctx.master.exit_code = 1

    # -- commands

    @command.command("replay.client")
    def start_replay(self, flows: Sequence[Flow]) -> None:
        """Send the requests of these flows again. Their old responses can be had back with flow.revert."""
        taken: list[Flow] = []
        for flow in flows:
            if (why := self.check(flow)) is not None:
                logger.warning("replay.client: %s", why)
            elif len(self._queue) >= WAITING:
                logger.warning("replay.client: %d wait already, %d are left out", WAITING, len(flows) - len(taken))
                break
            else:
                assert isinstance(flow, HTTPFlow)
                self._pend(flow)
                flow.backup()
                clear(flow)
                self._queue.append(flow)
                taken.append(flow)
        ctx.master.addons.trigger("update", taken)
        self._start()

    @command.command("replay.client.file")
    def file(self, path: str) -> None:
        """Send the requests of a flow file or HAR, or of store:FILTER, again."""
        try:
            self.source(Recording(path))
        except FlowReadException as error:
            raise CommandError(str(error)) from None

    def source(self, recording: Recording) -> None:
        """Replay what `recording` gives, when it is its turn. Raises CommandError: too much waits."""
        if len(self._queue) >= WAITING:
            recording.close()
            raise CommandError(f"{WAITING} replays wait already: let them end, or use replay.client.stop")
        self._queue.append(recording)
        self._start()

    @command.command("replay.client.count")
    def count(self) -> int:
        """How many replays wait or are going on; a file of which not all is read counts as one."""
        return len(self._queue) + len(self._running)

    @command.command("replay.client.stop")
    def stop_replay(self) -> None:
        """Let nothing more begin. What is going on ends by itself, or by flow.kill."""
        waiting, self._queue = self._queue, deque()
        flows: list[Flow] = []
        for item in waiting:
            if isinstance(item, Recording):
                item.close()
            else:
                before = self._pending.pop(id(item))
                item.response, item.error, item.is_replay, item._backup = before
                flows.append(item)
        ctx.master.addons.trigger("update", flows)
        logger.log(ALERT, "client replay: the queue is empty")

    def check(self, flow: Flow) -> str | None:
        """Why this flow cannot be replayed; None: it can."""
        if not isinstance(flow, HTTPFlow):
            return f"only HTTP flows can be replayed, this is one of {flow.type}"
        request = flow.request
        if flow.live or id(flow) in self._pending:
            return f"{request}: cannot be replayed while it is going on, or waits to be replayed"
        if flow.intercepted:
            return f"{request}: cannot be replayed while it is intercepted"
        if flow.websocket is not None:
            return f"{request}: WebSocket flows cannot be replayed"
        if request is None or request.raw_method.upper() == b"CONNECT":
            return f"{request}: there is no request to be replayed, but a tunnel"
        if request.raw_content is None:
            return f"{request}: its body was not kept (it was streamed), so it cannot be replayed"
        if not request.raw_host:
            return f"{request}: it does not say where it is to go"
        return None

    # -- the work

    def _start(self) -> None:
        if self._up and self._queue and (self._work is None or self._work.done()):
            self._work = asyncio.get_running_loop().create_task(self._carry())

    async def _carry(self) -> None:
        loop, worker = asyncio.get_running_loop(), ctx.master.worker
        while self._queue and not worker.ending:
            before = self._queue[0]
            try:
                flow = await self._next()
            except Exception:
                logger.exception("client replay: one that cannot be read is left out")
                flow = None
                if self._queue and self._queue[0] is before:
                    self._queue.popleft()
            if flow is None:
                continue
            task = loop.create_task(self._replay(worker, flow))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            while len(self._running) >= (1 if ctx.options.client_replay_concurrency == 1 else AT_ONCE):
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def _replay(self, worker: Worker, flow: HTTPFlow) -> None:
        try:
            await replay(worker, flow)
        finally:
            self._pending.pop(id(flow), None)

    async def _next(self) -> HTTPFlow | None:
        """The first in the queue; None: look again."""
        item = self._queue[0]
        if not isinstance(item, Recording):
            self._queue.popleft()
            return item
        try:
            flow = await item.next()
            why = ""
        except FlowReadException as error:
            flow, why = None, str(error)
        if not self._queue or self._queue[0] is not item:  # it was emptied meanwhile
            return None
        if flow is None:
            self._queue.popleft()
            if why:
                logger.error("client replay: %s", why)
                ctx.master.exit_code = 1
            return None
        if (fault := self.check(flow)) is not None:
            logger.warning("client replay: %s: %s", item.path, fault)
            return None
        assert isinstance(flow, HTTPFlow)
        self._pend(flow)
        clear(flow)  # without a backup: what it was is in its file
        return flow

    def _pend(self, flow: HTTPFlow) -> None:
        self._pending[id(flow)] = flow.response, flow.error, flow.is_replay, flow._backup


def clear(flow: HTTPFlow) -> None:
    """Ready for another answer."""
    flow.is_replay = "request"
    flow.response = None
    flow.error = None
