"""What raw TCP and UDP flows have in common: a list of messages in both directions."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, Self, TypeVar

from .connection import Client, Server, State
from .exceptions import ControlException
from .flow import Flow, Live
from .serializable import Serializable, as_bytes


class ContentMessage(Serializable):
    """One piece of a conversation. Assign `content` in a hook to change what is passed on."""

    __slots__ = ("content", "from_client", "timestamp")

    def __init__(self, from_client: bool, content: bytes, timestamp: float | None = None) -> None:
        """`timestamp`: seconds since the epoch, now unless given."""
        self.from_client = from_client
        self.content = content
        self.timestamp = time.time() if timestamp is None else timestamp

    def __repr__(self) -> str:
        return f"{'->' if self.from_client else '<-'} {self.content!r}"

    def get_state(self) -> tuple[bool, bytes, float]:
        return self.from_client, as_bytes(self.content), self.timestamp

    @classmethod
    def from_state(cls, state: Iterable[Any]) -> Self:
        return cls(*state)


M = TypeVar("M", bound=ContentMessage)


class Conversation(Flow, Generic[M]):
    """A flow of messages."""

    messages: list[M]
    moved: tuple[int, int] | None = None  # bytes up and down that went on, once it is over; not in the state
    _message: ClassVar[type[ContentMessage]]
    _content_keys = frozenset({"messages"})

    def __init__(self, client_conn: Client, server_conn: Server, live: Live | bool = False) -> None:
        super().__init__(client_conn, server_conn, live)
        self.messages = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self.messages)} messages>"

    def inject(self, to_client: bool, content: bytes) -> None:
        """Say something to one side as if the other had said it. Hooks hear of it as of any message.

        :raises ControlException: the flow, or that direction of it, is over, or is carried without messages.
        """
        inject = getattr(self._live, "inject", None)
        if inject is None:
            raise ControlException("nothing can be injected into a flow that is over")
        inject(to_client, self._message(not to_client, content))

    def _get_content(self) -> State:
        return {"messages": [message.get_state() for message in self.messages]}

    def _set_content(self, state: State) -> None:
        self.messages = [self._message.from_state(message) for message in state["messages"]]  # type: ignore[misc]
