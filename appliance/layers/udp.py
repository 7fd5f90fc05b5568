"""UDP: datagrams both ways, with hooks when somebody listens."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from appliance.flow import Error
from appliance.layers import dns
from appliance.layers.base import Context, Layer
from appliance.layers.gate import gate, raise_if_killed
from appliance.net.datagrams import Datagrams
from appliance.net.egress import CannotConnect
from appliance.net.reasons import CLOSED, KILLED, Gone, Killed, Reason
from appliance.udp import UDPFlow, UDPMessage
from appliance.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from appliance.net.stream import Stream

logger = logging.getLogger(__name__)

KEPT_MESSAGES = 10_000
KEPT_BYTES = 16 << 20
"""What a flow keeps in `messages` at most; beyond, the oldest quarter goes. The present datagram always stays."""


async def next_layer(context: Context, client: Datagrams) -> None:
    """What is done with a new UDP flow: passed when a rule says so of its address, else relayed with hooks."""
    handler, address = context.handler, context.server.address
    settings = handler.worker.settings
    verdict: Verdict | None = None
    if settings.policy.active and address is not None:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        verdict = settings.policy.decide([(f"{host}:{address[1]}", "accept")], complete=True)
    if verdict is None and address is not None and address[1] == dns.PORT:
        batch = await client.receive()
        client.unread(batch)
        if batch and dns.is_query(batch[0]):
            handler.decide(Verdict("decrypt", "DNS"))
            await dns.DNSLayer(context).run(client)
            return
    handler.decide(verdict or Verdict("decrypt", "UDP", at="accept"))
    await UDPLayer(context, ignore=verdict is not None and not settings.show_ignored).run(client)


class UDPLayer(Layer):
    """A UDP conversation. ignore: pass it untouched, without a flow."""

    def __init__(self, context: Context, ignore: bool = False) -> None:
        super().__init__(context)
        self.ignore = ignore

    async def run(self, client: Stream | Datagrams) -> None:
        assert isinstance(client, Datagrams)
        context = self.context
        context.server.transport_protocol = "udp"
        if self.ignore:
            await _pass(context, client)
        else:
            await Conversation(context, UDPFlow(context.client, context.server), client).run()


async def _pass(context: Context, client: Datagrams) -> None:
    """Relay untouched until either side is gone."""
    try:
        server = await context.handler.upstreams.open_udp(context.server)
        await _until_one_ends(_pour(client, server), _pour(server, client))
    except CannotConnect as e:
        logger.info("%s: cannot pass: %s", context.client, e.text)
        client.reject()
    except Gone as e:
        logger.debug("%s: %s", context.client, e)


async def _pour(src: Datagrams, dst: Datagrams) -> None:
    while batch := await src.receive():
        dst.send(batch)


async def _until_one_ends(*ways: Coroutine[None, None, None]) -> None:
    """There is no half-close: the first way to end ends the flow. :raises Gone: so it was lost."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Conversation:
    """One UDP flow from `udp_start` to `udp_end` or `udp_error`.

    An error is a kill, and a server that cannot be reached: no route, or its port is unreachable before it ever
    answered. A side that is gone later, or silence for `udp_timeout`, is how UDP flows end.
    """

    def __init__(self, context: Context, flow: UDPFlow, client: Datagrams) -> None:
        self._context = context
        self._handler = context.handler
        self._flow = flow
        self._client = client
        self._server: Datagrams | None = None
        self._kept = 0  # bytes in flow.messages

    async def run(self) -> None:
        flow, handler = self._flow, self._handler
        flow._live = self
        handler.worker.totals.flows += 1
        why = CLOSED
        error: str | None = None
        try:
            if (wait := gate(handler, "udp_start", flow)) is not None:
                await wait
            self._server = server = await handler.upstreams.open_udp(self._context.server)
            await _until_one_ends(self._way(self._client, server, True), self._way(server, self._client, False))
        except CannotConnect as e:
            why, error = Reason("reset", e.text), e.text
            self._client.reject()
        except Killed as e:
            why, error = e.reason, Error.KILLED_MESSAGE
        except Gone as e:
            why = e.reason
            if self._unreachable():
                error = f"the server cannot be reached: {why.text}"
                self._client.reject()
        if flow.killed:
            why, error = KILLED, Error.KILLED_MESSAGE
        flow._live = None
        self._abort(why)
        if error is not None:
            flow.error = flow.error or Error(error)
            handler.worker.totals.errors += 1
        await self._fire("udp_end" if error is None else "udp_error")

    async def _way(self, src: Datagrams, dst: Datagrams, from_client: bool) -> None:
        listeners = self._handler.worker.hooks.table
        while batch := await src.receive():
            if not listeners["udp_message"]:
                dst.send(batch)
                continue
            for data in batch:
                if (content := await self._shown(data, from_client, dst)) is not None:
                    dst.send((content,))
        raise_if_killed(self._flow)

    async def _shown(self, data: bytes, from_client: bool, dst: Datagrams) -> bytes | None:
        """The datagram as the hooks want it, None = not at all: they have emptied it."""
        message = UDPMessage(from_client, data)
        self._keep(message)
        if (wait := gate(self._handler, "udp_message", self._flow, dst)) is not None:
            await wait
        content = message.content
        if content is data:
            return data
        if not isinstance(content, bytes | bytearray | memoryview):
            logger.error("udp_message: content is %s, not bytes; the datagram is dropped", type(content).__name__)
            message.content = b""
            return None
        return bytes(content) or None

    def _keep(self, message: UDPMessage) -> None:
        messages = self._flow.messages
        messages.append(message)
        self._kept += len(message.content)
        if len(messages) > KEPT_MESSAGES or self._kept > KEPT_BYTES:
            count = size = 0
            for kept in reversed(messages):
                more = size + len(kept.content)
                if count and (count >= KEPT_MESSAGES * 3 // 4 or more > KEPT_BYTES * 3 // 4):
                    break
                count, size = count + 1, more
            del messages[:-count]
            self._kept = size

    def _unreachable(self) -> bool:
        server = self._server
        return server is not None and server.why is not None and server.why.kind == "reset" and not server.received

    def kill(self) -> None:
        """See flow.kill()."""
        self._abort(KILLED)

    def _abort(self, why: Reason) -> None:
        self._client.abort(why)
        if self._server is not None:
            self._server.abort(why)

    async def _fire(self, event: str) -> None:
        for name, argument in ((event, self._flow), ("update", [self._flow])):
            pending = self._handler.worker.hooks.fire(name, argument)
            if pending is not None:
                await pending
