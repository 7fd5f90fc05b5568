"""The modes that run, and how they become what the options say: while traffic runs, as one step, or not at all."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from appliance.exceptions import ModeError
from modes.firewall import undo
from modes.spec import DEFAULT_PORTS, ModeSpec

if TYPE_CHECKING:
    from appliance.worker import Worker
    from modes.base import Mode
    from modes.firewall import Firewall

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mode, where it listens if it does not say itself, and what its redirect is made by (None: it has none)."""

    spec: ModeSpec
    host: str
    port: int | None
    redirect: tuple[object, ...] | None = None

    @property
    def place(self) -> tuple[str | None, int | None]:
        return self.spec.host, self.spec.port or self.port or DEFAULT_PORTS.get(self.spec.type_name)

    def listens_like(self, other: Wanted) -> bool:
        return (self.spec, self.host, self.port) == (other.spec, other.host, other.port)

    def in_the_way_of(self, other: Wanted) -> bool:
        """Whether both cannot listen at once: where the hosts differ they perhaps could."""
        return self.place[1] == other.place[1] and self.spec.port != 0


def wanted(specs: Sequence[str], host: str, port: int | None, redirect: tuple[object, ...] | None) -> list[Wanted]:
    """The modes asked for. redirect: what makes those of interfaces, None: nobody does. :raises ModeError: one cannot
    be.
    """
    found: list[Wanted] = []
    seen: set[tuple[str | None, int | None]] = set()
    taken: dict[str, str] = {}
    for spec in map(ModeSpec.parse, specs):
        for interface in spec.interfaces:
            if (other := taken.setdefault(interface, spec.full_spec)) != spec.full_spec:
                raise ModeError(f"{spec.full_spec}: {interface} is intercepted by {other} already; name it in one mode")
        one = Wanted(spec, host, port, redirect if spec.interfaces else None)
        if one.place in seen and spec.port != 0:
            raise ModeError(f"{spec.full_spec}: another mode listens there already; give each its own @PORT")
        seen.add(one.place)
        found.append(one)
    return found


