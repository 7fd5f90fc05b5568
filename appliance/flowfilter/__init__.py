"""Flow filters: ``~m post & !~c 200``. A text is parsed to a tree once, and the tree compiled to a function of a flow.

`help` lists the operators. Precedence: ``!``, then ``&``, then ``|``; expressions one after the other, outside of
parentheses, are joined by an ``&`` that binds looser than both. A word without an operator is a regular expression for
the URL; it ends at a space and at ``( ) ~ ' "``, so that ``a|b`` is one. Regular expressions (Python's) do not
distinguish upper and lower case, unless LOCKGATE_CASE_SENSITIVE_FILTERS=1 is in the environment.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from appliance.flowfilter.operators import OPERATORS
from appliance.flowfilter.parser import parse_tree
from appliance.flowfilter.tree import Node

if TYPE_CHECKING:
    from appliance.flow import Flow

__all__ = ["FlowFilter", "Node", "TFilter", "help", "match", "match_all", "parse"]


class TFilter(Protocol):
    """A function of a flow that remembers the text it was made of."""

    pattern: str

    def __call__(self, flow: Flow) -> bool: ...


class FlowFilter:
    """What `parse` gives. `tree` is for who translates it; `heads` says whether the heads of messages are enough."""

    __slots__ = ("match", "pattern", "tree")

    def __init__(self, pattern: str, tree: Node) -> None:
        self.pattern = pattern
        self.tree = tree
        self.match = tree.compile()

    def __call__(self, flow: Flow) -> bool:
        return self.match(flow)

    @property
    def heads(self) -> bool:
        """Whether it can be evaluated before the bodies are there."""
        return not self.tree.needs_body

    def __str__(self) -> str:
        return str(self.tree)

    def __repr__(self) -> str:
        return f"FlowFilter({self.pattern!r})"

    def dump(self, indent: int = 0, fp: TextIO | None = None) -> None:
        """Print the tree, a node a line."""
        print("\n".join(self.tree.lines(indent)), file=fp or sys.stdout)


def parse(text: str) -> FlowFilter:
    """The filter of `text`. Raises ValueError for one that is empty or cannot be read, saying where."""
    return FlowFilter(text, parse_tree(text))


def match(flt: str | TFilter | None, flow: Flow) -> bool:
    """Does `flow` match? Everything matches where there is no filter. Raises ValueError like `parse`."""
    if isinstance(flt, str):
        flt = parse(flt)
    return flt is None or flt(flow)


match_all: FlowFilter = parse("~all")

#: Pairs of an operator and what it matches, for people.
help: list[tuple[str, str]] = [
    *sorted((f"~{op.code}{' ' + op.argument if op.argument else ''}", op.help) for op in OPERATORS.values()),
    ("!", "not"),
    ("&", "and"),
    ("|", "or"),
    ("(...)", "grouping"),
]
