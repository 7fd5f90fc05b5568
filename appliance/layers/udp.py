"""UDP: datagrams both ways, with hooks when somebody listens."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import appliance.layers.next_layer as deciding  # as a module: they import each other
from appliance.exceptions import ControlException
from appliance.flow import Error
from appliance.layers import dns
from appliance.layers.base import Context, Layer
from appliance.layers.gate import gate, raise_if_killed
from appliance.layers.kept import MAX_INJECTED, keep
from appliance.net.datagrams import Datagrams
from appliance.net.egress import CannotConnect
from appliance.net.reasons import CLOSED, KILLED, Gone, Killed, Reason
from appliance.udp import UDPFlow, UDPMessage
from appliance.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from appliance.net.stream import Stream
    from appliance.store.tee import Talk

logger = logging.getLogger(__name__)


class _Injected(bytes):
    """A datagram that nobody sent: it waits in the inbox among those that were."""

    message: UDPMessage


async def next_layer(context: Context, client: Datagrams) -> None:
    """What is done with a new UDP flow: what an add-on says, else passed when a rule says so of its address, else
    DNS or relayed with hooks. :raises Gone: the client was lost before the first datagram was seen.
    """
    handler, address = context.handler, context.server.address
    worker = handler.worker
    settings = worker.settings
    context.server.transport_protocol = "udp"
    verdict: Verdict | None = None
    if settings.policy.active and address is not None:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        verdict = settings.policy.decide([(f"{host}:{address[1]}", "accept")], complete=True)
    raw = None if verdict else settings.policy.raw("udp_hosts", address[0] if address else None)
    asked = bool(worker.hooks.table["next_layer"])
    port_of_dns = verdict is None and raw is None and address is not None and address[1] == dns.PORT
    if (asked or port_of_dns) and not client.waiting:
        if not (first := await client.receive()):
            return
        client.unread(first)
    is_dns = port_of_dns and dns.is_query(client.waiting[0])
    proposed = verdict or raw or (Verdict("decrypt", "DNS") if is_dns else Verdict("decrypt", "UDP", at="accept"))
    if asked:
        about = deciding.NextLayer(context, client, None, verdict=proposed)
        await handler.fire("next_layer", about)
        if about.layer is not None:
            handler.decide(deciding.chosen_by_addon(about.layer))
            await about.layer.run(client)
            return
    handler.decide(proposed)
    if is_dns:
        await dns.DNSLayer(context).run(client)
        return
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
    """Relay untouched until either side is gone. Counts go to `handler.moved` (bytes up, down)."""
    handler, counts = context.handler, [0, 0]
    try:
        server = await handler.upstreams.open_udp(context.server)
        await _until_one_ends(_pour(client, server, counts, 0), _pour(server, client, counts, 1))
    except CannotConnect as e:
        logger.info("%s: cannot pass: %s", context.client, e.text)
        client.reject()
    except Gone as e:
        logger.debug("%s: %s", context.client, e)
    finally:
        handler.moved = counts[0], counts[1]


async def _pour(src: Datagrams, dst: Datagrams, counts: list[int], way: int) -> None:
    while batch := await src.receive():
        for data in batch:
            counts[way] += len(data)
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
        self._moved = [0, 0]  # bytes up and down
        self._talk: Talk | None = None  # what the flow store hears of it
        self._early: list[_Injected] = []  # in the server's name, before it was dialled

    async def run(self) -> None:
        flow, handler = self._flow, self._handler
        flow._live = self
        handler.worker.totals.flows += 1
        handler.told = True
        recorder, verdict = handler.worker.recorder, flow.client_conn.verdict
        if recorder is not None:
            # Of what is passed the bytes are counted, no more.
            passed = verdict is not None and verdict.action == "pass"
            self._talk = recorder.talk(flow, 0 if passed else None)
        why = CLOSED
        error: str | None = None
        try:
            if (wait := gate(handler, "udp_start", flow)) is not None:
                await wait
            self._server = server = await handler.upstreams.open_udp(self._context.server)
            for data in self._early:
                server.put(data)
            self._early.clear()
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
        finally:
            flow.moved = self._moved[0], self._moved[1]
            if self._talk is not None and recorder is not None:
                if error is not None or flow.killed:
                    flow.error = flow.error or Error(error or Error.KILLED_MESSAGE)
                recorder.over(self._talk)
        if flow.killed:
            why, error = KILLED, Error.KILLED_MESSAGE
        flow._live = None
        self._abort(why)
        if error is not None:
            flow.error = flow.error or Error(error)
            handler.worker.totals.errors += 1
        await self._fire("udp_end" if error is None else "udp_error")

    async def _way(self, src: Datagrams, dst: Datagrams, from_client: bool) -> None:
        listeners, talk, way = self._handler.worker.hooks.table, self._talk, int(not from_client)
        while batch := await src.receive():
            if not listeners["udp_message"]:
                self._moved[way] += sum(map(len, batch))
                if talk is not None:
                    for data in batch:
                        talk.heard(from_client, data)
                dst.send(batch)
                continue
            for data in batch:
                if (content := await self._shown(data, from_client, dst)) is not None:
                    self._moved[way] += len(content)
                    dst.send((content,))
        raise_if_killed(self._flow)

    async def _shown(self, data: bytes, from_client: bool, dst: Datagrams) -> bytes | None:
        """The datagram as the hooks want it, None = not at all: they have emptied it."""
        message = data.message if isinstance(data, _Injected) else UDPMessage(from_client, data)
        self._kept = keep(self._flow.messages, message, self._kept)
        if (wait := gate(self._handler, "udp_message", self._flow, dst)) is not None:
            await wait
        content = message.content
        if content is not data and not isinstance(content, bytes | bytearray | memoryview):
            logger.error("udp_message: content is %s, not bytes; the datagram is dropped", type(content).__name__)
            message.content = content = b""
        if self._talk is not None:
            self._talk.say(message)
        return data if content is data else bytes(content) or None

    def _unreachable(self) -> bool:
        server = self._server
        return server is not None and server.why is not None and server.why.kind == "reset" and not server.received

    def inject(self, to_client: bool, message: UDPMessage) -> None:
        """See flow.inject(). :raises ControlException: too much is waiting already."""
        data = _Injected(message.content)
        data.message = message
        source = self._server if to_client else self._client
        if source is None:
            if len(self._early) >= MAX_INJECTED:
                raise ControlException("too many messages wait for this flow's server already")
            self._early.append(data)
        elif source.why is not None or not source.put(data):
            raise ControlException(
                "the flow has ended" if source.why else "too many datagrams wait in this flow already"
            )

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
