"""The messages of a connection that was upgraded to WebSocket (RFC 6455); an HTTPFlow carries them as `websocket`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Self

from .connection import State
from .serializable import Serializable, as_bytes


class Opcode(IntEnum):
    """What kind a message is (§5.2); equal to wsproto's of the same name."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class WebSocketMessage(Serializable):
    """One message, its fragments put together. Assign `content` or `text` in a hook to change what is passed on.

    `content` is bytes also where the message is text (UTF-8). `timestamp`: seconds since the epoch. `dropped`: an
    add-on did not let it through; `injected`: no peer has sent it.
    """

    __slots__ = ("content", "dropped", "from_client", "injected", "timestamp", "type")

    def __init__(
        self,
        type: int,
        from_client: bool,
        content: bytes,
        timestamp: float | None = None,
        dropped: bool = False,
        injected: bool = False,
    ) -> None:
        """`timestamp` is now unless given. Raises ValueError for an opcode that is none."""
        self.type = Opcode(type)
        self.from_client = from_client
        self.content = content
        self.timestamp = time.time() if timestamp is None else timestamp
        self.dropped = dropped
        self.injected = injected

    def __repr__(self) -> str:
        what = repr(self.content.decode("utf-8", "backslashreplace")) if self.is_text else repr(self.content)
        return f"{'->' if self.from_client else '<-'} {what}"

    @property
    def is_text(self) -> bool:
        return self.type is Opcode.TEXT

    @property
    def text(self) -> str:
        """The content of a text message. Raises AttributeError for a binary one: use `content`."""
        if not self.is_text:
            raise AttributeError(f"a {self.type.name} message has no text; use .content")
        return self.content.decode("utf-8", "surrogateescape")

    @text.setter
    def text(self, value: str) -> None:
        if not self.is_text:
            raise AttributeError(f"a {self.type.name} message has no text; use .content")
        self.content = value.encode("utf-8", "surrogateescape")

    def drop(self) -> None:
        """Do not pass it on."""
        self.dropped = True

    def kill(self) -> None:
        """The older name of `drop`."""
        self.drop()

    def get_state(self) -> tuple[int, bool, bytes, float, bool, bool]:
        content = as_bytes(self.content)
        return int(self.type), self.from_client, content, self.timestamp, self.dropped, self.injected

    @classmethod
    def from_state(cls, state: Iterable[Any]) -> Self:
        return cls(*state)


class WebSocketData(Serializable):
    """The messages in order, and how it ended: `close_code` is None while it has not (§7.4).

    Of an endless connection the last 10,000 messages or 16 MiB are there.
    """

    carried: tuple[int, int] | None = None  # messages up and down that went by without being made; not in the state

    def __init__(
        self,
        messages: Iterable[WebSocketMessage] = (),
        closed_by_client: bool | None = None,
        close_code: int | None = None,
        close_reason: str | None = None,
        timestamp_end: float | None = None,
    ) -> None:
        self.messages = list(messages)
        self.closed_by_client = closed_by_client
        self.close_code = close_code
        self.close_reason = close_reason
        self.timestamp_end = timestamp_end

    def __repr__(self) -> str:
        return f"<WebSocketData {len(self.messages)} messages>"

    def get_state(self) -> State:
        """Plain values only."""
        return {
            "messages": [message.get_state() for message in self.messages],
            "closed_by_client": self.closed_by_client,
            "close_code": self.close_code,
            "close_reason": self.close_reason,
            "timestamp_end": self.timestamp_end,
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Raises ValueError for a key too many or too few."""
        if state.keys() != _KEYS:
            raise ValueError(f"not WebSocket data: {sorted(state.keys() ^ _KEYS)}")
        messages = [WebSocketMessage.from_state(message) for message in state["messages"]]
        return cls(
            messages,
            closed_by_client=state["closed_by_client"],
            close_code=state["close_code"],
            close_reason=state["close_reason"],
            timestamp_end=state["timestamp_end"],
        )


_KEYS = frozenset({"messages", "closed_by_client", "close_code", "close_reason", "timestamp_end"})
