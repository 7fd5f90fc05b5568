"""Transparent UDP: one socket takes all datagrams, and tells them apart by client and original destination.

Why one socket, and not one more for each flow: nothing is out of order while a flow is new, and a flow costs no
descriptor on the client's side. Under TPROXY an answer leaves by a socket bound to the original destination and shared
by all its clients; it is not connected, so TPROXY never delivers to it. NAT (REDIRECT) hides where a datagram was
going: connection tracking is asked once a flow, and the answer leaves by the listener's own socket, for NAT to
translate back.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from appliance.arrival import Arrival, Arrive, Host
from appliance.connection import Client, ConnectionState
from appliance.net.conntrack import CannotAsk, Conntrack
from appliance.net.datagrams import SharedDatagrams
from appliance.net.guard import is_local, nowhere
from appliance.net.reasons import Reason
from appliance.net.unreachable import IP_TRANSPARENT, IPV6_TRANSPARENT, Unreachable
from modes.flowlistener import FlowListener, Key

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.connection import Address
    from appliance.layers.base import Context, Layer
    from appliance.net.conntrack import Tuple
    from modes.netns import Namespace
    from modes.spec import ModeSpec

logger = logging.getLogger(__name__)

MAX_FLOWS = 8192
"""At once on one listener (and three quarters of what the gateway may hold); further ones are dropped."""
ASK_AGAIN_SECONDS = 5.0
"""Connection tracking may have forgotten a redirected flow, and the client's port may by now mean another one."""
DEAF_SECONDS = 10.0
"""How long the datagrams of a flow that was killed or blocked are dropped, before they may begin a new one."""
RECEIVE_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33
_IP_PKTINFO = 8


class Redirected(SharedDatagrams):
    """A flow that NAT sent here. moved: called now and then, before the next datagram: whether it is another flow by
    now, to which that datagram has been given.
    """

    __slots__ = ("_asked", "moved")
    moved: Callable[[bytes], bool]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asked = self._loop.time()

    def arrived(self, data: bytes) -> None:
        now = self._loop.time()
        if now - self._asked > ASK_AGAIN_SECONDS:
            self._asked = now
            if self.moved(data):
                return
        super().arrived(data)


