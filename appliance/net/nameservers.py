"""Asking name servers, for the whole worker: a few sockets for each server, unpredictable ports and ids (RFC 5452).

A question is known on the wire by socket and a random id of ours, so clients' ids never meet. An answer counts only if
it comes from the server asked (the sockets are connected), with that id and the same question; anything else is dropped
and counted. Decisions and figures: docs/decisions/dns.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from appliance.net.datagrams import LARGEST, READS_AT_ONCE
from appliance.net.dial import DialError, dial
from appliance.net.dns import wire as dns_wire
from appliance.net.nameserver_ports import Port, Ports

if TYPE_CHECKING:
    from appliance.connection import Address
    from appliance.net.guard import LoopGuard

logger = logging.getLogger(__name__)

MAX_PORTS = 128
"""Sockets to servers that clients have asked for, in all."""
OWN_PORTS = 64
"""Sockets to the servers of the `dns` mode, in all: what clients ask of others takes nothing from them."""
MAX_PENDING = 4096
"""Questions under way, in all; with so many, the one that has waited longest gives way to the next."""
MAX_TCP = 64
"""TCP connections to name servers at once; with so many, whoever has the most gives one up."""
PATIENCE = (1.0, 1.5, 2.0)
"""Seconds each attempt may take; the next goes to the next server. In all less than a stub resolver waits (5 s)."""
TCP_SECONDS = 4.0
TICK = 0.25

Done = Callable[[bytes | None, str], None]
"""Called once with the answer, or None and why there is none."""


class Ask:
    """One question under way. cancel() forgets it: nothing is called any more."""

    __slots__ = (
        *("asker", "attempt", "by_tcp", "client", "done", "due", "end", "id", "of", "port", "ports", "server"),
        *("servers", "source", "task", "wire"),
    )

    def __init__(
        self,
        of: NameServers,
        servers: Sequence[Address],
        wire: bytes,
        end: int,
        by_tcp: bool,
        source: str | None,
        client: str,
        asker: str,
        done: Done,
    ) -> None:
        self.of = of
        self.servers = servers
        self.wire = wire
        self.end = end  # of its questions
        self.by_tcp = by_tcp  # an answer that is truncated is fetched by TCP
        self.source = source
        self.client = client
        self.asker = asker
        self.done: Done | None = done
        self.ports = of.strangers if client else of.own
        self.server = servers[0]  # the one that was asked last
        self.attempt = -1
        self.due = 0.0
        self.port: Port | None = None
        self.id = 0
        self.task: asyncio.Task[None] | None = None
        of.asked[self] = None

    def cancel(self) -> None:
        self._over()
        if self.task is not None:
            self.task.cancel()

    def leave(self) -> None:
        """It is no longer awaited on its port."""
        port, self.port = self.port, None
        if port is not None:
            del port.pending[self.id]

    def finish(self, answer: bytes | None, why: str = "") -> None:
        done = self._over()
        if done is not None:
            try:
                done(answer, why)
            except Exception:
                logger.exception("unexpected fault in what was done with a DNS answer")

    def give_way(self, why: str) -> None:
        """It has no answer, for others are to have theirs."""
        self.finish(None, why)
        if self.task is not None:
            self.task.cancel()

    def _over(self) -> Done | None:
        if self.port is not None:
            self.leave()
        done, self.done = self.done, None
        if done is not None:
            del self.of.asked[self]
        return done


class NameServers:
    """See the module.

    dropped: answers that were late, double, forged or not to the question. asked: questions under way, oldest first.
    clients: questions under way by the client's address, and by /64 of IPv6, counted by the layer.
    own, strangers: the sockets, to the servers of the `dns` mode and to those that clients choose.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, guard: LoopGuard) -> None:
        self.dropped = 0
        self.asked: dict[Ask, None] = {}
        self.clients: dict[str, int] = {}
        self._loop = loop
        self._guard = guard
        self.own = Ports(loop, guard, OWN_PORTS, self._readable)
        self.strangers = Ports(loop, guard, MAX_PORTS, self._readable)
        self._due: tuple[deque[Ask], ...] = tuple(deque() for _ in PATIENCE)
        self._chance = b""
        self._drawn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tcp: dict[Ask, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def pending(self) -> int:
        """Questions under way."""
        return len(self.asked)

    def ask(
        self,
        servers: Sequence[Address],
        wire: bytes,
        end: int,
        done: Done,
        *,
        by_tcp: bool = False,
        source: str | None = None,
        client: str = "",
        asker: str = "",
    ) -> Ask:
        """Send the query `wire`, whose questions end at `end`, to one of `servers` after another (IP literals).

        by_tcp: fetch by TCP what comes truncated. source: local address. client: who chose these servers (see
        clients.network), "": we. asker: who asks, in the same form. `done` may be called before this returns.
        """
        ask = Ask(self, servers, wire, end, by_tcp, source, client, asker, done)
        if self._closed:
            ask.finish(None, "the gateway is shutting down")
        else:
            if len(self.asked) > MAX_PENDING:
                next(iter(self.asked)).give_way(f"{MAX_PENDING} queries wait for an answer, and this one for longest")
            self._try(ask, "")
        return ask

    def _try(self, ask: Ask, why: str) -> None:
        """The next attempt; `why` the last one failed."""
        while True:
            if ask.port is not None:
                ask.leave()
            ask.attempt += 1
            if ask.attempt >= len(PATIENCE):
                ask.finish(None, why or f"{_names(ask.servers)} did not answer")
                return
            ask.server = server = ask.servers[ask.attempt % len(ask.servers)]
            try:
                port = ask.ports.take((server, ask.source), ask.client, self._random)
                ask.id = number = self._id(port)
                port.pending[number] = ask
                ask.port = port
                port.sent += 1
                port.sock.send(number.to_bytes(2, "big") + ask.wire[2:])
            except BlockingIOError:
                pass  # no room in the send queue: as if the network had lost it
            except DialError as e:
                why = str(e)
                continue
            except OSError as e:
                why = f"{_name(server)}: {_reason(e)}"
                continue
            ask.due = self._loop.time() + PATIENCE[ask.attempt]
            self._due[ask.attempt].append(ask)
            if self._timer is None:
                self._timer = self._loop.call_later(TICK, self._tick)
            return

    # -- chance

    def _random(self) -> int:
        """24 bits from the kernel, fetched in bulk."""
        at = self._drawn
        if at >= len(self._chance):
            self._chance, at = os.urandom(3072), 0
        self._drawn = at + 3
        return int.from_bytes(self._chance[at : at + 3], "big")

    def _id(self, port: Port) -> int:
        while (number := self._random() & 0xFFFF) in port.pending:  # at most MAX_PENDING of 65536 are taken
            pass
        return number

    # -- answers

    def _readable(self, port: Port) -> None:
        recv, pending = port.sock.recv, port.pending
        try:
            for _ in range(READS_AT_ONCE):
                data = recv(LARGEST)
                ask = pending.get(data[0] << 8 | data[1]) if len(data) > 1 else None
                if ask is None or not dns_wire.answers(data, ask.wire, ask.end):
                    self.dropped += 1
                    continue
                port.answered = True
                if data[2] & 2 and ask.by_tcp:
                    ask.leave()
                    self._by_tcp(ask)
                else:
                    ask.finish(data)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as e:  # refused (ICMP): nobody is there who could answer any of them
            for ask in list(pending.values()):
                self._try(ask, f"{_name(ask.server)}: {_reason(e)}")

    # -- time

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for number, queue in enumerate(self._due):
            while queue and queue[0].due <= now:
                ask = queue.popleft()
                if ask.done is not None and ask.attempt == number and ask.task is None:
                    self._try(ask, f"{_name(ask.server)} did not answer")
        self.own.tidy()
        self.strangers.tidy()
        if self.own or self.strangers or any(self._due):
            self._timer = self._loop.call_later(TICK, self._tick)

    # -- by TCP

    def _by_tcp(self, ask: Ask) -> None:
        if len(self._tcp) >= MAX_TCP:
            most = Counter([other.asker for other in self._tcp])
            last = max(self._tcp, key=lambda other: most[other.asker])  # of equals the oldest
            full = f"{MAX_TCP} TCP connections to name servers are open already"
            if most[last.asker] <= most[ask.asker] + 1:
                ask.finish(None, full)
                return
            del self._tcp[last]
            last.give_way(f"{full}, {most[last.asker]} of them for {last.asker}")
        self._tcp[ask] = None
        ask.task = task = self._loop.create_task(self._fetch(ask))
        self._tasks.add(task)
        task.add_done_callback(partial(self._fetched, ask))

    def _fetched(self, ask: Ask, task: asyncio.Task[None]) -> None:
        self._tcp.pop(ask, None)
        self._tasks.discard(task)

    async def _fetch(self, ask: Ask) -> None:
        """One question over a connection of its own (RFC 7766)."""
        server, number = ask.server, self._random() & 0xFFFF
        answer, why = None, ""
        try:
            async with asyncio.timeout(TCP_SECONDS):
                sock = await dial(self._loop, server, self._guard, TCP_SECONDS, ask.source)
                with sock:
                    query = number.to_bytes(2, "big") + ask.wire[2:]
                    await self._loop.sock_sendall(sock, len(query).to_bytes(2, "big") + query)
                    while answer is None:
                        size = int.from_bytes(await self._exactly(sock, 2), "big")
                        data = await self._exactly(sock, size)
                        if data[:2] == query[:2] and dns_wire.answers(data, ask.wire, ask.end):
                            answer = data
                        else:
                            self.dropped += 1
        except TimeoutError:
            why = f"{_name(server)} did not answer by TCP"
        except DialError as e:
            why = str(e)
        except OSError as e:
            why = f"{_name(server)}: {_reason(e)}"
        ask.finish(answer, why)

    async def _exactly(self, sock: socket.socket, size: int) -> bytes:
        parts = []
        while size:
            part = await self._loop.sock_recv(sock, size)
            if not part:
                raise ConnectionResetError(None, "the connection ended before the answer did")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    # -- the end

    async def close(self) -> None:
        """Forget all questions and close all sockets."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for queue in self._due:
            for ask in list(queue):
                ask.finish(None, "the gateway is shutting down")
        self.own.close()
        self.strangers.close()


def _reason(e: OSError) -> str:
    if isinstance(e, ConnectionRefusedError):
        return "the port is unreachable"
    return e.strerror or str(e)


def _name(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def _names(addresses: Sequence[Address]) -> str:
    return ", ".join(map(_name, addresses))
