"""Keeps the latest entries of the log, for who puts it into a chain: it is not there by itself."""

from __future__ import annotations

from collections import deque

from appliance import command
from appliance.log import LogEntry

__all__ = ["EventStore"]


class EventStore:
    """`data`: the latest entries of the log, the oldest first."""

    name = "eventstore"

    def __init__(self, size: int = 10000) -> None:
        """size: entries."""
        self.data: deque[LogEntry] = deque(maxlen=size)

    @property
    def size(self) -> int | None:
        return self.data.maxlen

    def add_log(self, entry: LogEntry) -> None:
        self.data.append(entry)

    @command.command("eventstore.clear")
    def clear(self) -> None:
        """Forget all entries."""
        self.data.clear()
