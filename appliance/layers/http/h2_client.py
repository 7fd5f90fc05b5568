"""HTTP/2 towards a server (RFC 9113): many requests on one connection; those over its limit wait their turn."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from appliance.headers import Headers
from appliance.layers.http.h1_server import bodiless
from appliance.layers.http.h2_codec import new_session
from appliance.layers.http.h2_connection import H2Connection
from appliance.layers.http.h2_fields import Malformed, read_response, write_request, write_trailers
from appliance.layers.http.h2_frames import PING
from appliance.layers.http.h2_session import Code, Field, code_name
from appliance.layers.http.h2_stream import NOT_PROCESSED, RESET, H2Stream, code_of
from appliance.layers.http.h2_tunnel import tunnel_through
from appliance.layers.http.h2_upgrade import switch_fields, write_extended
from appliance.layers.http.wire import Inform
from appliance.net.reasons import Reason
from appliance.net.stream import Stream
from appliance.request import Request
from appliance.response import Response

if TYPE_CHECKING:
    from appliance.settings import Settings

MAX_INFORMATIONAL = 100
GREETING_SECONDS = 5.0
"""How long a server's SETTINGS are waited for before it counts as one that takes no extended CONNECT."""
GOODBYE_SECONDS = 5.0
"""Silence after a GOAWAY with an error, after which nothing more is expected: its sender must close (RFC 9113 §5.4.1),
but not all do.
"""


class H2Client(H2Connection):
    """The server-facing end of one HTTP/2 connection. served: requests answered so far. usable: another may be sent.

    active: requests that have not ended. ended: called once the connection has, or the server wants it to, if nobody
    was using it.
    """

    peer = "server"
    shared = True

    def __init__(
        self,
        stream: Stream,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        ended: Callable[[Reason], None],
    ) -> None:
        super().__init__(stream, loop, settings.idle_timeout, settings.strict)
        self.session = new_session(settings.http2_codec, True, self, settings.max_head, loop.time)
        self.served = 0
        self.active = 0
        self.usable = True
        self._queue: deque[asyncio.Future[None]] = deque()
        self._ended = ended
        self._greeted: asyncio.Future[None] | None = None
        self._quiet = False  # nothing has come since the last look
        self._pinged = False
        self._parting = False
        self._keepalive = settings.http2_keepalive
        self._look = loop.call_later(self._keepalive, self._keep_alive) if self._keepalive else None
        self._task = loop.create_task(self._pump())

    async def _pump(self) -> None:
        await self.run()
        self.usable = False
        self._next()
        self.settled()
        if self._look is not None:
            self._look.cancel()
        if not self.active:
            self._ended(self.last_words)

    def room(self) -> int:
        return 1 if self.usable and not self.over else 0

    def open(self) -> H2Outbound:
        self.active += 1
        return H2Outbound(self)

    async def takes_protocols(self) -> bool:
        """Whether it takes extended CONNECT, which its first SETTINGS say."""
        session = self.session
        if not session.takes_protocols and not session.greeted and not self.over:
            if self._greeted is None:
                self._greeted = self.loop.create_future()
            await asyncio.wait([self._greeted], timeout=GREETING_SECONDS)
        return session.takes_protocols

    # -- is anybody there

    def _received(self, data: memoryview) -> bool:
        self._quiet = False
        if self._pinged:
            self._pinged = False
            if len(data) == 17 and data[3] == PING:
                self.stream.stirred = False  # its answer alone does not make a connection busy
        return super()._received(data)

    def _keep_alive(self) -> None:
        """Ask a server that is silent whether it is there (RFC 9113 §6.7): keeps NAT entries, and finds the dead."""
        if self.over:
            return
        if self._pinged:
            self.stream.abort(Reason("timeout", "the server does not answer PING any more"))
            return
        if self._quiet:
            self._pinged = True
            self.session.ping()
            self.wrote()
        self._quiet = True
        self._look = self.loop.call_later(self._keepalive, self._keep_alive)

    def _hear_out(self) -> None:
        """After a GOAWAY with an error: what is under way goes on as long as something comes."""
        if self.over:
            return
        if self._quiet:
            self.stream.abort(self.last_words)
            return
        self._quiet = True
        self._look = self.loop.call_later(GOODBYE_SECONDS, self._hear_out)

    # -- turns

    def admit(self, outbound: H2Outbound, first: bool = True) -> bool:
        """Give it a stream if there is one to be had now, and (first) nobody else waits. False: wait for `turn`."""
        if self.usable and ((first and self._queue) or len(self.streams) >= self.session.peer_streams):
            return False
        number = self.session.open() if self.usable and not self.over else 0
        if not number:
            self.usable = False
            outbound.unprocessed = True
            outbound.lost(Reason("closed", "the server takes no more requests on this connection", NOT_PROCESSED))
            return True
        outbound.number = number
        self.streams[number] = outbound
        return True

    async def turn(self, outbound: H2Outbound) -> None:
        """Wait until a stream may be opened, first come first served. :raises Gone: it is over before."""
        first = True
        while outbound.why is None and not self.admit(outbound, first):
            outbound.turn = turn = self.loop.create_future()
            if first:
                self._queue.append(turn)
            else:  # the server has lowered its limit meanwhile
                self._queue.appendleft(turn)
            first = False
            await turn
        if outbound.why is not None:
            self._next()
            raise outbound.why.error()

    def _next(self) -> None:
        queue = self._queue
        free = self.session.peer_streams - len(self.streams) if self.usable else len(queue)
        while queue and free > 0:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def left(self) -> None:
        """A request has ended."""
        self.active -= 1
        if self._queue:
            self._next()

    # -- Listener

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None:
        found = self.streams.get(stream)
        if isinstance(found, H2Outbound):
            found.heard(fields, end)

    def too_large(self, stream: int, end: bool) -> None:
        found = self.streams.get(stream)
        if found is not None:
            found.malformed("the head is over the limit")

    def was_reset(self, stream: int, code: int) -> None:
        found = self.streams.get(stream)
        if isinstance(found, H2Outbound):
            if code == Code.REFUSED_STREAM:
                found.unprocessed = True
            elif code == Code.NO_ERROR and found.ended:
                found.no_more()
                return
        super().was_reset(stream, code)

    def goes_away(self, last: int, code: int, text: bytes) -> None:
        self.usable = False
        if code:
            self.last_words = Reason("closed", f"the server ended the connection ({code_name(code)})")
        for found in list(self.streams.values()):
            if found.number > last and isinstance(found, H2Outbound):
                found.unprocessed = True
                found.lost(Reason("closed", f"the server goes away ({code_name(code)})", NOT_PROCESSED))
        self._next()
        if not self.active:
            self._ended(self.last_words)  # the server may wait for us to close it
        elif code and not self._parting:
            self._parting = True
            if self._look is not None:
                self._look.cancel()
            self._hear_out()

    def settled(self) -> None:
        greeted, self._greeted = self._greeted, None
        if greeted is not None and not greeted.done():
            greeted.set_result(None)
        self._next()


