"""What was decided about a connection, and on what evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["decrypt", "pass", "block"]
When = Literal["accept", "bytes", "hello", "certificate", "hook", "learned"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one connection. Every connection has one and it is recorded.

    action: `decrypt` (layers see the plain bytes), `pass` (untouched, spliced), `block` (closed).
    reason: one line for a person. rule: the option or rule that decided, when one did. at: the evidence it rested on.
    """

    action: Action
    reason: str
    rule: str | None = None
    at: When = "bytes"

    def __str__(self) -> str:
        return f"{self.action} ({self.reason})"


@dataclass(frozen=True, slots=True)
class NeedMore:
    """No decision yet: at least `size` bytes should lie in the look-ahead before asking again."""

    size: int = 1
