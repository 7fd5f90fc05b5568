"""The gateway's end of the control socket: who is connected, and a line for each of theirs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from appliance import __version__
from appliance.control.address import CannotBeMade, Claimed, group_number, peer, permitted, socket_path
from appliance.control.feed import LogFeed, Subscription
from appliance.control.protocol import PROTOCOL, ControlError, Lines, Request, dump, failure, parse, result
from appliance.exceptions import LockgateError
from appliance.log import RateLimited

if TYPE_CHECKING:
    from appliance.gateway import Gateway
    from modes.live import Running

logger = logging.getLogger(__name__)

MAX_CLIENTS = 32
MAX_SUBSCRIPTIONS = 8
"""Of one client."""
READ_AHEAD = 256 << 10
"""Bytes of further requests that are read while one is being answered."""
DESCRIPTOR_SECONDS = 5.0
ACCEPT_AGAIN_SECONDS = 1.0
"""When there was no descriptor left for a client."""
HIGH_WATER = 256 << 10
"""Unread bytes of answers from which on no further request is taken."""

Answer = Callable[["Session", dict[str, Any]], "Awaitable[Any] | Any"]


class ControlServer:
    """`claim` first of all, `serve` once the gateway is up, `close` last of all."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.loop = asyncio.get_running_loop()
        self.log = LogFeed(self.loop)
        self.sessions: set[Session] = set()
        self.leaving: set[asyncio.Task[None]] = set()  # programs that had joined
        self.dropped = 0  # events of sessions that are gone
        self._claimed: Claimed | None = None
        self._group: int | None = None
        self._refused = RateLimited(logger, 2)
        self._pause: asyncio.TimerHandle | None = None

    def claim(self) -> None:
        """Raises OptionsError: another gateway has the socket, or it cannot be made."""
        options = self.gateway.options
        path = socket_path(options)
        if path is None or (not options.server and not options.control_socket):
            return  # without a server there is nothing to control, unless somebody says so
        group = options.control_group
        try:
            self._claimed = claimed = Claimed(path, group)
        except CannotBeMade as error:
            if options.control_socket or group:
                raise
            logger.warning("%s", error)  # a configuration folder may be somebody else's to write to
            return
        if group:
            self._group = gid = group_number(group)
            if (shut := claimed.closed_to(gid)) is not None:
                logger.warning(
                    "control_group: members of %s cannot reach the socket, as %s is closed to them; put it elsewhere, "
                    "such as --set control_socket=/run/lockgate/control.sock",
                    group,
                    shut,
                )

    def serve(self) -> None:
        if self._claimed is not None:
            self.loop.add_reader(self._claimed.sock.fileno(), self._accept, self._claimed.sock)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.loop.remove_reader(listener.fileno())  # it stays readable, and would keep the loop busy
                self._pause = self.loop.call_later(ACCEPT_AGAIN_SECONDS, self.serve)
            return
        sock.setblocking(False)
        pid, uid, _ = peer(sock)
        refusal = None
        if not permitted(sock, self._group):
            self._refused.log(logging.WARNING, uid, "control socket: process %d of user %d was refused", pid, uid)
            refusal = ControlError("refused", f"user {uid} may not control this gateway", "use sudo")
        elif len(self.sessions) >= MAX_CLIENTS:
            refusal = ControlError("busy", f"{MAX_CLIENTS} clients are connected", "end one of them")
        if refusal is not None:
            with contextlib.suppress(OSError):
                sock.send(failure(None, refusal))
            sock.close()
            return
        session = Session(self, f"process {pid} of user {uid}")
        self.sessions.add(session)
        session.connecting = self.loop.create_task(self._attach(session, sock))

    async def _attach(self, session: Session, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: session, sock)
        except OSError:
            sock.close()
            self.sessions.discard(session)

    async def close(self) -> None:
        """Clients see the end of the stream; the socket's file goes."""
        if self._claimed is None:
            return
        if self._pause is not None:
            self._pause.cancel()
        self.loop.remove_reader(self._claimed.sock.fileno())
        for session in list(self.sessions):
            session.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self.sessions:  # noqa: ASYNC110 - milliseconds at the very end
                    await asyncio.sleep(0.005)
        for session in list(self.sessions):
            session.abort()
        self._claimed.close()
        self._claimed = None


