"""Numbers with names, both ways; what has no name reads PREFIX123 (RFC 3597 §5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def named(
    prefix: str, names: Mapping[str, int], largest: int = 0xFFFF
) -> tuple[Callable[[int], str], Callable[[str], int]]:
    """`to_str` and `from_str` of one table. `from_str` takes any case, PREFIX123 and mitmproxy's PREFIX(123)."""
    by_number = {number: name for name, number in reversed(list(names.items()))}
    other = re.compile(rf"{prefix}(?:(\d+)|\((\d+)\))", re.IGNORECASE | re.ASCII)

    def to_str(number: int) -> str:
        return by_number.get(number) or f"{prefix}{number}"

    def from_str(text: str) -> int:
        """:raises ValueError: there is no such name."""
        found = names.get(text.upper())
        if found is None and (match := other.fullmatch(text)):
            found = int(match[1] or match[2])
        if found is None or found > largest:
            raise ValueError(f"{text!r} is not one of {', '.join(names)}, nor {prefix}NUMBER")
        return found

    return to_str, from_str
