"""Commands: functions of add-ons with typed arguments, called by name from code, the console and the command line."""

from __future__ import annotations

import difflib
import functools
import inspect
import logging
import textwrap
import types as _types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from appliance import types
from appliance.command_lexer import quote, split
from appliance.exceptions import CommandError
from appliance.notyet import why_not

__all__ = ["Command", "CommandManager", "Parameter", "argument", "command", "quote", "split"]

logger = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])
_NAME = "command_name"
_TYPES = "command_types"


def command(name: str | None = None) -> Callable[[_F], _F]:
    """Makes a method of an add-on, or a script's function, the command `name` (its own name, `_` as `.`, unless given).

    Arguments must be annotated with types that :mod:`appliance.types` knows.
    """

    def mark(function: _F) -> _F:
        setattr(function, _NAME, name or function.__name__.replace("_", "."))
        return function

    return mark


def argument(name: str, type: Any) -> Callable[[_F], _F]:
    """Says the type of the argument `name` where an annotation cannot, as in `@argument("to", type=Choice("x.y"))`."""

    def mark(function: _F) -> _F:
        if name not in inspect.signature(function).parameters:
            raise CommandError(f"{function.__name__} has no argument {name!r}")
        setattr(function, _TYPES, {**getattr(function, _TYPES, {}), name: type})
        return function

    return mark


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a command. `rest`: it takes all texts that are left."""

    name: str
    type: Any
    rest: bool = False
    optional: bool = False

    def __str__(self) -> str:
        shown = f"*{self.name}" if self.rest else self.name
        return f"[{shown}]" if self.optional else shown


class Command:
    """A function under its name. Raises CommandError when an argument has no type, or one that cannot be read."""

    def __init__(self, manager: CommandManager, name: str, func: Callable[..., Any]) -> None:
        self.manager = manager
        self.name = name
        self.func = func
        self.help = textwrap.dedent(inspect.getdoc(func) or "").strip()
        self.signature = inspect.signature(func)
        hints = _hints(func)
        said = getattr(func, _TYPES, {})
        self.parameters: list[Parameter] = []
        for parameter in self.signature.parameters.values():
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
                raise CommandError(
                    f"command {name}: {parameter.name} is a keyword argument; commands take words in order"
                )
            kind = said.get(parameter.name, hints.get(parameter.name))
            if kind is None:
                raise CommandError(f"command {name}: its argument {parameter.name} has no type annotation")
            try:
                types.display(kind)
            except CommandError as error:
                raise CommandError(f"command {name}, argument {parameter.name}: {error}") from None
            rest = parameter.kind is parameter.VAR_POSITIONAL
            self.parameters.append(Parameter(parameter.name, kind, rest, parameter.default is not parameter.empty))
        self.return_type = hints.get("return")

    def signature_help(self) -> str:
        words = [self.name, *map(str, self.parameters)]
        try:
            gives = types.display(self.return_type)
        except CommandError:
            gives = ""
        return " ".join(words) + (f" -> {gives}" if gives else "")

    def prepare_args(self, args: Sequence[str]) -> list[Any]:
        """Texts as values. Raises CommandError: too few, too many, or one cannot be read."""
        ready: list[Any] = []
        left = list(args)
        for parameter in self.parameters:
            if parameter.rest:
                ready += [self._read(parameter, text) for text in left]
                return ready
            if left:
                ready.append(self._read(parameter, left.pop(0)))
            elif not parameter.optional:
                raise CommandError(f"{self.name}: {parameter.name} is missing; usage: {self.signature_help()}")
        if left:
            raise CommandError(f"{self.name}: {left[0]!r} is one too many; usage: {self.signature_help()}")
        return ready

    def _read(self, parameter: Parameter, text: str) -> Any:
        try:
            return types.read(self.manager, parameter.type, text)
        except CommandError as error:
            raise CommandError(f"{self.name}: {parameter.name}: {error}") from None

    def call(self, args: Sequence[str]) -> Any:
        """Call it with texts. Raises CommandError, and whatever it raises."""
        result = self.func(*self.prepare_args(args))
        if result is not None and self.return_type not in (None, type(None), Any):
            try:
                fits = types.is_valid(self.return_type, result)
            except TypeError:  # an annotation of a shape that commands do not know
                fits = True
            if not fits and not inspect.isawaitable(result):
                logger.debug("command %s gave %s, not %r", self.name, type(result).__name__, self.return_type)
        return result


class CommandManager:
    """All commands by name."""

    def __init__(self, master: Any) -> None:
        self.master = master
        self.commands: dict[str, Command] = {}
        self._owners: dict[str, object] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.commands)

    def __contains__(self, name: object) -> bool:
        return name in self.commands

    def collect_commands(self, addon: object) -> None:
        """Add what is decorated in a script's module or an add-on's class. Raises CommandError."""
        for name, func in decorated(addon):
            self.add(name, func, addon)

    def add(self, name: str, func: Callable[..., Any], owner: object = None) -> None:
        """Raises CommandError as `Command` does. A name that is taken passes over, with a warning."""
        new = Command(self, name, func)
        if name in self.commands and self._owners.get(name) is not owner:
            logger.warning("command %s was there already and is redefined", name)
        self.commands[name] = new
        self._owners[name] = owner

    def forget(self, owner: object) -> None:
        """The add-on has gone."""
        for name in [name for name, of in self._owners.items() if of is owner]:
            del self.commands[name], self._owners[name]

    def get(self, name: str) -> Command:
        """Raises CommandError, with the nearest name."""
        try:
            return self.commands[name]
        except KeyError:
            if why := why_not(name):
                raise CommandError(f"the command {name} is not in lockgate: {why}") from None
            close = difflib.get_close_matches(name, self.commands, n=1)
            raise CommandError(f"unknown command {name!r}{f'; did you mean {close[0]}?' if close else ''}") from None

    def call(self, name: str, *args: Any) -> Any:
        """Call with values, as code does. Raises CommandError for an unknown name, and whatever the command raises."""
        return self.get(name).func(*args)

    def call_strings(self, name: str, args: Sequence[str]) -> Any:
        """Call with texts."""
        return self.get(name).call(args)

    def execute(self, text: str) -> Any:
        """Call what a command line says. Raises CommandError; an empty line is one."""
        words = split(text)
        if not words:
            raise CommandError("no command given")
        return self.call_strings(words[0], words[1:])


def decorated(addon: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The commands of an add-on. Nothing of it is run: properties stay untouched."""
    if isinstance(addon, _types.ModuleType):
        for value in list(vars(addon).values()):
            name = vars(value).get(_NAME) if inspect.isfunction(value) else None
            if name and value.__module__ == addon.__name__:
                yield name, value
        return
    for attribute in dict.fromkeys(attribute for cls in type(addon).__mro__ for attribute in vars(cls)):
        value = inspect.getattr_static(addon, attribute, None)
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        name = getattr(function, _NAME, None) if inspect.isfunction(function) else None
        if isinstance(name, str):
            yield name, getattr(addon, attribute)


def _hints(func: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as types, those written as texts too. Raises CommandError for one that cannot be found."""
    inner = inspect.unwrap(func)
    while isinstance(inner, functools.partial):
        inner = inner.func
    try:
        return get_type_hints(inner)
    except (NameError, TypeError, AttributeError) as error:
        raise CommandError(f"{getattr(func, '__name__', func)}: an annotation cannot be read: {error}") from None
