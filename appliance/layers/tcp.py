"""Raw TCP: bytes both ways, half-closes included, with hooks when somebody listens."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from appliance.exceptions import ControlException
from appliance.flow import Error
from appliance.layers import passthrough
from appliance.layers.base import Context, Layer
from appliance.layers.gate import gate, raise_if_killed
from appliance.layers.kept import MAX_INJECTED, keep
from appliance.net.egress import CannotConnect, wanted_by
from appliance.net.reasons import KILLED, Gone, Killed, Reason
from appliance.net.stream import Stream
from appliance.tcp import TCPFlow, TCPMessage

if TYPE_CHECKING:
    from appliance.connection import Server
    from appliance.net.datagrams import Datagrams
    from appliance.store.tee import Talk

logger = logging.getLogger(__name__)

_INJECTED = Reason("protocol", "a message was injected")
"""Wakes a reader; never seen by anybody else."""


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
        self._kept = 0  # bytes in flow.messages
        self._moved = [0, 0]  # bytes of the messages, down and up
        self._talk: Talk | None = None  # what the flow store hears of it
        self._carried = False  # without messages being made
        # By direction, [from the server, from the client]:
        self._injected: tuple[list[TCPMessage], list[TCPMessage]] = ([], [])  # a deque takes 700 bytes
        self._sources: list[Stream | None] = [None, None]
        self._ended = [False, False]
        self.why: Reason | None = None

    async def run(self) -> None:
        flow, handler = self._flow, self._handler
        flow._live = self
        handler.worker.totals.flows += 1
        recorder, verdict = handler.worker.recorder, flow.client_conn.verdict
        handler.told = True
        if recorder is not None:
            # Of what is passed the bytes are counted, no more.
            passed = verdict is not None and verdict.action == "pass"
            self._talk = recorder.talk(flow, 0 if passed else None)
        try:
            if (wait := gate(handler, "tcp_start", flow)) is not None:
                await wait
            if self._server is None:
                with wanted_by(self._client) as attempt:
                    self._server = await handler.upstreams.open(self._context.server, attempt)
            if handler.worker.hooks.table["tcp_message"] or any(self._injected):
                try:
                    await self._both(self._server)
                finally:
                    flow.moved = self._moved[1], self._moved[0]
            else:
                # Nobody listens to the messages: the kernel may carry them, unless they are to be recorded.
                self._carried = True
                talk = self._talk
                heard = talk.heard if talk is not None and not talk.full else None
                try:
                    await passthrough.carry(self._context, self._client, self._server, flow.server_conn, heard)
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
        except Exception:  # what an add-on made of a message cannot be sent
            logger.exception("fault in a TCP flow; it is closed")
            why = Reason("protocol", "fault in the gateway")
            await self._error(why.text)
            self._abort(why)
        finally:
            flow._live = None
            if self._talk is not None and recorder is not None:
                recorder.over(self._talk)

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
        flow, injected, talk = self._flow, self._injected[from_client], self._talk
        self._sources[from_client] = src
        while True:
            while injected:
                await self._say(injected.pop(0), dst)
            try:
                data = await src.read()
            except Gone as e:
                if e.reason is not _INJECTED:
                    raise
                continue
            if not data:
                break
            message = TCPMessage(from_client, data)
            self._kept = keep(flow.messages, message, self._kept)
            # As _say, but inline: this is the hot path.
            if (wait := gate(self._handler, "tcp_message", flow, dst)) is not None:
                await wait
            room = not message.content or dst.write(message.content)
            self._moved[from_client] += len(message.content)
            if talk is not None:
                talk.say(message)
            if not room:
                await dst.drain()
        while injected:
            await self._say(injected.pop(0), dst)
        self._ended[from_client] = True
        raise_if_killed(flow)
        dst.pass_end(src)

    async def _say(self, message: TCPMessage, dst: Stream) -> None:
        self._kept = keep(self._flow.messages, message, self._kept)
        if (wait := gate(self._handler, "tcp_message", self._flow, dst)) is not None:
            await wait
        room = not message.content or dst.write(message.content)
        self._moved[message.from_client] += len(message.content)
        if self._talk is not None:
            self._talk.say(message)
        if not room:
            await dst.drain()

    def inject(self, to_client: bool, message: TCPMessage) -> None:
        """See flow.inject(). :raises ControlException: that direction has ended, or the kernel carries the bytes."""
        from_client = not to_client
        waiting = self._injected[from_client]
        if self._carried:
            raise ControlException(
                "nothing can be injected where the bytes are carried without messages: load an add-on with a "
                "tcp_message hook before the connection begins"
            )
        if self._ended[from_client]:
            raise ControlException(f"the {'client' if from_client else 'server'} has ended this direction")
        if len(waiting) >= MAX_INJECTED:
            raise ControlException("too many messages wait in this flow already")
        waiting.append(message)
        if (source := self._sources[from_client]) is not None:
            source.interrupt(_INJECTED)

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
