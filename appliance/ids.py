"""Identifiers of flows and connections: 32 hexadecimal digits, unique in and across processes."""

from __future__ import annotations

import os
from itertools import count


class _Ids:
    """A random prefix a process and a counter: a tenth of the cost of a random UUID."""

    __slots__ = ("numbers", "prefix")

    def __init__(self) -> None:
        self.reseed()
        os.register_at_fork(after_in_child=self.reseed)  # a forked worker must not repeat its parent's sequence

    def reseed(self) -> None:
        self.prefix, self.numbers = os.urandom(6).hex(), count()

    def __call__(self) -> str:
        return "%s%020x" % (self.prefix, next(self.numbers))  # noqa: UP031 (half the cost of an f-string here)


new_id = _Ids()


def short_id(name: str) -> str:
    """What people type: the number alone of an id of ours, the beginning of any other. Not unique across processes."""
    number = name[12:].lstrip("0") or "0"
    return number if len(name) == 32 and len(number) <= 12 else name[:8]
