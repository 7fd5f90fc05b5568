"""WebSocket (RFC 6455) on what a 101 or an extended CONNECT (RFC 8441) has opened: messages, with hooks.

What nobody changes goes on as the bytes it came in, masks and fragments included. See docs/decisions/websocket.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from appliance.exceptions import ControlException
from appliance.layers import passthrough
from appliance.layers.base import Context, Layer
from appliance.layers.gate import gate, raise_if_killed
from appliance.layers.kept import MAX_INJECTED, keep
from appliance.layers.websocket_deflate import Inflate
from appliance.layers.websocket_follow import Follower
from appliance.layers.websocket_frames import (
    ABNORMAL,
    BAD_GATEWAY,
    CLOSE,
    GOING_AWAY,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    Control,
    Message,
    Piece,
    Reader,
    Violation,
    close_payload,
    frame,
)
from appliance.layers.websocket_way import Way
from appliance.log import RateLimited
from appliance.net import relay
from appliance.net.reasons import CLOSED, KILLED, SHUTDOWN, Gone, Reason
from appliance.websocket import WebSocketData, WebSocketMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from appliance.http import HTTPFlow
    from appliance.layers.websocket_deflate import Deflate
    from appliance.net.datagrams import Datagrams
    from appliance.net.stream import Stream

logger = logging.getLogger(__name__)
_told = RateLimited(logger, 2)

CLOSE_PATIENCE = 10.0
"""Seconds within which a close frame has to be answered."""
HELD_AT_MOST = 64 << 20
"""Bytes of a message that are held where `stream_large_messages` sets no limit."""
_INJECTED = Reason("protocol", "a message was injected")
"""Wakes a reader; never seen by anybody else."""


class WebsocketLayer(Layer):
    """Everything after the handshake of one flow."""

    def __init__(self, context: Context, flow: HTTPFlow) -> None:
        super().__init__(context)
        self.flow = flow
        if flow.websocket is None:
            flow.websocket = WebSocketData()

    async def run(self, client: Stream | Datagrams) -> None:
        raise TypeError("a WebSocket begins with a handshake: return an HttpLayer from next_layer, not this one")

    async def carry(self, client: Stream, server: Stream, near: Deflate | None, far: Deflate | None) -> None:
        """From `websocket_start` to `websocket_end`; never raises, and both streams are closed afterwards.

        near, far: the compression that was agreed to with the client, and with the server.
        """
        talk = Conversation(self.context, self.flow, client, server, near, far)
        try:
            await talk.run()
        finally:
            if self in self.context.layers:  # there may be many on one HTTP/2 connection
                self.context.layers.remove(self)


class Conversation:
    """The messages of one flow. It is `flow._live` meanwhile."""

    def __init__(
        self,
        context: Context,
        flow: HTTPFlow,
        client: Stream,
        server: Stream,
        near: Deflate | None,
        far: Deflate | None,
    ) -> None:
        self._context = context
        self._handler = context.handler
        self._flow = flow
        assert flow.websocket is not None
        self._data = flow.websocket
        self._client = client
        self._server = server
        self._near, self._far = near, far
        self._kept = 0  # bytes in the flow's messages
        self._carried = False  # without messages being made
        self._blind = False  # without anything being known of them
        self._followers: tuple[Follower, Follower] | None = None  # from the client, from the server
        self._timer: asyncio.TimerHandle | None = None
        self._turn: asyncio.Future[None] | None = None  # while a hook of a message is waited for
        # [from the server, from the client]
        self._ways = (Way(False, server, client, far, near), Way(True, client, server, near, far))

    # -- its course

    async def run(self) -> None:
        flow, hooks = self._flow, self._handler.worker.hooks
        flow._live = self
        self._client.farewell = lambda: self._goodbye(False)
        self._server.farewell = lambda: self._goodbye(True)
        why = CLOSED
        try:
            if hooks.heard["websocket_start"] and (wait := gate(self._handler, "websocket_start", flow)) is not None:
                await wait
            if self._ways[0].injected or self._ways[1].injected or self._messages_matter():
                await self._both()
            else:
                self._carried = True
                await self._untouched()
        except Violation as e:
            why = Reason("protocol", str(e))
        except Gone as e:
            why = KILLED if flow.killed else e.reason
        except asyncio.CancelledError:
            why = SHUTDOWN
            raise
        except Exception as e:  # what an add-on made of a message cannot be sent
            logger.exception("fault in a WebSocket; it is closed")
            self._closing(INTERNAL_ERROR, f"fault in the gateway: {e!r}", False)
            why = Reason("protocol", "fault in the gateway")
        finally:
            flow._live = None
            if self._timer is not None:
                self._timer.cancel()
            client_left = self._client.why is not None or self._client.eof
            self._leave(why)
            await self._ended(why, client_left)

    def _messages_matter(self) -> bool:
        """Somebody looks at messages: at each, or at what was said in the end, or says something itself."""
        hooks = self._handler.worker.hooks
        if self._handler.worker.recorder is not None:
            return True  # the flow store keeps them
        return hooks.heard["websocket_message"] or hooks.holds["websocket_start"] or hooks.holds["websocket_end"]

    async def _untouched(self) -> None:
        """Nobody asks for messages: bytes as they are; in the kernel where nobody asks how it ended either."""
        client, server, heard = self._client, self._server, self._handler.worker.hooks.heard
        if not (heard["websocket_start"] or heard["websocket_end"]):
            client.farewell = server.farewell = None
            self._blind = True
            await passthrough.carry(self._context, client, server, self._flow.server_conn)
            return
        up, down = self._followers = Follower(self._closing, True), Follower(self._closing, False)

        async def way(src: Stream, dst: Stream, follower: Follower) -> None:
            await relay.pour(src, dst, tap=follower.feed)
            raise self._ended_by(follower.from_client)

        try:
            await _together(way(client, server, up), way(server, client, down))
        finally:
            self._data.carried = up.messages, down.messages

    def _ended_by(self, from_client: bool) -> Gone:
        """One side sends no more. A WebSocket has no half-closes: that is the end."""
        self._closing(ABNORMAL, "", from_client)
        return Gone(CLOSED)

    def _closing(self, code: int, reason: str, from_client: bool) -> None:
        """The first close frame, or what stands for it."""
        data = self._data
        if data.close_code is None:
            data.close_code, data.close_reason, data.closed_by_client = code, reason, from_client
            self._timer = self._handler.worker.loop.call_later(CLOSE_PATIENCE, self._overdue)

    def _overdue(self) -> None:
        """The close frame is not answered, or what was said before it is not taken."""
        if self._handler.gated:
            self._timer = self._handler.worker.loop.call_later(CLOSE_PATIENCE, self._overdue)
            return
        why = Reason("timeout", "the close frame was not answered")
        self._client.abort(why)
        self._server.abort(why)

    async def _both(self) -> None:
        settings = self._handler.worker.settings
        hold = HELD_AT_MOST if settings.stream_messages is None else settings.stream_messages
        tasks = []
        for way in self._ways:
            came = self._came(way)
            inflate = Inflate(came.way(way.from_client)) if came is not None else None
            tasks.append(self._way(way, Reader(way.from_client, inflate, hold, settings.body_limit)))
        await _together(*tasks)

    def _came(self, way: Way) -> Deflate | None:
        return self._near if way.from_client else self._far

    # -- one direction

    async def _way(self, way: Way, reader: Reader) -> None:
        """Until its close frame, or its end. :raises Gone: a stream was lost. :raises Violation: told to both."""
        src = way.src
        try:
            while not way.closed:
                if way.injected and not reader.streaming:
                    await self._say(way)
                    continue
                way.waits = True
                try:
                    data = await src.read()
                except Gone as e:
                    if e.reason is not _INJECTED:
                        raise
                    continue
                finally:
                    way.waits = False
                if not data:
                    raise self._ended_by(way.from_client)
                reader.feed(data)
                await self._read(way, reader)
        except Violation as e:
            self._closing(e.code, str(e), way.from_client)
            logger.info("%s: WebSocket: the %s is at fault: %s", self._handler.client,
                        "client" if way.from_client else "server", e)  # fmt: skip
            raise

    async def _read(self, way: Way, reader: Reader) -> None:
        """All that is whole in what the reader has. What goes on is gathered, and written when something waits."""
        out: list[bytes] = []
        while not way.closed:
            try:
                found = reader.next()
            except Violation:
                self._write(way, out)
                raise
            if type(found) is Message:
                if self._turn is not None:
                    self._write(way, out)
                    await self._my_turn()
                message = WebSocketMessage(found.opcode, way.from_client, found.content)
                self._kept = keep(self._data.messages, message, self._kept)
                if (wait := gate(self._handler, "websocket_message", self._flow, way.dst)) is not None:
                    self._write(way, out)
                    await self._alone(wait)
                self._pass_on(way, message, found, out)
                if way.injected:
                    self._write(way, out)
                    await self._say(way)
            elif type(found) is Piece:
                self._piece(way, found, out)
                if not self._write(way, out):
                    await way.dst.drain()
                if not found.raw:  # it inflates to so much that others have to have a turn
                    await asyncio.sleep(0)
            elif type(found) is Control:
                out.append(found.raw)
                if found.opcode == CLOSE:
                    way.closed = True
                    self._closing(found.code, found.reason, way.from_client)
            else:
                break
        if not self._write(way, out):
            await way.dst.drain()

    def _pass_on(self, way: Way, message: WebSocketMessage, found: Message, out: list[bytes]) -> None:
        """What the hooks have left of it."""
        compressed = found.compressed
        if message.dropped:
            if compressed:
                way.changed(self._came(way))
        elif message.type == found.opcode and message.content == found.content and (way.same or not compressed):
            out.append(found.raw)
        else:
            if compressed:
                way.changed(self._came(way))
            out.append(way.encode(message.type, message.content, found.sizes, compressed))

    def _piece(self, way: Way, piece: Piece, out: list[bytes]) -> None:
        """A part of what is too large for the hooks."""
        if way.same or not piece.compressed:
            out.append(piece.raw)
            way.mid_frame = not piece.whole
        else:
            compress = way.compress if way.compress is not None and way.compress.able else None
            content = piece.content if compress is None else compress.some(piece.content, piece.last)
            opcode = piece.opcode if piece.first else 0
            out.append(frame(opcode, content, way.from_client, piece.last, compress is not None and piece.first))
        if piece.first:
            metadata = self._flow.metadata
            metadata["websocket_streamed"] = metadata.get("websocket_streamed", 0) + 1
            _told.log(logging.WARNING, "large", "%s: a WebSocket message is over stream_large_messages and passes "
                      "without hooks", self._handler.client)  # fmt: skip

    def _write(self, way: Way, out: list[bytes]) -> bool:
        """False: await `drain()`."""
        if not out:
            return True
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return way.dst.write(data)

    async def _say(self, way: Way) -> None:
        """Say what was injected."""
        while way.injected:
            message = way.injected.popleft()
            await self._my_turn()
            self._kept = keep(self._data.messages, message, self._kept)
            if (wait := gate(self._handler, "websocket_message", self._flow, way.dst)) is not None:
                await self._alone(wait)
            # Sent uncompressed, which is always allowed, it leaves the window of what is relayed as it is.
            if not message.dropped and not way.dst.write(way.encode(message.type, message.content, [], False)):
                await way.dst.drain()

    # -- hooks see one message at a time: `messages[-1]` is theirs until they are done

    async def _my_turn(self) -> None:
        while self._turn is not None:
            await asyncio.shield(self._turn)
            raise_if_killed(self._flow)

    async def _alone(self, wait: Awaitable[None]) -> None:
        self._turn = turn = self._handler.worker.loop.create_future()
        try:
            await wait
        finally:
            self._turn = None
            turn.set_result(None)

    # -- by add-ons

    def inject(self, to_client: bool, message: WebSocketMessage) -> None:
        """See flow.inject(). :raises ControlException: that direction has ended, or no messages are made."""
        way = self._ways[not to_client]
        if self._carried:
            raise ControlException(
                "nothing can be injected where no messages are made: load an add-on with a websocket_message hook "
                "before the connection begins"
            )
        if way.closed or self._data.close_code is not None:
            raise ControlException("the WebSocket is closing")
        if len(way.injected) >= MAX_INJECTED:
            raise ControlException("too many messages wait in this flow already")
        message.injected = True
        way.injected.append(message)
        if way.waits:
            way.src.interrupt(_INJECTED)

    def kill(self) -> None:
        """See flow.kill()."""
        self._client.abort(KILLED)
        self._server.abort(KILLED)
        if self._handler.splice is not None:
            self._handler.splice.fail(KILLED)

    # -- its end

    def _goodbye(self, to_server: bool) -> bytes:
        """What one side is told when the gateway ends the connection: going away (RFC 6455 §7.4.1)."""
        data = self._data
        if data.close_code is None:
            data.close_code, data.close_reason, data.closed_by_client = GOING_AWAY, "", False
        elif data.close_code != GOING_AWAY or data.closed_by_client:
            return b""
        return self._word(to_server, GOING_AWAY, "")

    def _word(self, to_server: bool, code: int, text: str) -> bytes:
        """A close frame for one side, unless it has had one, or is in the middle of another frame."""
        way = self._ways[to_server]
        inside = self._followers[not to_server].inside if self._followers else way.mid_frame
        return b"" if inside or way.closed else frame(CLOSE, close_payload(code, text), to_server)

    def _leave(self, why: Reason) -> None:
        """Close both streams; each gets the last word it is owed."""
        data = self._data
        for stream, to_server in ((self._client, False), (self._server, True)):
            stream.farewell = None
            if stream.why is not None:
                continue
            said = b""
            if data.close_code == INTERNAL_ERROR and why.kind == "protocol":
                said = self._word(to_server, INTERNAL_ERROR, "")
            elif why.kind == "protocol":
                # Whoever is at fault hears what it did, the other one that its peer is of no use.
                if data.closed_by_client is to_server:
                    said = self._word(to_server, GOING_AWAY if to_server else BAD_GATEWAY, "")
                else:
                    said = self._word(to_server, data.close_code or PROTOCOL_ERROR, data.close_reason or "")
            elif why is SHUTDOWN:
                said = self._goodbye(to_server)
            elif why is not CLOSED and (why is KILLED or not self._ways[to_server].closed):
                stream.abort(why)
                continue
            # Polite also when the other side was lost but for its close frame: a reset could overtake it.
            if said:
                stream.write(said)
            stream.close(linger=True)

    async def _ended(self, why: Reason, client_left: bool) -> None:
        data = self._data
        if data.close_code is None and not self._blind:
            data.close_code, data.close_reason = ABNORMAL, why.text
            data.closed_by_client = client_left
        data.timestamp_end = time.time()
        hooks = self._handler.worker.hooks
        for name, argument in (("websocket_end", self._flow), ("update", [self._flow])):
            pending = hooks.fire(name, argument)
            if pending is not None:
                await pending


async def _together(*ways: Coroutine[Any, Any, None]) -> None:
    """Both directions, until both are through or one has failed."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