class H2Outbound(H2Stream):
    """One exchange on an HTTP/2 connection. See wire.Outbound.

    unprocessed: the server has said that it did nothing about the request, or it was never sent.
    """

    until_close = cut = False  # END_STREAM says where a body ends

    __slots__ = (
        "_answered",
        "_bare",
        "_client",
        "_heads",
        "_here",
        "_key",
        "_method",
        "_response",
        "protocol",
        "reused",
        "turn",
        "unprocessed",
    )

    def __init__(self, client: H2Client) -> None:
        super().__init__(client, 0)
        self._client = client
        self._here = True
        self._answered = False  # the exchange is through with the response, and still sends
        self._bare = False  # the response never has a body
        self._method = b""
        self._heads: list[Response] = []
        self._response: Response | None = None
        self._key: bytes | None = None
        self.protocol: bytes | None = None
        self.reused = client.served > 0
        self.unprocessed = False
        self.turn: asyncio.Future[None] | None = None

    # -- the request

    def request(self, request: Request, content: bytes, path: bytes) -> Awaitable[None] | None:
        self._method = request.raw_method
        trailers = None
        if self.protocol is not None:
            self._key = request.headers.raw("sec-websocket-key")
            fields = write_extended(request, path, self.protocol)
        else:
            fields = write_request(request, path, len(content))
            if request.trailers:
                trailers = write_trailers(request.trailers)
        if not self._client.admit(self):
            return self._wait_and_say(fields, content, trailers)
        if self.why is not None:
            raise self.why.error()
        return self._say(fields, content, trailers)

    async def _wait_and_say(self, fields: list[Field], content: bytes, trailers: list[Field] | None) -> None:
        await self._client.turn(self)
        wait = self._say(fields, content, trailers)
        if wait is not None:
            await wait

    def _say(self, fields: list[Field], content: bytes, trailers: list[Field] | None) -> Awaitable[None] | None:
        session = self.conn.session
        self.conn.wrote()
        if self.protocol is not None:
            session.headers(self.number, fields, False)
            return None
        if not content and not trailers:
            self.end_sent = True
            session.headers(self.number, fields, True)
            return None
        session.headers(self.number, fields, False)
        if trailers is None and len(content) <= session.window(self.number) and not self.conn.full():
            self.end_sent = True
            session.data(self.number, content, True)
            return None
        return self.send_rest(content, trailers)

    async def head(self, request: Request, path: bytes) -> None:
        fields = write_request(request, path, None)
        await self._client.turn(self)
        self._method = request.raw_method
        self.conn.session.headers(self.number, fields, False)
        self.conn.wrote()

    # -- the response

    def heard(self, fields: Sequence[Field], end: bool) -> None:
        """A head or trailers have come."""
        if self.why is not None:
            return
        if self._response is not None:
            self.finish_with(fields)
            self._response.trailers = self.trailers
            return
        try:
            status, headers, length = read_response(fields, self.conn.strict)
        except Malformed as e:
            self.malformed(str(e))
            return
        now = time.time()
        if self.protocol is not None and 199 < status < 300:
            status, length, headers = 101, None, switch_fields(headers, self.protocol, self._key)
        response = Response(b"HTTP/2.0", status, b"", headers, None, None, now, None)
        if status >= 200 or status == 101:
            self._response = response
            self._bare = bodiless(status, self._method) and status != 101
            self.left = 0 if self._bare else length
            if end and self.left:
                self.malformed("content-length without a body")
                return
            if end:
                self.ended = True
                response.timestamp_end = now
        elif len(self._heads) >= MAX_INFORMATIONAL:
            self.malformed("too many informational responses")
            return
        self._heads.append(response)
        self._wake()

    async def response(self, inform: Inform | None) -> Response:
        """The final response's head. :raises Gone: lost, or what came is no HTTP response."""
        at = 0
        while True:
            while at < len(self._heads):
                response = self._heads[at]
                at += 1
                if response is self._response:
                    return response
                if inform is not None:
                    await inform(response)
            await self._more()

    def ready(self) -> bytes | None:
        return b"" if self._bare else self.take_whole()

    def tunnel(self) -> Stream:
        return tunnel_through(self.conn.stream.net, self, self.conn.stream.conn)

    def raw_source(self) -> tuple[Stream, int | None] | None:
        return None

    def took_raw(self, count: int) -> None: ...

    @property
    def untouched(self) -> bool:
        if self._response is not None or self._heads:
            return False
        why = self.why  # a stream that was reset, or a server that is at fault, has been heard
        return self.unprocessed or why is None or not (why.kind == "protocol" or why.detail.startswith(RESET))

    @property
    def stays(self) -> bool:
        return self.why is None and not self.end_sent

    # -- the end

    async def tunnelled(self) -> None:
        if self.carrier is not None:
            await self.carrier.over()
        self.done()

    def done(self) -> None:
        self._client.served += 1
        if self.end_sent or self.why is not None:
            self._leave(Code.CANCEL)
        else:  # the server reads the rest of the request, unless it says that it does not want it
            self._answered = True

    async def finish(self, trailers: Headers | None) -> None:
        await super().finish(trailers)
        if self._answered:
            self._leave(Code.CANCEL)

    def no_more(self) -> None:
        """RFC 9113 §8.1: answered in full, the server does not want the rest of the request."""
        self.end_sent = True
        self.unblock()
        if self._answered:
            self._leave(Code.CANCEL)

    def reset(self, why: Reason) -> None:
        self._leave(code_of(why, Code.CANCEL))
        self.discard()
        self.lost(why)

    def lost(self, why: Reason) -> None:
        super().lost(why)
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(None)

    def _leave(self, code: int) -> None:
        if not self._here:
            return
        self._here = False
        if self.number and self.why is None and not (self.ended and self.end_sent):
            self.conn.session.reset(self.number, code)
            self.conn.wrote()
        self.over()
        self._client.left()
