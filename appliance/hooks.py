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
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from time import perf_counter
from types import CoroutineType, MethodType, ModuleType, TracebackType
from typing import Any, Final, TypeVar

from appliance.events import EVENTS, Event
from appliance.exceptions import AddonHalt, AddonManagerError, OptionsError
from appliance.log import RateLimited

__all__ = ["EVENTS", "Event", "Hooks", "Listener", "body_not_needed", "check", "cut_traceback", "name_of"]

logger = logging.getLogger(__name__)

all_hooks = EVENTS
"""The older name."""

#: An add-on's fault. A CancelledError out of a sync call, or without anybody having cancelled us, is one too.
_FAULTS: Final = (Exception, asyncio.CancelledError)
#: Modules whose leading frames say nothing to an add-on's author.
_OURS: Final = ("appliance.hooks", "appliance.script", "appliance.addonmanager", "asyncio", "concurrent.futures")


_F = TypeVar("_F", bound=Callable[..., object])


def body_not_needed(hook: _F) -> _F:
    """Marks a `request` or `response` hook that can do without the body: nothing is held back for its sake.

    Of a body that streamed past, `content` is None, and `moved` its size.
    """
    hook.needs_body = False  # type: ignore[attr-defined]
    return hook


class Listener:
    """One add-on's function for one event, and what it has cost so far, in seconds of loop time held."""

    __slots__ = ("addon", "call", "count", "errors", "event", "longest", "mark", "needs_body", "total")

    def __init__(self, addon: str, event: str, call: Callable[..., object]) -> None:
        self.addon = addon
        self.event = event
        self.call = call
        self.needs_body: bool = getattr(call, "needs_body", True)
        self.count = 0
        self.errors = 0
        self.total = 0.0
        self.longest = 0.0  # without giving the loop back
        self.mark = -1.0  # what takes longer is looked at

    def __repr__(self) -> str:
        return f"<{self.addon}.{self.event}: {self.count} calls, {self.total * 1e3:.1f} ms>"


class Hooks:
    """Every event with its listeners in chain order.

    ``table[event]`` is an empty tuple while nobody listens; ``holds[event]`` says whether a listener needs the body,
    ``heard[event]`` whether anybody notices: a listener, or one of `update` when it is about a flow.
    """

    def __init__(self, *addons: object, budget: float = 0.1, profile: bool = True) -> None:
        """`profile`: see there. Raises AddonManagerError when an add-on's hooks are unusable (see `admit`)."""
        self.table: dict[str, tuple[Listener, ...]] = {name: () for name in EVENTS}
        self.holds: dict[str, bool] = dict.fromkeys(EVENTS, False)
        self.heard: dict[str, bool] = dict.fromkeys(EVENTS, False)
        self._budget = budget
        self._profile = profile
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

        Raises AddonManagerError as `check` does.
        """
        hooks = check(name, addon)
        for event in hooks:
            if not EVENTS[event].yet and not _is_built_in(type(addon)):
                logger.warning("add-on %s: the event %s is not fired by this release yet", name, event)
        for attribute, near in misspelt(addon):
            logger.warning("add-on %s: %s is not an event; did you mean %s?", name, attribute, near)
        listeners = {event: Listener(name, event, call) for event, call in hooks.items()}
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
            self.holds[event] = any(listener.needs_body for listener in listeners)
            self.heard[event] = bool(listeners or (table["update"] and EVENTS[event].flow))

    @property
    def profile(self) -> bool:
        """Whether calls and their time are counted for each listener; without it only the longest is known."""
        return self._profile

    @profile.setter
    def profile(self, on: bool) -> None:
        self._profile = on
        self.budget = self._budget

    @property
    def budget(self) -> float:
        """Seconds. A listener that holds the loop longer is named in the log, once a minute for each event."""
        return self._budget

    @budget.setter
    def budget(self, seconds: float) -> None:
        self._budget = seconds
        for listener in self.listeners():
            listener.mark = -1.0 if self._profile else min(listener.longest, seconds)

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
        before = perf_counter()
        for listener in rest:
            try:
                result = listener.call(*args)
                if result is not None and inspect.isawaitable(result):
                    pending = _Timed(self, listener, result, perf_counter() - before)
                    return self._finish(listener, pending, rest, args)
            except AddonHalt:
                self._account(listener, perf_counter() - before)
                return None
            except _FAULTS as exc:
                self._fault(listener, exc)
            # As _account, but inline: this is the hot path.
            after = perf_counter()
            took = after - before
            before = after
            if took > listener.mark:
                self._remarkable(listener, took)
        return None

    def call(self, addon: object, event: str, *args: object) -> Awaitable[None] | None:
        """Call one admitted add-on's own hook, outside the chain. What it raises goes to the caller, unlike `fire`."""
        listener = self._admitted[id(addon)][1].get(event)
        return None if listener is None else self._call(listener, args)

    def _call(self, listener: Listener, args: tuple[object, ...]) -> Awaitable[None] | None:
        before = perf_counter()
        try:
            result = listener.call(*args)
        except BaseException:
            self._account(listener, perf_counter() - before)
            raise
        if result is not None and inspect.isawaitable(result):
            return _Timed(self, listener, result, perf_counter() - before)
        self._account(listener, perf_counter() - before)
        return None

    async def _finish(
        self,
        listener: Listener | None,
        pending: Awaitable[None] | None,
        rest: Iterator[Listener],
        args: tuple[object, ...],
    ) -> None:
        """Await what `listener` gave, then run the rest of the chain."""
        while listener is not None:
            try:
                if pending is None:
                    pending = self._call(listener, args)
                if pending is not None:
                    await pending
            except AddonHalt:
                return
            except asyncio.CancelledError as exc:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise  # it is we who are cancelled
                self._fault(listener, exc)
            except Exception as exc:
                self._fault(listener, exc)
            listener, pending = next(rest, None), None

    def _account(self, listener: Listener, took: float) -> None:
        if took > listener.mark:
            self._remarkable(listener, took)

    def _remarkable(self, listener: Listener, took: float) -> None:
        """Longer than ever, or than the budget, or to be counted. `mark` is one comparison for all three."""
        if self._profile:
            listener.count += 1
            listener.total += took
        self._longer(listener, took)

    def _longer(self, listener: Listener, took: float) -> None:
        listener.longest = max(listener.longest, took)
        listener.mark = -1.0 if self._profile else min(listener.longest, self._budget)
        if took > self._budget:
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
        if listener.event == "configure" and _is_built_in(listener.call):
            # An option that is not in force must not look as if it were: without `proxyauth` this is an open proxy.
            raise OptionsError(f"{listener.addon}: {type(exc).__name__}: {exc}") from exc
        self.report(listener.addon, listener.event, exc)

    def report(self, addon: str, event: str, exc: BaseException) -> None:
        """Log what an add-on raised, at most ten times a minute from the same place."""
        exc = exc.with_traceback(cut_traceback(exc.__traceback__))
        line = exc.__traceback__.tb_lineno if exc.__traceback__ else 0
        self._errors.log(
            logging.ERROR,
            (addon, event, type(exc), line),
            "add-on %s failed in %s: %s",
            addon,
            event,
            traceback.format_exception_only(exc)[-1].strip(),  # survives a broken __str__
            exc_info=(type(exc), exc, exc.__traceback__),
        )


