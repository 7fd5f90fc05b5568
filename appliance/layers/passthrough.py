"""Pass-through: what was looked at is sent once, then both sockets are spliced; where none is bare, in user space."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from appliance.net import relay
from appliance.net.egress import CannotConnect, wanted_by
from appliance.net.reasons import CLOSED, Gone, Reason
from appliance.net.splice import Splice
from appliance.net.transport import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.connection import Server
    from appliance.layers.base import Context
    from appliance.net.stream import Buffer, Stream

logger = logging.getLogger(__name__)


async def run(context: Context, client: Stream) -> None:
    """Carry the connection untouched to its end. Counts go to `handler.moved` (bytes up, down)."""
    handler, server = context.handler, context.server
    try:
        with wanted_by(client) as attempt:
            upstream = await handler.upstreams.raw(server, attempt, still=True)
    except CannotConnect as e:
        logger.info("%s: cannot pass: %s", handler.client, e.text)
        client.abort(Reason("reset", e.text))
        return
    try:
        await carry(context, client, upstream, server)
    except Gone as e:
        logger.debug("%s: %s", handler.client, e)
        client.abort(e.reason)
        await handler.upstreams.end(server, e.reason)


async def carry(
    context: Context,
    client: Stream,
    upstream: Stream,
    server: Server,
    heard: Callable[[bool, Buffer], None] | None = None,
) -> None:
    """Relay both ways until the end. upstream: the open stream to `server`. :raises Gone: one side was lost.

    heard: told of each piece and whether it is the client's; then nothing is spliced.
    """
    handler = context.handler
    counts = [0, 0]
    try:
        if heard is None and await flushed(client, upstream, counts):
            # Both come loose in one step, or neither: a socket taken from its stream cannot be put back.
            ours, theirs = client.detach(), handler.upstreams.detach(server)
            assert ours is not None and theirs is not None
            handler.splice = splice = Splice(handler.worker.net.pipes, ours[0], theirs[0])
            try:
                why = await splice.run(client.eof, upstream.eof)
            finally:
                counts[0] += splice.moved[0]
                counts[1] += splice.moved[1]
                handler.splice = None
                await handler.upstreams.detached(server)
            if why is not CLOSED:
                raise why.error()
        else:
            await relay.both(client, upstream, counts, heard)
    finally:
        handler.moved = counts[0], counts[1]


async def flushed(client: Stream, upstream: Stream, counts: list[int]) -> bool:
    """Send on what either side has said so far; True when nothing but two bare sockets is left."""
    if not (isinstance(client.below, SocketTransport) and isinstance(upstream.below, SocketTransport)):
        return False
    while client.buf or upstream.buf or not (client.below.free and upstream.below.free):
        counts[0] += len(client.buf)
        counts[1] += len(upstream.buf)
        upstream.write(client.take(len(client.buf)))
        client.write(upstream.take(len(upstream.buf)))
        await upstream.flush()
        await client.flush()
    for stream in (client, upstream):
        if stream.why is not None:
            raise stream.why.error()
    return True
