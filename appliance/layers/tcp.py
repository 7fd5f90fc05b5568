"""Raw TCP: bytes both ways, half-closes included, with hooks when somebody listens."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from appliance.flow import Error
from appliance.layers import passthrough
from appliance.layers.base import Context, Layer
from appliance.layers.gate import gate, raise_if_killed
from appliance.net.egress import CannotConnect
from appliance.net.reasons import KILLED, Gone, Killed, Reason
from appliance.net.stream import Stream
from appliance.tcp import TCPFlow, TCPMessage

if TYPE_CHECKING:
    from appliance.connection import Server
    from appliance.net.datagrams import Datagrams

logger = logging.getLogger(__name__)


class TCPLayer(Layer):
    """A TCP conversation. ignore: pass it untouched, without a flow."""

    def __init__(self, context: Context, ignore: bool = False) -> None:
        super().__init__(context)
        self.ignore = ignore

    async def run(self, client: Stream | Datagrams) -> None:
        assert isinstance(client, Stream)
        context = self.context
        if self.ignore:
            await passthrough.run(context, client)
            return
        flow = TCPFlow(context.client, context.server)
        await Conversation(context, flow, client).run()

    async def carry(self, client: Stream, upstream: Stream, server: Server) -> None:
        """The same over a connection that is open already (after an upgrade)."""
        flow = TCPFlow(self.context.client, server)
        await Conversation(self.context, flow, client, upstream).run()


class Conversation:
    """One TCP flow from `tcp_start` to `tcp_end` or `tcp_error`."""

    def __init__(self, context: Context, flow: TCPFlow, client: Stream, upstream: Stream | None = None) -> None:
        self._context = context
        self._handler = context.handler
        self._flow = flow
        self._client = client
        self._server = upstream
        self.why: Reason | None = None

    async def run(self) -> None:
        flow, handler = self._flow, self._handler
        flow._live = self
        handler.worker.totals.flows += 1
        try:
            if (wait := gate(handler, "tcp_start", flow)) is not None:
                await wait
            if self._server is None:
                self._server = await handler.upstreams.open(self._context.server)
            if handler.worker.hooks.table["tcp_message"]:
                await self._both(self._server)
            else:
                # Nobody listens to the messages: the kernel may carry them.
                try:
                    await passthrough.carry(self._context, self._client, self._server, flow.server_conn)
                finally:
                    flow.moved = handler.moved
            flow._live = None
            await self._fire("tcp_end")
        except CannotConnect as e:
            await self._error(e.text)
            self._client.abort(Reason("reset", e.text))
        except Killed:
            await self._error(Error.KILLED_MESSAGE)
            self.kill()
        except Gone as e:
            if flow.killed:
                await self._error(Error.KILLED_MESSAGE)
            else:
                await self._error(e.reason.text)
            self._abort(e.reason)

    async def _both(self, server: Stream) -> None:
        ways = [
            asyncio.ensure_future(self._way(self._client, server, True)),
            asyncio.ensure_future(self._way(server, self._client, False)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _way(self, src: Stream, dst: Stream, from_client: bool) -> None:
        flow, handler = self._flow, self._handler
        while data := await src.read():
            message = TCPMessage(from_client, data)
            flow.messages.append(message)
            if (wait := gate(handler, "tcp_message", flow, dst)) is not None:
                await wait
            if message.content and not dst.write(message.content):
                await dst.drain()
        raise_if_killed(flow)
        dst.write_eof()

    def kill(self) -> None:
        """See flow.kill()."""
        self._abort(KILLED)
        if self._handler.splice is not None:
            self._handler.splice.fail(KILLED)

    def _abort(self, why: Reason) -> None:
        self._client.abort(why)
        if self._server is not None:
            self._server.abort(why)

    async def _error(self, text: str) -> None:
        self._flow._live = None
        if self._flow.error is None:
            self._flow.error = Error(text)
        self._handler.worker.totals.errors += 1
        await self._fire("tcp_error")

    async def _fire(self, event: str) -> None:
        for name, argument in ((event, self._flow), ("update", [self._flow])):
            pending = self._handler.worker.hooks.fire(name, argument)
            if pending is not None:
                await pending
