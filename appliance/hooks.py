"""The dispatcher: from an event to the add-ons that listen to it.

A listener is a method (or a module's function) named after an event of :mod:`appliance.events`. They run in chain
order, sync ones called directly, async ones awaited in their turn. What one add-on raises is logged and hides the event
from no other.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from time import perf_counter
from types import CoroutineType, MethodType, ModuleType, TracebackType
from typing import Any, Final

from appliance.events import EVENTS, Event
from appliance.exceptions import AddonHalt, AddonManagerError, OptionsError
from appliance.log import RateLimited

__all__ = ["EVENTS", "Event", "Hooks", "Listener", "cut_traceback", "name_of"]

logger = logging.getLogger(__name__)

#: An add-on's fault. A CancelledError out of a sync call, or without anybody having cancelled us, is one too.
_FAULTS: Final = (Exception, asyncio.CancelledError)
#: Modules whose leading frames say nothing to an add-on's author.
_OURS: Final = ("appliance.hooks", "appliance.script", "appliance.addonmanager", "asyncio", "concurrent.futures")


class Listener:
    """One add-on's function for one event, and what it has cost so far (seconds of loop time held)."""

    __slots__ = ("addon", "call", "count", "errors", "event", "longest", "total")

    def __init__(self, addon: str, event: str, call: Callable[..., object]) -> None:
        self.addon = addon
        self.event = event
        self.call = call
        self.count = 0
        self.errors = 0
        self.total = 0.0
        self.longest = 0.0  # the longest hold without giving the loop back

    def __repr__(self) -> str:
        return f"<{self.addon}.{self.event}: {self.count} calls, {self.total * 1e3:.1f} ms>"


