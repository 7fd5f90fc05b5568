"""An interception namespace, seen from the gateway: the sockets that the helper hands over, and the helper's life."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.exceptions import ModeError
from modes.firewall.plan import Redirect, nftables
from modes.netns import remedies

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

HELPER = Path(__file__).with_name("helper.py")
PORT = 6700
"""Of the listeners inside, where nothing else listens."""
SECONDS = 30.0
"""What the helper may take to set all up; on a quiet machine it takes a tenth of one."""
ANSWER_SECONDS = 2.0
LATE_SECONDS = 30.0
"""A helper that has not answered in time is asked again when it is heard, or after this: each wait holds the loop."""
POOL = 16
"""Sockets asked for at once."""
_LARGEST, _LARGEST_SENT = 1 << 20, 64 << 10  # what a datagram may have depends on net.core.wmem_default
_MOST_FDS = 253


class Namespace:
    """Opened by `open`, closed by `close`; without us the helper ends by itself.

    tun: its descriptor, or None. listeners: "tcp4", "udp4", "tcp6", "udp6". heard: called on the loop with what the
    helper says unasked; ended: when it is gone although nobody closed it.
    """

    def __init__(self) -> None:
        self.tun: int | None = None
        self.listeners: dict[str, socket.socket] = {}
        self.heard: Callable[[dict[str, Any]], None] = lambda said: None
        self.ended: Callable[[], None] = lambda: None
        self._pools: dict[str, deque[int]] = {}
        self._number = 0  # of the last question
        self._late = 0.0  # until when nothing is asked, as an answer is missing
        self._unasked: deque[dict[str, Any]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    @classmethod
    def adopt(cls, control: socket.socket, listeners: Mapping[str, socket.socket]) -> Namespace:
        """One that another process has opened, by what its `share` gave. All are ours from now on."""
        made = cls()
        made._control.close()
        made._theirs.close()
        made._control = control
        for name, sock in listeners.items():
            sock.setblocking(False)
            made.listeners[name] = sock
        made._loop = asyncio.get_running_loop()
        made._loop.add_reader(control.fileno(), made._readable)
        return made

    @classmethod
    async def open(
        cls,
        interface: str,
        *,
        tun: bool = False,
        setup: Sequence[str] = (),
        stdio: bool = False,
        keep: Iterable[int] = (),
    ) -> Namespace:
        """interface: whose traffic is taken. tun: it is made. setup: lines of `ip -batch`, run first. stdio: the helper
        has our terminal, for a program it is to run; keep: further descriptors for that.

        :raises ModeError: it cannot be, and what helps.
        """
        made = cls()
        try:
            await asyncio.to_thread(made._start, interface, tun, setup, stdio, tuple(keep))
        except BaseException:
            made.close()
            raise
        made._loop = asyncio.get_running_loop()
        made._loop.add_reader(made._control.fileno(), made._readable)
        return made

    def _start(self, interface: str, tun: bool, setup: Sequence[str], stdio: bool, keep: tuple[int, ...]) -> None:
        fd = self._theirs.fileno()
        command = [sys.executable, "-I", "-S", str(HELPER), str(fd), str(os.getpid())]
        quiet = None if stdio else subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                command, stdin=quiet, stdout=quiet, pass_fds=(fd, *keep), start_new_session=not stdio
            )
        except OSError as e:
            raise ModeError(f"the namespace's helper cannot be started: {e.strerror}") from None
        self._theirs.close()
        rules = nftables(Redirect(1, (interface,), PORT, ((4, ""), (6, "")), owned=False, beats=False))
        steps = [[list(step.argv), step.input] for step in rules.interception]
        said, fds = self.ask({"tun": interface if tun else None, "port": PORT, "setup": list(setup), "steps": steps},
                             SECONDS)  # fmt: skip
        for name, fd in zip(said["ready"], fds, strict=True):
            os.set_inheritable(fd, False)
            if name == "tun":
                self.tun = fd
            else:
                self.listeners[name] = socket.socket(fileno=fd)
                self.listeners[name].setblocking(False)

    @property
    def pid(self) -> int:
        """Of the helper, which is in the namespace."""
        assert self._process is not None
        return self._process.pid

    # -- talking to the helper; it answers in order

    def ask(self, question: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> tuple[dict[str, Any], list[int]]:
        """Blocks for the answer, but not again while an earlier one is late. :raises ModeError: it failed, or the
        helper is gone or silent.
        """
        if time.monotonic() < self._late:
            raise ModeError("the namespace's helper has not answered yet")
        self._number += 1
        end = time.monotonic() + seconds
        try:
            self._control.settimeout(seconds)
            self._ask(json.dumps({**question, "number": self._number}).encode())
            while True:
                self._control.settimeout(max(end - time.monotonic(), 0.001))
                said, fds = self._receive()
                if said["number"] == self._number:
                    break
                self._beside(said, fds)
                if self._loop is not None:
                    self._loop.call_soon(self._tell)
        except TimeoutError:
            self._late = time.monotonic() + LATE_SECONDS
            raise ModeError(f"the namespace's helper did not answer within {seconds:g} s") from None
        except (OSError, EOFError):
            raise ModeError("the namespace's helper process is gone (was it killed?)") from None
        if "error" in said:
            raise HelperFailed(*said["error"])
        return said, fds

    def _ask(self, data: bytes) -> None:
        if len(data) <= _LARGEST_SENT:
            self._control.send(data)
            return
        with open(os.memfd_create("question"), "w+b") as file:
            file.write(data)
            file.seek(0)
            socket.send_fds(self._control, [json.dumps({"number": self._number}).encode()], [file.fileno()])

    def tell(self, order: Mapping[str, Any]) -> None:
        """Something that has no answer. Never raises."""
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(order).encode())

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        """:raises EOFError: the helper is gone."""
        flags = socket.MSG_CMSG_CLOEXEC
        data, ancillary, _, _ = self._control.recvmsg(_LARGEST, socket.CMSG_SPACE(_MOST_FDS * 4), flags)
        fds = array.array("i")
        for _, _, more in ancillary:
            fds.frombytes(more[: len(more) // 4 * 4])
        try:
            said = json.loads(data)
            assert isinstance(said["number"], int)
        except (ValueError, KeyError, TypeError, AssertionError):  # b"" too; a helper that joins us is another user's
            for fd in fds:
                os.close(fd)
            raise EOFError from None
        self._late = 0.0
        return said, list(fds)

    def _beside(self, said: dict[str, Any], fds: list[int]) -> None:
        """What is no answer to the question: said unasked, or the answer to an earlier one, which nobody waits for."""
        for fd in fds:
            os.close(fd)
        if not said["number"]:
            self._unasked.append(said)

    def _readable(self) -> None:
        self._control.setblocking(False)
        try:
            said, fds = self._receive()
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, EOFError):
            self._forget()
            self.ended()
            return
        self._beside(said, fds)
        self._tell()

    def _tell(self) -> None:
        while self._unasked:
            self.heard(self._unasked.popleft())

    # -- sockets that live inside

    def fresh(self, kind: str) -> socket.socket:
        """A fresh, non-blocking, transparent one: "udp4", "udp6", "raw4" or "raw6". :raises OSError: there is none."""
        pool = self._pools.setdefault(kind, deque())
        if not pool:
            try:
                pool.extend(self.ask({"sockets": kind, "count": POOL if kind.startswith("udp") else 1})[1])
            except ModeError as e:
                raise OSError(0, str(e)) from None
        sock = socket.socket(fileno=pool.popleft())
        sock.setblocking(False)
        return sock

    def transparent(self, family: int) -> socket.socket:
        """For UDP, of this family. :raises OSError: there is none."""
        return self.fresh("udp6" if family == socket.AF_INET6 else "udp4")

    def raw(self, family: int) -> socket.socket:
        """For ICMP, of this family. :raises OSError: there is none."""
        return self.fresh("raw6" if family == socket.AF_INET6 else "raw4")

    def netlink(self) -> tuple[int, int, int]:
        """Descriptors, the caller's: the network namespace, and sockets of its rtnetlink and its generic netlink.
        :raises ModeError: there are none.
        """
        namespace, route, generic = self.ask({"netlink": True})[1]
        return namespace, route, generic

    def share(self) -> tuple[socket.socket, dict[str, socket.socket]]:
        """What another process adopts it by: the helper's other end, and the listeners, which are no longer ours.

        :raises ModeError: there is none.
        """
        _, (fd,) = self.ask({"second": True})
        listeners = dict(self.listeners)
        self.listeners.clear()
        return socket.socket(fileno=fd), listeners

    # -- the end

    def _forget(self) -> None:
        if self._loop is not None and self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())

    def close(self) -> None:
        """End the helper, and whatever it has started, without waiting for it; idempotent."""
        self._forget()
        for sock in (self._control, self._theirs, *self.listeners.values()):
            sock.close()
        for pool in self._pools.values():
            while pool:
                os.close(pool.popleft())
        self.listeners.clear()
        if self.tun is not None:
            os.close(self.tun)
            self.tun = None

    async def gone(self, seconds: float = 5.0) -> None:
        """Wait until the helper has ended, or end it."""
        process = self._process
        if process is None:
            return
        end = asyncio.get_running_loop().time() + seconds
        while process.poll() is None:
            if asyncio.get_running_loop().time() > end:
                process.kill()
            await asyncio.sleep(0.01)


class HelperFailed(ModeError):
    """stage, code: what failed there, as `system.Failed` says."""

    def __init__(self, stage: str, code: int, text: str) -> None:
        super().__init__(remedies.told(stage, code, text))
        self.stage, self.code, self.text = stage, code, text
