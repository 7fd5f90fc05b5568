"""HTTP/2 towards the client (RFC 9113): requests side by side, one task each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from appliance.headers import Headers
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.h1_server import bodiless
from appliance.layers.http.h2_codec import new_session
from appliance.layers.http.h2_connection import H2Connection
from appliance.layers.http.h2_fields import Malformed, read_request, write_response, write_trailers
from appliance.layers.http.h2_priority import Turn, turn
from appliance.layers.http.h2_session import MAX_STREAMS, Code, Field
from appliance.layers.http.h2_stream import RESET, H2Stream, code_of
from appliance.layers.http.h2_tunnel import tunnel_through
from appliance.layers.http.h2_upgrade import granted_fields, upgrade_fields
from appliance.layers.http.wire import Inbound
from appliance.net.reasons import Gone, Reason
from appliance.net.stream import Buffer, Stream
from appliance.request import Request
from appliance.response import Response

if TYPE_CHECKING:
    from appliance.settings import Settings

logger = logging.getLogger(__name__)

HANDLED_MOST = 2 * MAX_STREAMS
"""Requests worked on, those included that the client has given up and a hook still holds."""
Handle = Callable[[Inbound], Awaitable[None]]


class H2Server(H2Connection):
    """The client-facing end of one HTTP/2 connection."""

    peer = "client"

    def __init__(self, stream: Stream, loop: asyncio.AbstractEventLoop, settings: Settings) -> None:
        super().__init__(stream, loop, settings.idle_timeout, settings.strict)
        self._max_head = settings.max_head
        self.session = new_session(settings.http2_codec, False, self, settings.max_head, loop.time)
        self._tasks: set[asyncio.Task[None]] = set()
        self._handle: Handle

    async def serve(self, handle: Handle) -> None:
        """Hand each request to `handle`, in a task of its own, until the connection and all of them have ended."""
        self._handle = handle
        try:
            await self.run()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _one(self, inbound: H2Inbound) -> None:
        try:
            await self._handle(inbound)
        except Gone:
            pass
        except Exception:
            logger.exception("fault in a stream; its connection goes on")
        finally:
            if inbound.carrier is not None:
                inbound.carrier.close()
                await inbound.carrier.over()
            inbound.over()

    # -- Listener

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        known = self.streams.get(stream)
        if known is not None:
            if known.why is None:
                known.finish_with(fields)
            return
        if len(self._tasks) >= HANDLED_MOST:
            self.session.reset(stream, Code.REFUSED_STREAM)
            return
        inbound = H2Inbound(self, stream, end)
        try:
            inbound.begin(fields)
        except Malformed as e:
            inbound.refused = Refused(400, f"malformed request: {e}")
            inbound.malformed(str(e))
        self._start(inbound)

    def too_large(self, stream: int, end: bool) -> None:
        known = self.streams.get(stream)
        if known is not None:
            known.malformed("the trailers are over the limit")
            return
        inbound = H2Inbound(self, stream, end)
        inbound.refused = Refused(431, f"the head is over {self._max_head} bytes")
        self._start(inbound)

    def goes_away(self, last: int, code: int, text: bytes) -> None:
        """The client opens no more; what is under way goes on."""

    def _start(self, inbound: H2Inbound) -> None:
        self.streams[inbound.number] = inbound
        task = self.loop.create_task(self._one(inbound))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class H2Inbound(H2Stream):
    """One request on an HTTP/2 connection. See wire.Inbound."""

    __slots__ = (
        "_answer",
        "_head_sent",
        "_method",
        "_mute",
        "expects_continue",
        "persistent",
        "refused",
        "request",
        "until_close",
        "upgrade_to",
    )

    def __init__(self, conn: H2Connection, number: int, end: bool) -> None:
        super().__init__(conn, number)
        self.ended = end
        self.refused: Refused | None = None
        self.expects_continue = False
        self.upgrade_to: bytes | None = None
        self.persistent = True
        self.until_close = False
        self._head_sent = False
        self._answer: Response | None = None
        self._mute = False
        self._method = b""
        now = time.time()
        self.request = Request("", 0, b"", b"", b"", b"", b"HTTP/2.0", Headers(), b"" if end else None, None, now, None)

    def begin(self, fields: Sequence[Field]) -> None:
        """Take in the head. :raises Malformed: it is none; the request then shows as much of it as there is."""
        try:
            head = read_request(fields, self.conn.strict)
        except Malformed:
            self._show(fields)
            raise
        self._method = head.method
        request = self.request
        request.raw_host, request.raw_port = head.host, head.port
        request.raw_method, request.raw_scheme = head.method, head.scheme
        request.raw_authority, request.raw_path = head.authority, head.path
        request.headers = head.headers
        request.raw_content = None
        if self.ended:
            if head.length:
                raise Malformed("content-length without a body")
        else:
            self.left = head.length
            self.expects_continue = head.expect_continue
        if head.protocol is not None:
            if self.ended or self.left is not None:
                raise Malformed("extended CONNECT with the end of the stream, or with a content-length")
            self.upgrade_to = head.protocol
            request.raw_method = b"GET"
            request.headers = upgrade_fields(head.headers, head.protocol)

    def _show(self, fields: Sequence[Field]) -> None:
        request, said = self.request, dict(fields)
        request.raw_method = said.get(b":method", b"")
        request.raw_scheme = said.get(b":scheme", b"")
        request.raw_authority = said.get(b":authority", b"")
        request.raw_path = said.get(b":path", b"")
        request.headers = Headers.trusted(tuple([field for field in fields if field[0][:1] != b":"]))

    def finish_with(self, fields: Sequence[Field]) -> None:
        super().finish_with(fields)
        self.request.trailers = self.trailers

    def watch(self, gone: Callable[[Reason], None] | None) -> None:
        self._on_gone = None
        if gone is not None and self.why is not None:
            gone(self.why)
        else:
            self._on_gone = gone

    @property
    def whole(self) -> bool:
        # What an upgrade's client sends is no body.
        return self.upgrade_to is not None or (self.ended and not self._parts)

    def place(self) -> Turn:
        """By what the client says of the request, its update, and what the server says (RFC 9218 §8)."""
        answer = None if self._answer is None else self._answer.headers.raw("priority")
        return turn(self.number, (self.request.headers.raw("priority") or b"", self.priority, answer or b""))

    # -- the response

    @property
    def head_sent(self) -> bool:
        return self._head_sent

    def inform(self, response: Response) -> None:
        if self.why is None and not self._head_sent:
            self.conn.session.headers(self.number, write_response(response, None), False)
            self.conn.wrote()

    def respond(self, response: Response, content: bytes) -> Awaitable[None] | None:
        if self.why is not None:
            return None
        if response.status_code == 101 and self.upgrade_to is not None:
            self._accept(response)
            return None
        self._final(response)
        bare = bodiless(response.status_code, self._method)
        fields = write_response(response, None if bare else len(content))
        trailers = write_trailers(response.trailers) if response.trailers and not bare else None
        conn, session, number = self.conn, self.conn.session, self.number
        if bare or (not content and not trailers):
            self.end_sent = True
            session.headers(number, fields, True)
            conn.wrote()
            return None
        session.headers(number, fields, False)
        conn.wrote()
        if trailers is None and len(content) <= session.window(number) and not conn.full():
            self.end_sent = True
            session.data(number, content, True)
            return None
        return self.send_rest(content, trailers)

    async def head(self, response: Response) -> None:
        if self.why is not None:
            raise self.why.error()
        self._final(response)
        self._mute = bodiless(response.status_code, self._method)
        self.end_sent = self._mute
        self.conn.session.headers(self.number, write_response(response, None), self._mute)
        self.conn.wrote()

    async def send(self, data: Buffer) -> None:
        if data and not self._mute:
            await self._send(data, False)

    def cut(self) -> None: ...

    def _final(self, response: Response) -> None:
        if self.upgrade_to is not None and 199 < response.status_code < 300:
            # To an extended CONNECT it would say that the tunnel is open (RFC 8441 §5).
            self.upgrade_to = None
            raise Refused(502, f"the server answered {response.status_code} and did not switch protocols")
        self._head_sent = True
        self._answer = response

    def _accept(self, response: Response) -> None:
        """A 101 to an extended CONNECT: 200, and the stream stays open."""
        said = response.copy()
        said.status_code, said.headers = 200, granted_fields(response.headers)
        self.grant(said)

    def grant(self, response: Response) -> None:
        """2xx to CONNECT: no body of its own, and no framing fields (RFC 9110 §9.3.6)."""
        fields = write_response(response, None)
        self._head_sent = True
        self.conn.session.headers(self.number, [field for field in fields if field[0] != b"content-length"], False)
        self.conn.wrote()

    def tunnel(self) -> Stream:
        self._on_gone = None
        return tunnel_through(self.conn.stream.net, self, self.conn.stream.conn)

    def carries(self, why: Reason) -> bool:
        return why.detail.startswith(RESET)

    def raw_sink(self) -> Stream | None:
        return None

    def sent_raw(self, count: int) -> None: ...

    def reset(self, why: Reason) -> None:
        """RST_STREAM, with the code that the other side's had if it had one."""
        self.conn.session.reset(self.number, code_of(why, Code.INTERNAL_ERROR))
        self.conn.wrote()
        self.discard()
        self.lost(why)

    def over(self) -> None:
        if self.why is None and not (self.end_sent and self.ended):
            # RFC 9113 §8.1: the rest of a request that was answered is not wanted.
            self.conn.session.reset(self.number, Code.NO_ERROR if self.end_sent else Code.INTERNAL_ERROR)
            self.conn.wrote()
        super().over()
