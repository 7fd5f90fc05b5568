"""The nodes of a filter. Each compiles to a function of a flow that no longer looks at the tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.flowfilter.operators import Operator

Match = Callable[["Flow"], bool]


class Node:
    """A part of a filter; immutable."""

    needs_body: bool = False

    def compile(self) -> Match:
        raise NotImplementedError

    def lines(self, indent: int = 0) -> Iterator[str]:
        """The tree as text, each level indented by two more."""
        raise NotImplementedError


@dataclass(frozen=True)
class Test(Node):
    """One operator with its argument (None: it takes none); `naked`: it was written without the operator."""

    operator: Operator
    argument: str | int | None = None
    naked: bool = False
    __test__: ClassVar[bool] = False

    @property
    def needs_body(self) -> bool:  # type: ignore[override]
        return self.operator.needs_body

    def compile(self) -> Match:
        return self.operator.compile(self.argument)

    def __str__(self) -> str:
        if self.argument is None:
            return f"~{self.operator.code}"
        return f"~{self.operator.code} {quoted(str(self.argument))}"

    def lines(self, indent: int = 0) -> Iterator[str]:
        shown = "" if self.argument is None else f": {self.argument}"
        yield f"{'  ' * indent}~{self.operator.code} ({self.operator.help}){shown}"


@dataclass(frozen=True)
class Not(Node):
    operand: Node

    @property
    def needs_body(self) -> bool:  # type: ignore[override]
        return self.operand.needs_body

    def compile(self) -> Match:
        match = self.operand.compile()
        return lambda flow: not match(flow)

    def __str__(self) -> str:
        return f"!{_grouped(self.operand)}"

    def lines(self, indent: int = 0) -> Iterator[str]:
        yield "  " * indent + "not"
        yield from self.operand.lines(indent + 1)


@dataclass(frozen=True)
class _Several(Node):
    operands: tuple[Node, ...]
    sign: ClassVar[str] = ""
    word: ClassVar[str] = ""

    @property
    def needs_body(self) -> bool:  # type: ignore[override]
        return any(operand.needs_body for operand in self.operands)

    def __str__(self) -> str:
        return f" {self.sign} ".join(map(_grouped, self.operands))

    def lines(self, indent: int = 0) -> Iterator[str]:
        yield "  " * indent + self.word
        for operand in self.operands:
            yield from operand.lines(indent + 1)


class And(_Several):
    sign, word = "&", "and"

    def compile(self) -> Match:
        matches = tuple(operand.compile() for operand in self.operands)
        if len(matches) == 2:
            first, second = matches
            return lambda flow: first(flow) and second(flow)
        return lambda flow: all(match(flow) for match in matches)


class Or(_Several):
    sign, word = "|", "or"

    def compile(self) -> Match:
        matches = tuple(operand.compile() for operand in self.operands)
        if len(matches) == 2:
            first, second = matches
            return lambda flow: first(flow) or second(flow)
        return lambda flow: any(match(flow) for match in matches)


def _grouped(node: Node) -> str:
    return f"({node})" if isinstance(node, _Several) else str(node)


def quoted(text: str) -> str:
    """As an argument can be written: bare where that reads the same, else in quotes."""
    if text and not any(c.isspace() or c in "()~'\"" for c in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
