"""Which server connection a request goes over: reused by key, opened when there is none, shared where it is HTTP/2."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from appliance.connection import Server
from appliance.layers.http.h1_client import H1Client
from appliance.layers.http.h2_client import H2Client
from appliance.net.egress import MAX_PER_ADDRESS, CannotConnect

if TYPE_CHECKING:
    from appliance.layers.base import Context
    from appliance.layers.http.wire import HttpClient
    from appliance.net.dial import Attempt
    from appliance.net.reasons import Reason
    from appliance.net.stream import Stream
    from appliance.request import Request

Key = tuple[tuple[str, int], bool, str | None]
"""Address, TLS, SNI."""
KEEP = 8
"""Connections kept for reuse by one client connection; the oldest goes first."""


class Queue:
    """Requests to one key that wait for a connection, and how many are being opened.

    single: its servers take one request a connection, as far as is known.
    """

    __slots__ = ("dialling", "single", "waiting")

    def __init__(self) -> None:
        self.dialling = 0
        self.single = False
        self.waiting: deque[asyncio.Future[None]] = deque()

    def wake(self, count: int, fault: CannotConnect | None = None) -> None:
        """Let so many of them look again, or tell them that there is no connection to be had."""
        while count and self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                count -= 1
                if fault is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(fault)


class Link:
    """One server connection with the codec on it.

    early: it was open before there was a request for it. dedicated: to one request, which is to switch protocols.
    """

    __slots__ = ("_gone", "client", "dedicated", "early", "key", "queue", "server", "stream")

    def __init__(
        self,
        key: Key,
        server: Server,
        client: HttpClient,
        stream: Stream,
        gone: Callable[[Reason], None],
        queue: Queue | None = None,
    ) -> None:
        self.key = key
        self.server = server
        self.client = client
        self.stream = stream
        self.queue = queue
        self.early = self.dedicated = False
        self._gone = gone

    def rest(self) -> bool:
        """The exchange on it is over. False: it cannot serve another and is to be dropped."""
        client = self.client
        if self.dedicated:
            return False
        if client.shared:
            return client.usable or client.active > 0  # its pump sees its end
        if not client.usable or self.stream.eof:
            return False
        self.stream.on_gone = self._gone  # should its server close it meanwhile, say so at once
        if self.queue is not None and self.queue.waiting:
            self.queue.wake(1)
        return True


def _done(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


class HttpPool:
    """The HTTP connections to servers of one client connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._links: dict[Key, list[Link]] = {}
        self._queues: dict[Key, Queue] = {}
        self._count = 0
        self._switched = 0
        self.prior_knowledge = False
        """The client speaks HTTP/2 without TLS, so its server does too (RFC 9113 §3.3)."""

    def key(self, request: Request) -> Key:
        """Where this request goes, as add-ons left it."""
        context = self._context
        known = context.server
        tls = request.raw_scheme == b"https"
        address = (request.raw_host, request.raw_port)
        sni = None
        if tls:
            # The destination as the client named it keeps the client's SNI; another one gets its own name.
            sni = (context.client.sni or known.sni or address[0]) if address == known.address else address[0]
        return address, tls, sni

    def idle(self, request: Request) -> Link | None:
        """A connection that may serve this request at once."""
        if self._links:
            for link in self._links.get(self.key(request), ()):
                if link.client.room():
                    link.stream.on_gone = None
                    return link
        return None

    async def get(self, request: Request, fresh: bool = False, attempt: Attempt | None = None) -> Link:
        """A connection for one request, new unless one has become idle. fresh: new, or one that many share.

        :raises CannotConnect: there is none to be had, or `attempt` was abandoned.
        """
        key = self.key(request)
        loop = self._context.handler.worker.loop
        while True:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = Queue()
            links = self._links.get(key, ())
            for link in links:
                if (not fresh or link.client.shared) and link.client.room():
                    link.stream.on_gone = None
                    return link
            busy = len(links) + queue.dialling
            if not queue.dialling or (queue.single and busy < MAX_PER_ADDRESS):
                if busy < MAX_PER_ADDRESS or not queue.single:
                    break
                if fresh and (idle := next((link for link in links if link.client.room()), None)) is not None:
                    await self.drop(idle)
                    continue
            # The one being opened may turn out to take them all; or there are as many as may be.
            turn = loop.create_future()
            queue.waiting.append(turn)
            if attempt is not None:
                attempt.wake = partial(_done, turn)
                await turn
                attempt.wake = None
                if attempt.why:
                    queue.wake(1)  # in case it was our turn
                    raise CannotConnect(attempt.why, "gone")
            else:
                await turn
        queue.dialling += 1
        try:
            link = await self._open(key, queue, attempt)
        except CannotConnect as e:
            if e.kind == "gone":
                queue.wake(1)  # this client's request has gone, others have not
            else:
                queue.wake(-1, e)
            raise
        except BaseException:
            queue.wake(-1)
            raise
        finally:
            queue.dialling -= 1
            if key not in self._links:
                self._forget_queue(key, queue)
        queue.single = not link.client.shared
        queue.wake(-1 if link.client.shared else MAX_PER_ADDRESS - 1)
        return link

    async def switching(self, request: Request, attempt: Attempt) -> Link:
        """A connection that can switch protocols: HTTP/2 whose server takes extended CONNECT, or one of HTTP/1.1.

        :raises CannotConnect: there is none to be had.
        """
        link = self.idle(request) or await self.get(request, attempt=attempt)
        if not link.client.shared or await link.client.takes_protocols():
            return link
        if self._switched >= MAX_PER_ADDRESS - 1:  # one is left for ordinary requests
            raise CannotConnect(
                f"{self._switched} connections of this client have switched protocols, and the server's HTTP/2 has no "
                "extended CONNECT to have more on one"
            )
        self._switched += 1
        return await self._open(link.key, Queue(), attempt, dedicated=True)

    async def switched(self, link: Link) -> None:
        """What `switching` gave has served its purpose."""
        self.forget(link)
        if link.dedicated:
            self._switched -= 1
        await self._context.handler.upstreams.end(link.server)

    async def _open(self, key: Key, queue: Queue, attempt: Attempt | None, dedicated: bool = False) -> Link:
        """dedicated: to one request that is to switch protocols, so HTTP/1.1."""
        context = self._context
        upstreams, worker = context.handler.upstreams, context.handler.worker
        settings = worker.settings
        address, tls, sni = key
        server = context.server
        early = upstreams.stream(server) if upstreams.free(server) and not dedicated else None
        if early is not None and (early.eof or (early.buf and not self._http2(server))):
            upstreams.take(server)  # opened before the first request, which its server did not wait for
            await upstreams.end(server)
        if server.address != address or server.tls != tls or not upstreams.free(server) or dedicated:
            offers = () if not tls else (b"http/1.1",) if dedicated else self._offers()
            server = Server(address=address, tls=tls, sni=sni, alpn_offers=offers)
            server.via = context.server.via
        await self._make_room(address)
        try:
            if (fault := upstreams.fault(server)) is not None:
                server.error = fault.text
                raise CannotConnect(fault.text, fault.kind)
            stream = await upstreams.open(server, attempt)
        except CannotConnect as e:
            e.server = server
            raise
        upstreams.take(server)
        ended = partial(upstreams.ended, server)
        client: HttpClient
        if self._http2(server) and not (dedicated and server.alpn is None):
            client = H2Client(stream, worker.loop, settings, ended)
        else:
            client = H1Client(stream, settings.max_head, settings.strict)
        link = Link(key, server, client, stream, ended, queue)
        link.early = stream is early
        link.dedicated = dedicated
        if dedicated:
            return link
        self._links.setdefault(key, []).append(link)
        self._count += 1
        return link

    def _http2(self, server: Server) -> bool:
        """Whether this connection speaks it."""
        if server.tls:
            return server.alpn == b"h2"
        return self.prior_knowledge and server.address == self._context.server.address

    def _offers(self) -> tuple[bytes, ...]:
        """ALPN for a server that the client did not choose: what the client could have spoken to it."""
        client = self._context.client
        h2 = self._context.handler.worker.settings.http2 and (client.alpn == b"h2" or b"h2" in client.alpn_offers)
        return (b"h2", b"http/1.1") if h2 else (b"http/1.1",)

    async def drop(self, link: Link) -> None:
        """End this connection, as soon as nobody uses it any more."""
        if link.dedicated:
            await self.switched(link)
            return
        self.forget(link)
        if link.client.shared and link.client.active:
            return
        await self._context.handler.upstreams.end(link.server)
        if link.queue is not None:
            link.queue.wake(1)

    def forget(self, link: Link) -> None:
        """No further request goes over it."""
        links = self._links.get(link.key)
        if links is not None and link in links:
            links.remove(link)
            self._count -= 1
            if not links:
                del self._links[link.key]
                self._forget_queue(link.key, link.queue)

    def _forget_queue(self, key: Key, queue: Queue | None) -> None:
        """Nothing is open: what is not waited for either leaves no trace."""
        if queue is not None and not queue.waiting and not queue.dialling and self._queues.get(key) is queue:
            del self._queues[key]

    async def _make_room(self, address: tuple[str, int]) -> None:
        """Before one more is opened: drop what is dead, and what rests while there are too many."""
        everyone = [link for links in self._links.values() for link in links]
        for link in everyone:
            if link.server.state.value == 0:
                await self.drop(link)
        idle = [link for link in everyone if link.client.room() and not link.client.active]
        if self._count >= KEEP and idle:
            await self.drop(idle.pop(0))
        if sum([link.key[0] == address for links in self._links.values() for link in links]) >= MAX_PER_ADDRESS:
            for link in idle:
                if link.key[0] == address:
                    await self.drop(link)
                    break