class Hooks:
    """Every event with its listeners in chain order.

    ``table[event]`` is an empty tuple while nobody listens. ``budget`` is in seconds: a listener that holds the loop
    longer is named in the log, once a minute for each event.
    """

    def __init__(self, *addons: object, budget: float = 0.1) -> None:
        """Raises AddonManagerError when an add-on's hooks are unusable (see `admit`)."""
        self.table: dict[str, tuple[Listener, ...]] = {name: () for name in EVENTS}
        self.budget = budget
        # By id(); the object is held, so that its id stays its own.
        self._admitted: dict[int, tuple[object, dict[str, Listener]]] = {}
        self._slow = RateLimited(logger, per_minute=1)
        self._errors = RateLimited(logger, per_minute=10)
        for addon in addons:
            self.admit(name_of(addon), addon)
        self.arrange(addons)

    # -- who listens ---------------------------------------------------------------------------------------------------

    def admit(self, name: str, addon: object) -> None:
        """Read the hooks of `addon` (not of its ``.addons``). It hears nothing before `arrange` names it.

        Raises AddonManagerError: a hook is not callable, takes the wrong arguments, or is async where it must be sync.
        """
        if inspect.isclass(addon):
            raise AddonManagerError(f"{addon.__name__} is a class, not an add-on: list an instance, {addon.__name__}()")
        listeners = {event.name: Listener(name, event.name, call) for event, call in _hooks_of(name, addon)}
        for event in listeners:
            if not EVENTS[event].yet:
                logger.warning("add-on %s: the event %s is not fired by this release yet", name, event)
        for attribute, near in _misspelt(addon):
            logger.warning("add-on %s: %s is not an event; did you mean %s?", name, attribute, near)
        self._admitted[id(addon)] = (addon, listeners)

    def dismiss(self, addon: object) -> None:
        """Forget `addon`. Call `arrange` afterwards."""
        self._admitted.pop(id(addon), None)

    def arrange(self, addons: Iterable[object]) -> None:
        """Make the chain order that of `addons`; those not admitted are left out."""
        table: dict[str, list[Listener]] = {name: [] for name in EVENTS}
        for addon in addons:
            for event, listener in self._admitted.get(id(addon), (addon, {}))[1].items():
                table[event].append(listener)
        # Replaced entry by entry: the engine may hold on to the dict itself, and a running fire() to its own tuple.
        for event, listeners in table.items():
            self.table[event] = tuple(listeners)

    def listeners(self) -> Iterator[Listener]:
        """All listeners of admitted add-ons, with their counts."""
        for _, listeners in self._admitted.values():
            yield from listeners.values()

    # -- what they hear ------------------------------------------------------------------------------------------------

    def wants(self, event: str) -> bool:
        """Does anybody listen? KeyError for what is no event."""
        return bool(self.table[event])

    def fire(self, event: str, *args: object) -> Awaitable[None] | None:
        """Call the listeners of `event`. None: all were sync and are done. Else await what comes back: the rest.

        AddonHalt ends the chain for this event. Raises OptionsError from `load` and `configure` only.
        """
        listeners = self.table[event]
        if not listeners:
            return None
        rest = iter(listeners)
        pending = self._run(rest, args)
        return None if pending is None else self._finish(pending, rest, args)

    def call(self, addon: object, event: str, *args: object) -> Awaitable[None] | None:
        """Call one admitted add-on's own hook, outside the chain. What it raises goes to the caller, unlike `fire`."""
        listener = self._admitted[id(addon)][1].get(event)
        if listener is None:
            return None
        before = perf_counter()
        try:
            result = listener.call(*args)
        finally:
            self._account(listener, perf_counter() - before)
            listener.count += 1
        if result is None or not inspect.isawaitable(result):
            return None
        _refuse_async(listener, result)
        return _Timed(self._account, listener, result)

    def _run(self, rest: Iterator[Listener], args: tuple[object, ...]) -> tuple[Listener, Awaitable[object]] | None:
        """Call sync listeners up to the first that gives an awaitable; None when the chain has ended."""
        before = perf_counter()
        for listener in rest:
            try:
                result = listener.call(*args)
                if result is not None and inspect.isawaitable(result):
                    _refuse_async(listener, result)
                    listener.count += 1
                    return listener, result
            except AddonHalt:
                self._account(listener, perf_counter() - before)
                listener.count += 1
                return None
            except _FAULTS as exc:
                self._fault(listener, exc)
            after = perf_counter()
            took = after - before
            before = after
            listener.count += 1
            listener.total += took
            if took > listener.longest:
                listener.longest = took
            if took > self.budget:
                self._over_budget(listener, took)
        return None

    async def _finish(
        self, pending: tuple[Listener, Awaitable[object]] | None, rest: Iterator[Listener], args: tuple[object, ...]
    ) -> None:
        while pending is not None:
            listener, result = pending
            try:
                await _Timed(self._account, listener, result)
            except AddonHalt:
                return
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # it is we who are cancelled
                self._fault(listener, exc)
            except Exception as exc:
                self._fault(listener, exc)
            pending = self._run(rest, args)

    def _account(self, listener: Listener, took: float) -> None:
        listener.total += took
        listener.longest = max(listener.longest, took)
        if took > self.budget:
            self._over_budget(listener, took)

    def _over_budget(self, listener: Listener, took: float) -> None:
        self._slow.log(
            logging.WARNING,
            (listener.addon, listener.event),
            "add-on %s held the gateway for %.0f ms in %s (hook_budget_ms is %.0f): make it async, or @concurrent",
            listener.addon,
            took * 1e3,
            listener.event,
            self.budget * 1e3,
        )

    def _fault(self, listener: Listener, exc: BaseException) -> None:
        if isinstance(exc, OptionsError) and EVENTS[listener.event].sync_only:
            raise exc
        listener.errors += 1
        exc = exc.with_traceback(cut_traceback(exc.__traceback__))
        where = exc.__traceback__.tb_lineno if exc.__traceback__ else 0
        self._errors.log(
            logging.ERROR,
            (listener.addon, listener.event, type(exc), where),
            "add-on %s failed in %s: %s",
            listener.addon,
            listener.event,
            str(exc) or type(exc).__name__,
            exc_info=(type(exc), exc, exc.__traceback__),
        )


