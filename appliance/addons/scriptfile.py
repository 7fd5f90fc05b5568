"""Files of add-ons, and the modules that they become: one file, a package, or a folder of both.

A script's module is named `__mitmproxy_script__.NAME`, which some scripts ask after; a package is also importable under
its own name, unless there is one of that name already. Its folder is on sys.path while it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from appliance import compat
from appliance.addonmanager import walk
from appliance.exceptions import LockgateError, OptionsError
from appliance.home import absolute
from appliance.hooks import check, name_of

PREFIX = "__mitmproxy_script__"
MAX_FILES = 500
"""Of a package, that are watched."""
_NEVER_HELPERS = frozenset({"appliance", "modes", compat.ROOT, PREFIX})
_INSTALLED = frozenset({"site-packages", "dist-packages"})

Stamp = tuple[object, ...]


@dataclass
class Helper:
    """A module beside scripts that one of them has imported."""

    path: Path
    folder: Path
    """Of the script."""
    stamp: Stamp | None


def script_path(text: str) -> Path:
    """Absolute, with `~` expanded. Raises OptionsError."""
    if not text:
        raise OptionsError("scripts: an empty name is no script")
    return absolute(text, "scripts")


def is_package(path: Path) -> bool:
    return os.path.isfile(path / "__init__.py")  # which, unlike Path.is_file, never raises


def is_folder(path: Path) -> bool:
    """A directory of add-ons: not itself a package."""
    return os.path.isdir(path) and not is_package(path)


def expand(path: Path) -> list[Path]:
    """The scripts that a path stands for: itself, or what lies in a folder, by name: its `*.py` and packages, without
    those whose names begin with `_` or `.`. Raises OptionsError: the folder cannot be read.
    """
    if not is_folder(path):
        return [path]
    try:
        found = sorted(path.iterdir())
    except OSError as exc:
        raise OptionsError(f"scripts: {path}: {(exc.strerror or str(exc)).lower()}") from None
    return [one for one in found if one.name[0] not in "_." and (one.suffix == ".py" or is_package(one))]


def stamp_of(path: Path) -> Stamp | None:
    """What differs once the file, or one of the package, has changed; None if it is not there."""
    try:
        if not path.is_dir():
            stat = path.stat()
            return stat.st_mtime_ns, stat.st_size, stat.st_ino
        if not is_package(path):
            return None
        files = [file for file, _ in zip(path.rglob("*.py"), range(MAX_FILES), strict=False)]
        return tuple(sorted((str(file), stamp_of(file)) for file in files))
    except OSError:
        return None


def read_script(path: Path, helpers: dict[str, Helper] | None = None) -> ModuleType:
    """Import the file or package under a name of its own. `helpers`: gets the modules beside it that it has imported.

    Raises OptionsError: not readable, or it raised (with the traceback's frames from the script on). The modules that
    had its names before are then in their place again.
    """
    package = is_package(path)
    file = path / "__init__.py" if package else path
    try:
        source = file.read_bytes()
    except OSError as exc:
        raise OptionsError(f"script {path}: {(exc.strerror or str(exc)).lower()}") from None
    compat.install()
    if PREFIX not in sys.modules:  # `from . import x` in a package asks for it
        sys.modules[PREFIX] = ModuleType(PREFIX)
        sys.modules[PREFIX].__path__ = []
    name = _free_name(path, file)
    spec = importlib.util.spec_from_file_location(
        name,
        file,
        loader=SourceFileLoader(name, str(file)),
        submodule_search_locations=[str(path)] if package else None,
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    displaced = release(before) if before is not None else {}
    known = set(sys.modules)
    sys.modules[name] = module
    if package and path.name not in sys.modules and not _importable(path.name):
        sys.modules[path.name] = module
    sys.path.insert(0, str(path.parent))
    # A compiled file is trusted when the source has the same size and second: none is left for the next change to meet.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        # Not the loader's own way, for somebody else may have left one.
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as exc:
        release(module)
        sys.modules.update(displaced)
        raise failure(path, exc) from exc
    finally:
        sys.dont_write_bytecode = writes
        with suppress(ValueError):
            sys.path.remove(str(path.parent))
    if helpers is not None:
        helpers.update(_helpers(path.parent, known, module))
    if not isinstance(getattr(module, "name", None), str):
        module.__dict__["name"] = str(path)
    return module


def _free_name(path: Path, file: Path) -> str:
    """Two scripts of one name do not get in each other's way; the same one gets its name again."""
    name = plain = f"{PREFIX}.{path.stem}"
    number = 1
    while name in sys.modules and getattr(sys.modules[name], "__file__", None) != str(file):
        number += 1
        name = f"{plain}_{number}"
    return name


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _helpers(folder: Path, known: set[str], module: ModuleType) -> dict[str, Helper]:
    own = modules_of(module)
    found = {}
    for name in sys.modules.keys() - known - own.keys():
        text = getattr(sys.modules[name], "__file__", None)
        if not isinstance(text, str) or name.partition(".")[0] in _NEVER_HELPERS:
            continue
        path = Path(text)
        if path.is_relative_to(folder) and _INSTALLED.isdisjoint(path.parts):
            found[name] = Helper(path, folder, stamp_of(path))
    return found


def modules_of(module: ModuleType) -> dict[str, ModuleType]:
    """All that stands in sys.modules because of this script: itself, under both names, and what is below."""
    roots = [name for name, one in list(sys.modules.items()) if one is module]
    return {
        name: one
        for name, one in list(sys.modules.items())
        if name in roots or any(name.startswith(root + ".") for root in roots)
    }


def release(module: ModuleType) -> dict[str, ModuleType]:
    """Take it out of sys.modules, with what is below; returns what was taken out."""
    found = modules_of(module)
    for name in found:
        del sys.modules[name]
    return found


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
    own = (str(path), str(path / "__init__.py"))
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename not in own:
        tb = tb.tb_next
    text = "".join(traceback.format_exception(type(exc), exc, tb)).rstrip()
    return OptionsError(f"script {path} failed:\n{text}")
