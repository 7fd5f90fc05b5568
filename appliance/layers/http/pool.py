"""Which server connection a request goes over: reused by key, opened when there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from appliance.connection import Server
from appliance.layers.http.h1_client import H1Client
from appliance.net.egress import CannotConnect

if TYPE_CHECKING:
    from appliance.layers.base import Context
    from appliance.layers.http.wire import HttpClient
    from appliance.net.reasons import Reason
    from appliance.net.stream import Stream
    from appliance.request import Request

Key = tuple[tuple[str, int], bool, str | None]
"""Address, TLS, SNI."""
KEEP = 8
"""Connections kept for reuse by one client connection; the oldest goes first."""


class Link:
    """One server connection with the codec on it."""

    __slots__ = ("_gone", "client", "key", "server", "stream")

    def __init__(
        self, key: Key, server: Server, client: HttpClient, stream: Stream, gone: Callable[[Reason], None]
    ) -> None:
        self.key = key
        self.server = server
        self.client = client
        self.stream = stream
        self._gone = gone

    def rest(self) -> bool:
        """The exchange on it is over. False: it cannot serve another and is to be dropped."""
        if not self.client.usable or self.stream.eof:
            return False
        self.stream.on_gone = self._gone  # should its server close it meanwhile, say so at once
        return True


class HttpPool:
    """The HTTP connections to servers of one client connection."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._links: dict[Key, list[Link]] = {}
        self._count = 0

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

    async def get(self, request: Request, fresh: bool = False) -> Link:
        """A connection for one request, new unless one has become idle. fresh: new in any case.

        :raises CannotConnect: there is none to be had.
        """
        if not fresh and (link := self.idle(request)) is not None:
            return link
        key = self.key(request)
        context = self._context
        upstreams, settings = context.handler.upstreams, context.handler.worker.settings
        address, tls, sni = key
        server = context.server
        early = upstreams.stream(server)
        if early is not None and upstreams.free(server) and (early.eof or early.buf):
            upstreams.take(server)  # opened before the first request, which its server did not wait for
            await upstreams.end(server)
        if server.address != address or server.tls != tls or not upstreams.free(server):
            server = Server(address=address, tls=tls, sni=sni, alpn_offers=(b"http/1.1",) if tls else ())
            server.via = context.server.via
        try:
            if (fault := upstreams.fault(server)) is not None:
                server.error = fault.text
                raise CannotConnect(fault.text, fault.kind)
            stream = await upstreams.open(server)
        except CannotConnect as e:
            e.server = server
            raise
        upstreams.take(server)
        client = H1Client(stream, settings.max_head, settings.strict)
        link = Link(key, server, client, stream, partial(upstreams.ended, server))
        await self._make_room()
        self._links.setdefault(key, []).append(link)
        self._count += 1
        return link

    async def drop(self, link: Link) -> None:
        """End this connection."""
        links = self._links.get(link.key)
        if links is not None and link in links:
            links.remove(link)
            self._count -= 1
            if not links:
                del self._links[link.key]
        await self._context.handler.upstreams.end(link.server)

    def forget(self, link: Link) -> None:
        """It carries something else from now on (an upgrade)."""
        links = self._links.get(link.key)
        if links is not None and link in links:
            links.remove(link)
            self._count -= 1

    async def _make_room(self) -> None:
        dead = [link for links in self._links.values() for link in links if link.server.state.value == 0]
        for link in dead:
            await self.drop(link)
        if self._count >= KEEP:
            oldest = next((link for links in self._links.values() for link in links if link.client.room()), None)
            if oldest is not None:
                await self.drop(oldest)
