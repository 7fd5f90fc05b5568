"""config.yaml: the options of a gateway that starts by itself. The command line beats it; paths in it are relative to
it.

Errors carry file and line, and what to write instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from appliance.exceptions import OptionsError
from appliance.home import expanded
from appliance.options import DEFAULT, Options, Source, config_file, environment
from appliance.optiontable import BUILTIN, Option

NAMES = ("config.yaml", "config.yml")


class Setting(NamedTuple):
    value: Any
    source: Source


def start(options: Options) -> Path | None:
    """Apply environment and config.yaml under what the command line has set already. Returns the file read, None if
    there is none.

    Raises OptionsError; nothing of the file is applied then.
    """
    for name, variables in (
        ("confdir", ("LOCKGATE_CONFDIR",)),
        ("tls_keylog_file", ("LOCKGATE_SSLKEYLOGFILE", "SSLKEYLOGFILE")),
    ):
        variable = next((variable for variable in variables if os.environ.get(variable)), None)
        if variable is not None and options.source(name) is DEFAULT:
            options.apply({name: (os.environ[variable], environment(variable))})
    path = find(options)
    if path is not None:
        _apply(options, read(path))
    return path


def reload(options: Options) -> frozenset[str]:
    """Read config.yaml again. What left the file goes back to its default; what the command line or someone at run time
    has set stays.

    Returns the names whose value changed (subscribers have been told). Raises OptionsError with nothing changed.
    """
    path = find(options)
    settings = read(path) if path is not None else {}
    before = dict(options.items())
    gone = {
        name: Setting(options.default(name), DEFAULT)
        for name in options
        if options.source(name).rank == _RANK and name not in settings
    }
    if tuple(settings.get("scripts", gone.get("scripts", (options.scripts,)))[0]) == options.scripts:
        # No new add-on that could register it, so a name unknown now stays unknown.
        for name, setting in settings.items():
            if name not in options:
                options.refuse_unknown(name, setting.source)
    _apply(options, gone | settings)
    return frozenset(name for name, value in options.items() if before.get(name) != value)


def find(options: Options) -> Path | None:
    """The file in the configuration folder, None if there is none. Raises OptionsError if there are two, or the folder
    is closed to us.
    """
    confdir = options.path("confdir") or Path()
    try:
        found = [path for name in NAMES if (path := confdir / name).exists()]
    except OSError as error:
        raise OptionsError(f"{confdir}: {error.strerror}; run this as its owner (sudo)") from None
    if len(found) > 1:
        raise OptionsError(f"{confdir}: both {NAMES[0]} and {NAMES[1]} are there; keep one of them")
    return found[0] if found else None


def read(path: Path) -> dict[str, Setting]:
    """Names and values of a config file, in order. Raises OptionsError if it cannot be read or is no list of `name:
    value` lines.
    """
    from ruamel.yaml import YAML  # takes longer to import than everything else here; many gateways have no config.yaml
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OptionsError(f"{path}: is not a file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise OptionsError(f"{path}: cannot be read: {reason}") from None
    try:
        tree = YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise OptionsError(f"{path}:{line}: this option is set twice; keep one of the two lines") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # What is left open is found missing at the end, after the last line.
        line = min(mark.line + 1, len(text.splitlines()) or 1) if mark else 1
        raise OptionsError(f"{path}:{line}: not YAML: {error.problem}; write `name: value` lines") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise OptionsError(f"{path}: not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, CommentedMap):
        raise OptionsError(f"{path}:1: write options as `name: value` lines, such as `tcp_timeout: 300`")
    settings = {}
    for name, value in tree.items():
        source = config_file(path, tree.lc.key(name)[0] + 1)
        if not isinstance(name, str):
            raise OptionsError(f"{source}: {name!r} is not the name of an option")
        if name == "confdir":
            raise OptionsError(
                f"{source}: confdir says where this file is; give it as `--set confdir=DIR` or LOCKGATE_CONFDIR"
            )
        settings[name] = Setting(_located(BUILTIN.get(name), value, path.parent), source)
    return settings


_RANK = config_file(Path(), 0).rank


def _apply(options: Options, settings: dict[str, Setting]) -> None:
    known = {}
    for name, setting in settings.items():
        if name in options:
            if options.source(name).rank <= _RANK:
                known[name] = setting
        else:
            options.refuse_not_yet(name, setting.source)
    options.apply(known)
    for name, setting in settings.items():
        if name not in options:
            options.defer(name, value=setting.value, source=setting.source)


def _located(entry: Option | None, value: Any, folder: Path) -> Any:
    """`value` with paths relative to `folder` made absolute. Wrong types are left for `Options` to refuse."""
    if entry is None or entry.kind not in ("path", "certs", "recording"):
        return value
    if isinstance(value, str):
        if entry.kind == "recording" and value.startswith("store:"):
            return value
        domain, equals, path = value.rpartition("=") if entry.kind == "certs" else ("", "", value)
        if path in ("", "-"):
            return value
        if entry.kind == "path" and path.startswith("+"):  # append to it
            domain, path = "+", path[1:]
        return domain + equals + str(folder.absolute() / expanded(path))
    if isinstance(value, Sequence):
        return [_located(entry, item, folder) for item in value]
    return value