class Session(asyncio.Protocol):
    """One client. Its requests are answered one after the other; events go between the answers."""

    transport: asyncio.Transport

    def __init__(self, server: ControlServer, who: str) -> None:
        self.server = server
        self.who = who
        self.connecting: asyncio.Task[None] | None = None
        self.subscriptions: dict[int, tuple[Subscription, Callable[[], None]]] = {}
        self._lines = Lines()
        self._task: asyncio.Task[None] | None = None
        self.joined: Running | None = None  # the program of `lockgate exec --join`
        self.ends: list[Callable[[], object]] = []  # called when the connection is gone
        self._numbers = 0
        self._paused = False  # reading
        self._writable = asyncio.Event()
        self._writable.set()
        self._ending = False

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        transport.set_write_buffer_limits(high=HIGH_WATER)
        transport.write(dump({"hello": hello()}))

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        try:
            self._lines.feed(data)
        except ControlError as error:
            self._give_up(error)
            return
        self._go_on()

    def eof_received(self) -> bool:
        """What was asked before is still answered; nobody reads events who has closed his side."""
        self._ending = True
        self._go_on()
        return not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ending = True
        for subscription, end in self.subscriptions.values():
            self.server.dropped += subscription.lost
            end()
        self.subscriptions.clear()
        for leave in self.ends:
            leave()
        self._writable.set()
        if self._task is None:
            self.server.sessions.discard(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        for subscription, _ in list(self.subscriptions.values()):
            if subscription.dropped:
                subscription.soon()

    def close(self) -> None:
        """The gateway ends: what was written still goes out, what is being answered is given up."""
        self._ending = True
        if self._task is not None:
            self._task.cancel()
        for subscription, _ in self.subscriptions.values():
            subscription.flush()
        if hasattr(self, "transport"):
            self.transport.close()
        else:
            self.server.sessions.discard(self)

    def abort(self) -> None:
        if hasattr(self, "transport"):
            self.transport.abort()

    # -- requests

    def _go_on(self) -> None:
        """Answer the next line, if none is being answered."""
        if self._task is None and not self.transport.is_closing():
            try:
                line = self._lines.next()
            except ControlError as error:
                self._give_up(error)
                return
            if line is not None:
                self._task = self.server.loop.create_task(self._answer(line), name="control request")
                self._task.add_done_callback(self._answered)
            elif self._ending:
                self.transport.close()
                return
        full = self._task is not None and len(self._lines) > READ_AHEAD
        if full != self._paused and not self._ending:
            self._paused = full
            if full:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _give_up(self, error: ControlError) -> None:
        """The line has no end, so nothing behind it can be read."""
        self._ending = True
        self._lines = Lines()
        self.transport.write(failure(None, error))
        self.transport.close()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("control socket: unexpected fault", exc_info=error)
            self.transport.abort()
        if self.transport.is_closing():
            self.server.sessions.discard(self)
        else:
            self._go_on()

    async def _answer(self, line: bytes) -> None:
        try:
            request = parse(line)
        except ControlError as error:
            answer = failure(_id_in(line), error)
        else:
            answer = await self._call(request)
        if not self.transport.is_closing():
            self.transport.write(answer)
            await self._writable.wait()

    async def _call(self, request: Request) -> bytes:
        from appliance.control.methods import call  # not before somebody asks for something

        try:
            return result(request.id, await call(self, request.method, request.params))
        except LockgateError as error:
            return failure(request.id, ControlError.of(error))
        except (Exception, SystemExit) as error:
            logger.exception("control socket: %s failed", request.method)
            return failure(request.id, ControlError("failed", f"{request.method}: {type(error).__name__}: {error}"))

    async def descriptors(self, count: int) -> list[int]:
        """Ask for so many descriptors (an event says so) and take them. Raises ControlError: they do not come."""
        self.transport.pause_reading()
        with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as sock:
            sock.setblocking(False)
            self.transport.write(dump({"event": "descriptors", "count": count}))
            ready = asyncio.Event()
            self.server.loop.add_reader(sock.fileno(), ready.set)
            try:
                async with asyncio.timeout(DESCRIPTOR_SECONDS):
                    await ready.wait()
                _, fds, _, _ = socket.recv_fds(sock, 1, count)
            except (OSError, TimeoutError):
                fds = []
            finally:
                self.server.loop.remove_reader(sock.fileno())
                if not self._paused and not self.transport.is_closing():
                    self.transport.resume_reading()
        if len(fds) != count:
            for fd in fds:
                os.close(fd)
            raise ControlError("bad_request", f"{count} descriptors were asked for, and {len(fds)} came")
        for fd in fds:
            os.set_inheritable(fd, False)
        return fds

    # -- subscriptions

    def subscribe(self, make: Callable[[int], Subscription], end: Callable[[Any], None]) -> Subscription:
        """A new subscription; `end` is called with it when it is over. Raises ControlError."""
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise ControlError("busy", f"{MAX_SUBSCRIPTIONS} subscriptions are open", "end one, or connect once more")
        self._numbers += 1
        subscription = make(self._numbers)
        self.subscriptions[self._numbers] = subscription, lambda: end(subscription)
        return subscription

    def unsubscribe(self, number: int) -> None:
        """Raises ControlError."""
        found = self.subscriptions.pop(number, None)
        if found is None:
            raise ControlError("not_found", f"there is no subscription {number}")
        found[0].flush()
        self.server.dropped += found[0].lost
        found[1]()


def hello() -> dict[str, Any]:
    return {"protocol": PROTOCOL, "lockgate": __version__, "pid": os.getpid()}


def _id_in(line: bytes) -> int | str | None:
    """The id of a line that is no request otherwise, so that its sender can tell which of his it was."""
    from appliance.control.protocol import is_id, load

    try:
        found = load(line).get("id")
    except ControlError:
        return None
    return found if is_id(found) else None
