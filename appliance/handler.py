"""The connection handler: one task per connection, owner of both its ends. Nothing outlives it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from appliance.connection import Client, ConnectionState
from appliance.layers.base import Context
from appliance.net.egress import Upstreams
from appliance.net.reasons import SHUTDOWN, Gone, Reason
from appliance.net.stream import Stream
from appliance.verdict import Verdict

if TYPE_CHECKING:
    from appliance.arrival import Arrival
    from appliance.net.datagrams import Datagrams
    from appliance.net.splice import Splice
    from appliance.worker import Worker

logger = logging.getLogger(__name__)


class ConnectionHandler:
    """Runs the layers of one arrival, fires the connection's own events, and closes what is left.

    streams: every live stream of this connection. told: it has a flow that says what there is to be said. gated: how
    many hooks are being waited for; clocks stand still meanwhile. patience: seconds of silence after which it is over,
    None = what the options say.
    """

    __slots__ = (
        "_idle_since",
        "_spliced",
        "_swept",
        "_task",
        "arrival",
        "client",
        "closing",
        "context",
        "gated",
        "moved",
        "patience",
        "splice",
        "streams",
        "told",
        "upstreams",
        "worker",
    )

    def __init__(self, worker: Worker, arrival: Arrival) -> None:
        self.worker = worker
        self.arrival = arrival
        self.client: Client = arrival.client
        self.context = Context(self.client, worker.options, self)
        self.upstreams = Upstreams(self)
        self.streams: set[Stream | Datagrams] = set()
        self.splice: Splice | None = None
        self.moved = (0, 0)
        self.told = False  # a flow says all that the connection has to say
        self.gated = 0
        self.closing = False
        self.patience: float | None = None
        self._task = asyncio.current_task()
        self._idle_since = self._swept = worker.loop.time()
        self._spliced = (0, 0)

    async def run(self) -> None:
        client, hooks = self.client, self.worker.hooks
        transport = self.arrival.transport
        self.streams.add(transport)
        try:
            if hooks.table["client_connected"]:
                await self.fire("client_connected", client)
            if client.error:
                self.decide(Verdict("block", client.error, at="hook"))
                transport.abort(Reason("blocked", client.error))
                return
            if self.arrival.wanted is not None:
                self.context.server.address = self.arrival.wanted[0], self.arrival.wanted[1]
            await self.arrival.top(self.context).run(transport)
        except Gone as e:
            logger.log(logging.INFO if e.reason.kind == "timeout" else logging.DEBUG, "%s: %s", client.peername, e)
        finally:
            await self._close()

    async def _close(self) -> None:
        client = self.client
        for stream in list(self.streams):
            if stream is self.arrival.transport:
                stream.close()
        client.state = ConnectionState.CLOSED
        client.timestamp_end = time.time()
        try:
            if self.worker.hooks.table["client_disconnected"]:
                client.wanted, client.passed = self.context.server.address, self.moved
                await self.fire("client_disconnected", client)
            await self.upstreams.close()
            self._record()
        finally:  # also when a hook that does not end was cancelled
            for stream in self.streams:
                stream.close()
            self._dissolve()

    def _record(self) -> None:
        """What was passed or blocked, or had no common TLS, has no flow that would be recorded."""
        recorder, verdict, client = self.worker.recorder, self.client.verdict, self.client
        if recorder is None or self.told or verdict is None:
            return
        if verdict.action != "decrypt" or client.error:
            recorder.connection(client, self.context.server, self.moved)

    def _dissolve(self) -> None:
        """Take apart what refers to each other in circles, so that memory goes now and not at the next collection."""
        self.streams.clear()
        self.context.layers.clear()
        del self.context.handler, self.upstreams
        self._task = None

    async def fire(self, event: str, *args: object) -> None:
        """Fire a connection event; clocks stand still while its hooks run."""
        pending = self.worker.hooks.fire(event, *args)
        if pending is not None:
            self.gated += 1
            try:
                await pending
            finally:
                self.gated -= 1

    def decide(self, verdict: Verdict) -> None:
        """Record the verdict on this connection; the last one counts."""
        self.client.verdict = verdict
        if verdict.action == "pass":
            self.worker.totals.passed += 1
        elif verdict.action == "block":
            self.worker.totals.blocked += 1

    # -- clocks and endings

    def sweep(self, now: float) -> None:
        """Called by the worker about twice a second: expire deadlines, end what is idle."""
        passed, self._swept = now - self._swept, now
        if self.gated:
            self._idle_since = now
            for stream in self.streams:
                if stream.deadline:
                    stream.deadline += passed
            return
        stirred = False
        for stream in list(self.streams):
            if stream.stirred:
                stream.stirred = False
                stirred = True
                if isinstance(stream, Stream):
                    stream.below.look()
            if stream.deadline and stream.deadline <= now:
                stream.expire()
        if self.splice is not None and self.splice.moved != self._spliced:
            self._spliced = self.splice.moved
            self.splice.look()
            stirred = True
        if stirred:
            self._idle_since = now
            return
        settings = self.worker.settings
        patience = self.patience
        if patience is None:
            patience = settings.udp_timeout if self.client.transport_protocol == "udp" else settings.idle_timeout
        if now - self._idle_since > patience:
            self._end(Reason("timeout", f"idle for {patience:.0f} s"))

    def shutdown(self, why: Reason = SHUTDOWN) -> None:
        """The gateway is stopping, or this connection's mode is."""
        self.closing = True
        self._end(why)

    def cancel(self) -> None:
        """Shutdown did not end it in time."""
        self.closing = True
        if self._task is not None:
            self._task.cancel()

    def _end(self, reason: Reason) -> None:
        for stream in list(self.streams):
            if stream is self.arrival.transport or (isinstance(stream, Stream) and stream.farewell is not None):
                stream.close(why=reason)  # what was already said still reaches its peer
            else:
                stream.abort(reason)
        if self.splice is not None:
            self.splice.fail(reason)
