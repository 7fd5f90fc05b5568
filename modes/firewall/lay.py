"""Lays the redirect and takes it away. Everything that blocks runs in one worker thread."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.exceptions import ModeError
from appliance.log import RateLimited
from modes.firewall import others, undo
from modes.firewall.plan import FORWARDING, Method, Plan, Redirect, Step, beat, iptables, nftables, ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

logger = logging.getLogger(__name__)

_COMMAND_SECONDS = 10
BEAT_SECONDS = 0.5
_NET_ADMIN = 12
_NETFILTER = 12
WITHOUT = "or lay the rules yourself and use the bare listener (--set firewall=none, or transparent@PORT)"


class _Failed(Exception):
    """A step that did not work, and what its program said."""


class Firewall:
    """The redirect of one mode. backend: the option `firewall`; method: `firewall_method`."""

    def __init__(
        self,
        interfaces: tuple[str, ...],
        addresses: list[Any],
        *,
        backend: str = "auto",
        method: str = "auto",
        masquerade: str = "",
        fail: str = "open",
        exclude: Sequence[str] = (),
        probe: Callable[[], Awaitable[bool]],
        folder: str = undo.FOLDER,
    ) -> None:
        self._probe = probe
        self._beating: asyncio.Task[None] | None = None
        self.backend = chosen(backend)
        self._method = method
        self._folder = folder
        self._listeners = tuple((6 if ":" in a[0] else 4, "" if a[0] in ("0.0.0.0", "::") else a[0]) for a in addresses)
        if {family for family, _ in self._listeners} == {4, 6} and _ipv6_off():
            # The socket can be bound all the same, but there is no local route for it.
            logger.info("firewall: IPv6 is switched off (net.ipv6.conf.lo.disable_ipv6), IPv4 alone is intercepted")
            self._listeners = tuple(listener for listener in self._listeners if listener[0] == 4)
        self._want = Redirect(
            1,
            interfaces,
            addresses[0][1],
            self._listeners,
            masquerade=masquerade,
            closed=fail == "closed",
            exclude=ports(exclude),
        )
        self._thread = ThreadPoolExecutor(1, "firewall")
        self._nft: Any = None  # its netlink socket owns the table
        self._guardian: subprocess.Popen[bytes] | None = None
        self._list = ""
        self._closed: list[list[str]] = []  # what undoes firewall_fail=closed

    async def lay(self) -> None:
        """:raises ModeError: it cannot be; then nothing is left."""
        await self._work(self._lay)

        if self._nft is not None:
            self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        """As long as the loop accepts and answers a connection to its own listener, say to the kernel that it does."""
        lost = RateLimited(logger, 1)
        while True:
            # The first at once: the guardian looks for a hang only from then on.
            if await self._probe():
                error = await asyncio.get_running_loop().run_in_executor(self._thread, self._renew)
                if error:
                    lost.log(logging.ERROR, error, "the firewall's heartbeat: %s", error)
            await asyncio.sleep(BEAT_SECONDS)

    def _renew(self) -> str:
        if self._nft is None:
            return ""
        code, _, error = self._nft.cmd(beat(self._want))
        if code:
            return str(error).strip().partition("\n")[0] or str(code)
        assert self._guardian is not None
        try:
            if self._guardian.poll() is not None:
                logger.warning("firewall: the guardian process was killed; there is a new one")
                self._guard()
            assert self._guardian.stdin is not None
            os.write(self._guardian.stdin.fileno(), b".")
        except (OSError, ModeError):
            return "the guardian process is gone: ip rules would outlive a crash until `lockgate firewall clean`"
        return ""

    async def remove(self) -> None:
        """In good order: interception and routing. Idempotent."""
        if self._beating is not None:
            self._beating.cancel()
        await self._work(self._remove)
        self._thread.shutdown(wait=False)

    async def _work(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # -- in the worker thread

    def _lay(self) -> None:
        if not _may_administer():
            raise ModeError(f"laying firewall rules needs root or CAP_NET_ADMIN: run lockgate with it, {WITHOUT}")
        stale = undo.stale(self._folder)
        try:
            number, self._list = undo.reserve(self._folder, others.taken())
        except OSError as e:
            raise ModeError(f"{self._folder}: the list of what is to be undone cannot be kept: {e.strerror}") from None
        methods: tuple[Method, ...] = ("tproxy", "redirect")
        if self._method != "auto":
            methods = ("tproxy",) if self._method == "tproxy" else ("redirect",)
        owned = self.backend == "nftables" and _library() is not None
        said = ""
        try:
            self._guard()
            if self._want.closed:  # first, so that nothing passes between an earlier run's and ours
                self._shut(replace(self._want, number=number, owned=owned))
            for path in stale:
                logger.info("an earlier run has left its rules: removed (%s)", path)
                undo.replay(path, routing=True, closed=True)
            for method in methods:
                want = replace(self._want, number=number, method=method, owned=owned)
                if method == "redirect" and any(address for _, address in self._listeners):
                    raise ModeError("the redirect method reaches listeners on every address only: leave HOST out of @")
                self._want = want
                try:
                    self._carry_out(want)
                except _Failed as e:
                    said = str(e)
                    undo.replay(self._list, routing=True)
                    self._nft = None
                    if not os.path.exists(self._list):
                        undo.write(self._list, os.getpid(), 0, [], [], {}, [])
                    continue
                if method == "redirect" and said:
                    logger.warning("no TPROXY (%s): redirect takes its place, and connection tracking is asked", said)
                return
            raise ModeError(f"the redirect cannot be laid with {self.backend}: {said}; {WITHOUT}")
        except BaseException:
            self._remove()
            raise

    def _shut(self, want: Redirect) -> None:
        """Lay what keeps traffic from being forwarded. :raises ModeError: it cannot be laid."""
        closed = made(self.backend, want).closed
        self._closed = [list(argv) for step in reversed(closed) for argv in step.undo]
        undo.write(self._list, os.getpid(), 0, [], [], {}, self._closed)
        try:
            for step in closed:
                _run(step)
        except _Failed as e:
            undo.replay(self._list, routing=True, closed=True)
            raise ModeError(f"firewall_fail=closed cannot be laid with {self.backend}: {e}") from None

    def _carry_out(self, want: Redirect) -> None:
        plan = made(self.backend, want)
        sysctls: dict[str, str] = {}
        for name in FORWARDING if want.masquerade else ():
            with contextlib.suppress(OSError):
                sysctls[name] = undo.sysctl(name)
        undo.write(
            self._list,
            os.getpid(),
            want.mark,
            [list(argv) for step in reversed(plan.interception) for argv in step.undo],
            [list(argv) for step in reversed(plan.routing) for argv in step.undo],
            sysctls,
            self._closed,
        )
        for step in plan.routing:
            _run(step)
        for name in sysctls:
            try:
                undo.sysctl(name, "1")
            except OSError as e:
                raise _Failed(f"sysctl {name}=1: {e.strerror}") from None
        for step in plan.interception:
            if want.owned and step.argv[0] == "nft":
                self._own(step.input)
            else:
                _run(step)

    def _own(self, text: str) -> None:
        self._nft = _library()
        _close_on_exec()
        code, _, error = self._nft.cmd(text)
        if code:
            raise _Failed(f"nftables: {error.strip().splitlines()[0] if error.strip() else code}")

    def _guard(self) -> None:
        script = Path(__file__).with_name("guardian.py")
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), self._list],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/",
        )  # fmt: skip
        assert self._guardian.stdout is not None
        if self._guardian.stdout.readline() != b"ready\n":
            raise ModeError("the guardian process, which cleans up after a crash, does not start")

    def _remove(self) -> None:
        if self._nft is not None:
            if self._closed:  # at once, not when the last beat has run out
                self._nft.cmd(f"flush set inet lockgate_closed_{self._want.number} alive")
            self._nft.cmd(f"delete table inet lockgate_{Path(self._list).stem.partition('-')[2]}")
            self._nft = None
        if self._list:
            undo.replay(self._list, routing=True)
            self._list = ""
        if self._guardian is not None:
            for pipe in (self._guardian.stdin, self._guardian.stdout):
                assert pipe is not None
                pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guardian.wait(_COMMAND_SECONDS)
            self._guardian = None


def chosen(backend: str) -> str:
    """The firewall to use. :raises ModeError: there is none."""
    if backend == "auto":
        if _library() is not None or shutil.which("nft"):
            return "nftables"
        if shutil.which("iptables-restore"):
            return "iptables"
        raise ModeError(f"neither nftables nor iptables is installed: apt install nftables, {WITHOUT}")
    if backend == "nftables":
        if _library() is None and not shutil.which("nft"):
            raise ModeError(f"nftables is not installed: apt install nftables, {WITHOUT}")
    elif not shutil.which(f"{backend}-restore"):
        raise ModeError(f"{backend}-restore is not installed: apt install iptables, {WITHOUT}")
    return backend


def made(backend: str, want: Redirect) -> Plan:
    """The plan of a backend."""
    return nftables(want) if backend == "nftables" else iptables(want, backend.removeprefix("iptables"))


def _library() -> Any:
    """A new context of libnftables, None where it is missing."""
    try:
        import nftables as bindings

        return bindings.Nftables()
    except (ImportError, OSError, AttributeError):
        return None


def _close_on_exec() -> None:
    """libnftables' sockets are inheritable: a program that an add-on starts would keep our table alive."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family == socket.AF_NETLINK and sock.proto == _NETFILTER:
                    fcntl.fcntl(int(name), fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def _ipv6_off() -> bool:
    with contextlib.suppress(OSError):
        return undo.sysctl("net.ipv6.conf.lo.disable_ipv6") != "0"
    return False


def _may_administer() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _NET_ADMIN & 1)
    return False


def _run(step: Step) -> None:
    try:
        done = subprocess.run(
            step.argv, input=step.input, capture_output=True, text=True, errors="replace", timeout=_COMMAND_SECONDS
        )
    except FileNotFoundError:
        raise _Failed(f"{step.argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise _Failed(f"{' '.join(step.argv)}: no answer within {_COMMAND_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise _Failed(f"{' '.join(step.argv)}: {lines[0]}")
