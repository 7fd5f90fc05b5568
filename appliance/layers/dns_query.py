"""One DNS query from its hooks to its answer: a flow, asked of a server under an id of our own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from appliance.connection import ConnectionState, Server
from appliance.dns import DNSError, DNSFlow, DNSMessage, ResourceRecord, classes, op_codes, response_codes, types
from appliance.dnsrecord import HTTPS_TYPES, strip_https
from appliance.flow import Error
from appliance.layers.gate import gate
from appliance.log import RateLimited
from appliance.net.dial import literal_family
from appliance.net.dns import wire as dns_wire
from appliance.net.egress import ServerConnectionHookData
from appliance.net.reasons import Gone, Killed

if TYPE_CHECKING:
    from appliance.connection import Address
    from appliance.layers.dns import DNSLayer
    from appliance.net.hosts import System
    from appliance.net.nameservers import Ask

logger = logging.getLogger(__name__)

MAX_DATAGRAM = 65507
_SERVER_EVENTS = ("server_connect", "server_connected", "server_connect_error", "server_disconnected")
_warn = RateLimited(logger, 4)


class Query:
    """One flow, from `dns_request` to `dns_response` or `dns_error`."""

    __slots__ = ("_ask", "_at", "_opened", "data", "end", "flow", "layer", "limit")

    def __init__(self, layer: DNSLayer, data: bytes, end: int, limit: int, request: DNSMessage) -> None:
        """data: the query as it came. end: of its questions. limit: bytes the client takes in one message."""
        self.layer = layer
        self.data = data
        self.end = end
        self.limit = min(limit, MAX_DATAGRAM) if layer.udp else limit
        self._ask: Ask | None = None
        self._at = "request"  # then "opening", "server", "response", "over"
        self._opened = False
        context = layer.context
        address = context.server.address
        server = Server(address=address)
        server.transport_protocol = "udp"
        self.flow = flow = DNSFlow(context.client, server)
        flow._live = self
        flow.request = request

    def begin(self) -> None:
        handler = self.layer.context.handler
        handler.worker.totals.flows += 1
        if self.layer.own:
            servers = handler.worker.name_servers()
            if servers:
                self.flow.server_conn.address = servers[0][0], servers[0][1]
        try:
            wait = gate(handler, "dns_request", self.flow, self.layer._client)
        except Killed:
            self.fail(Error.KILLED_MESSAGE)
            return
        if wait is None:
            self._proceed()
        else:
            self.layer.spawn(self._waited(wait))

    async def _waited(self, wait: Awaitable[None]) -> None:
        try:
            await wait
        except Killed:
            self.fail(Error.KILLED_MESSAGE)
        except Gone as e:
            self.fail(e.reason.text)
        except asyncio.CancelledError:
            self.fail("the gateway is shutting down")
            raise
        else:
            self._proceed()

    def _proceed(self) -> None:
        """After `dns_request`: answered here, or asked of a server."""
        flow, worker = self.flow, self.layer.context.handler.worker
        if flow.error is not None:
            self.fail(flow.error.msg)
            return
        if self.layer.ending:
            self.fail(self.layer.ending)
            return
        if flow.response is None:
            try:
                flow.response = self._own_answer()
            except DNSError as e:  # of a query that nobody has looked into before
                self.fail(f"the query is malformed: {e}")
                return
        if flow.response is not None:
            self._respond()
            return
        table = worker.hooks.table
        address = flow.server_conn.address
        if (address is not None and literal_family(address[0]) is None) or any(
            [table[name] for name in _SERVER_EVENTS]
        ):
            self._at = "opening"
            self.layer.spawn(self._open())
        else:
            self._forward(None)

    def _own_answer(self) -> DNSMessage | None:
        """What needs no server. :raises DNSError: the query is malformed."""
        layer, worker = self.layer, self.layer.context.handler.worker
        request = self.flow.request
        if layer.own and worker.settings.use_hosts_file:
            name = self.data[dns_wire.HEADER : self.end - 4]
            if (request.changed or worker.system.knows(name)) and (found := from_hosts(request, worker.system)):
                self._only_routed(found.answers)
                return found
        if (
            not layer.udp
            and self.data[2] >> 3 == 0
            and dns_wire.question_type(self.data, self.end) in dns_wire.TRANSFERS
        ):
            return request.fail(response_codes.NOTIMP)  # many messages; where nothing else was asked before they pass
        return None

    async def _open(self) -> None:
        """The server's events, and its name resolved: only where somebody listens, or a name was set."""
        flow, handler = self.flow, self.layer.context.handler
        server, worker = flow.server_conn, handler.worker
        data = ServerConnectionHookData(server, flow.client_conn)
        server.timestamp_start = time.time()
        fault, resolved = "", None
        try:
            if server.address is not None:
                await handler.fire("server_connect", data)
                if server.error:
                    fault = f"Connection killed: {server.error}"
                elif self._at == "opening" and server.address is not None:
                    resolved, fault = await self._resolved(server.address)
        except asyncio.CancelledError:
            self.fail("the gateway is shutting down")
            raise
        if self._at != "opening":
            return
        if not fault and resolved is not None and (why := worker.guard.refuse(resolved[0], resolved[1])):
            fault = why
        if fault:
            server.error = fault
            await handler.fire("server_connect_error", data)
            self.fail(fault)
            return
        if resolved is not None:
            server.peername = resolved
            server.state = ConnectionState.OPEN
            self._opened = True
            await handler.fire("server_connected", data)
        if self._at == "opening":
            self._forward(resolved)

    async def _resolved(self, address: Address) -> tuple[Address | None, str]:
        """(IP address, ""), or (None, why not)."""
        worker = self.layer.context.handler.worker
        if literal_family(address[0]) is not None:
            return (address[0], address[1]), ""
        seconds = worker.settings.connect_timeout
        try:
            async with asyncio.timeout(seconds):
                found = await worker.loop.getaddrinfo(address[0], address[1])
        except TimeoutError:
            return None, f"{address[0]}: the name was not resolved within {seconds:g} s (option connect_timeout)"
        except (OSError, UnicodeError) as e:
            return None, f"{address[0]}: the name cannot be resolved ({getattr(e, 'strerror', None) or e})"
        return (str(found[0][4][0]), address[1]), ""

    def _forward(self, resolved: Address | None) -> None:
        flow, worker = self.flow, self.layer.context.handler.worker
        server = flow.server_conn
        address = resolved or server.address
        if address is None:
            self.fail(
                "there is no name server to ask: set dns_name_servers, or put one into /etc/resolv.conf"
                if self.layer.own
                else "there is no server to ask: its address was taken away"
            )
            return
        servers: Sequence[Address] = (address,)
        client = self.layer.network
        if self.layer.own and (all_of := worker.name_servers()) and address == all_of[0][:2]:
            servers, client = all_of, ""
        wire, end = self.data, self.end
        request = flow.request
        try:
            if request.changed:
                wire = request.packed
                end = dns_wire.scan(wire)[0]
        except DNSError as e:
            self.fail(f"the query that an add-on made is malformed: {e}")
            return
        source = server.sockname[0] if server.sockname else worker.settings.connect_addr
        self._at = "server"
        server.timestamp_start = server.timestamp_start or time.time()
        ask = worker.dns.ask(
            servers,
            wire,
            end,
            self._answered,
            by_tcp=not self.layer.udp,
            source=source,
            client=client,
            asker=self.layer.network,
        )
        if self._at == "server":
            self._ask = ask

    def _answered(self, wire: bytes | None, why: str) -> None:
        """The server has spoken, or will not."""
        ask, self._ask = self._ask, None
        if self._at != "server":
            return
        flow, worker = self.flow, self.layer.context.handler.worker
        if ask is not None and not self._opened:
            server = flow.server_conn  # which of several
            if ask.server != server.address:
                server.address = ask.server[0], ask.server[1]
            server.peername = ask.server
        if wire is None:
            self.fail(why)
            return
        response = DNSMessage.over_wire(self.data[:2] + wire[2:])
        kind = dns_wire.question_type(self.data, self.end)
        strips = worker.settings.strip_ech and kind in HTTPS_TYPES
        routed = self.layer.routed is not None and kind in (types.A, types.AAAA)
        if strips or routed or worker.hooks.heard["dns_response"]:
            try:
                response.parse()
                if routed:
                    self._only_routed(response.answers)
                if strips:
                    for part in (response.answers, response.authorities, response.additionals):
                        strip_https(part)
            except DNSError as e:
                self.fail(f"the server's answer is malformed: {e}")
                return
        flow.response = response
        self._respond()

    def _only_routed(self, answers: list[ResourceRecord]) -> None:
        """Take out addresses to which there is no route, and say so."""
        routed = self.layer.routed
        for record in [one for one in answers if one.type in (types.A, types.AAAA)] if routed else ():
            address = record.ipv4_address if record.type == types.A else record.ipv6_address
            if routed and not routed(str(address)):
                answers.remove(record)
                version = 4 if record.type == types.A else 6
                text = "%s is answered without %s and the like: no route for IPv%d leads there from this machine"
                _warn.log(logging.WARNING, ("route", version), text, record.name, address, version)

    def _respond(self) -> None:
        handler = self.layer.context.handler
        self._at = "response"
        self._closed()
        try:
            wait = gate(handler, "dns_response", self.flow, self.layer._client)
        except Killed:
            self._finish(dns_wire.refusal(self.data, self.end, response_codes.SERVFAIL))
            return
        if wait is None:
            self._send()
        else:
            self.layer.spawn(self._late(wait))

    async def _late(self, wait: Awaitable[None]) -> None:
        try:
            await wait
        except Killed:
            self._finish(dns_wire.refusal(self.data, self.end, response_codes.SERVFAIL))
        except Gone:
            self._finish(None)
        except asyncio.CancelledError:
            self._finish(None)
            raise
        else:
            self._send()

    def _send(self) -> None:
        """After `dns_response`. The client's own id goes on it, whatever add-ons have done."""
        response = self.flow.response
        if response is None:
            self._finish(None)
            return
        try:
            wire = response.packed
        except (DNSError, AttributeError) as e:
            logger.error("dns_response: the response cannot be sent, the client gets SERVFAIL: %s", e)
            wire = dns_wire.refusal(self.data, self.end, response_codes.SERVFAIL)
        if wire[:2] != self.data[:2]:
            wire = self.data[:2] + wire[2:]
        if len(wire) > self.limit:
            wire = dns_wire.truncated(wire, self.data, self.end)
        self._finish(wire)

    def fail(self, why: str) -> None:
        """It ends in `dns_error`, and the client gets SERVFAIL."""
        if self._at in ("response", "over"):
            return
        self._at = "response"
        flow, worker = self.flow, self.layer.context.handler.worker
        flow.error = flow.error or Error(why)
        worker.totals.errors += 1
        self._closed()
        flow._live = None
        pending = worker.hooks.fire("dns_error", flow) or worker.hooks.fire("update", [flow])
        if pending is not None:
            self.layer.spawn(self._tell(pending))
        self._finish(dns_wire.refusal(self.data, self.end, response_codes.SERVFAIL))

    async def _tell(self, pending: Awaitable[None]) -> None:
        """The rest of `dns_error`, whose listener is async; or of the update after it, then once more."""
        await pending
        await self.layer.context.handler.fire("update", [self.flow])

    def _closed(self) -> None:
        """The server is not needed any more."""
        if self._opened:
            self._opened = False
            server = self.flow.server_conn
            server.state = ConnectionState.CLOSED
            server.timestamp_end = time.time()
            hooks = self.layer.context.handler.worker.hooks
            pending = hooks.fire("server_disconnected", ServerConnectionHookData(server, self.flow.client_conn))
            if pending is not None:
                self.layer.spawn(_finished(pending))

    def _finish(self, wire: bytes | None) -> None:
        if self._at == "over":
            return
        self._at = "over"
        self.flow._live = None
        if (recorder := self.layer.context.handler.worker.recorder) is not None:
            recorder.end(self.flow)
        if wire is not None:
            self.layer.reply(wire)
        self.layer.over(self)

    def drop(self, why: str) -> None:
        """Nobody waits for it any more."""
        if self._ask is not None:
            self._ask.cancel()
            self._ask = None
        if self._at in ("opening", "server"):  # else it is in a hook's hands, and the gate will say so
            self.fail(why)

    def kill(self) -> None:
        """See flow.kill(). In a hook of the flow itself the gate notices."""
        if self._at in ("opening", "server"):
            if self._ask is not None:
                self._ask.cancel()
                self._ask = None
            self.fail(Error.KILLED_MESSAGE)


async def _finished(pending: Awaitable[None]) -> None:
    await pending


def from_hosts(request: DNSMessage, system: System) -> DNSMessage | None:
    """The answer that the hosts file has to an A, AAAA or PTR query; None: it does not know that name."""
    question = request.question
    if question is None or question.class_ != classes.IN or request.op_code != op_codes.QUERY:
        return None
    name = question.name
    if question.type == types.PTR:
        found = system.names(name)
        return request.succeed([ResourceRecord.PTR(name, one) for one in found]) if found else None
    if question.type not in (types.A, types.AAAA):
        return None
    addresses = system.addresses(name)
    if not addresses:
        return None
    v6 = question.type == types.AAAA
    make = ResourceRecord.AAAA if v6 else ResourceRecord.A
    return request.succeed([make(name, one) for one in addresses if (":" in one) == v6])
