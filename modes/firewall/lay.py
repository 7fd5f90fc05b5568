"""Lays the redirect, keeps it beating, and takes it away. Everything that blocks runs in one worker thread."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.exceptions import ModeError
from appliance.log import RateLimited
from modes.firewall import advertised, nfnetlink, others, rtnetlink, undo
from modes.firewall.plan import (
    BUILT_IN,
    FORWARDING,
    REDIRECTING,
    Method,
    Plan,
    Redirect,
    Step,
    beat_files,
    ports,
    replaced,
    undoing,
)
from modes.firewall.tools import WITHOUT, Failed, Nft, chosen, ipv6_off, made, may_administer, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

_GUARDIAN_SECONDS = 10
BEAT_SECONDS = 0.5


def missing(interface: str) -> str:
    """That there is none of this name, with the nearest one; "": there is."""
    here = [name for _, name in socket.if_nameindex()]
    if interface in here:
        return ""
    close = difflib.get_close_matches(interface, here, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(here)}"
    return f"there is no interface {interface} ({hint})"


class Firewall:
    """The redirect of one mode. backend: the option `firewall`; method: `firewall_method`; owner: `firewall_owner`."""

    def __init__(
        self,
        interfaces: tuple[str, ...],
        addresses: list[Any],
        *,
        backend: str = "auto",
        method: str = "auto",
        owner: str = "process",
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
        self._owner = owner
        self._folder = folder
        self._listeners = tuple((6 if ":" in a[0] else 4, "" if a[0] in ("0.0.0.0", "::") else a[0]) for a in addresses)
        if {family for family, _ in self._listeners} == {4, 6} and ipv6_off():
            # The socket can be bound all the same, but there is no local route for it.
            logger.info("firewall: IPv6 is switched off (net.ipv6.conf.lo.disable_ipv6), IPv4 alone is intercepted")
            self._listeners = tuple(listener for listener in self._listeners if listener[0] == 4)
        self._want = Redirect(
            1,
            interfaces,
            addresses[0][1],
            self._listeners,
            masquerade=masquerade,
            survives=owner == "unit",
            closed=fail == "closed",
            exclude=ports(exclude),
        )
        self._thread = ThreadPoolExecutor(1, "firewall")
        self._nft: Nft | None = None  # its netlink socket owns the table
        self._plan = Plan((), ())  # what is laid
        self._guardian: subprocess.Popen[bytes] | None = None
        self._list = ""
        self._shut: tuple[Step, ...] = ()  # of firewall_fail=closed
        self._told = RateLimited(logger, 1)

    async def lay(self) -> None:
        """:raises ModeError: it cannot be; then nothing is left."""
        for name in (*self._want.interfaces, *filter(None, [self._want.masquerade])):
            if why := missing(name):
                logger.warning("firewall: %s; the rules for it wait until it is there", why)
        await self._work(self._lay)
        if self._want.beats:
            self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        """As long as the loop accepts and answers a connection to its own listener, say to the kernel that it does."""
        while True:
            # The first at once: the guardian looks for a hang only from then on.
            if await self._probe():
                error = await asyncio.get_running_loop().run_in_executor(self._thread, self._renew)
                if error:
                    self._told.log(logging.ERROR, error, "the firewall's heartbeat: %s", error)
            await asyncio.sleep(BEAT_SECONDS)

    async def remove(self) -> None:
        """In good order: interception and routing. Idempotent."""
        if self._beating is not None:
            self._beating.cancel()
        await self._work(self._remove)
        self._thread.shutdown(wait=False)

    async def _work(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # -- in the worker thread

    def _renew(self) -> str:
        """A beat; what others have removed is laid again. What went wrong, or ""."""
        if not self._list:
            return ""
        try:
            try:
                self._say()
            except Failed as e:
                self._lay_again()
                words = "firewall: somebody has removed rules of ours (%s); they are laid again"
                self._told.log(logging.WARNING, str(e), words, e)
            assert self._guardian is not None
            if self._guardian.poll() is not None:
                logger.warning("firewall: the guardian process was killed; there is a new one")
                self._guard()
            assert self._guardian.stdin is not None
            os.write(self._guardian.stdin.fileno(), b".")
        except Failed as e:
            return str(e)
        except (OSError, ModeError):
            return "the guardian process is gone: ip rules would outlive a crash until `lockgate firewall clean`"
        return ""

    def _say(self) -> None:
        """Tell the kernel. :raises Failed: it has not what is to be told, or what belongs to it."""
        want = self._want
        if self._nft is not None:
            for table in ("lockgate", "lockgate_closed") if want.closed else ("lockgate",):
                self._nft.renew(f"{table}_{want.number}", want.interfaces)
            if want.masquerade and not nfnetlink.has_table("inet", nat := f"lockgate_nat_{want.number}"):
                raise Failed(f"table {nat} is gone")
        else:
            for path, text in beat_files(want):
                try:
                    with open(path, "w") as file:
                        file.write(text)
                except OSError as e:
                    raise Failed(f"{path}: {e.strerror}") from None
        if want.method == "tproxy":
            for family, _ in want.listeners:
                if not rtnetlink.delivered_here(family, want.mark):
                    raise Failed(f"the ip -{family} rule or route of mark {want.mark:#x} is gone")

    def _lay_again(self) -> None:
        """All of it. :raises Failed: it cannot be laid."""
        steps = (*self._shut, *self._plan.routing, *self._plan.interception)
        for step in steps if self._nft is None else [step for step in steps if step.argv[0] == "ip"]:
            for argv in step.undo:
                undo.run(list(argv))
            run(step)
        if self._nft is not None:
            text = "".join(replaced(step) for step in steps if step.argv[0] == "nft")
            try:
                self._nft.run(text)
            except Failed:  # libnftables may have got itself another socket, and ours owns the table
                self._nft.close()
                self._nft = Nft()
                self._nft.run(text)
        self._say()

    def _lay(self) -> None:
        if not may_administer():
            raise ModeError(f"laying firewall rules needs root or CAP_NET_ADMIN: run lockgate with it, {WITHOUT}")
        stale = undo.stale(self._folder)
        try:
            number, self._list = undo.reserve(self._folder, others.taken())
        except OSError as e:
            raise ModeError(f"{self._folder}: the list of what is to be undone cannot be kept: {e.strerror}") from None
        self._want = replace(self._want, number=number)
        try:
            self._guard()
            if self._want.closed:
                self._close()
            try:
                self._lay_some_way()
            finally:
                # Not before: what an earlier process of this unit has laid holds until ours lies.
                for path, whose in stale.items():
                    logger.info("an earlier run has left its rules: removed (%s)", path)
                    undo.replay(path, routing=True, closed=True, whose=whose)
        except BaseException:
            self._remove()
            raise

    def _lay_some_way(self) -> None:
        """:raises ModeError: in no way."""
        methods: tuple[Method, ...] = ("tproxy", "redirect")
        if self._method != "auto":
            methods = ("tproxy",) if self._method == "tproxy" else ("redirect",)
        said = ""
        for method in methods:
            for beats in self._pulses:
                self._want = replace(self._want, method=method, beats=beats)
                if method == "redirect" and any(address for _, address in self._listeners):
                    raise ModeError("the redirect method reaches listeners on every address only: leave HOST out of @")
                try:
                    self._carry_out()
                except Failed as e:
                    said = said or str(e)
                    undo.replay(self._list, routing=True)
                    continue
                if method != methods[0]:
                    logger.warning("no TPROXY (%s): redirect takes its place, connection tracking is asked", said)
                if not beats:
                    logger.warning("firewall: no heartbeat, so a hang is not covered: %s", said)
                return
        raise ModeError(f"the redirect cannot be laid with {self.backend}: {said}; {WITHOUT}")

    @property
    def _pulses(self) -> tuple[bool, ...]:
        """With the heartbeat, and then without: iptables needs xt_recent for it."""
        return (True,) if self.backend == "nftables" else (True, False)

    def _close(self) -> None:
        """Lay what keeps traffic from being forwarded: first, so that nothing passes between an earlier run's and ours.

        :raises ModeError: it cannot be laid.
        """
        for beats in self._pulses:
            self._shut = self._made(replace(self._want, beats=beats)).closed
            self._write(Plan((), ()))
            try:
                for step in self._shut:
                    self._step(step)
            except Failed as e:
                said = e
                undo.replay(self._list, routing=True, closed=True)
            else:
                return
        raise ModeError(f"firewall_fail=closed cannot be laid with {self.backend}: {said}")

    def _made(self, want: Redirect) -> Plan:
        if self.backend == "nftables":
            if self._nft is not None:
                self._nft.close()
            self._nft = Nft()
            want = replace(want, owned=self._nft.can_own and not want.survives)
        self._want = want
        return made(self.backend, want)

    def _carry_out(self) -> None:
        """:raises Failed: a step does not work; then some may have been done."""
        self._plan = plan = self._made(self._want)
        forwarding: dict[str, str] = {}
        if self._want.masquerade:
            forwarding = advertised.kept(self._want.masquerade) | there(FORWARDING)
        tuned = there(REDIRECTING) if self._want.method == "redirect" else {}
        self._write(plan, tuple(forwarding), tuple(tuned))
        for step in plan.routing:
            self._step(step)
        for name, value in forwarding.items():
            try:
                undo.sysctl(name, value)
            except OSError as e:
                raise Failed(f"sysctl {name}={value}: {e.strerror}") from None
        for name, value in tuned.items():
            try:
                undo.sysctl(name, value)
            except OSError as e:
                logger.info("firewall: sysctl %s=%s: %s; on Linux 6.1 some connections hang", name, value, e.strerror)
        for step in plan.interception:
            self._step(step)
        if self._want.beats:
            self._say()

    def _write(self, plan: Plan, sysctls: Sequence[str] = (), tuned: Sequence[str] = ()) -> None:
        undo.write(
            self._list,
            mark=self._want.mark,
            interception=undoing(plan.interception),
            routing=undoing(plan.routing),
            closed=undoing(self._shut),
            sysctls=sysctls,
            tuned=tuned,
            tables=[] if self._nft else [(family, table) for family in ("ip", "ip6") for table in BUILT_IN],
        )

    def _step(self, step: Step) -> None:
        if self._nft is not None and step.argv[0] == "nft":
            self._nft.run(step.input)
        else:
            run(step)

    def _guard(self) -> None:
        script = Path(__file__).with_name("guardian.py")
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), self._list, self._owner],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, cwd="/",
        )  # fmt: skip
        assert self._guardian.stdout is not None
        if self._guardian.stdout.readline() != b"ready\n":
            raise ModeError("the guardian process, which cleans up after a crash, does not start")

    def _remove(self) -> None:
        if self._nft is not None:
            if self._want.closed:  # at once, not when the last beat has run out
                with contextlib.suppress(Failed):
                    self._nft.run(f"flush set inet lockgate_closed_{self._want.number} alive")
            self._nft.delete(f"lockgate_{self._want.number}")  # only we can remove what we own
        if self._list:
            undo.replay(self._list, routing=True)
            self._list = ""
        if self._nft is not None:
            self._nft.close()
            self._nft = None
        if self._guardian is not None:
            for pipe in (self._guardian.stdin, self._guardian.stdout):
                assert pipe is not None
                pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guardian.wait(_GUARDIAN_SECONDS)
            self._guardian = None


def there(sysctls: Mapping[str, str]) -> dict[str, str]:
    """Those that this kernel has."""
    found = {}
    for name, value in sysctls.items():
        with contextlib.suppress(OSError):
            undo.sysctl(name)
            found[name] = value
    return found
