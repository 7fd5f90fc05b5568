"""Scripts: add-ons read from files (`-s file.py`, a package, or a folder of both), and read again when they change."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

from appliance import command, eventsequence, flow, hooks, types
from appliance.addonmanager import AddonManager, Loader, walk
from appliance.addons.scriptfile import (
    Helper,
    Stamp,
    check_script,
    expand,
    failure,
    is_folder,
    modules_of,
    read_script,
    release,
    script_path,
    stamp_of,
)
from appliance.exceptions import CommandError, LockgateError, OptionsError
from appliance.log import RateLimited

__all__ = ["Script", "ScriptLoader", "read_script", "release", "script_path", "stamp_of"]

logger = logging.getLogger(__name__)
_told = RateLimited(logger, per_minute=2)

_INTERVAL = 1.0


class Script:
    """One file or package, and the module it became; None before it was read and after the file has gone."""

    def __init__(self, path: Path, module: ModuleType | None = None, stamp: Stamp | None = None) -> None:
        self.path = path
        self.module = module
        self.stamp = stamp
        self.missing = 0  # looks in a row that did not find the file


class ScriptLoader:
    """Keeps the scripts of the option `scripts`. Their hooks run at its place in the chain, in the option's order.

    At the start, and when the option changes, a script that fails is an OptionsError. A change to its file, to a file
    of its package or to a module beside it that it imports is noticed within a second; if what it became fails, that
    is logged and the old script goes on. In a folder new files are found, too.
    """

    name = "scriptloader"

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.helpers: dict[str, Helper] = {}
        """Modules beside the scripts, by name."""
        self._given: list[Path] = []
        self._broken: dict[Path, Stamp | None] = {}  # of folders; not tried again before they change
        self._manager: AddonManager | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def addons(self) -> list[ModuleType]:
        return [script.module for script in self.scripts if script.module is not None]

    @property
    def manager(self) -> AddonManager:
        assert self._manager is not None, "used before load"
        return self._manager

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def load(self, loader: Loader) -> None:
        self._manager = loader.manager

    def configure(self, updated: frozenset[str]) -> None:
        if "scripts" not in updated:
            return
        given = [script_path(text) for text in self.manager.options.scripts]
        for path in given:
            if given.count(path) > 1:
                raise OptionsError(f"scripts: {path} is given twice")
        paths = _expanded(given)
        for path in given:
            if is_folder(path) and not expand(path):
                logger.warning("scripts: there are no add-ons in %s (yet)", path)
        before = self.scripts
        known = {script.path for script in before}
        self.scripts = list(before)
        try:
            for path in paths:
                if path not in known:
                    self._begin(path)
        except BaseException:
            for script in self.scripts[len(before) :]:
                self._end(script)
            self.scripts = before
            raise
        finally:
            self.manager.drop_options()
        self._given = given
        self._keep(paths)

    def running(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="script watch")

    def done(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    @command.command("script.run")
    async def run(self, flows: Sequence[flow.Flow], path: types.Path) -> None:
        """Let a script, which need not be loaded, hear the events of these flows as if they went by now.

        Raises CommandError.
        """
        try:
            module = read_script(script_path(path))
        except OptionsError as exc:
            raise CommandError(str(exc)) from None
        listeners = hooks.Hooks(profile=False)
        try:
            members = list(walk([module]))
            for member in members:
                listeners.admit(hooks.name_of(member), member)
            listeners.arrange(members)
            listeners.fire("load", Loader(self.manager, module))
            listeners.fire("configure", frozenset(self.manager.options.keys()))
            await _heard(listeners.fire("running"))
            for one in flows:
                for event, _ in eventsequence.iterate(one):
                    await _heard(listeners.fire(event, one))
            await _heard(listeners.fire("done"))
        except LockgateError as exc:
            raise CommandError(str(exc)) from None
        finally:
            release(module)

    # -- files ---------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                self.look_around()
            except Exception as exc:  # it must not end with that
                info = (type(exc), exc, exc.__traceback__)
                _told.log(logging.ERROR, "look", "fault while looking after scripts", exc_info=info)

    def look_around(self) -> None:
        """Look at everything that was read, and into the folders. Raises nothing."""
        for script in list(self.scripts):
            self.look(script)
        self._look_at_helpers()
        if any(is_folder(path) for path in self._given):
            self._look_into_folders()

    def look(self, script: Script) -> None:
        """Has the file changed? Then read it again. Raises nothing."""
        stamp = stamp_of(script.path)
        if stamp is None:
            script.missing += 1
            # Many editors put a new file in the place of the old: only the second look believes that it has gone.
            if script.missing == 2 and script.module is not None:
                logger.warning("script %s has gone: unloaded", script.path)
                script.stamp = None
                self._end(script)
                self.manager.drop_options()
            return
        script.missing = 0
        if stamp != script.stamp:
            script.stamp = stamp
            self._again(script)

    def _look_at_helpers(self) -> None:
        """A module beside scripts has changed: it, its like, and the scripts of that folder are read again."""
        changed = {one.folder for one in self.helpers.values() if stamp_of(one.path) not in (None, one.stamp)}
        for folder in changed:
            names = [name for name, one in self.helpers.items() if one.folder == folder]
            old = {name: self.helpers.pop(name) for name in names}
            modules = {name: sys.modules.pop(name) for name in names if name in sys.modules}
            again = [self._again(script) for script in list(self.scripts) if script.path.parent == folder]
            if not all(again):
                for name, module in modules.items():
                    sys.modules.setdefault(name, module)
                    if name not in self.helpers:
                        old[name].stamp = stamp_of(old[name].path)
                        self.helpers[name] = old[name]

    def _look_into_folders(self) -> None:
        try:
            paths = _expanded(self._given)
        except OptionsError as exc:
            logger.debug("%s", exc)
            return
        known = {script.path for script in self.scripts}
        for path in paths:
            if path not in known and self._broken.get(path, ()) != stamp_of(path):
                self._broken[path] = stamp_of(path)
                try:
                    self._begin(path)
                except OptionsError as exc:
                    logger.error("script not loaded: %s", exc)
                else:
                    logger.info("script %s loaded", path)
                    del self._broken[path]
        self._broken = {path: stamp for path, stamp in self._broken.items() if path in paths}
        if [script.path for script in self.scripts] != paths:
            self._keep(paths, ended=False)
        self.manager.drop_options()

    def _keep(self, paths: Iterable[Path], *, ended: bool = True) -> None:
        """The scripts of these paths, in this order. `ended`: the others are unloaded; else they stay at the end, until
        `look` has found them gone.
        """
        by_path = {script.path: script for script in self.scripts}
        kept = [by_path.pop(path) for path in paths if path in by_path]
        for script in by_path.values():
            if ended:
                self._end(script)
            elif script.module is not None:
                kept.append(script)
        self.scripts = kept
        self.manager.drop_options()
        self.manager.arrange()

    def _again(self, script: Script) -> bool:
        """Read it again, and say so. False: it failed."""
        try:
            self._reload(script)
        except LockgateError as exc:
            kept = "; the old one goes on" if script.module is not None else ""
            logger.error("script not reloaded%s: %s", kept, exc)
            return False
        finally:
            self.manager.drop_options()
        logger.info("script %s reloaded", script.path)
        return True

    def _begin(self, path: Path) -> None:
        script = Script(path, stamp=stamp_of(path))
        module = read_script(path, self.helpers)
        self.scripts.append(script)
        try:
            self._enter(script, module)
        except BaseException:
            self.scripts.remove(script)
            raise

    def _reload(self, script: Script) -> None:
        """Raises LockgateError; the old module, if there is one, is then in its place again."""
        old = script.module
        if old is None:
            self._enter(script, read_script(script.path, self.helpers))
            return
        olds = modules_of(old)
        new = read_script(script.path, self.helpers)
        try:
            check_script(script.path, new)
        except LockgateError:
            _put_back(new, olds)
            raise
        self.manager.remove(old, keep_options=True)
        try:
            self._enter(script, new)
        except LockgateError:
            _put_back(new, olds)
            try:
                self._enter(script, old)
            except LockgateError as exc:
                logger.error("nor does the old one start again: %s", exc)
            raise

    def _enter(self, script: Script, module: ModuleType) -> None:
        """Raises OptionsError if the manager or the script's `load` or `configure` refuses."""
        script.module = module
        try:
            self.manager.register(module)
        except (Exception, SystemExit) as exc:
            script.module = None
            release(module)
            raise failure(script.path, exc) from exc

    def _end(self, script: Script) -> None:
        if script.module is not None:
            self.manager.remove(script.module, keep_options=True)
            release(script.module)
            script.module = None


async def _heard(pending: Awaitable[None] | None) -> None:
    if pending is not None:
        await pending


def _expanded(given: Iterable[Path]) -> list[Path]:
    """Raises OptionsError."""
    return list(dict.fromkeys(path for one in given for path in expand(one)))


def _put_back(new: ModuleType, olds: dict[str, ModuleType]) -> None:
    release(new)
    sys.modules.update(olds)
