"""HTTP/1 towards the client (RFC 9112): requests one by one off a stream, responses back onto it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

from appliance.headers import Headers
from appliance.layers.http.h1_body import Body
from appliance.layers.http.h1_grammar import (
    Fields,
    Refused,
    RequestHead,
    body_of_request,
    check_head,
    check_partial,
    encode_chunk,
    last_chunk,
    parse_request,
    serialize_response,
    split_target,
)
from appliance.layers.http.h1_outgoing import SAID, outgoing, unframed
from appliance.layers.http.wire import Inbound
from appliance.net.reasons import Gone, Reason, TimedOut
from appliance.net.stream import Buffer, Stream
from appliance.request import Request
from appliance.response import Response
from appliance.status_codes import RESPONSES

TURN = 32
"""Pipelined requests taken in one turn of the loop: those that need no server could otherwise hold it for long."""
_FIRST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (\S{1,2048})")


class H1Server:
    """The client-facing end of one HTTP/1 connection."""

    def __init__(self, stream: Stream, max_head: int, header_timeout: float, strict: bool = True) -> None:
        self.stream = stream
        self._max_head = max_head
        self._header_timeout = header_timeout
        self._strict = strict
        self.said: tuple[Fields, int, int, bytes, bytes] | None = None
        """Of the last response: its fields, length, status, reason, and the head on the wire."""

    async def serve(self, handle: Callable[[Inbound], Awaitable[None]]) -> None:
        """Hand each request to `handle`, in order, until the connection cannot carry another."""
        stream = self.stream
        taken = 0
        while True:
            block: bytes | None = None
            try:
                block = await self._head()
                if block is None:
                    break
                inbound = H1Inbound(self, parse_request(block, self._strict))
            except Refused as e:
                inbound = H1Inbound.of_refused(self, block or bytes(stream.buf[:4096]), e)
            await handle(inbound)
            if stream.buf and not (taken := taken + 1) % TURN:
                await asyncio.sleep(0)
            if inbound.taken:
                return
            if not inbound.persistent or stream.why is not None or not inbound.whole:
                stream.close(linger=stream.why is None and not stream.eof)
                return
        stream.close()

    async def _head(self) -> bytes | None:
        """The next head, None at the end of the connection.

        :raises Refused: it is too big, too slow, or can never be one.
        """
        stream = self.stream
        checked = 0
        try:
            while True:
                buf = stream.buf
                while buf[:2] == b"\r\n":  # RFC 9112 §2.2: empty lines before a request are ignored
                    del buf[:2]
                end = buf.find(b"\r\n\r\n", checked)
                if end >= 0:
                    if end > self._max_head:
                        raise Refused(431, f"the head is over {self._max_head} bytes")
                    block = bytes(buf[: end + 4])
                    del buf[: end + 4]
                    return block
                if buf:
                    if len(buf) > self._max_head:
                        raise Refused(431, f"the head is over {self._max_head} bytes")
                    check_partial(buf, checked)
                    checked = max(0, len(buf) - 3)
                    if not stream.deadline:
                        stream.limit(self._header_timeout, "the request head did not come in time")
                have = len(buf)
                if (waiter := stream.wait(have)) is not None:
                    await waiter
                    stream.woken()
                elif len(stream.buf) == have:
                    if have:
                        raise Refused(400, "the connection was closed inside a request head")
                    return None
        except TimedOut as e:
            if stream.why is not None:
                raise
            raise Refused(408, e.reason.text) from None
        finally:
            stream.deadline = 0.0


class H1Inbound:
    """One request on an HTTP/1 connection. See wire.Inbound."""

    __slots__ = (
        "_body",
        "_chunked",
        "_head_sent",
        "_http10",
        "_method",
        "_mute",
        "_server",
        "_stream",
        "expects_continue",
        "persistent",
        "refused",
        "request",
        "taken",
        "until_close",
        "upgrade_to",
    )

    def __init__(self, server: H1Server, head: RequestHead) -> None:
        self._server = server
        self._stream = server.stream
        self._head_sent = False
        self._chunked = False
        self._mute = False
        self._method = head.method  # as the client said it: add-ons may change the request's
        self.refused: Refused | None = None
        self.taken = self.until_close = False
        frame = head.framing
        if head.target[0] == 47:  # origin form, the usual one
            host, port, scheme, authority, path = "", 0, b"", b"", head.target
        else:
            _, scheme, host, port, authority, path = split_target(head)
        version = head.version
        headers = Headers.trusted(head.fields, head.names)
        self.request = Request.trusted(host, port, head.method, scheme, authority, path, version, headers, time.time())
        self._http10 = version == b"HTTP/1.0"
        if self._http10 and frame.hop:
            self.request.headers.pop("upgrade", None)  # RFC 9110 §7.8: ignored there, but it goes on as HTTP/1.1
        self.persistent = not frame.close and (frame.keep_alive or not self._http10)
        self.upgrade_to = frame.upgrade
        if frame.chunked or frame.length:
            self._body: Body | None = Body(self._stream, body_of_request(head))
            self.expects_continue = frame.expect_continue
        else:
            self._body = None
            self.expects_continue = False

    @classmethod
    def of_refused(cls, server: H1Server, block: bytes, why: Refused) -> H1Inbound:
        """A request that cannot be read, with as much of it as can be shown."""
        self = cls.__new__(cls)
        self._server = server
        self._stream = server.stream
        self._head_sent = self._chunked = self._mute = self._http10 = False
        self.taken = self.until_close = self.persistent = self.expects_continue = False
        self.refused = why
        self._body = None
        self.upgrade_to = None
        line = _FIRST_LINE.match(block)
        method, target = line.groups() if line else (b"", b"")
        self._method = method
        self.request = Request(
            "", 0, method, b"", b"", target, b"HTTP/1.1", Headers(), b"", None, time.time(), time.time()
        )
        return self

    # -- the request's body

    @property
    def why(self) -> Reason | None:
        stream = self._stream
        return stream.why or (Reason("closed", "the client disconnected") if stream.eof and self.persistent else None)

    @property
    def whole(self) -> bool:
        return self._body is None or self._body.whole

    @property
    def declared(self) -> int | None:
        body = self._body
        if body is None:
            return 0
        return body.left if body.left >= 0 else None

    async def chunk(self) -> bytes:
        body = self._body
        if body is None or body.whole:
            return b""
        try:
            data = await body.chunk()
        except Refused as e:
            self.persistent = False
            self.refused = e
            raise Gone(Reason("protocol", str(e))) from None
        except Gone as e:
            if not isinstance(e, TimedOut):
                self.persistent = False
                self.refused = Refused(400, e.reason.text)
            raise
        if body.trailers is not None:
            self.request.trailers = body.trailers
        return data

    def patience(self, seconds: float) -> None:
        if self._body is not None:
            self._body.patience = seconds
        if not seconds:
            self._stream.deadline = 0.0

    def watch(self, gone: Callable[[Reason], None] | None) -> None:
        if gone is not None and self._stream.eof and (why := self.why):
            gone(why)
            return
        # A client that asked to close the connection after this response may well half-close now: that is no leaving.
        self._stream.on_gone = gone if gone is None or self.persistent else self._only_lost(gone)

    def _only_lost(self, gone: Callable[[Reason], None]) -> Callable[[Reason], None]:
        return lambda reason: gone(reason) if self._stream.why is not None else None

    # -- the response

    def inform(self, response: Response) -> None:
        """Send a 1xx; clients of HTTP/1.0 do not know them (RFC 9110 §15.2)."""
        if not self._http10:
            fields = unframed(outgoing(response.headers, None, False, False).fields)
            self._stream.write(serialize_response(b"HTTP/1.1", response.status_code, _reason(response), fields))

    def respond(self, response: Response, content: bytes) -> Awaitable[None] | None:
        http10, stream, length, status = self._http10, self._stream, len(content), response.status_code
        said = self._server.said
        if (
            said is not None and said[0] is response.headers.fields and said[1] == length and said[2] == status
            and said[3] == response.raw_reason and response.trailers is None and self.persistent and not http10
            and not self.until_close and self._method != b"HEAD" and self.whole
        ):  # fmt: skip
            self._head_sent = True
            return None if stream.write(said[4] + content) else stream.drain()
        bare = bodiless(status, self._method)
        trailers = response.trailers.fields if response.trailers else ()
        frame = outgoing(response.headers, None if bare else length, bool(trailers) and not http10, http10)
        if self.until_close and not bare:
            frame = frame._replace(fields=unframed(frame.fields), chunked=False, until_close=True)
        if frame.until_close or not self.whole:  # not whole: the rest of the request is not waited for
            self.persistent = False
        head = self._serialize(response, frame.fields)
        if bare:
            room = stream.write(head)
        elif frame.chunked:
            room = stream.write(head + encode_chunk(content) + last_chunk(trailers))
        elif length > 65536:
            stream.write(head)
            self._head_sent = True
            room = stream.write(content)
        else:
            room = stream.write(head + content)
            steady = type(response.headers.fields) is tuple  # an add-on's list may be changed in place
            if steady and self.persistent and not http10 and response.raw_reason and len(head) <= SAID:
                self._server.said = response.headers.fields, length, status, response.raw_reason, head
        self._head_sent = True
        return None if room else stream.drain()

    async def head(self, response: Response) -> None:
        self._mute = bare = bodiless(response.status_code, self._method)
        no_chunks = self._http10 or self.until_close
        frame = outgoing(response.headers, None if bare else -1, bool(response.trailers), no_chunks)
        self._chunked = frame.chunked
        if frame.until_close:
            self.persistent = False
        self._stream.write(self._serialize(response, frame.fields))
        self._head_sent = True

    def _serialize(self, response: Response, fields: tuple[tuple[bytes, bytes], ...]) -> bytes:
        status = response.status_code
        if not 199 < status < 1000:
            if status != 101 or self.upgrade_to is None:
                raise Refused(500, f"status {status} cannot end an exchange")
            # outgoing() left Connection: upgrade in place
        elif not self.persistent:
            fields = (*fields, (b"Connection", b"close"))
        elif self._http10:
            fields = (*fields, (b"Connection", b"keep-alive"))
        if status == 204 or status == 101:  # RFC 9110 §8.6, RFC 9112 §6.1
            fields = unframed(fields)
        head = serialize_response(b"HTTP/1.1", status, response.raw_reason or _reason(response), fields)
        lines = len(fields) + 2
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            check_head(head, fields)  # an add-on wrote something odd
        return head

    async def send(self, data: Buffer) -> None:
        if not data or self._mute:
            return
        if not self._stream.write(encode_chunk(data) if self._chunked else data):
            await self._stream.drain()

    async def finish(self, trailers: Headers | None) -> None:
        if self._chunked:
            self._stream.write(last_chunk(trailers.fields if trailers else ()))
        await self._stream.drain()

    def cut(self) -> None:
        self.until_close = True
        if (tls := self._stream.tls) is not None:
            tls.silent = True

    def grant(self, response: Response) -> None:
        """2xx to CONNECT: no framing fields, no body (RFC 9110 §9.3.6)."""
        fields = unframed(response.headers.fields)
        head = serialize_response(b"HTTP/1.1", response.status_code, response.raw_reason, fields)
        check_head(head, fields)
        self._stream.write(head)
        self._head_sent = True

    def tunnel(self) -> Stream:
        self.taken = True
        self._stream.on_gone = None
        return self._stream

    def carries(self, why: Reason) -> bool:
        return False

    def raw_sink(self) -> Stream | None:
        return None if self._chunked or self._mute else self._stream

    def sent_raw(self, count: int) -> None:
        pass

    @property
    def head_sent(self) -> bool:
        return self._head_sent

    def reset(self, why: Reason) -> None:
        self.persistent = False
        self._stream.abort(why)


def _reason(response: Response) -> bytes:
    """HTTP/2 has no reason phrases; here the usual one stands in."""
    if response.raw_reason or response.raw_http_version != b"HTTP/2.0":
        return response.raw_reason
    return RESPONSES.get(response.status_code, "").encode()


def bodiless(status: int, method: bytes) -> bool:
    """Whether this response never has a body (RFC 9110 §6.4.1)."""
    return status < 200 or status in (204, 304) or method == b"HEAD"
