"""The chain of add-ons: who is in it, in what order, and each one's life from `load` to `done`."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from appliance import ctx
from appliance.command import CommandManager
from appliance.exceptions import AddonHalt, AddonManagerError
from appliance.hooks import Hooks, name_of

if TYPE_CHECKING:
    from appliance.hookclasses import Hook
    from appliance.options import Options

logger = logging.getLogger(__name__)

RUNNING_SECONDS: Final = 5.0
"""How long the others wait for an async `running`."""


class Loader:
    """What `load` is given."""

    def __init__(self, manager: AddonManager, addon: object = None) -> None:
        self.manager = manager
        self._addon = addon

    @property
    def master(self) -> ctx.Master:
        return self.manager.master

    def add_option(
        self, name: str, typespec: Any, default: Any, help: str, choices: Sequence[str] | None = None
    ) -> None:
        """Register an option; a `--set` that waited for it is applied. The same again is nothing new.

        One like a built-in option (type, default) is that option. Raises OptionsError: the name is taken by another
        built-in option, or default or waiting value do not fit.
        """
        options = self.manager.options
        if options.is_builtin(name, typespec, default):
            logger.warning("option %s is a built-in one: the add-on and the gateway share it", name)
            return
        if name in options:
            old = options.entry(name)
            wanted = tuple(choices) if choices is not None else None
            if (old.typespec, old.default, old.help, old.choices) == (typespec, default, help, wanted):
                self.manager.option_owners.setdefault(name, self._addon)
                self.manager.orphans.discard(name)
                return
            if name not in self.manager.orphans:
                logger.warning("option %s was there already and is redefined", name)
        options.add_option(name, typespec, default, help, choices)
        self.manager.option_owners[name] = self._addon
        self.manager.orphans.discard(name)

    def add_command(self, path: str, func: Callable[..., object]) -> None:
        """Register a command. Raises CommandError: an argument has no type, or one that commands cannot have."""
        self.manager.commands.add(path, func, self._addon)


class AddonManager:
    """The add-ons of one gateway. The order of hooks is that of the chain, each add-on before its ``.addons``.

    At the start: `add` the built-in ones (their `load` runs), `configure`, then `running`. At the end: `done`.
    """

    def __init__(self, master: ctx.Master, options: Options, hooks: Hooks) -> None:
        self.master = master
        self.options = options
        self.hooks = hooks
        self.chain: list[object] = []
        self.lookup: dict[str, object] = {}
        self.commands = CommandManager(master)
        self.option_owners: dict[str, object] = {}
        """Of options that add-ons have registered."""
        self.orphans: set[str] = set()
        """Options whose add-on has gone, and which may be registered anew before `drop_options`."""
        self.is_configured = False
        self.is_running = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running: dict[int, asyncio.Task[bool]] = {}  # async `running` hooks that go on, by id()
        self._unsubscribe = options.subscribe(self._options_changed)
        ctx.options = options
        ctx.master = master

    # -- who is in it --------------------------------------------------------------------------------------------------

    def add(self, *addons: object) -> None:
        """Append to the chain and `register` each. What that raises leaves this one add-on out."""
        for addon in addons:
            self.chain.append(addon)
            try:
                self.register(addon)
            except BaseException:
                self._leave_chain(addon)
                raise

    def register(self, addon: object) -> None:
        """Begin the life of an add-on and its ``.addons``: load, configure (if that time has come), running (likewise).

        For add-ons that hold others: put the new one into your ``.addons`` first. Raises AddonManagerError (a name is
        taken, a hook is unusable) and whatever `load` and `configure` raise; nothing of it is then registered.
        """
        members = list(walk([addon]))
        entered: list[object] = []
        try:
            for member in members:
                name = name_of(member)
                if name in self.lookup:
                    raise AddonManagerError(f"an add-on named {name} is there already; set .name to tell them apart")
                self.hooks.admit(name, member)
                self.lookup[name] = member
                entered.append(member)
            for member in members:
                self.hooks.call(member, "load", Loader(self, member))
                self.commands.collect_commands(member)
            if self.is_configured:
                for member in members:
                    self.hooks.call(member, "configure", frozenset(self.options.keys()))
        except BaseException:
            for member in entered:
                self._forget(member)
            raise
        self.arrange()
        if self.is_running:
            for member in members:
                self._begin(member)

    def remove(self, addon: object, *, keep_options: bool = False) -> None:
        """Take out an add-on and its ``.addons``; each hears `done`. Raises AddonManagerError if it is not here.

        Its commands and options go. `keep_options`: these stay until `drop_options`, for another may register them
        anew. An add-on that holds it takes it out of its own ``.addons``.
        """
        if addon not in self:
            raise AddonManagerError(f"no such add-on: {name_of(addon)}")
        for member in walk([addon]):
            if member in self:
                self._tell(member, "done")
                self._forget(member)
        self._leave_chain(addon)
        self.arrange()
        if not keep_options:
            self.drop_options()

    def drop_options(self) -> None:
        """Take out the options whose add-on has gone. A value that was set is kept, should the option come again."""
        for name in self.orphans:
            self.options.remove_option(name)
        self.orphans.clear()

    def get(self, name: str) -> Any:
        """The add-on of this name, or None."""
        return self.lookup.get(name)

    def __contains__(self, item: object) -> bool:
        """Is this add-on, or one of this name, registered?"""
        if isinstance(item, str):
            return item in self.lookup
        return any(member is item for member in self.lookup.values())

    def __len__(self) -> int:
        return len(self.lookup)

    def arrange(self) -> None:
        """Bring the order of hooks in line with the chain, after an add-on has changed the order of its ``.addons``."""
        self.hooks.arrange(walk(self.chain))

    def _leave_chain(self, addon: object) -> None:
        self.chain = [member for member in self.chain if member is not addon]

    def _forget(self, addon: object) -> None:
        self.lookup = {name: member for name, member in self.lookup.items() if member is not addon}
        self.hooks.dismiss(addon)
        if (task := self._running.get(id(addon))) is not None:
            task.cancel()
        self.commands.forget(addon)
        for name in [name for name, owner in self.option_owners.items() if owner is addon]:
            del self.option_owners[name]
            self.orphans.add(name)

    # -- what they hear ------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """`configure` with all option names, once the options are read. Raises OptionsError.

        From here on every change of an option is told, and may be refused.
        """
        self.is_configured = True
        self._options_changed(self.options, frozenset(self.options.keys()))

    async def running(self) -> None:
        """`running`, once the gateway is up; add-ons added later hear it at once.

        One that does not return (`while True: await ...`) is not waited for, and ends with its add-on.
        """
        self.is_running = True
        for addon in list(walk(self.chain)):
            task = self._begin(addon) if addon in self else None
            if task is None:
                continue
            await asyncio.wait([task], timeout=RUNNING_SECONDS)
            if not task.done():
                text = "add-on %s: running has not returned after %g s, and nothing waits for it any more"
                logger.warning(text, name_of(addon), RUNNING_SECONDS)
            elif not task.cancelled() and task.result():
                return  # AddonHalt

    async def done(self) -> None:
        """`done`, at the end."""
        self._unsubscribe()
        await self.trigger_event("done")
        for task in self._running.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.is_running = self.is_configured = False

    def trigger(self, event: str | Hook, *args: object) -> None:
        """Fire `event` from sync code. Async listeners are finished by a task of their own."""
        name, given = _parts(event, args)
        if name not in self.hooks.table:
            self._later(self._own_event(name, given))
        elif (pending := self.hooks.fire(name, *given)) is not None:
            self._later(_finish(pending))

    async def trigger_event(self, event: str | Hook, *args: object) -> None:
        """Fire `event`; all listeners are done on return. It may be one that only add-ons know."""
        name, given = _parts(event, args)
        if name not in self.hooks.table:
            await self._own_event(name, given)
        elif (pending := self.hooks.fire(name, *given)) is not None:
            await pending

    async def _own_event(self, event: str, args: tuple[object, ...]) -> None:
        for addon in list(walk(self.chain)):
            if not callable(function := getattr(addon, event, None)):
                continue
            try:
                result = function(*args)
                if inspect.isawaitable(result):
                    await result
            except AddonHalt:
                return
            except Exception as exc:
                self.hooks.report(name_of(addon), event, exc)

    def _options_changed(self, options: Options, updated: frozenset[str]) -> None:
        if not self.is_configured or not updated:
            return
        if "hook_budget_ms" in updated:
            self.hooks.budget = options.hook_budget_ms / 1000
        if "hook_profile" in updated:
            self.hooks.profile = options.hook_profile
        self.hooks.fire("configure", updated)

    def _tell(self, addon: object, event: str) -> None:
        """One add-on alone; what it raises is logged."""
        try:
            pending = self.hooks.call(addon, event)
        except AddonHalt:
            return
        except Exception as exc:
            self.hooks.report(name_of(addon), event, exc)
        else:
            if pending is not None:
                self._later(self._guarded(name_of(addon), event, pending))

    def _begin(self, addon: object) -> asyncio.Task[bool] | None:
        """`running` of one add-on. Returns what is left of it, as `_guarded`."""
        try:
            pending = self.hooks.call(addon, "running")
        except AddonHalt:
            pending = _halt()
        except Exception as exc:
            self.hooks.report(name_of(addon), "running", exc)
            return None
        if pending is None:
            return None
        work = self._guarded(name_of(addon), "running", pending)
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            self._later(work)
            return None
        self._running[id(addon)] = task
        task.add_done_callback(lambda ended: self._running.get(id(addon)) is ended and self._running.pop(id(addon)))
        return task

    async def _guarded(self, name: str, event: str, pending: Awaitable[None]) -> bool:
        """Whether it raised AddonHalt."""
        try:
            await pending
        except AddonHalt:
            return True
        except Exception as exc:
            self.hooks.report(name, event, exc)
        return False

    def _later(self, work: Any) -> None:
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:  # no loop, as in an embedder's set-up: then nothing else waits either
            asyncio.run(work)
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _parts(event: str | Hook, args: tuple[object, ...]) -> tuple[str, tuple[object, ...]]:
    return (event, args) if isinstance(event, str) else (event.name, tuple(event.args()))


async def _halt() -> None:
    raise AddonHalt


async def _finish(pending: Awaitable[None]) -> None:
    await pending


def walk(addons: Iterable[object], above: tuple[int, ...] = ()) -> Iterator[object]:
    """Depth first, an add-on before its ``.addons``. Raises AddonManagerError for one that holds itself, or no list."""
    for addon in addons:
        if id(addon) in above:
            raise AddonManagerError(f"add-on {name_of(addon)} holds itself in its .addons")
        yield addon
        below = getattr(addon, "addons", None) or ()
        if not isinstance(below, Iterable):
            raise AddonManagerError(f"add-on {name_of(addon)}: .addons should be a list, not {below!r}")
        yield from walk(below, (*above, id(addon)))