class UdpListener(FlowListener):
    """One family's socket. Each new pair of client and destination becomes an arrival."""

    def __init__(
        self,
        spec: ModeSpec,
        host: Host,
        top: Callable[[Context], Layer],
        arrive: Arrive,
        inside: Namespace | None = None,
    ) -> None:
        """inside: the namespace that the sockets live in, None: ours. There nothing is local, and there is no NAT."""
        super().__init__(spec, host, arrive)
        self._inside = inside
        self._top = top
        self._answering: dict[Address, tuple[socket.socket, set[Key]]] = {}
        self._unreachable = Unreachable(inside.raw if inside else None)
        self._transparent = inside.transparent if inside else _transparent
        self._conntrack: Conntrack | None = None

    def bind(self, family: int, address: Address) -> None:
        """:raises PermissionError: TPROXY needs CAP_NET_RAW or CAP_NET_ADMIN. :raises OSError: it cannot be bound."""
        sock = _transparent(family)
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
        self.adopt(sock)

    def adopt(self, sock: socket.socket) -> None:
        """Take the datagrams of a socket that is bound, and ours from now on."""
        self._sock = sock
        self._port = sock.getsockname()[1]
        self._host.net.loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Take no more datagrams; idempotent. Flows under way may still be answered, unless NAT translates them."""
        super().close()
        if self._conntrack is not None:
            self._conntrack.close()
            self._conntrack = None

    # -- from the clients

    def _begin(self, key: Key) -> SharedDatagrams | None:
        """A flow for the first datagram of a client to a destination; None: it is not to be served."""
        peer = key[0]
        if not self._room(peer[0]):
            self.refused += 1
            return None
        wanted = here = original_destination(key[1])
        nat = None
        if self._inside is None and here is not None and here not in self._answering and is_local(here[0]):
            nat = self._before_nat(here, peer)
            wanted = nat and nat.destination
        if wanted is None or (nat is not None and is_local(wanted[0])):
            # Besides, a socket to answer from would take the datagrams of whoever really serves that address here.
            self._warn.log(
                logging.WARNING,
                here,
                "%s: a datagram for this machine itself (%s), not through it: leave local addresses out of the rules",
                peer[0],
                here and here[0],
            )
            return None
        if why := self.refuses(wanted):
            self._warn.log(logging.WARNING, (peer[0], "refused"), "%s: %s", peer[0], why)
            self._unreachable.tell(peer, wanted)
            return None
        source = peer
        if nat is not None:  # it gives another port where two destinations of one port meet in ours
            source = (*nat.source, peer[2], peer[3]) if len(peer) == 4 else nat.source
        client = Client(peername=source, sockname=wanted, timestamp_start=time.time(), transport_protocol="udp")
        client.state = ConnectionState.OPEN
        client.proxy_mode = self._spec
        loop = self._host.net.loop
        reply = self._answer if nat is None else self._answer_from_here
        flow = (SharedDatagrams if nat is None else Redirected)(
            loop,
            client,
            lambda data: reply(key, wanted, data),
            lambda: self._unreachable.tell(source, wanted),
            lambda why: self._over(key, wanted, why),
        )
        if isinstance(flow, Redirected):
            flow.moved = lambda data: self._moved(key, nat, data)
        self._began(key, flow)
        task = loop.create_task(self._run(self.arrival(client, flow, wanted)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flow

    def refuses(self, wanted: Address) -> str:
        """Why nothing is carried there; "": it is. Local addresses are not asked about."""
        return f"{wanted[0]} is nobody's address on a network, and not served" if nowhere(wanted[0], "::1") else ""

    def arrival(self, client: Client, flow: SharedDatagrams, wanted: Address) -> Arrival:
        """What is handed over."""
        return Arrival(client, flow, wanted, self._spec.full_spec, self._top)

    async def _run(self, arrival: Arrival) -> None:
        await self._arrive(arrival)

    def _most(self) -> int:
        return min(MAX_FLOWS, max(8, self._host.limit() * 3 // 4))

    # -- behind NAT

    def _before_nat(self, here: Address, peer: Address) -> Tuple | None:
        """How a datagram that is now for `here` was sent. None: just so, or nobody can tell (which is logged)."""
        if here[1] != self._port:
            return None
        try:
            if self._conntrack is None:
                self._conntrack = Conntrack()
            found = self._conntrack.original(socket.IPPROTO_UDP, (here[0], here[1]), (peer[0], peer[1]))
        except CannotAsk as e:
            self._warn.log(logging.WARNING, "nat", "UDP under REDIRECT is not intercepted: %s; or use TPROXY", e)
            return None
        return None if found is None or found.destination == here else found

    def _moved(self, key: Key, nat: Tuple | None, data: bytes) -> bool:
        here = original_destination(key[1])
        now = here and self._before_nat(here, key[0])
        if now is None or now == nat:
            return False
        self.flows[key].close(why=Reason("closed", "its addresses belong to another flow by now"))
        if (flow := self.flows.get(key) or self._begin(key)) is not None:
            flow.arrived(data)
        return True

    # -- to them

    def _answer(self, key: Key, wanted: Address, data: bytes) -> None:
        """:raises OSError: it cannot be sent."""
        sock, clients = self._answering.get(wanted) or self._open(wanted)
        clients.add(key)
        sock.sendto(data, key[0])

    def _answer_from_here(self, key: Key, wanted: Address, data: bytes) -> None:
        """:raises OSError: it cannot be sent."""
        told = key[1]
        if len(told) == 28:
            scope = key[0][3] if len(key[0]) > 3 else 0
            info = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, told[8:24] + struct.pack("=I", scope))
        else:
            info = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4x", 0, told[4:8]))
        self._sock.sendmsg((data,), (info,), 0, key[0])

    def _open(self, wanted: Address) -> tuple[socket.socket, set[Key]]:
        sock = None
        try:
            sock = self._transparent(socket.AF_INET6 if ":" in wanted[0] else socket.AF_INET)
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
            self._host.net.loop.call_later(DEAF_SECONDS, self._forget, key)
        else:
            self._forget(key)


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
