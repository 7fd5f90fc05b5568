"""What a flow of messages keeps of them, and the mark of what was injected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import MutableSequence


class Kept(Protocol):
    content: bytes


M = TypeVar("M", bound=Kept)

KEPT_MESSAGES = 10_000
KEPT_BYTES = 16 << 20
"""What a flow keeps in `messages` at most; beyond, the oldest quarter goes. The present message always stays."""
MAX_INJECTED = 512
"""Messages that wait in one direction of a flow."""


def keep(messages: MutableSequence[M], message: M, kept: int) -> int:
    """Append, and drop the oldest when there are too many. kept: bytes so far; returned: bytes now."""
    messages.append(message)
    kept += len(message.content)
    if len(messages) > KEPT_MESSAGES or kept > KEPT_BYTES:
        count = size = 0
        for old in reversed(messages):
            more = size + len(old.content)
            if count and (count >= KEPT_MESSAGES * 3 // 4 or more > KEPT_BYTES * 3 // 4):
                break
            count, size = count + 1, more
        del messages[:-count]
        return size
    return kept
