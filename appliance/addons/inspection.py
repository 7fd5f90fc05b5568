"""What a file of add-ons has, and what is wrong with it, found before there is traffic: for `lockgate addons`."""

from __future__ import annotations

import ast
import inspect
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from appliance.addonmanager import AddonManager, walk
from appliance.addons.scriptfile import MAX_FILES, read_script, release
from appliance.command import decorated
from appliance.events import EVENTS
from appliance.exceptions import LockgateError, OptionsError
from appliance.hooks import Hooks, check, misspelt, name_of
from appliance.options import Options


@dataclass
class Finding:
    """line: 0 = none is known. fatal: the gateway would not load the file."""

    line: int
    text: str
    fatal: bool = True
    file: str = ""
    """Where it is not the one that was named: in a package."""


@dataclass
class Report:
    path: Path
    hooks: dict[str, list[str]] = field(default_factory=dict)
    """By add-on."""
    options: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class _Master:
    """What `load` and `configure` may reach for."""

    exit_code = 0

    def __init__(self, options: Options) -> None:
        self.options = options
        self.addons = AddonManager(self, options, Hooks())  # type: ignore[arg-type]
        self.commands = self.addons.commands

    def shutdown(self) -> None:
        """Nothing runs."""


def inspect_file(path: Path) -> Report:
    """Load the file as the gateway would (its `load` runs), and look. Raises nothing: faults are in `findings`."""
    report = Report(path)
    report.findings += _generator_layers(path)
    try:
        module = read_script(path)
    except LockgateError as error:
        report.findings.append(Finding(_line_in(str(error), path), str(error)))
        return report
    try:
        _look(module, report)
    finally:
        release(module)
    report.findings.sort(key=lambda one: (one.file, one.line))
    return report


def _look(module: ModuleType, report: Report) -> None:
    try:
        members = list(walk([module]))
    except LockgateError as error:
        report.findings.append(Finding(0, str(error)))
        return
    for addon in members:
        name = name_of(addon)
        try:
            check(name, addon)
        except LockgateError:
            report.findings += _faults(name, addon)
        else:
            report.hooks[name] = [event for event in EVENTS if callable(getattr(addon, event, None))]
        for wrong, near in misspelt(addon):
            text = f"{name}: {wrong} is not an event and will never be called; did you mean {near}?"
            report.findings.append(_at(addon, wrong, text, fatal=False))
        for event in report.hooks.get(name, ()):
            if not EVENTS[event].yet:
                text = f"{name}: {event} is not fired by this release yet"
                report.findings.append(_at(addon, event, text, fatal=False))
    if not any(one.fatal for one in report.findings):
        _load(module, report)
    for addon in members:
        report.commands += [name for name, _ in decorated(addon) if name not in report.commands]


def _load(module: ModuleType, report: Report) -> None:
    options = Options()
    before = set(options)
    manager = _Master(options).addons
    manager.is_configured = True  # so that it hears `configure` too, with every option at its default
    try:
        manager.add(module)
    except Exception as error:
        report.findings.append(_raised(error, module))
    report.options = [name for name in options if name not in before]
    report.commands = list(manager.commands)


def _faults(name: str, addon: object) -> Iterator[Finding]:
    """All that is wrong with the hooks: one by one, since `check` stops at the first."""
    if inspect.isclass(addon):
        text = f"{addon.__name__} is a class, not an add-on: list an instance, {addon.__name__}()"
        yield _at(addon, "__init__", text)
        return
    for event in EVENTS:
        one = getattr(addon, event, None)
        if one is None:
            continue
        try:
            check(name, _Only(event, one))
        except LockgateError as error:
            yield _at(addon, event, str(error).removeprefix("add-on "))


def _raised(error: Exception, module: ModuleType) -> Finding:
    """What `load` or `configure` raised, with the script's own line. That an option is missing can be put right."""
    own = Path(module.__file__ or "")
    places = [
        (frame.filename, frame.lineno or 0, frame.name)
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == own or Path(frame.filename).is_relative_to(own.parent)
    ]
    name = next((name for _, _, name in places if name in EVENTS), "load")
    what = str(error) if isinstance(error, LockgateError) else traceback.format_exception_only(error)[-1].strip()
    file, line, _ = places[-1] if places else ("", 0, "")
    refused = isinstance(error, OptionsError) and name == "configure"
    also = " (with every option at its default)" if name == "configure" else ""
    return Finding(line, f"{name}: {what}{also}", fatal=not refused, file=file)


class _Only:
    """An add-on with one hook."""

    def __init__(self, event: str, hook: object) -> None:
        setattr(self, event, hook)


def _at(addon: object, attribute: str, text: str, *, fatal: bool = True) -> Finding:
    """A finding about a function of `addon`, with its place."""
    function = inspect.unwrap(getattr(addon, attribute)) if callable(getattr(addon, attribute, None)) else None
    code = getattr(function, "__code__", None)
    if code is None:
        return Finding(0, text, fatal)
    return Finding(code.co_firstlineno, text, fatal, code.co_filename)


def _line_in(text: str, path: Path) -> int:
    """The last line of this file that a traceback names."""
    marks = [part for part in text.split(f'File "{path}", line ')[1:]]
    digits = marks[-1].split(",")[0].split("\n")[0] if marks else ""
    return int(digits) if digits.isdecimal() else 0


def _generator_layers(path: Path) -> Iterator[Finding]:
    """In the file, or the files of the package."""
    if path.is_dir():
        for _, file in zip(range(MAX_FILES), sorted(path.rglob("*.py")), strict=False):
            yield from _generator_layers(file)
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # told when it is loaded
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "_handle_event":
                    text = f"{node.name}: layers made of mitmproxy's event generator do not run here: write `run()`"
                    yield Finding(item.lineno, text, file=str(path))
