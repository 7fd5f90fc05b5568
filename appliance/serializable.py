"""What flows and their parts have in common: a state of plain values, and copies made of it."""

from __future__ import annotations

from typing import Any, Self


class Serializable:
    """For classes with `get_state` and `from_state`."""

    __slots__ = ()

    def get_state(self) -> Any:
        raise NotImplementedError

    @classmethod
    def from_state(cls, state: Any) -> Self:
        raise NotImplementedError

    def set_state(self, state: Any) -> None:
        """Take over a state. Raises as `from_state` does, and is then as it was."""
        new = type(self).from_state(state)
        names = [name for kind in type(self).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in (*names, *getattr(new, "__dict__", ())):
            if hasattr(new, name):
                setattr(self, name, getattr(new, name))

    def copy(self) -> Self:
        return type(self).from_state(self.get_state())


def as_bytes(content: Any) -> bytes:
    """What a script has left as a message's content, for a state: whoever reads it counts on bytes."""
    if type(content) is bytes:
        return content
    if isinstance(content, str):
        return content.encode("utf-8", "surrogateescape")
    return bytes(content) if isinstance(content, bytearray | memoryview) else b""
