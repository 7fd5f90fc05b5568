"""Which server connection a request goes over: reused by key, opened when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.connection import Server
from appliance.layers.http.h1_client import H1Client
from appliance.net.egress import CannotConnect

if TYPE_CHECKING:
    from appliance.layers.base import Context
    from appliance.layers.http.wire import HttpClient
    from appliance.request import Request

Key = tuple[tuple[str, int], bool, str | None]
"""Address, TLS, SNI."""
KEEP = 8
"""Connections kept for reuse by one client connection; the oldest goes first."""


class Link:
    """One server connection with the codec on it."""

    __slots__ = ("client", "key", "server")

    def __init__(self, key: Key, server: Server, client: HttpClient) -> None:
        self.key = key
        self.server = server
        self.client = client


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

    def idle(self, key: Key) -> Link | None:
        """A connection that may serve this request at once."""
        for link in self._links.get(key, ()):
            if link.client.room():
                return link
        return None

    async def get(self, key: Key, fresh: bool = False) -> Link:
        """A connection for one request. fresh: not one that was used before.

        :raises CannotConnect: there is none to be had.
        """
        if not fresh and (link := self.idle(key)) is not None:
            self._context.handler.upstreams.take(link.server)
            return link
        context = self._context
        upstreams, settings = context.handler.upstreams, context.handler.worker.settings
        address, tls, sni = key
        server = context.server
        if server.address != address or server.tls != tls or not upstreams.free(server):
            server = Server(address=address, tls=tls, sni=sni, alpn_offers=(b"http/1.1",) if tls else ())
            server.via = context.server.via
        if (fault := upstreams.fault(server)) is not None:
            raise CannotConnect(fault.text, fault.kind)
        stream = await upstreams.open(server)
        upstreams.take(server)
        link = Link(key, server, H1Client(stream, settings.max_head, settings.strict))
        await self._make_room()
        self._links.setdefault(key, []).append(link)
        self._count += 1
        return link

    async def release(self, link: Link) -> None:
        """The exchange on it is over: keep the connection, or end it."""
        client = link.client
        if isinstance(client, H1Client) and not client.usable:
            await self.drop(link)
        else:
            self._context.handler.upstreams.leave(link.server)

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
