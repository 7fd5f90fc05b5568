"""Types an option may have, and reading its values: from text (`--set`), from config.yaml and from Python."""

from __future__ import annotations

import collections.abc
import types
import typing
from typing import Any

_NAMES: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_EXAMPLES: dict[type, str] = {bool: "true", int: "10", float: "1.5", str: "text"}


class Texts(tuple[str, ...]):
    """The value of a sequence. It cannot be changed in place, since nobody would hear of it, but scripts that take it
    for a list may compare it with one and add one.
    """

    __slots__ = ()
    __hash__ = tuple.__hash__

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, tuple(other) if isinstance(other, list) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __add__(self, other: Any) -> Any:
        return [*self, *other] if isinstance(other, list) else tuple.__add__(self, other)

    def __radd__(self, other: Any) -> Any:
        return [*other, *self] if isinstance(other, list) else NotImplemented

    def copy(self) -> list[str]:
        return list(self)


class Typespec:
    """bool, int, float or str; or None too (`optional`); or a sequence of str (`sequence`, kept as `Texts`)."""

    __slots__ = ("base", "optional", "sequence")

    def __init__(self, typespec: Any) -> None:
        """Raises TypeError for a type that options cannot have."""
        self.optional = self.sequence = False
        origin, args = typing.get_origin(typespec), typing.get_args(typespec)
        if origin in (typing.Union, types.UnionType) and len(args) == 2 and type(None) in args:
            self.optional = True
            typespec = args[0] if args[1] is type(None) else args[1]
        elif origin in (collections.abc.Sequence, list, tuple) and args[:1] == (str,):
            self.sequence = True
            typespec = str
        if typespec not in _NAMES:
            raise TypeError(f"{typespec!r}: options are bool, int, float, str, an Optional of these, or Sequence[str]")
        self.base: type = typespec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Typespec) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return "list of str" if self.sequence else self.base.__name__ + (" or none" if self.optional else "")

    def expected(self, example: str = "") -> str:
        """For messages: what is expected, with an example."""
        if self.sequence:
            return f"a list of texts, such as [{example or 'text'}]"
        return f"{_NAMES[self.base]}{', or none' if self.optional else ''}, such as {example or _EXAMPLES[self.base]}"

    def accept(self, value: Any) -> Any:
        """`value` as it is kept. Raises TypeError if it is of another type (a bool is no int; an int is a float)."""
        if value is None and self.optional:
            return None
        if self.sequence:
            if isinstance(value, str) or not isinstance(value, collections.abc.Sequence):
                raise TypeError
            if not all(isinstance(item, str) for item in value):
                raise TypeError
            return Texts(value)
        if self.base is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, self.base) or (isinstance(value, bool) and self.base is not bool):
            raise TypeError
        # Subclasses (YAML's scalars with layout, StrEnum) would leak into what add-ons see.
        return value if value is True or value is False else self.base(value)

    def read(self, raw: list[str | None], current: Any) -> Any:
        """The value that `--set` gives with `raw`: one entry for each time the name was given, None where it had no
        `=`.

        Alone, a name sets a bool, clears an Optional and empties a sequence; a bool may be `toggle`. Raises TypeError.
        """
        if self.sequence:
            return tuple(text for text in raw if text is not None)
        text = raw[-1]
        if text is None or text == "":
            if self.base is bool:
                return True
            if self.optional:
                return None
            if text is None or self.base is not str:
                raise TypeError
            return ""
        if self.base is bool:
            try:
                return {"true": True, "false": False, "toggle": not current}[text.lower()]
            except KeyError:
                raise TypeError from None
        if self.base is str:
            return text
        try:
            return self.base(text)
        except ValueError:
            raise TypeError from None
