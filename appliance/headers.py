"""Header (and trailer) fields: bytes as they came, str where they are read and written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypeVar, overload

from .multidict import MultiDict

T = TypeVar("T")
Field = tuple[bytes, bytes]
ContentType = tuple[str, str, dict[str, str]]

# RFC 9110 §5.6.2, §5.6.4, §5.6.6; possessive, so hostile values cost linear time.
_PARAMETER = re.compile(r';[ \t]*+([^=;\s"]++)[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^;]*+))')
_ESCAPE = re.compile(r"\\(.)")
_SPECIAL = re.compile(r'(["\\])')
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def to_bytes(text: str | bytes) -> bytes:
    """UTF-8, where undecodable bytes read earlier come back as they were; TypeError for anything but text."""
    if isinstance(text, str):
        return text.encode("utf-8", "surrogateescape")
    if isinstance(text, bytes):
        return text
    raise TypeError(f"expected str or bytes, not {type(text).__name__}")


def to_str(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


class Headers(MultiDict[str, str]):
    """Field lines in their order and spelling (RFC 9110 §5); names compare without case.

    `fields` is the wire view: a tuple of (name, value) pairs of bytes, which may be replaced as a whole. Names and
    values are str elsewhere, and bytes are accepted. `headers[name]` folds repeated fields with ", " (not meant for
    Set-Cookie: use get_all); `headers[name] = value` keeps the place and the spelling of the first such field.
    """

    __slots__ = ("_named", "_names")
    fields: tuple[Field, ...]
    _named: tuple[Field, ...] | None
    _names: tuple[bytes, ...]

    def __init__(self, fields: Iterable[Field] = (), **named: str | bytes) -> None:
        """`Headers([(b"Host", b"a.example")], content_type="text/plain")`; `_` in a keyword stands for `-`.

        Raises TypeError when a field is not bytes.
        """
        given: list[tuple[Any, Any]] = [(name, value) for name, value in fields]
        for name, value in given:
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise TypeError(f"header fields must be bytes, not {(name, value)!r}")
        self.fields = tuple(given)
        self._named = None
        for keyword, text in named.items():
            self[keyword.replace("_", "-")] = text

    @classmethod
    def trusted(cls, fields: tuple[Field, ...], names: tuple[bytes, ...] | None = None) -> Self:
        """Take over a tuple that a parser made, and the lower-case names if it has them: neither copied nor checked."""
        new = cls.__new__(cls)
        new.fields = fields
        if names is None:
            new._named = None
        else:
            new._named = fields
            new._names = names
        return new

    def names(self) -> tuple[bytes, ...]:
        """The field names in lower case, one for each of `fields`. Do not change it: it is kept while `fields` is."""
        fields = self.fields
        if self._named is not fields:
            self._names = tuple([name.lower() for name, _ in fields])
            self._named = fields
        return self._names

    @staticmethod
    def _fold_key(key: Any) -> bytes:
        return to_bytes(key).lower()

    @staticmethod
    def _fold_values(values: Sequence[str]) -> str:
        return ", ".join(values)

    @staticmethod
    def _store(item: Any) -> bytes:
        return to_bytes(item)

    def set_state(self, state: Iterable[Iterable[Any]]) -> None:
        super().set_state(state)
        self._named = None

    @staticmethod
    def _show(item: Any) -> str:
        return to_str(item)

    # The hot ones, without the generic detours.

    @overload
    def get(self, name: str | bytes, default: None = None) -> str | None: ...
    @overload
    def get(self, name: str | bytes, default: str) -> str: ...
    @overload
    def get(self, name: str | bytes, default: T) -> str | T: ...
    def get(self, name: str | bytes, default: object = None) -> object:
        raw = self.raw(name)
        return default if raw is None else raw.decode("utf-8", "surrogateescape")

    def raw(self, name: str | bytes) -> bytes | None:
        """The folded value as bytes, None when there is no such field."""
        key = (name.encode("utf-8", "surrogateescape") if isinstance(name, str) else to_bytes(name)).lower()
        names = self.names()
        if key not in names:
            return None
        at = names.index(key)
        found = self.fields[at][1]
        if names.count(key) > 1:
            for k, (_, v) in zip(names[at + 1 :], self.fields[at + 1 :], strict=True):
                if k == key:
                    found += b", " + v
        return found

    def __getitem__(self, name: str | bytes) -> str:
        raw = self.raw(name)
        if raw is None:
            raise KeyError(name)
        return raw.decode("utf-8", "surrogateescape")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, (str, bytes)) and self.raw(name) is not None

    def __setitem__(self, name: str | bytes, value: str | bytes) -> None:
        raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else to_bytes(name)
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else to_bytes(value)
        key = raw.lower()
        names = self.names()
        fields = self.fields
        if key not in names:
            self.fields = self._named = (*fields, (raw, data))
            self._names = (*names, key)
        elif names.count(key) > 1:
            self.set_all(raw, (data,))
        else:
            at = names.index(key)
            self.fields = self._named = (*fields[:at], (fields[at][0], data), *fields[at + 1 :])

    def __delitem__(self, name: str | bytes) -> None:
        key = to_bytes(name).lower()
        left = tuple(field for field in self.fields if field[0].lower() != key)
        if len(left) == len(self.fields):
            raise KeyError(name)
        self.fields = left

    def get_all(self, name: str | bytes) -> list[str]:
        key = to_bytes(name).lower()
        return [to_str(v) for k, v in self.fields if k.lower() == key]

    def set_all(self, name: str | bytes, values: Iterable[str | bytes]) -> None:
        super().set_all(name, values)  # type: ignore[arg-type]

    def add(self, name: str | bytes, value: str | bytes) -> None:
        super().add(name, value)  # type: ignore[arg-type]

    def insert(self, index: int, name: str | bytes, value: str | bytes) -> None:
        super().insert(index, name, value)  # type: ignore[arg-type]

    def __bytes__(self) -> bytes:
        """The field lines as on the wire, each with its CRLF; without the empty line."""
        return b"".join([b"%b: %b\r\n" % field for field in self.fields])


def parse_content_type(value: str) -> ContentType | None:
    """`text/html; charset=utf-8` -> ("text", "html", {"charset": "utf-8"}); None when there is no type/subtype.

    Type and parameter names are lower-cased; parameters without "=" are left out, quotes are taken off.
    """
    media, _, rest = value.partition(";")
    main, slash, sub = media.strip().lower().partition("/")
    if not slash:
        return None
    parameters = {}
    for name, quoted, bare in _PARAMETER.findall(";" + rest):
        parameters[name.lower()] = _ESCAPE.sub(r"\1", quoted) if quoted else bare.strip()
    return main, sub, parameters


def infer_content_encoding(content_type: str, content: bytes = b"") -> str:
    """The character set that a body is read in: `charset.infer` under its older name."""
    from .charset import infer

    return infer(content_type, content)


def assemble_content_type(main: str, sub: str, parameters: dict[str, str]) -> str:
    """The inverse of parse_content_type; values that are not tokens are quoted."""
    written = "".join(
        f"; {name}={text}" if _TOKEN.fullmatch(text) else '; {}="{}"'.format(name, _SPECIAL.sub(r"\\\1", text))
        for name, text in parameters.items()
    )
    return f"{main}/{sub}{written}"
