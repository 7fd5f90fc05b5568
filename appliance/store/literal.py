"""What every match of a regular expression contains: a text with gaps, for which SQLite can look by itself.

A function of ours that is called for each row costs ten times as much as LIKE, so the expression is only asked about
rows that have this text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, Final, NamedTuple

_parser: Final = import_module("re._parser")
LEAST: Final = 2
"""Letters below which a text says too little."""


class Literal(NamedTuple):
    """atoms: characters, "" = any one. whole: a text that has it matches, apart from upper and lower case."""

    atoms: tuple[str, ...]
    whole: bool

    def like(self, begin: int = 0, end: int | None = None) -> str:
        """A part of it as LIKE has it, with a backslash for ESCAPE."""
        return "".join("\\" + a if a in ("_", "%", "\\") else a or "_" for a in self.atoms[begin:end])

    def pattern(self, begin: int = 0, end: int | None = None) -> str:
        """The same as a regular expression, to be compiled with IGNORECASE and DOTALL."""
        return "".join(re.escape(a) if a else "." for a in self.atoms[begin:end])


def literal(expression: str, flags: int) -> Literal | None:
    """The longest such text, None: there is none worth it. Raises re.error."""
    tree = _parser.parse(expression, flags)
    runs = [_stripped(run) for run in _runs(tree)]
    best = max(runs, key=_letters, default=())
    if _letters(best) < LEAST:
        return None
    return Literal(best, len(best) == len(tree) and all(str(op) in ("LITERAL", "ANY") for op, _ in tree)
                   and all(str(op) == "ANY" or value < 128 for op, value in tree))  # fmt: skip


def _letters(run: Iterable[str]) -> int:
    return sum(map(bool, run))


def _stripped(run: list[str]) -> tuple[str, ...]:
    """Without what is anything at its ends."""
    held = [at for at, atom in enumerate(run) if atom]
    return tuple(run[held[0] : held[-1] + 1]) if held else ()


def _runs(tree: Any) -> Iterator[list[str]]:
    """What stands in a row in it, or in a part that must be there."""
    run: list[str] = []
    for op, value in _flat(tree):
        kind = str(op)
        if kind == "LITERAL":
            # Other letters may be the same in lower case; an ASCII one may be that of a letter which is none.
            run.append(chr(value) if value < 128 else "")
        elif kind in ("ANY", "IN", "NOT_LITERAL", "CATEGORY"):
            run.append("")
        elif kind not in ("AT", "ASSERT", "ASSERT_NOT"):
            if kind.endswith("REPEAT") and value[0] > 0:
                yield from _runs(value[2])
            yield run
            run = []
    yield run


def _flat(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Groups that change no flags as if they were none."""
    for op, value in tree:
        if str(op) == "SUBPATTERN" and not value[1] and not value[2]:
            yield from _flat(value[3])
        elif str(op) == "ATOMIC_GROUP":
            yield from _flat(value)
        else:
            yield op, value
