"""What a codec gives the exchange: an inbound side towards the client, an outbound side towards the server.

HTTP/1, 2 and 3 implement these; a replay is an `Inbound` without a codec. Reads and waits raise `Gone` when the peer is
lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from appliance.headers import Headers
from appliance.layers.http.h1_fields import Refused
from appliance.net.reasons import Reason
from appliance.net.stream import Buffer, Stream
from appliance.request import Request
from appliance.response import Response

Inform = Callable[[Response], Awaitable[None]]


class Inbound(Protocol):
    """One request as it comes from a client, and the way its response goes back.

    why: set once the client is gone. refused: the request cannot be used, and what to say to its sender. whole: no body
    byte is outstanding. declared: bytes to come, None = not said. expects_continue: the client waits for a 100 before
    it sends its body. upgrade: the protocol asked for, or None. until_close: set before the response is sent, when the
    end of the connection is all that delimits its body on the server's side; HTTP/1 then does the same.
    """

    request: Request
    refused: Refused | None
    expects_continue: bool
    upgrade_to: bytes | None
    persistent: bool
    until_close: bool

    @property
    def why(self) -> Reason | None: ...
    @property
    def whole(self) -> bool: ...
    @property
    def head_sent(self) -> bool: ...  # the final response has begun
    @property
    def declared(self) -> int | None: ...
    async def chunk(self) -> bytes: ...  # b"" = end, then request.trailers is set
    def patience(
        self, seconds: float
    ) -> None: ...  # chunk() raises TimedOut when its sender is silent for so long; 0 = for ever
    def watch(
        self, gone: Callable[[Reason], None] | None
    ) -> None: ...  # called when the client goes; None: nobody cares any more
    def inform(self, response: Response) -> None: ...  # 1xx
    def respond(self, response: Response, content: bytes) -> Awaitable[None] | None: ...  # all in one go; None: sent
    async def head(self, response: Response) -> None: ...  # a body of unknown length follows by send() and finish()
    async def send(self, data: Buffer) -> None: ...
    async def finish(self, trailers: Headers | None) -> None: ...
    def cut(self) -> None: ...  # whether the body is whole nobody knows: nothing that we say at its end may say so
    def grant(self, response: Response) -> None: ...  # 2xx to CONNECT
    def tunnel(self) -> Stream: ...  # after a 101 or a 2xx to CONNECT: the bytes below
    def carries(self, why: Reason) -> bool: ...  # the client can be told as it is how the server's side ended
    def raw_sink(self) -> Stream | None: ...  # after head(): where body bytes can go as they are, if they can
    def sent_raw(self, count: int) -> None: ...
    def reset(self, why: Reason) -> None: ...


class Outbound(Protocol):
    """One request as it goes to a server, and the response as it comes back.

    reused: on a connection that had served before. unprocessed: the server has said that it did nothing about it.
    protocol: what the client wants to switch to; to be set before the request is sent. until_close: only the end of a
    TLS connection delimits the response's body. cut: and it ended without close_notify (RFC 9112 §9.8).
    """

    protocol: bytes | None
    reused: bool
    unprocessed: bool

    @property
    def until_close(self) -> bool: ...
    @property
    def cut(self) -> bool: ...
    @property
    def untouched(self) -> bool: ...  # not a byte of a response has come
    @property
    def stays(self) -> bool: ...  # the server goes on reading once it has answered

    def request(
        self, request: Request, content: bytes, path: bytes
    ) -> Awaitable[None] | None: ...  # head, whole body and trailers in one go; None: sent
    async def head(self, request: Request, path: bytes) -> None: ...
    async def send(self, data: Buffer) -> None: ...
    async def finish(self, trailers: Headers | None) -> None: ...
    async def response(self, inform: Inform | None) -> Response: ...  # the final one (or a 101); 1xx go to inform
    @property
    def declared(self) -> int | None: ...  # length of the response's body when it is known
    @property
    def whole(self) -> bool: ...  # no byte of the response's body is outstanding
    def ready(self) -> bytes | None: ...  # the whole body when it is here already, else None
    async def chunk(self, limit: int = ...) -> bytes: ...  # b"" = end, then response.trailers is set
    def patience(self, seconds: float) -> None: ...
    def tunnel(self) -> Stream: ...
    def raw_source(
        self,
    ) -> tuple[Stream, int | None] | None: ...  # where the body's bytes come as they are, and how many
    def took_raw(self, count: int) -> None: ...
    async def tunnelled(self) -> None: ...  # the tunnel is over; returns when what was written has left
    def done(self) -> None: ...  # the exchange is over: the connection may serve another, or goes
    def reset(self, why: Reason) -> None: ...


class HttpServer(Protocol):
    """The client-facing end of one connection."""

    async def serve(self, handle: Callable[[Inbound], Awaitable[None]]) -> None: ...


class HttpClient(Protocol):
    """The server-facing end of one connection.

    room: how many more requests it takes at once now. usable: any ever. shared: many at once; active: of those now.
    """

    usable: bool
    shared: bool
    active: int

    def room(self) -> int: ...
    async def takes_protocols(
        self,
    ) -> bool: ...  # extended CONNECT (RFC 8441); a shared one that does not cannot switch
    def open(self) -> Outbound: ...
