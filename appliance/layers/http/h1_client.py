"""HTTP/1 towards a server (RFC 9112): one request at a time on a stream, and its response."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable

from appliance.headers import Headers
from appliance.layers.http.h1_body import Body
from appliance.layers.http.h1_fields import Fields, is_token, quoted
from appliance.layers.http.h1_grammar import (
    CHUNKED,
    EOF,
    Refused,
    ResponseHead,
    body_of_response,
    check_head,
    check_partial,
    encode_chunk,
    last_chunk,
    parse_response,
    serialize_request,
)
from appliance.layers.http.h1_outgoing import SAID, outgoing
from appliance.layers.http.h2_fields import for_http1
from appliance.layers.http.wire import Inform
from appliance.net.reasons import Gone, Reason
from appliance.net.stream import Buffer, Stream
from appliance.request import Request
from appliance.response import Response

MAX_INFORMATIONAL = 100
_ODD_IN_PATH = re.compile(rb"[\x00-\x20\x7f]")
_NO_LENGTH_NEEDED = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE", b"CONNECT"})


def _check_start(method: bytes, path: bytes) -> None:
    if not (method.isalpha() or is_token(method)) or _ODD_IN_PATH.search(path):
        raise Refused(500, f"bad start line to send: {quoted(method + b' ' + path)}")


class H1Client:
    """The server-facing end of one HTTP/1 connection. served: requests answered so far. usable: another may be sent."""

    __slots__ = ("busy", "max_head", "said", "served", "stream", "strict", "usable")

    shared = False
    active = 0

    def __init__(self, stream: Stream, max_head: int, strict: bool = True) -> None:
        self.stream = stream
        self.max_head = max_head
        self.strict = strict
        self.served = 0
        self.said: tuple[Fields, int, bool, bytes] | None = None  # the last fields, length of a body; as on the wire
        self.busy = False
        self.usable = True

    def room(self) -> int:
        stream = self.stream
        return 0 if self.busy or not self.usable or stream.eof or stream.buf else 1

    async def takes_protocols(self) -> bool:
        return False

    def open(self) -> H1Outbound:
        self.busy = True
        return H1Outbound(self)


class H1Outbound:
    """One exchange on an HTTP/1 connection. See wire.Outbound."""

    __slots__ = (
        "_body",
        "_chunked",
        "_client",
        "_method",
        "_persistent",
        "_response",
        "_sent",
        "_stream",
        "protocol",
        "reused",
    )

    unprocessed = False
    protocol: bytes | None

    def __init__(self, client: H1Client) -> None:
        self._client = client
        self._stream = client.stream
        self._chunked = False
        self._sent = False
        self._persistent = False
        self._method = b""
        self._body: Body | None = None
        self._response: Response | None = None
        self.reused = client.served > 0

    # -- the request

    def request(self, request: Request, content: bytes, path: bytes) -> Awaitable[None] | None:
        self._method = method = request.raw_method
        stream, client, length, optional = self._stream, self._client, len(content), method in _NO_LENGTH_NEEDED
        headers, http2 = request.headers, request.raw_http_version == b"HTTP/2.0"
        said = client.said
        if (
            said is not None and said[0] is headers.fields and said[1] == length and said[2] is optional and not http2
            and request.trailers is None and length <= 65536
        ):  # fmt: skip
            _check_start(method, path)
            self._sent = True
            room = stream.write(b"%b %b HTTP/1.1\r\n%b%b" % (method, path, said[3], content))
            return None if room else stream.drain()
        trailers = request.trailers.fields if request.trailers else ()
        frame = outgoing(for_http1(headers, request) if http2 else headers, length, bool(trailers), False, optional)
        head = self._serialize(request, frame.fields, path)
        steady = type(headers.fields) is tuple  # an add-on's list may be changed in place, and is the same then
        if steady and not http2 and request.trailers is None and not frame.chunked and len(head) <= SAID:
            client.said = headers.fields, length, optional, head[head.index(b"\n") + 1 :]
        if frame.chunked:
            room = stream.write(head + (encode_chunk(content) if content else b"") + last_chunk(trailers))
        elif length > 65536:
            stream.write(head)
            room = stream.write(content)
        else:
            room = stream.write(head + content if content else head)
        self._sent = True
        return None if room else stream.drain()

    async def head(self, request: Request, path: bytes) -> None:
        self._method = request.raw_method
        headers = for_http1(request.headers, request) if request.raw_http_version == b"HTTP/2.0" else request.headers
        frame = outgoing(headers, -1, bool(request.trailers), False)
        self._chunked = frame.chunked
        self._stream.write(self._serialize(request, frame.fields, path))

    def _serialize(self, request: Request, fields: tuple[tuple[bytes, bytes], ...], path: bytes) -> bytes:
        method = request.raw_method
        _check_start(method, path)
        head = serialize_request(method, path, b"HTTP/1.1", fields)
        lines = len(fields) + 2
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            check_head(head, fields)  # an add-on wrote something odd
        return head

    async def send(self, data: Buffer) -> None:
        if data and not self._stream.write(encode_chunk(data) if self._chunked else data):
            await self._stream.drain()

    async def finish(self, trailers: Headers | None) -> None:
        if self._chunked:
            self._stream.write(last_chunk(trailers.fields if trailers else ()))
        self._sent = True
        await self._stream.drain()

    # -- the response

    async def response(self, inform: Inform | None) -> Response:
        """The final response's head (or a 101's). :raises Gone: lost, or what came is no HTTP response."""
        informed = checked = 0
        stream = self._stream
        while True:
            try:
                while (head := self._head(checked)) is None:
                    have = len(stream.buf)
                    checked = max(0, have - 3)
                    if (waiter := stream.wait(have)) is not None:
                        await waiter
                        stream.woken()
                    elif len(stream.buf) == have:
                        raise Gone(
                            Reason("protocol", "the server closed the connection inside a response head")
                            if have
                            else Reason("closed", "the server closed the connection without a response")
                        )
            except Refused as e:
                self._client.usable = False
                raise Gone(Reason("protocol", f"bad response: {e.why}")) from None
            checked = 0
            headers = Headers.trusted(head.fields, head.names)
            self._response = response = Response.trusted(head.version, head.status, head.reason, headers, time.time())
            if head.status >= 200 or head.status == 101:
                break
            informed += 1
            if informed > MAX_INFORMATIONAL:
                raise Gone(Reason("protocol", "bad response: too many informational responses"))
            if inform is not None:
                await inform(response)
        kind = body_of_response(head, self._method)
        self._persistent = head.persistent and kind != EOF
        self._body = Body(stream, kind)
        if not kind:
            response.timestamp_end = response.timestamp_start
        return response

    def _head(self, checked: int) -> ResponseHead | None:
        """What `buf` begins with, None when the end of it has not come. checked: bytes that were looked at before."""
        buf, client = self._stream.buf, self._client
        end = buf.find(b"\r\n\r\n", checked)
        if end > client.max_head or (end < 0 and len(buf) > client.max_head):
            raise Refused(431, f"the head is over {client.max_head} bytes")
        if end >= 0:
            block = bytes(buf[: end + 4])
            del buf[: end + 4]
            return parse_response(block, client.strict)
        if buf:
            check_partial(buf, checked)
        return None

    def ready(self) -> bytes | None:
        """The whole body when it is here already: nothing more to wait for."""
        body = self._body
        assert body is not None
        return body.ready()

    @property
    def declared(self) -> int | None:
        body = self._body
        return None if body is None or body.left < 0 else body.left

    @property
    def whole(self) -> bool:
        return self._body is not None and self._body.whole

    @property
    def until_close(self) -> bool:
        return self._body is not None and self._body.left == EOF and self._stream.tls is not None

    @property
    def cut(self) -> bool:
        tls = self._stream.tls
        return self.until_close and self.whole and tls is not None and not tls.clean_eof

    async def chunk(self, limit: int = 65536) -> bytes:
        body = self._body
        assert body is not None
        try:
            data = await body.chunk(limit)
        except Refused as e:
            raise Gone(Reason("protocol", f"bad response body: {e.why}")) from None
        if body.trailers is not None and self._response is not None:
            self._response.trailers = body.trailers
        return data

    def patience(self, seconds: float) -> None:
        if self._body is not None:
            self._body.patience = seconds
        if not seconds:
            self._stream.deadline = 0.0

    def tunnel(self) -> Stream:
        self._client.usable = False
        return self._stream

    def raw_source(self) -> tuple[Stream, int | None] | None:
        body = self._body
        if body is None or body.left == CHUNKED:
            return None
        return self._stream, body.left if body.left >= 0 else None

    def took_raw(self, count: int) -> None:
        body = self._body
        assert body is not None
        body.took(count)
        if not body.whole:
            raise Gone(Reason("closed", "the server closed the connection in the middle of the body"))

    async def tunnelled(self) -> None:
        """The tunnel was the connection."""

    def done(self) -> None:
        client = self._client
        client.busy = False
        client.served += 1
        if not (self._persistent and self._sent and self.whole):
            client.usable = False

    def reset(self, why: Reason) -> None:
        self._client.usable = False
        self._stream.abort(why)

    @property
    def stays(self) -> bool:
        return self._persistent and not self._stream.eof

    @property
    def untouched(self) -> bool:
        """Not a byte of a response has come: the server may never have seen the request (RFC 9112 §9.3.1)."""
        return self._response is None and self._client.usable and not self._stream.buf
