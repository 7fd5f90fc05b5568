"""One socket whose datagrams are told apart into flows, and who has room in its table.

When it is full, flows in which nobody has spoken after an answer give way to new ones, the oldest first: spoofed
sources push out each other, and not what talks with a server.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from appliance.arrival import Arrive, Host
from appliance.log import RateLimited
from appliance.net.clients import network
from appliance.net.datagrams import LARGEST, READS_AT_ONCE, SharedDatagrams
from appliance.net.reasons import Reason

if TYPE_CHECKING:
    import asyncio

    from appliance.connection import Address
    from modes.spec import ModeSpec

logger = logging.getLogger(__name__)

CLIENT_SHARE = 4
"""One client address holds at most this part (1/n) of the flows, and eight at least: a flood of its own locks out
itself."""
NETWORK_SHARE = 2
"""And one /64 of IPv6 this part of them with answers: one host may use all its addresses, but a LAN shares it too."""
YOUNG_SECONDS = 0.1
"""When the table is full, a flow of this age whose client has said nothing after an answer gives way to a new one."""

Key = tuple["Address", bytes]
"""The client, and the original destination as the kernel tells it (sockaddr_in or sockaddr_in6)."""


class FlowListener:
    """A socket whose datagrams are told apart by client and by what the kernel says of their destination."""

    ancillary = socket.CMSG_SPACE(28)
    _sock: socket.socket

    def __init__(self, spec: ModeSpec, host: Host, arrive: Arrive) -> None:
        self.flows: dict[Key, SharedDatagrams] = {}
        self.refused = 0  # datagrams of flows there was no room for
        self._spec = spec
        self._host = host
        self._arrive = arrive
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._warn = RateLimited(logger, 2)
        self._held: dict[str, int] = {}  # flows, by client address
        self._young: dict[Key, float] = {}  # the loop's time when it began, oldest first; some have grown up
        self._answered: dict[Key, tuple[str, int]] = {}  # the client's network, and what had come before the answer
        self._answered_of: dict[str, int] = {}  # how many, by network

    def close(self) -> None:
        """Take no more datagrams; idempotent."""
        if self._sock.fileno() >= 0:
            self._host.net.loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _readable(self) -> None:
        flows, recvmsg = self.flows, self._sock.recvmsg
        try:
            for _ in range(READS_AT_ONCE):
                data, ancillary, _, peer = recvmsg(LARGEST, self.ancillary)
                key: Key = peer, ancillary[0][2] if ancillary else b""
                flow = flows.get(key) or self._begin(key)
                if flow is not None:
                    flow.arrived(data)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as e:
            self._warn.log(logging.WARNING, e.errno, "%s: UDP: %s", self._spec.full_spec, e.strerror)

    def _begin(self, key: Key) -> SharedDatagrams | None:
        """A flow for its first datagram; None: it is not to be served."""
        raise NotImplementedError

    # -- who is served

    def _most(self) -> int:
        """Flows at once."""
        raise NotImplementedError

    def _room(self, client: str) -> bool:
        """Whether one more flow of this client's may begin; made, when there is none and somebody should give way."""
        most = self._most()
        if self._held.get(client, 0) >= max(8, most // CLIENT_SHARE):
            self._warn.log(
                logging.WARNING,
                client,
                "%s has %d UDP flows open, no more are taken from it; other clients are served",
                client,
                self._held[client],
            )
            return False
        whose = network(client)
        if self._answered_of.get(whose, 0) >= max(8, most // NETWORK_SHARE):
            words = "%s has %d UDP flows open that were answered, no more are taken from it; others are served"
            self._warn.log(logging.WARNING, whose, words, whose, self._answered_of[whose])
            return False
        if len(self.flows) < most and not self._host.full():
            return True
        self._give_way()
        if len(self.flows) < most and not self._host.full():
            return True
        self._warn.log(logging.WARNING, "full", "%d UDP flows are open, no more are taken", len(self.flows))
        return False

    def _give_way(self) -> None:
        """End the oldest flow that may be, or none."""
        now = self._host.net.loop.time()
        while self._young:
            key = next(iter(self._young))
            if now - self._young[key] < YOUNG_SECONDS:
                return
            del self._young[key]
            flow, answered = self.flows[key], self._answered.get(key)
            grown = answered is not None and flow.received > answered[1]
            if not grown and flow.why is None:  # else it was killed, and stays deaf for a while
                flow.close(why=Reason("closed", "gave way to a new flow, as the table is full"))
                return

    def _began(self, key: Key, flow: SharedDatagrams) -> None:
        """It has room in the table until `_forget`."""
        self.flows[key] = flow
        self._held[key[0][0]] = self._held.get(key[0][0], 0) + 1
        self._young[key] = self._host.net.loop.time()
        reply = flow.reply

        def first(data: bytes) -> object:
            flow.reply = reply
            whose = network(key[0][0])
            self._answered[key] = whose, flow.received
            self._answered_of[whose] = self._answered_of.get(whose, 0) + 1
            return reply(data)

        flow.reply = first

    def _forget(self, key: Key) -> None:
        if self.flows.pop(key, None) is not None:
            self._young.pop(key, None)
            _less(self._held, key[0][0])
            if (answered := self._answered.pop(key, None)) is not None:
                _less(self._answered_of, answered[0])


def _less(counts: dict[str, int], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
