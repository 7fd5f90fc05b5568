"""A body that streams: carried from side to side as it comes, changed on its way, counted against the limit."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from appliance.headers import Headers
from appliance.layers.gate import gate
from appliance.layers.http.bodies import Source, transformed
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.wire import Inbound, Outbound
from appliance.net.reasons import Gone, Reason
from appliance.net.relay import Tap, pour
from appliance.net.stream import Buffer

if TYPE_CHECKING:
    from appliance.handler import ConnectionHandler
    from appliance.http import HTTPFlow

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where either body goes."""

    async def send(self, data: Buffer) -> None: ...


class OverLimit(Exception):
    """More of a body has come than body_size_limit allows."""


async def carry(
    source: Source, sink: Sink, change: Any, first: bytes, limit: int | None, tee: Tap | None = None
) -> int:
    """All of `first` and then of `source`, through `change` (a `stream` callable or None); its size as it came.

    tee: sees each piece as it goes on.

    :raises OverLimit: as it says. :raises Refused: `change` failed. :raises Gone: either side was lost.
    """
    size = len(first)
    if first:
        for piece in transformed(change, first):
            if tee is not None:
                tee(piece)
            await sink.send(piece)
    while data := await source.chunk():
        size += len(data)
        if limit is not None and size > limit:
            raise OverLimit
        for piece in transformed(change, data):
            if tee is not None:
                tee(piece)
            await sink.send(piece)
    for piece in transformed(change, b""):
        if tee is not None:
            tee(piece)
        await sink.send(piece)
    return size


async def carry_down(
    outbound: Outbound, inbound: Inbound, change: Any, first: bytes, limit: int | None, tee: Tap | None = None
) -> int:
    """`carry` of a response: where nobody wants to see or count the pieces, the bytes go as they are."""
    source, sink = outbound.raw_source(), inbound.raw_sink()
    if change is not None or source is None or sink is None or limit:
        return await carry(outbound, inbound, change, first, limit, tee)
    if tee is not None:
        tee(first)
    await inbound.send(first)
    moved = await pour(source[0], sink, source[1], tee)
    outbound.took_raw(moved)
    inbound.sent_raw(moved)
    return len(first) + moved


class Upload:
    """A request's body on its way to the server, in a task of its own: the response may come before its end.

    It ends with a value whatever happens: what went wrong is told to both sides, and the response's side reports it.
    first: what was held of the body before it was decided to stream.
    """

    __slots__ = ("_flow", "_handler", "_inbound", "_outbound", "_task")

    def __init__(
        self, handler: ConnectionHandler, flow: HTTPFlow, inbound: Inbound, outbound: Outbound, first: bytes
    ) -> None:
        self._handler = handler
        self._flow = flow
        self._inbound = inbound
        self._outbound = outbound
        self._task = handler.worker.loop.create_task(self._run(first))

    async def _run(self, first: bytes) -> None:
        flow, inbound, outbound = self._flow, self._inbound, self._outbound
        request = flow.request
        change = request.stream if callable(request.stream) else None
        worker = self._handler.worker
        tee = request.tee = None if worker.recorder is None else worker.recorder.tee()
        try:
            request.moved = await carry(inbound, outbound, change, first, worker.settings.body_limit, tee)
            request.timestamp_end = time.time()
            if (wait := gate(self._handler, "request", flow, inbound)) is not None:
                await wait
            await outbound.finish(request.trailers)
        except Gone as e:
            outbound.reset(e.reason)
        except OverLimit:
            self._refuse(Refused(413, "request body is over body_size_limit"))
        except Refused as e:
            self._refuse(e)
        except Exception as e:
            logger.exception("fault while a request body was streamed")
            outbound.reset(Reason("protocol", f"fault in the gateway: {e!r}"))

    def _refuse(self, why: Refused) -> None:
        self._inbound.refused = why
        self._outbound.reset(Reason("protocol", why.why))

    @property
    def done(self) -> bool:
        return self._task.done()

    async def rest(self) -> None:
        """The response was through before its request: a server that stays reads the rest of it (RFC 9112 §9.3)."""
        if not self.done and self._outbound.stays and not self._inbound.expects_continue:
            await self._task

    async def end(self) -> None:
        """The exchange is over, whatever is still to come."""
        if not self.done:
            self._outbound.reset(Reason("closed", "the exchange is over"))
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def state_length(headers: Headers, size: int | None) -> None:
    """A body that streams is as long as its sender said, whatever an add-on made of that: or else it goes in chunks."""
    said = headers.raw("content-length")
    if said is not None and (size is None or said != b"%d" % size):
        del headers["content-length"]
