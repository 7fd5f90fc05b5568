"""Options: typed values with one owner, changed together or not at all.

Reading is a plain attribute (`options.tcp_timeout`). Every change goes through `update`, `set`, `apply` or an
assignment; all check names, types and
choices, tell the subscribers, and put everything back if one of these refuses with OptionsError.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from appliance import __version__
from appliance.exceptions import IllTypedOption, OptionsError, UnknownOption
from appliance.home import expanded
from appliance.notyet import NOT_YET
from appliance.optiontable import BUILTIN, Option, OptionTable, parse_size
from appliance.typespec import Typespec

Subscriber = Callable[["Options", frozenset[str]], object]


class Source(NamedTuple):
    """Where a value came from. A reload of config.yaml leaves alone what has a higher rank."""

    rank: int
    where: str

    def __str__(self) -> str:
        return self.where


DEFAULT = Source(0, "default")
COMMAND_LINE = Source(3, "command line")
RUN_TIME = Source(4, "set while running")


def environment(variable: str) -> Source:
    return Source(1, f"environment {variable}")


def config_file(path: Path, line: int) -> Source:
    return Source(2, f"{path}:{line}")


class Deferred(NamedTuple):
    """A value for a name that no add-on has registered yet: texts of `--set`, or one value of config.yaml."""

    raw: list[str | None] | None
    value: Any
    source: Source


class Options(OptionTable):
    """All options. `Options(tcp_timeout=5)` starts from the defaults with some changed."""

    _table: dict[str, Option]
    _types: dict[str, Typespec]
    _sources: dict[str, Source]
    _sizes: dict[str, int | None]
    _deferred: dict[str, Deferred]
    _gone: dict[str, tuple[Typespec, Any, Source]]
    _subscribers: list[tuple[Subscriber, frozenset[str] | None]]

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(_table={}, _types={}, _sources={}, _sizes={}, _deferred={}, _gone={}, _subscribers=[])
        for entry in BUILTIN.values():
            self._add(entry)
        if values:
            self.update(**values)

    # -- reading

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that are no attribute: options of add-ons are attributes too, once registered.
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(self._unknown(name))

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Names of all options, those of add-ons included, in the order they were registered."""
        return list(self._table)

    def items(self) -> list[tuple[str, Any]]:
        return [(name, self.__dict__[name]) for name in self._table]

    def entry(self, name: str) -> Option:
        """All that is known about an option. Raises OptionsError if there is none of that name."""
        try:
            return self._table[name]
        except KeyError:
            raise UnknownOption(self._unknown(name)) from None

    def default(self, name: str) -> Any:
        return self.entry(name).default

    def help(self, name: str) -> str:
        return self.entry(name).help

    def typespec(self, name: str) -> Any:
        """The type as it was registered, such as `bool` or `str | None`."""
        return self.entry(name).typespec

    def choices(self, name: str) -> tuple[str, ...] | None:
        return self.entry(name).choices

    def source(self, name: str) -> Source:
        """Where the present value came from."""
        self.entry(name)
        return self._sources[name]

    def is_default(self, name: str) -> bool:
        """True if the value equals the default, wherever it came from."""
        return bool(self.__dict__[name] == self.default(name))

    def size(self, name: str) -> int | None:
        """Bytes of an option such as body_size_limit; None = no limit. Parsed once, when the value was set."""
        try:
            return self._sizes[name]
        except KeyError:
            raise OptionsError(f"{name} is not a size") from None

    def path(self, name: str) -> Path | None:
        """A str option as a path with `~` expanded; None if it is unset."""
        value = self.__dict__[self.entry(name).name]
        return expanded(value, name) if value else None

    @property
    def bind_host(self) -> str:
        """Host for modes that name none. Nobody has said how to listen: loopback, so that `lockgate run` opens no proxy
        to the network.
        """
        if self.listen_host or self._sources["mode"] is not DEFAULT:
            return self.listen_host
        return "127.0.0.1"

    def has_changed(self, name: str) -> bool:
        """Whether the value is another than the default."""
        return not self.is_default(self.entry(name).name)

    # -- changing

    def __setattr__(self, name: str, value: Any) -> None:
        self.update(**{name: value})

    def update(self, **values: Any) -> None:
        """Set several options at once. Raises OptionsError, with nothing changed, on a bad name or value or if a
        subscriber refuses.
        """
        self.apply({name: (value, RUN_TIME) for name, value in values.items()})

    def update_known(self, **values: Any) -> dict[str, Any]:
        """`update` with the names that are known; the others are returned."""
        self.update(**{name: value for name, value in values.items() if name in self._table})
        return {name: value for name, value in values.items() if name not in self._table}

    def update_defer(self, **values: Any) -> None:
        """`update`, and what is not known yet is kept for the add-on that may register it."""
        for name, value in self.update_known(**values).items():
            self.defer(name, value=value)

    def set(self, *specs: str, source: Source = RUN_TIME) -> None:
        """Set from texts `name=value` (the grammar of `--set`). A name given several times makes a list.

        A name not known yet is kept for the add-on that may register it; one of mitmproxy's that this release has not
        got is refused.
        Raises OptionsError, with nothing changed.
        """
        raw: dict[str, list[str | None]] = {}
        for spec in specs:
            name, equals, text = spec.partition("=")
            raw.setdefault(name.strip(), []).append(text if equals else None)
        values: dict[str, tuple[Any, Source]] = {}
        unknown: dict[str, list[str | None]] = {}
        for name, texts in raw.items():
            if name in self._table:
                values[name] = (self._read(self._table[name], texts, source), source)
            else:
                self.refuse_not_yet(name, source)
                unknown[name] = texts
        self.apply(values)
        for name, texts in unknown.items():
            self.defer(name, texts, source=source)

    def defer(
        self, name: str, raw: list[str | None] | None = None, *, value: Any = None, source: Source = RUN_TIME
    ) -> None:
        """Keep a value (texts, or `value` if `raw` is None) for an option that an add-on may register. The higher
        source wins.
        """
        self.refuse_not_yet(name, source)
        kept = self._deferred.get(name)
        if kept is None or kept.source.rank <= source.rank:
            self._deferred[name] = Deferred(raw, value, source)

    def apply_deferred(self) -> None:
        """At the end of start-up: raises OptionsError for a deferred name that nobody has registered, with the nearest
        one.
        """
        for name, deferred in self._deferred.items():
            self.refuse_unknown(name, deferred.source)

    def reset(self, *names: str) -> None:
        """Put options back to their defaults. Raises OptionsError."""
        self.apply({name: (self.default(name), DEFAULT) for name in names})

    def apply(self, values: Mapping[str, tuple[Any, Source]]) -> None:
        """Set options to values with their sources, all or none. Raises OptionsError; see `update`."""
        accepted = {name: self._accept(self.entry(name), value, source) for name, (value, source) in values.items()}
        before = {name: (self.__dict__[name], self._sources[name]) for name in accepted}
        updated = frozenset(name for name, value in accepted.items() if value != before[name][0])
        for name, value in accepted.items():
            self._keep(name, value, values[name][1])
        try:
            self._tell(updated)
        except Exception:
            for name, (value, source) in before.items():
                self._keep(name, value, source)
            # Whoever had already taken the new values must see the old ones again.
            self._tell(updated, quietly=True)
            raise

    def add_option(
        self, name: str, typespec: Any, default: Any, help: str, choices: Iterable[str] | None = None
    ) -> None:
        """Register an option of an add-on. Its first value is a deferred one if there is one (nobody is told: nobody
        knew the name).

        Registering the same again (a reloaded script) keeps the value if the new type accepts it. Raises OptionsError
        if the name is taken by a
        built-in option, is not an identifier, or if default or deferred value do not fit.
        """
        if not name.isidentifier() or name.startswith("_") or name in BUILTIN or hasattr(type(self), name):
            raise OptionsError(
                f"{name}: an option cannot have this name{' (it is a built-in one)' if name in BUILTIN else ''}"
            )
        self._add(Option(name, typespec, default, help, tuple(choices) if choices is not None else None))

    def is_builtin(self, name: str, typespec: Any, default: Any) -> bool:
        """Whether there is a built-in option of this name, type and default."""
        entry = BUILTIN.get(name)
        try:
            return entry is not None and self._types[name] == Typespec(typespec) and entry.default == _plain(default)
        except TypeError:
            return False

    def remove_option(self, name: str) -> None:
        """Take out an option that an add-on has registered. A value that was set comes back with it, if the type is
        the same then. Raises OptionsError for a built-in one.
        """
        if name in BUILTIN:
            raise OptionsError(f"{name} is a built-in option")
        entry = self.entry(name)
        source = self._sources.pop(name)
        typespec = self._types.pop(name)
        if source is not DEFAULT:
            self._gone[name] = typespec, self.__dict__[name], source
        self._sizes.pop(name, None)
        del self._table[entry.name], self.__dict__[name]

    def subscribe(self, fn: Subscriber, names: Iterable[str] | None = None) -> Callable[[], None]:
        """Call `fn(options, updated names)` after every change (or only of `names`). Returns a function that ends it.

        `fn` may raise OptionsError to refuse the change.
        """
        entry = (fn, None if names is None else frozenset(names))
        self._subscribers.append(entry)
        return lambda: self._subscribers.remove(entry) if entry in self._subscribers else None

    def refuse_not_yet(self, name: str, source: Source) -> None:
        """Raises OptionsError for a name that mitmproxy has and this release has not."""
        if name in NOT_YET and name not in self._table:
            raise UnknownOption(_at(source) + self._unknown(name))

    def refuse_unknown(self, name: str, source: Source) -> None:
        """Raises OptionsError for a name that nobody has registered, with the nearest one."""
        if name not in self._table:
            raise UnknownOption(_at(source) + self._unknown(name))

    # -- inside

    def _add(self, entry: Option) -> None:
        try:
            typespec = Typespec(entry.typespec)
        except TypeError as error:
            raise OptionsError(f"{entry.name}: {error}") from None
        known = entry.name in self._table
        types = self._types
        before = types.get(entry.name)
        types[entry.name] = typespec
        try:
            default = self._accept(entry, entry.default, DEFAULT)
            deferred = self._deferred.get(entry.name)
            value, source = default, DEFAULT
            gone = self._gone.pop(entry.name, None)
            if known and self._sources[entry.name] is not DEFAULT and before == typespec:
                value, source = self.__dict__[entry.name], self._sources[entry.name]
            elif gone is not None and gone[0] == typespec:
                value, source = gone[1:]
            elif deferred is not None:
                value, source = deferred.value, deferred.source
                if deferred.raw is not None:
                    value = self._read(entry, deferred.raw, source, default)
            value = self._accept(entry, value, source)
        except OptionsError:
            if before is None:
                del types[entry.name]
            else:
                types[entry.name] = before
            raise
        self._table[entry.name] = entry
        self._deferred.pop(entry.name, None)
        self._keep(entry.name, value, source)

    def _keep(self, name: str, value: Any, source: Source) -> None:
        self.__dict__[name] = value
        self._sources[name] = source
        if self._table[name].kind == "size":
            self._sizes[name] = None if value is None else parse_size(value)

    def _read(self, entry: Option, texts: list[str | None], source: Source, current: Any = None) -> Any:
        if current is None:
            current = self.__dict__.get(entry.name)
        try:
            return self._types[entry.name].read(texts, current)
        except TypeError:
            raise self._ill_typed(entry, texts[-1], source) from None

    def _accept(self, entry: Option, value: Any, source: Source) -> Any:
        typespec = self._types[entry.name]
        if entry.kind == "size" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        try:
            value = typespec.accept(value)
        except TypeError:
            raise self._ill_typed(entry, value, source) from None
        if entry.choices is not None and value is not None:
            for item in value if typespec.sequence else (value,):
                if item not in entry.choices:
                    listed = ", ".join(entry.choices) + _nearest(str(item), entry.choices)
                    raise OptionsError(f"{_at(source)}{entry.name}: {item!r} is not one of {listed}")
        try:
            if entry.kind == "size" and value is not None:
                parse_size(value)
            if entry.check is not None:
                entry.check(value)
        except ValueError as error:
            raise OptionsError(f"{_at(source)}{entry.name}: {error}") from None
        return value

    def _ill_typed(self, entry: Option, value: Any, source: Source) -> IllTypedOption:
        example = entry.example or (entry.choices[0] if entry.choices else "")
        if not example and entry.default not in (None, True, False, "", ()):
            example = str(entry.default)
        got = "but got no value" if value is None else f"not {value!r}"
        return IllTypedOption(f"{_at(source)}{entry.name}: expected {self._types[entry.name].expected(example)}, {got}")

    def _unknown(self, name: str) -> str:
        if name in NOT_YET:
            return f"{name}: not yet in lockgate {__version__}"
        return f"unknown option {name!r}{_nearest(name, self._table) or '; `lockgate options` lists all'}"

    def _tell(self, updated: frozenset[str], quietly: bool = False) -> None:
        if not updated:
            return
        for fn, names in tuple(self._subscribers):
            if names is None or names & updated:
                try:
                    fn(self, updated)
                except OptionsError:
                    if not quietly:
                        raise


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _at(source: Source) -> str:
    return f"{source.where}: " if source.rank in (1, 2) else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


OptManager = Options
"""The older name."""
