"""DNS over UDP and TCP: each query is a flow, asked of a server under an id of our own.

Where all listeners are sync, a query is carried in the callbacks it arrives in, without a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from appliance.dns import DNSError, DNSMessage, response_codes
from appliance.layers.base import Context, Layer
from appliance.layers.dns_query import Query
from appliance.log import RateLimited
from appliance.net.clients import network
from appliance.net.datagrams import Datagrams
from appliance.net.dns import wire as dns_wire
from appliance.net.reasons import Gone
from appliance.verdict import Verdict

if TYPE_CHECKING:
    from appliance.net.stream import Stream

logger = logging.getLogger(__name__)

PORT = dns_wire.PORT
MAX_PER_CONNECTION = 128
"""Queries of one TCP connection at once; further ones are read when some are answered."""
TURN = 32
"""Messages of one TCP connection taken in one turn of the loop: what needs no server could otherwise hold it for long.
"""
MAX_PER_CLIENT = 512
"""Queries of one address at once; further ones are dropped, over TCP refused."""
MAX_PER_NETWORK = 4 * MAX_PER_CLIENT
"""And of one /64 of IPv6: one host may use all its addresses, but a LAN shares it too."""
UDP_PATIENCE = 2.0
"""Seconds without a query after which a client's port is forgotten: most stub resolvers use a new one each time."""
TCP_PATIENCE = 30.0
MAX_DATAGRAM = 65507
CROWD = 256
"""With more flows than this, a client's port is forgotten as soon as it is answered."""
_SERVER_EVENTS = ("server_connect", "server_connected", "server_connect_error", "server_disconnected")
_warn = RateLimited(logger, 4)


def is_query(data: bytes | bytearray) -> bool:
    """Whether a datagram, the first of its flow, is a DNS query."""
    return dns_wire.looks_like_query(data)


class DNSLayer(Layer):
    """Queries of one client. Without a server address in the context (mode dns) we are the server they were sent to."""

    def __init__(self, context: Context, routed: Callable[[str], bool] | None = None) -> None:
        """routed: whether an address can be reached; answers are without those that cannot. For clients that come by a
        network of ours: their connections succeed with us, so they would not try the other IP version.
        """
        super().__init__(context)
        self.routed = routed
        self.queries: set[Query] = set()
        self.own = context.server.address is None
        self.udp = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: Stream | Datagrams
        self._ip = ""
        self.network = ""  # of the client, never empty while it runs
        self.ending = ""  # why nothing more is begun
        self._room: asyncio.Future[None] | None = None
        self._lasting = 0.0

    async def run(self, client: Stream | Datagrams) -> None:
        handler = self.context.handler
        self._client = client
        self._ip = handler.client.peername[0] if handler.client.peername else "unknown"
        self.network = network(self._ip)
        self.context.server.transport_protocol = "udp"
        if handler.client.verdict is None:
            handler.decide(Verdict("decrypt", "DNS", at="accept"))
        worker = handler.worker
        try:
            if isinstance(client, Datagrams):
                worker.light += 1
                self._lasting = handler.patience = UDP_PATIENCE
                await self._datagrams(client)
            else:
                self.udp = False
                self._lasting = handler.patience = TCP_PATIENCE
                await self._stream(client)
        except Gone as e:
            if e.reason.kind != "timeout":  # idle, as clients of DNS are most of the time
                raise
        finally:
            if self.udp:
                worker.light -= 1
            await self._end()

    async def _datagrams(self, client: Datagrams) -> None:
        while batch := await client.receive():
            for data in batch:
                self.take(data)
        await self._until_room(1)

    async def _stream(self, client: Stream) -> None:
        seconds = self.context.handler.worker.settings.header_timeout
        taken = 0
        while True:
            buf = client.buf
            if len(buf) < 2 or len(buf) < 2 + (buf[0] << 8 | buf[1]):
                if buf and not client.deadline:
                    client.limit(seconds, "the client did not finish its query in time")
                if not await client.more():
                    break
                continue
            client.deadline = 0.0
            data = client.take(2 + (buf[0] << 8 | buf[1]))[2:]
            if len(self.queries) >= MAX_PER_CONNECTION:
                await self._until_room(MAX_PER_CONNECTION)
            self.take(data)
            taken += 1
            if not taken % TURN:
                await asyncio.sleep(0)
            await client.drain()
        await self._until_room(1)  # it may have said all it has to say, and wait for the answers
        client.write_eof()

    async def _until_room(self, most: int) -> None:
        """Until there are fewer queries than `most`, or the client is gone."""
        client = self._client
        client.on_gone = lambda why: self._make_room()
        try:
            while len(self.queries) >= most and client.why is None:
                self._room = self.context.handler.worker.loop.create_future()
                await self._room
        finally:
            client.on_gone = None
        if not isinstance(client, Datagrams):
            await client.drain()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    async def _end(self) -> None:
        """The client is gone or the gateway stops: what is under way ends in `dns_error`."""
        why = self._client.why
        self.ending = why.text if why is not None else "the client is gone"
        for query in list(self.queries):
            query.drop(self.ending)
        while self._tasks:
            tasks = list(self._tasks)
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    # -- messages in and out

    def take(self, data: bytes) -> None:
        """One message of the client. Never raises."""
        worker = self.context.handler.worker
        clients = worker.dns.clients
        try:
            end, limit = dns_wire.scan(data)
            count = clients.get(self._ip, 0)
            whose = self.network
            if count >= MAX_PER_CLIENT or (whose != self._ip and clients.get(whose, 0) >= MAX_PER_NETWORK):
                who = self._ip if count >= MAX_PER_CLIENT else whose
                words = "%s: %d DNS queries wait for an answer, more are refused"
                _warn.log(logging.WARNING, who, words, who, clients[who])
                if not self.udp:
                    self.reply(dns_wire.refusal(data, end, response_codes.SERVFAIL))
                return
            request = DNSMessage.over_wire(data)
            heard = worker.hooks.heard
            if heard["dns_request"] or heard["dns_response"] or heard["dns_error"]:
                request.parse()
        except DNSError as e:
            self._malformed(data, str(e))
            return
        if not self.queries:
            self.context.handler.patience = worker.settings.udp_timeout if self.udp else worker.settings.idle_timeout
        clients[self._ip] = count + 1
        if whose != self._ip:
            clients[whose] = clients.get(whose, 0) + 1
        query = Query(self, data, end, limit if self.udp else 0xFFFF, request)
        self.queries.add(query)
        query.begin()

    def _malformed(self, data: bytes, why: str) -> None:
        _warn.log(logging.WARNING, ("malformed", self._ip), "%s: a malformed DNS query: %s", self._ip, why)
        if reply := dns_wire.not_understood(data):
            self.reply(reply)

    def reply(self, wire: bytes) -> None:
        client = self._client
        if isinstance(client, Datagrams):
            client.send((wire,))
        elif client.why is None:
            client.write(len(wire).to_bytes(2, "big") + wire)

    def over(self, query: Query) -> None:
        """This query has had its answer, or will have none."""
        worker = self.context.handler.worker
        self.queries.discard(query)
        clients = worker.dns.clients
        for who in (self._ip,) if self.network == self._ip else (self._ip, self.network):
            left = clients[who] - 1
            if left:
                clients[who] = left
            else:
                del clients[who]
        if self._room is not None:
            self._make_room()
        if not self.queries:
            self.context.handler.patience = self._lasting
            if isinstance(self._client, Datagrams) and len(worker.handlers) > CROWD:
                self._client.ended()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self.context.handler.worker.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
