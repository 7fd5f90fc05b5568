"""Scripts: add-ons read from files (`-s file.py`), and read again when the file changes."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import traceback
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from appliance import compat
from appliance.addonmanager import AddonManager, Loader, walk
from appliance.exceptions import LockgateError, OptionsError
from appliance.hooks import check, name_of

logger = logging.getLogger(__name__)

_PACKAGE = "__lockgate_script__"
_INTERVAL = 1.0


class Script:
    """One file, and the module it became; None before it was read and after the file has gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module: ModuleType | None = None
        self.stamp = stamp_of(path)
        self.missing = 0  # looks in a row that did not find the file


class ScriptLoader:
    """Keeps the scripts of the option `scripts`. Their hooks run at its place in the chain, in the option's order.

    At the start, and when the option changes, a script that fails is an OptionsError. A change to the file is noticed
    within a second; if what it became fails, that is logged and the old script goes on.
    """

    name = "scriptloader"

    def __init__(self) -> None:
        self.scripts: list[Script] = []
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
        paths = [script_path(text) for text in self.manager.options.scripts]
        for path in paths:
            if paths.count(path) > 1:
                raise OptionsError(f"scripts: {path} is given twice")
        before = self.scripts
        known = {script.path: script for script in before}
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
        now = {script.path: script for script in self.scripts}
        for path, script in known.items():
            if path not in paths:
                self._end(script)
        self.scripts = [now[path] for path in paths]
        self.manager.arrange()

    def running(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="script watch")

    def done(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    # -- files ---------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            for script in list(self.scripts):
                self.look(script)

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
            return
        script.missing = 0
        if stamp == script.stamp:
            return
        script.stamp = stamp
        try:
            self._reload(script)
        except LockgateError as exc:
            kept = "; the old one goes on" if script.module is not None else ""
            logger.error("script not reloaded%s: %s", kept, exc)
        else:
            logger.info("script %s reloaded", script.path)

    def _begin(self, path: Path) -> None:
        script = Script(path)
        module = read_script(path)
        self.scripts.append(script)
        try:
            self._enter(script, module)
        except BaseException:
            self.scripts.remove(script)
            raise

    def _reload(self, script: Script) -> None:
        """Raises LockgateError; the old module, if there is one, is then in its place again."""
        old = script.module
        new = read_script(script.path)
        if old is None:
            self._enter(script, new)
            return
        try:
            check_script(script.path, new)
        except LockgateError:
            sys.modules[old.__name__] = old
            raise
        self.manager.remove(old)
        try:
            self._enter(script, new)
        except LockgateError:
            sys.modules[old.__name__] = old
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
            self.manager.remove(script.module)
            release(script.module)
            script.module = None


def script_path(text: str) -> Path:
    """Absolute, with `~` expanded. Raises OptionsError."""
    if not text:
        raise OptionsError("scripts: an empty name is no script")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as exc:
        raise OptionsError(f"scripts: {text}: {exc}") from None


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What differs once the file has changed; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read_script(path: Path) -> ModuleType:
    """Import the file under a name of its own, with its folder on sys.path meanwhile.

    Raises OptionsError: not readable, or it raised (with the traceback's frames from the script on). The module that
    had the name before is then in its place again.
    """
    try:
        source = path.read_bytes()
    except OSError as exc:
        raise OptionsError(f"script {path}: {(exc.strerror or str(exc)).lower()}") from None
    compat.install()
    name = f"{_PACKAGE}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent)
    before = sys.modules.get(name)
    sys.modules[name] = module
    sys.path.insert(0, folder)
    try:
        # Not the loader's own way: that trusts a compiled file of the same size and second.
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as exc:
        release(module)
        if before is not None:
            sys.modules[name] = before
        raise failure(path, exc) from exc
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)
    if not isinstance(getattr(module, "name", None), str):
        module.__dict__["name"] = str(path)
    return module


def release(module: ModuleType) -> None:
    if sys.modules.get(module.__name__) is module:
        del sys.modules[module.__name__]


def check_script(path: Path, module: ModuleType) -> None:
    """Raises OptionsError if a hook of the script or of its ``addons`` is unusable."""
    try:
        for addon in walk([module]):
            check(name_of(addon), addon)
    except Exception as exc:
        raise failure(path, exc) from exc


def failure(path: Path, exc: BaseException) -> OptionsError:
    """`exc` as a message: one line if it is an error of ours, else with the traceback from the script's frames on."""
    if isinstance(exc, LockgateError):
        return OptionsError(f"script {path}: {exc}")
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename != str(path):
        tb = tb.tb_next
    text = "".join(traceback.format_exception(type(exc), exc, tb)).rstrip()
    return OptionsError(f"script {path} failed:\n{text}")