class _Timed:
    """Awaits an async listener, and accounts for the loop time it holds between its awaits."""

    __slots__ = ("account", "listener", "waiting")

    def __init__(
        self, account: Callable[[Listener, float], None], listener: Listener, waiting: Awaitable[object]
    ) -> None:
        self.account = account
        self.listener = listener
        self.waiting = waiting

    def __await__(self) -> Generator[Any, Any, None]:
        waiting = self.waiting
        coroutine = waiting if isinstance(waiting, CoroutineType) else _coroutine(waiting)
        step: Callable[[Any], Any] = coroutine.send
        value: Any = None
        while True:
            before = perf_counter()
            try:
                yielded = step(value)
            except StopIteration:
                return
            finally:
                self.account(self.listener, perf_counter() - before)
            try:
                value, step = (yield yielded), coroutine.send
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as exc:  # cancellation, or what the awaited future raised: the listener's to handle
                value, step = exc, coroutine.throw


async def _coroutine(waiting: Awaitable[object]) -> object:
    return await waiting


def _refuse_async(listener: Listener, result: Awaitable[object]) -> None:
    if EVENTS[listener.event].sync_only:
        if isinstance(result, CoroutineType):
            result.close()
        raise AddonManagerError(f"add-on {listener.addon}: {listener.event} must not be async")


def cut_traceback(tb: TracebackType | None) -> TracebackType | None:
    """Without the leading frames that are the dispatcher's own."""
    first = tb
    while first is not None and first.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        first = first.tb_next
    return first or tb


def name_of(addon: object) -> str:
    """`.name` if it is a text, else the class's name in small letters (a module: its own)."""
    name = getattr(addon, "name", None)
    if isinstance(name, str) and name:
        return name
    return addon.__name__ if isinstance(addon, ModuleType) else type(addon).__name__.lower()


def _hooks_of(name: str, addon: object) -> Iterator[tuple[Event, Callable[..., object]]]:
    for event in EVENTS.values():
        hook = getattr(addon, event.name, None)
        if hook is None or isinstance(hook, ModuleType):  # an imported module of that name is no hook
            continue
        if not callable(hook):
            raise AddonManagerError(f"add-on {name}: {event.name} is a hook's name, but it is no function ({hook!r})")
        if not _takes(hook, event):
            wanted = ", ".join(event.args) or "no argument"
            raise AddonManagerError(f"add-on {name}: {event.name}{inspect.signature(hook)} should take {wanted}")
        if event.sync_only and inspect.iscoroutinefunction(hook):
            raise AddonManagerError(f"add-on {name}: {event.name} must not be async")
        yield event, hook


def _takes(function: Callable[..., object], event: Event) -> bool:
    """Can `function` be called with the event's arguments? True if it does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*event.args)
    except TypeError:
        return False
    return True


def _misspelt(addon: object) -> Iterator[tuple[str, str]]:
    """Functions that nearly have an event's name and could be called as its hook."""
    plain = {event.replace("_", ""): event for event in EVENTS}
    for name, function in _own_functions(addon):
        if name in EVENTS or name.startswith("_"):
            continue
        letters = name.lower().removeprefix("on_").replace("_", "")
        for match in difflib.get_close_matches(letters, plain, n=1, cutoff=0.88):
            if _takes(function, EVENTS[plain[match]]):
                yield name, plain[match]


def _own_functions(addon: object) -> Iterator[tuple[str, Callable[..., object]]]:
    """Functions written in the add-on's module or class; properties are not run, imported helpers not counted."""
    if isinstance(addon, ModuleType):
        for name, value in list(vars(addon).items()):
            if inspect.isfunction(value) and value.__module__ == addon.__name__:
                yield name, value
        return
    for name in {name for cls in type(addon).__mro__ for name in vars(cls)}:
        value = inspect.getattr_static(addon, name, None)
        if inspect.isfunction(value):
            yield name, MethodType(value, addon)
