"""Built-in add-ons, one idea a file, in the order of the chain."""

from __future__ import annotations


def default_addons() -> list[object]:
    """A new instance of each."""
    return []
