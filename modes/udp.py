"""UDP under TPROXY: one socket takes all datagrams, and tells them apart by client and original destination.

Why one socket, and not one more for each flow: nothing is out of order while a flow is new, and a flow costs no
descriptor on the client's side. An answer leaves by a socket bound to the original destination and shared by all
its clients; it is not connected, so TPROXY never delivers to it. NAT (REDIRECT) hides where a datagram was going.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
from typing import TYPE_CHECKING

from appliance.arrival import Arrival, Arrive, Host
from appliance.connection import Client, ConnectionState
from appliance.log import RateLimited
from appliance.net.datagrams import LARGEST, READS_AT_ONCE, SharedDatagrams
from appliance.net.guard import is_local
from appliance.net.unreachable import IP_TRANSPARENT, IPV6_TRANSPARENT, Unreachable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from appliance.connection import Address
    from appliance.layers.base import Context, Layer
    from appliance.net.reasons import Reason
    from modes.spec import ModeSpec

logger = logging.getLogger(__name__)

MAX_FLOWS = 8192
"""At once on one listener; the datagrams of further ones are dropped."""
DEAF_SECONDS = 10.0
"""How long the datagrams of a flow that was killed or blocked are dropped, before they may begin a new one."""
RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_ANCILLARY = socket.CMSG_SPACE(28)

Key = tuple["Address", bytes]
"""The client, and the original destination as the kernel tells it (sockaddr_in or sockaddr_in6)."""


class UdpListener:
    """One family's socket. Each new pair of client and destination becomes an arrival."""

    def __init__(self, spec: ModeSpec, host: Host, top: Callable[[Context], Layer], arrive: Arrive) -> None:
        self.flows: dict[Key, SharedDatagrams] = {}
        self.refused = 0  # datagrams of flows there was no room for
        self._spec = spec
        self._host = host
        self._top = top
        self._arrive = arrive
        self._answering: dict[Address, tuple[socket.socket, set[Key]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unreachable = Unreachable()
        self._warn = RateLimited(logger, 2)
        self._sock: socket.socket

    def bind(self, family: int, address: Address) -> None:
        """:raises PermissionError: TPROXY needs CAP_NET_RAW or CAP_NET_ADMIN. :raises OSError: it cannot be bound."""
        self._sock = sock = _transparent(family)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, 74, 1)  # IPV6_RECVORIGDSTADDR
            else:
                sock.setsockopt(socket.SOL_IP, 20, 1)  # IP_RECVORIGDSTADDR
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
            sock.bind(address)
        except BaseException:
            sock.close()
            raise
        self._host.net.loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Take no more datagrams; idempotent. Flows under way may still be answered."""
        if self._sock.fileno() >= 0:
            self._host.net.loop.remove_reader(self._sock.fileno())
            self._sock.close()

    # -- from the clients

    def _readable(self) -> None:
        flows, recvmsg = self.flows, self._sock.recvmsg
        try:
            for _ in range(READS_AT_ONCE):
                data, ancillary, _, peer = recvmsg(LARGEST, _ANCILLARY)
                key: Key = peer, ancillary[0][2] if ancillary else b""
                flow = flows.get(key) or self._begin(key)
                if flow is not None:
                    flow.arrived(data)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as e:
            self._warn.log(logging.WARNING, e.errno, "%s: UDP: %s", self._spec.full_spec, e.strerror)

    def _begin(self, key: Key) -> SharedDatagrams | None:
        """A flow for the first datagram of a client to a destination; None: it is not to be served."""
        peer = key[0]
        wanted = original_destination(key[1])
        if wanted is None or (wanted not in self._answering and is_local(wanted[0])):
            # Besides, a socket to answer from would take the datagrams of whoever really serves that address here.
            self._warn.log(
                logging.WARNING,
                wanted,
                "%s: a datagram for this machine itself (%s), not through it: leave local addresses out of the rules, "
                "and use TPROXY for UDP, as REDIRECT hides where it was going",
                peer[0],
                wanted and wanted[0],
            )
            return None
        if len(self.flows) >= MAX_FLOWS or self._host.full():
            self.refused += 1
            self._warn.log(logging.WARNING, "full", "%d UDP flows are open, no more are taken", len(self.flows))
            return None
        client = Client(peername=peer, sockname=wanted, timestamp_start=time.time(), transport_protocol="udp")
        client.state = ConnectionState.OPEN
        client.proxy_mode = self._spec
        loop = self._host.net.loop
        flow = self.flows[key] = SharedDatagrams(
            loop,
            client,
            reply=lambda data: self._answer(key, wanted, data),
            refuse=lambda: self._unreachable.tell(peer, wanted),
            over=lambda why: self._over(key, wanted, why),
        )
        task = loop.create_task(self._run(Arrival(client, flow, wanted, self._spec.full_spec, self._top)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flow

    async def _run(self, arrival: Arrival) -> None:
        await self._arrive(arrival)

    # -- to them

    def _answer(self, key: Key, wanted: Address, data: bytes) -> None:
        """:raises OSError: it cannot be sent."""
        sock, clients = self._answering.get(wanted) or self._open(wanted)
        clients.add(key)
        sock.sendto(data, key[0])

    def _open(self, wanted: Address) -> tuple[socket.socket, set[Key]]:
        sock = None
        try:
            sock = _transparent(socket.AF_INET6 if ":" in wanted[0] else socket.AF_INET)
            sock.bind(wanted)
        except OSError as e:
            if sock is not None:
                sock.close()
            self._warn.log(logging.WARNING, wanted, "cannot answer as %s:%d: %s", *wanted[:2], e.strerror)
            raise
        found = self._answering[wanted] = sock, set()
        return found

    def _over(self, key: Key, wanted: Address, why: Reason) -> None:
        answering = self._answering.get(wanted)
        if answering is not None:
            answering[1].discard(key)
            if not answering[1]:
                del self._answering[wanted]
                answering[0].close()
        if why.kind in ("killed", "blocked"):
            self._host.net.loop.call_later(DEAF_SECONDS, self.flows.pop, key, None)
        else:
            self.flows.pop(key, None)


def original_destination(told: bytes) -> tuple[str, int] | None:
    """Out of the ancillary data of a datagram: sockaddr_in (16 bytes) or sockaddr_in6 (28 bytes)."""
    if len(told) == 28:
        port, address = struct.unpack_from("!2xH4x16s", told)
        return socket.inet_ntop(socket.AF_INET6, address), port
    if len(told) == 16:
        port, address = struct.unpack_from("!2xH4s", told)
        return socket.inet_ntop(socket.AF_INET, address), port
    return None


def _transparent(family: int) -> socket.socket:
    """A socket that may take the datagrams to, and send them from, an address that is not ours."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    except BaseException:
        sock.close()
        raise
    return sock
