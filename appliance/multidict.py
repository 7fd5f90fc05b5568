"""Ordered mappings with repeated keys, kept as one tuple of pairs."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    MutableMapping,
    Sequence,
    ValuesView,
)
from typing import Any, Self, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class MultiDict(MutableMapping[K, V]):
    """A mapping over `fields`, a tuple of (key, value) pairs in their order; keys may repeat.

    Reading a key gives its first value, assigning replaces the first occurrence in place and drops the others.
    Subclasses choose how keys compare, how repeated values fold into one, and how pairs are stored.
    """

    __slots__ = ("fields",)
    fields: tuple[tuple[Any, Any], ...]

    def __init__(self, fields: Iterable[tuple[K, V]] = ()) -> None:
        self.fields = tuple((key, value) for key, value in fields)

    # How pairs are compared, folded, stored and shown.

    @staticmethod
    def _fold_key(key: Any) -> Any:
        return key

    @staticmethod
    def _fold_values(values: Sequence[Any]) -> Any:
        return values[0]

    @staticmethod
    def _store(item: Any) -> Any:
        return item

    @staticmethod
    def _show(item: Any) -> Any:
        return item

    # Mapping

    def __getitem__(self, key: K) -> V:
        values = self.get_all(key)
        if not values:
            raise KeyError(key)
        value: V = self._fold_values(values)
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self.set_all(key, (value,))

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self.set_all(key, ())

    def __contains__(self, key: object) -> bool:
        wanted = self._fold_key(key)
        return any(self._fold_key(k) == wanted for k, _ in self.fields)

    def _firsts(self) -> Iterator[K]:
        seen = set()
        for key, _ in self.fields:
            folded = self._fold_key(key)
            if folded not in seen:
                seen.add(folded)
                yield self._show(key)

    def __iter__(self) -> Iterator[K]:
        return self._firsts()

    def __len__(self) -> int:
        """How many distinct keys there are."""
        return len({self._fold_key(key) for key, _ in self.fields})

    def __eq__(self, other: object) -> bool:
        if isinstance(other, MultiDict):
            return tuple(self.fields) == tuple(other.fields)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}[{', '.join(repr(field) for field in self.fields)}]"

    # Repeated keys

    def get_all(self, key: K) -> list[V]:
        """Every value of `key`, in order; empty when there is none."""
        wanted = self._fold_key(key)
        return [self._show(v) for k, v in self.fields if self._fold_key(k) == wanted]

    def set_all(self, key: K, values: Iterable[V]) -> None:
        """Give `key` exactly `values`: the present places and spellings are used first, the rest is appended."""
        wanted, fields = self._fold_key(key), []
        left = [self._store(value) for value in values]
        left.reverse()
        for field in self.fields:
            if self._fold_key(field[0]) != wanted:
                fields.append(field)
            elif left:
                fields.append((field[0], left.pop()))
        stored = self._store(key)
        fields += [(stored, value) for value in reversed(left)]
        self.fields = tuple(fields)

    def add(self, key: K, value: V) -> None:
        """Append a pair, whether or not the key is there already."""
        self.fields = (*self.fields, (self._store(key), self._store(value)))

    def insert(self, index: int, key: K, value: V) -> None:
        """Insert a pair before position `index`, as list.insert does."""
        fields = list(self.fields)
        fields.insert(index, (self._store(key), self._store(value)))
        self.fields = tuple(fields)

    def keys(self, multi: bool = False) -> Collection[K]:  # type: ignore[override]
        return [self._show(key) for key, _ in self.fields] if multi else KeysView(self)

    def values(self, multi: bool = False) -> Collection[V]:  # type: ignore[override]
        return [self._show(value) for _, value in self.fields] if multi else ValuesView(self)

    def items(self, multi: bool = False) -> Collection[tuple[K, V]]:  # type: ignore[override]
        """The pairs; with `multi` each field as it stands, else every key once with its folded value."""
        if multi:
            return [(self._show(key), self._show(value)) for key, value in self.fields]
        return ItemsView(self)

    def clear(self) -> None:
        self.fields = ()

    # Copies and state

    def copy(self) -> Self:
        return type(self).from_state(self.fields)

    def get_state(self) -> tuple[tuple[Any, Any], ...]:
        return tuple(self.fields)

    def set_state(self, state: Iterable[Iterable[Any]]) -> None:
        self.fields = tuple((key, value) for key, value in state)

    @classmethod
    def from_state(cls, state: Iterable[Iterable[Any]]) -> Self:
        new = cls.__new__(cls)
        new.set_state(state)
        return new


class MultiDictView(MultiDict[K, V]):
    """A MultiDict that lives elsewhere (in a query, a header, a body): every read and change goes there."""

    __slots__ = ("_read", "_write")

    def __init__(
        self,
        read: Callable[[], Iterable[tuple[K, V]]],
        write: Callable[[tuple[tuple[K, V], ...]], None],
    ) -> None:
        self._read = read
        self._write = write

    @property
    def fields(self) -> tuple[tuple[Any, Any], ...]:
        return tuple(self._read())

    @fields.setter
    def fields(self, fields: Iterable[tuple[Any, Any]]) -> None:
        self._write(tuple(fields))

    def copy(self) -> MultiDict[K, V]:  # type: ignore[override]
        """The present pairs, no longer tied to their source."""
        return MultiDict(self.fields)