class _Timed:
    """Awaits an async listener, and accounts for the loop time it holds between its awaits."""

    __slots__ = ("hooks", "listener", "spent", "waiting")

    def __init__(self, hooks: Hooks, listener: Listener, waiting: Awaitable[object], spent: float) -> None:
        """`spent`: seconds it took to get `waiting`. Raises AddonManagerError where the event must be sync."""
        if EVENTS[listener.event].sync_only:
            if isinstance(waiting, CoroutineType):
                waiting.close()
            raise AddonManagerError(f"add-on {listener.addon}: {listener.event} must not be async")
        self.hooks = hooks
        self.listener = listener
        self.waiting = waiting
        self.spent = spent

    def __await__(self) -> Generator[Any, Any, None]:
        waiting = self.waiting
        coroutine = waiting if isinstance(waiting, CoroutineType) else _coroutine(waiting)
        listener = self.listener
        step: Callable[[Any], Any] = coroutine.send
        value: Any = None
        took = longest = self.spent
        try:
            while True:
                before = perf_counter()
                try:
                    yielded = step(value)
                finally:
                    held = perf_counter() - before
                    took += held
                    longest = max(longest, held)
                try:
                    value, step = (yield yielded), coroutine.send
                except GeneratorExit:
                    coroutine.close()
                    raise
                except (
                    BaseException
                ) as exc:  # cancellation, or what the awaited future raised: the listener's to handle
                    value, step = exc, coroutine.throw
        except StopIteration:
            return
        finally:
            if longest > listener.mark:
                if self.hooks.profile:
                    listener.count += 1
                    listener.total += took
                self.hooks._longer(listener, longest)


async def _coroutine(waiting: Awaitable[object]) -> object:
    return await waiting


def _is_built_in(of: object) -> bool:
    """Whether a class or function comes from one of our own add-ons."""
    return str(getattr(of, "__module__", "")).startswith("appliance.addons.")


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


def check(name: str, addon: object) -> dict[str, Callable[..., object]]:
    """The hooks of `addon` by event.

    Raises AddonManagerError: a hook is not callable, takes the wrong arguments, or is async where it must be sync.
    """
    if inspect.isclass(addon):
        raise AddonManagerError(f"{addon.__name__} is a class, not an add-on: list an instance, {addon.__name__}()")
    if getattr(addon, "is_engine", None) is True:  # the engine does it itself: see addons/engineparts.py
        return {}
    hooks: dict[str, Callable[..., object]] = {}
    for event in EVENTS.values():
        hook = getattr(addon, event.name, None)
        if hook is None or isinstance(hook, ModuleType):  # an imported module of that name is no hook
            continue
        if not callable(hook):
            raise AddonManagerError(f"add-on {name}: {event.name} is a hook's name, but it is no function ({hook!r})")
        if not _takes(hook, event):
            wanted = " and ".join(event.args) or "no argument"
            raise AddonManagerError(f"add-on {name}: {event.name}{inspect.signature(hook)} should take {wanted}")
        if event.sync_only and inspect.iscoroutinefunction(hook):
            raise AddonManagerError(f"add-on {name}: {event.name} must not be async")
        hooks[event.name] = hook
    return hooks


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


def misspelt(addon: object) -> Iterator[tuple[str, str]]:
    """Functions that nearly have an event's name and could be called as its hook."""
    plain = {event.replace("_", ""): event for event in EVENTS}
    for name, function in _own_functions(addon):
        if name in EVENTS or name.startswith("_"):
            continue
        letters = name.lower().removeprefix("on_").replace("_", "")
        for match in difflib.get_close_matches(letters, plain, n=1, cutoff=0.87):
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


def __getattr__(name: str) -> Any:
    """Events as classes (`UpdateHook`, `Hook`), made when a script asks for one."""
    if name.endswith("Hook"):
        from appliance.hookclasses import find

        return find(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
