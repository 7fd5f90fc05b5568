"""What is kept of a body while it streams, and of a conversation while it goes on. Both count all and keep a part."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any, Final

from appliance.net.stream import Buffer
from appliance.store import index as ix

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.store.recorder import Recorder

PIECE: Final = 256 << 10
"""Bytes of a body that wait in memory before they are written as a piece."""
TALK: Final = 64 << 10
"""The same of a conversation's messages."""


class Tee:
    """Called with each piece of a body as it goes on. size: bytes so far. cut: not all of it is kept."""

    __slots__ = ("_hash", "_held", "_kept", "_limit", "_parts", "_places", "_recorder", "cut", "size")

    def __init__(self, recorder: Recorder, limit: int) -> None:
        self._recorder = recorder
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = self._kept = self.size = 0
        self._places: list[tuple[int, int]] = []
        self._hash: Any = None
        self.cut = False

    def __call__(self, data: Buffer) -> None:
        length = len(data)
        self.size += length
        room = self._limit - self._kept
        if room >= length:
            self._parts.append(bytes(data))
            self._held += length
            self._kept += length
            if self._held >= PIECE:
                self._spill()
            return
        if not self.cut:
            self.cut = True
            if room > 0:
                self._parts.append(bytes(memoryview(data)[:room]))
                self._kept += room
            if self._parts:
                self._spill()
            data = memoryview(data)[room:] if room > 0 else data
        if self._hash is None:
            self._hash = hashlib.sha256()
        self._hash.update(data)

    def _spill(self) -> None:
        data = b"".join(self._parts)
        if self._hash is None:
            self._hash = hashlib.sha256()
        self._hash.update(data)
        self._parts.clear()
        self._held = 0
        place = self._recorder.piece(data)
        if place is None:  # there is no room for it: from here on it is only counted
            self._kept -= len(data)
            self._limit = self._kept
            self.cut = True
        else:
            self._places.append(place)

    def body(self) -> bytes | list[Any]:
        """For the record: see `records.Body`."""
        rest = b"".join(self._parts)
        if self.cut:
            return [self.size, self._hash.digest() if self._hash is not None else None, True, self._places, rest]
        return [self.size, None, False, self._places, rest] if self._places else rest


class Talk:
    """A conversation: TCP, UDP, or a WebSocket. Its messages are written as they come, several at a time.

    n: its number in the index. segment, offset: where its head is, 0 = it has none yet. up, down: bytes said so far.
    """

    __slots__ = ("_held", "_limit", "_recorder", "_said", "_waiting", "down", "flow", "kept", "n", "offset",
                 "segment", "up")  # fmt: skip

    def __init__(self, recorder: Recorder, flow: Flow, limit: int) -> None:
        self._recorder = recorder
        self._limit = limit
        self._said: list[Any] = []
        self._held = 0
        self._waiting = False
        self.flow = flow
        self.kept = self.up = self.down = self.n = self.segment = self.offset = 0

    def say(self, message: Any) -> None:
        """A message as it went on. After `store_messages_limit` they are counted, and no longer kept."""
        length = len(message.content)
        if message.from_client:
            self.up += length
        else:
            self.down += length
        if self.kept + length <= self._limit:
            self._keep(message.get_state(), length)
        else:
            self._limit = 0

    def heard(self, from_client: bool, data: Buffer) -> None:
        """The same of bytes for which no message was made."""
        length = len(data)
        if from_client:
            self.up += length
        else:
            self.down += length
        if self.kept + length <= self._limit:
            self._keep((from_client, bytes(data), time.time()), length)
        else:
            self._limit = 0

    @property
    def full(self) -> bool:
        """Nothing more is kept."""
        return self._limit == 0

    @property
    def cut(self) -> bool:
        """Something was said that is not kept."""
        return self.kept < self.up + self.down

    def _keep(self, state: Any, length: int) -> None:
        self._said.append(state)
        self.kept += length
        self._held += length + 32
        if not self._waiting:
            self._waiting = True
            self._recorder.talking(self)
        if self._held >= TALK:
            self.flush()

    def take(self) -> list[Any]:
        said, self._said = self._said, []
        self._held = 0
        self._waiting = False
        return said

    def flush(self) -> None:
        """Write what was said since the last time."""
        if self._said:
            self._recorder.said(self)
        else:
            self._waiting = False

    @property
    def bits(self) -> int:
        """For its row, while it goes on."""
        return ix.IN_PARTS | (ix.CUT if self.cut else 0)
