"""From the text of a filter to its tree: recursive descent, one pass."""

from __future__ import annotations

import re
from typing import Final, NoReturn

from appliance.flowfilter.operators import NAKED, OPERATORS
from appliance.flowfilter.tree import And, Node, Not, Or, Test

MAX_LENGTH: Final = 64 << 10
MAX_DEPTH: Final = 100
_SPACE = re.compile(r"\s*")
_CODE = re.compile(r"~(\w*)")
_WORD = re.compile(r"[^\s()~'\"]+")
_QUOTED = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,9}")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def parse_tree(text: str) -> Node:
    """Raises ValueError, with the text and a mark below the place."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a filter of {len(text)} characters is over the bound of {MAX_LENGTH}")
    parser = _Parser(text)
    parts = []
    while not parser.at_end():
        parts.append(parser.alternatives(0))
    if not parts:
        raise ValueError("the filter is empty; ~all matches everything")
    return parts[0] if len(parts) == 1 else And(tuple(parts))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        shown = self.text.translate(str.maketrans("\n\r\t\f\v", "     "))
        start = max(0, at - 60)
        raise ValueError(f"filter: {why} at character {at + 1}\n  {shown[start : at + 40]}\n  {' ' * (at - start)}^")

    def skip(self) -> str:
        """The next character that is no space; "" at the end."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def at_end(self) -> bool:
        return not self.skip()

    def alternatives(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self.fail("parentheses and ! are nested too deep")
        parts = [self.all_of(depth)]
        while self.skip() == "|":
            self.at += 1
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def all_of(self, depth: int) -> Node:
        parts = [self.operand(depth)]
        while self.skip() == "&":
            self.at += 1
            parts.append(self.operand(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def operand(self, depth: int) -> Node:
        char = self.skip()
        if char == "!":
            if depth > MAX_DEPTH:
                self.fail("parentheses and ! are nested too deep")
            self.at += 1
            return Not(self.operand(depth + 1))
        if char == "(":
            opened = self.at
            self.at += 1
            inside = self.alternatives(depth + 1)
            if (found := self.skip()) != ")":
                if not found:
                    self.fail("this parenthesis is not closed", opened)
                self.fail("& or | is missing (expressions side by side are joined outside of parentheses only)")
            self.at += 1
            return inside
        if char == "~":
            return self.operator()
        if not char or char in ")&|":
            self.fail("an expression is missing")
        return self.test(NAKED, True, self.argument())

    def operator(self) -> Node:
        begin = self.at
        found = _CODE.match(self.text, begin)
        assert found is not None
        code = found[1]
        operator = OPERATORS.get(code)
        if operator is None:
            self.fail(f"there is no operator ~{code}", begin)
        self.at = found.end()
        following = self.text[self.at : self.at + 1]
        if operator.argument is None:
            if following and not (following.isspace() or following in "()~'\""):
                self.fail(f"a space is missing after ~{code}")
            return Test(operator)
        if operator.argument == "INT":
            self.skip()
            number = _NUMBER.match(self.text, self.at)
            if number is None:
                self.fail(f"~{code} needs a number")
            self.at = number.end()
            return Test(operator, int(number[0]))
        if not self.skip() or self.text[self.at] in "()~":
            self.fail(f"~{code} needs a regular expression")
        return self.test(operator, False, self.argument())

    def argument(self) -> tuple[str, int]:
        begin = self.at
        if self.text[begin] in "'\"":
            found = _QUOTED.match(self.text, begin)
            if found is None:
                self.fail("this quote is not closed")
            self.at = found.end()
            return _unescaped(found[2]), begin
        found = _WORD.match(self.text, begin)
        assert found is not None
        self.at = found.end()
        return found[0], begin

    def test(self, operator: object, naked: bool, argument: tuple[str, int]) -> Node:
        from appliance.flowfilter.operators import Operator

        assert isinstance(operator, Operator)
        made = Test(operator, argument[0], naked)
        try:
            made.compile()
        except re.error as error:
            self.fail(f"no regular expression ({error})", argument[1])
        return made


def _unescaped(text: str) -> str:
    r"""In quotes ``\`` makes the next character mean itself; ``\t \n \r \f`` are what they are in Python."""
    return _ESCAPED.sub(lambda found: _CONTROL.get(found[1], found[1]), text)
