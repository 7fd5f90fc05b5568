"""`dns`: a DNS server of its own, over UDP and TCP, that asks other name servers (or the hosts file) for its clients.

UDP is answered from the address that was asked, by IP_PKTINFO: a host with several would else answer from another.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from typing import TYPE_CHECKING

from appliance.arrival import Arrival, Arrive, Host
from appliance.connection import Client, ConnectionState
from appliance.exceptions import ModeError
from appliance.layers.dns import DNSLayer
from appliance.net.datagrams import SharedDatagrams
from appliance.net.guard import unmapped
from modes.base import TcpMode
from modes.flowlistener import FlowListener, Key

if TYPE_CHECKING:
    from appliance.connection import Address
    from appliance.layers.base import Context, Layer
    from modes.spec import ModeSpec

logger = logging.getLogger(__name__)

MAX_FLOWS = 8192
"""Ports of clients at once; datagrams of further ones are dropped."""
RECEIVE_BUFFER = 4 << 20
_IP_PKTINFO = 8
_SO_RCVBUFFORCE = 33
_ANOTHER_PORT = 8
"""Ports tried when any will do, until one is free for both TCP and UDP."""


class Dns(TcpMode):
    """TCP by the common listener, and UDP on the same addresses."""

    @staticmethod
    def top(context: Context) -> Layer:
        return DNSLayer(context)

    def __init__(self, spec: ModeSpec, host: Host, listen_host: str, listen_port: int | None) -> None:
        super().__init__(spec, host, listen_host, listen_port)
        self.datagrams: list[DnsListener] = []

    def wanted(self, sock: socket.socket, peer: Address) -> Address | None:
        return None

    async def start(self, arrive: Arrive) -> list[Address]:
        for attempt in range(_ANOTHER_PORT):
            addresses = await super().start(arrive)
            try:
                for address in addresses:
                    self.datagrams.append(DnsListener(self.spec, self.host, address, arrive))
            except OSError as e:
                await self.stop()
                self.addresses.clear()
                if e.errno != errno.EADDRINUSE or self.listen_port or attempt + 1 == _ANOTHER_PORT:
                    raise ModeError(f"UDP {self._cannot(address[0], address[1], e)}") from None
                continue
            break
        return addresses

    async def stop(self) -> None:
        await super().stop()
        for listener in self.datagrams:
            listener.close()
        self.datagrams.clear()


class DnsListener(FlowListener):
    """One UDP socket. A flow is what one port of a client asks of one of our addresses."""

    def __init__(self, spec: ModeSpec, host: Host, address: Address, arrive: Arrive) -> None:
        """:raises OSError: it cannot be bound."""
        super().__init__(spec, host, arrive)
        self._port = address[1]
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._sock = sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                self._told = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                self._told = socket.IPPROTO_IP, _IP_PKTINFO
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
        host.net.loop.add_reader(sock.fileno(), self._readable)

    def _begin(self, key: Key) -> SharedDatagrams | None:
        peer, told = key
        if len(self.flows) >= MAX_FLOWS or self._host.full():
            self.refused += 1
            self._warn.log(logging.WARNING, "full", "%d DNS clients wait, no more are taken", len(self.flows))
            return None
        client = Client(
            peername=(unmapped(peer[0]), *peer[1:]) if "." in peer[0] and ":" in peer[0] else peer,
            sockname=(_asked(told), self._port),
            timestamp_start=time.time(),
            transport_protocol="udp",
        )
        client.state = ConnectionState.OPEN
        client.proxy_mode = self._spec
        loop = self._host.net.loop
        # Of an IPv4 answer the interface is left to the routes; an IPv6 one may be link-local.
        source = told if len(told) == 20 else bytes(4) + told[4:8] + bytes(4)
        ancillary = [(*self._told, source)] if told else []
        sendmsg = self._sock.sendmsg
        flow = self.flows[key] = SharedDatagrams(
            loop,
            client,
            reply=lambda data: sendmsg((data,), ancillary, 0, peer),
            refuse=lambda: None,
            over=lambda why: self._over(key),
        )
        task = loop.create_task(self._run(Arrival(client, flow, None, self._spec.full_spec, Dns.top)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flow

    def _over(self, key: Key) -> None:
        self.flows.pop(key, None)

    async def _run(self, arrival: Arrival) -> None:
        await self._arrive(arrival)


def _asked(told: bytes) -> str:
    """The address in an in6_pktinfo (20 bytes: address, interface) or in_pktinfo (12: interface, local, address)."""
    if len(told) == 20:
        return socket.inet_ntop(socket.AF_INET6, told[:16])
    return socket.inet_ntop(socket.AF_INET, told[4:8]) if len(told) == 12 else ""