class Probe:
    """What a redirect asks before each heartbeat, and when there was last an answer (monotonic time)."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self.answered: float | None = None

    async def __call__(self) -> bool:
        well = await self._mode.probe()
        if well:
            self.answered = time.monotonic()
        return well


@dataclass(slots=True, eq=False)
class Running:
    """A mode that listens, and the redirect that feeds it."""

    wanted: Wanted
    mode: Mode
    firewall: Firewall | None = None
    probe: Probe = field(init=False)

    def __post_init__(self) -> None:
        self.probe = Probe(self.mode)

    def status(self) -> dict[str, Any]:
        """For `lockgate status`. firewall: None where the redirect is nobody's or somebody else's; heartbeat: seconds
        since the last, None where there is none.
        """
        spec, firewall, answered = self.mode.spec, self.firewall, self.probe.answered
        return {
            "spec": spec.full_spec,
            "type": spec.type_name,
            "addresses": [[address[0], address[1]] for address in self.mode.addresses],
            "facts": self.mode.facts(),
            "firewall": firewall
            and {
                "interfaces": list(spec.interfaces),
                "backend": firewall.backend,
                "method": firewall._want.method,
                "heartbeat": None if answered is None else time.monotonic() - answered,
            },
        }


class LiveModes:
    """Iterates over what runs, in the order of the option `mode`, then what has joined.

    make: a mode by its specification, host and port, not started. redirect: what feeds a mode, not laid; the function
    is to be asked before each heartbeat.
    """

    def __init__(
        self,
        worker: Worker,
        make: Callable[[ModeSpec, str, int | None], Mode],
        redirect: Callable[[Mode, Callable[[], Awaitable[bool]]], Firewall],
    ) -> None:
        self._worker = worker
        self._make = make
        self._redirect = redirect
        self._running: list[Running] = []
        self._guests: list[Running] = []
        self._lock = asyncio.Lock()

    def __iter__(self) -> Iterator[Running]:
        return iter([*self._running, *self._guests])

    async def become(self, wanted: Sequence[Wanted]) -> None:
        """Start what is missing, then end what is not wanted; what stays is not touched, nor are its connections.

        What has to make way for another is ended first. :raises ModeError: one cannot be; then all is as it was. At the
        start what has begun is left to `stop`.
        """
        async with self._lock:
            await self._become(wanted)

    async def join(self, mode: Mode) -> Running:
        """Start one that no option names; it stays until `leave`."""
        one = Running(Wanted(mode.spec, "", None), mode)
        self._guests.append(one)
        try:
            await mode.start(self._worker.arrive)
        except BaseException:
            await self.leave(one)
            raise
        return one

    async def leave(self, one: Running) -> None:
        """End one that has joined, and its connections with it; idempotent."""
        if one in self._guests:
            self._guests.remove(one)
            await one.mode.stop()
            self._worker.end_mode(one.mode.spec)

    async def _become(self, wanted: Sequence[Wanted]) -> None:
        starting = not self._running
        going = [one for one in self._running if not any(one.wanted.listens_like(other) for other in wanted)]
        coming = [one for one in wanted if not any(one.listens_like(other.wanted) for other in self._running)]
        in_the_way = [one for one in going if any(one.wanted.in_the_way_of(other) for other in coming)]
        begun: list[Running] = []
        laid: list[tuple[Running, Firewall]] = []
        try:
            for one in in_the_way:
                await self._end(one)
            for want in coming:
                begun.append(await self._begin(want))
            for one in self._running:
                want = next((other for other in wanted if one.wanted.listens_like(other)), one.wanted)
                if want.redirect != one.wanted.redirect and want.redirect is not None:
                    laid.append((one, await self._lay(one)))
            for one in begun:  # all listen before the first packet is sent to one
                if one.wanted.redirect is not None:
                    one.firewall = await self._lay(one)
        except BaseException:
            if starting:
                raise  # with firewall_fail=closed nothing may pass now
            for _, firewall in laid:
                await _take_away(firewall)
            for one in reversed(begun):
                await self._end(one)
            await self._again(in_the_way)
            raise
        await self._settle(wanted, begun, dict(laid), [one for one in going if one not in in_the_way])

    async def _settle(
        self,
        wanted: Sequence[Wanted],
        begun: list[Running],
        laid: dict[Running, Firewall],
        going: list[Running],
    ) -> None:
        present = [*self._running, *begun]
        now: list[Running] = []
        for want in wanted:
            one = next(other for other in present if other.wanted.listens_like(want))
            if want.redirect != one.wanted.redirect:
                before, one.firewall = one.firewall, laid.get(one)
                if before is not None:
                    await _take_away(before)
            one.wanted = want
            now.append(one)
        self._running = now
        for one in going:
            await self._end(one)

    async def _begin(self, want: Wanted) -> Running:
        mode = self._make(want.spec, want.host, want.port)
        try:
            await mode.start(self._worker.arrive)
        except BaseException:
            await mode.stop()
            raise
        one = Running(want, mode)
        self._running.append(one)  # in any case, so that stop() finds it
        return one

    async def _lay(self, one: Running) -> Firewall:
        firewall = self._redirect(one.mode, one.probe)
        await firewall.lay()
        return firewall

    async def _again(self, ended: list[Running]) -> None:
        for one in ended:
            try:
                begun = await self._begin(one.wanted)
                if one.wanted.redirect is not None:
                    begun.firewall = await self._lay(begun)
            except ModeError as error:
                logger.error("%s: nor does it start again: %s", one.wanted.spec.full_spec, error)

    async def _end(self, one: Running) -> None:
        """Connections that its redirect had brought end with it: their packets no longer come here."""
        if one.firewall is not None:
            self._worker.end_mode(one.mode.spec)
            await _take_away(one.firewall)
            one.firewall = None
        await one.mode.stop()
        for address in one.mode.addresses:
            self._worker.guard.forget(address)
        if one.wanted.redirect is not None:
            self._worker.end_mode(one.mode.spec)
        if one in self._running:
            self._running.remove(one)

    async def stop(self) -> None:
        """The gateway ends: redirects first, then listeners."""
        for one in self._running:
            if one.firewall is not None:
                await one.firewall.remove()
        for one in self:
            await one.mode.stop()
        self._running = []


async def _take_away(firewall: Firewall) -> None:
    """Also what firewall_fail=closed leaves in place: this was somebody's wish, and no gateway that is down."""
    path = firewall._list
    whose = undo.identity(path) if path else ""
    await firewall.remove()
    if whose:
        await asyncio.to_thread(_reopen, path, whose)


def _reopen(path: str, whose: str) -> None:
    if os.path.exists(path):
        undo.replay(path, routing=True, closed=True, whose=whose)
