"""Follows the frames of one direction that goes by untouched: how many messages there were, and how it was closed."""

from __future__ import annotations

from collections.abc import Callable

from appliance.layers.websocket_frames import CLOSE, Violation, mask, parse_close
from appliance.net.stream import Buffer

Closed = Callable[[int, str, bool], None]


class Follower:
    """Judges nothing and keeps at most a frame's head, or a close frame. What is no WebSocket it stops to follow.

    messages: that have begun. inside: the last byte seen is inside a frame.
    """

    __slots__ = ("_closed", "_head", "_left", "_lost", "from_client", "messages")

    def __init__(self, closed: Closed, from_client: bool) -> None:
        self.from_client = from_client
        self.messages = 0
        self._closed = closed
        self._head = bytearray()
        self._left = 0
        self._lost = False

    @property
    def inside(self) -> bool:
        return bool(self._left or self._head or self._lost)

    def feed(self, data: Buffer) -> None:
        at, size = 0, len(data)
        while at < size and not self._lost:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            head = self._head
            head.append(data[at])
            at += 1
            if len(head) < 2:
                continue
            length, need = head[1] & 127, 2
            if length > 125:
                need = 4 if length == 126 else 10
                if len(head) < need:
                    continue
                length = int.from_bytes(head[2:need], "big")
            need += 4 if head[1] & 0x80 else 0
            opcode = head[0] & 15
            if opcode == CLOSE and length <= 125:
                if len(head) == need + length:
                    self._close(bytes(head[need:]), bytes(head[need - 4 : need]))
                    head.clear()
                continue
            if len(head) == need:
                if 0 < opcode < 8:
                    self.messages += 1
                self._left = length
                head.clear()

    def _close(self, payload: bytes, key: bytes) -> None:
        self._lost = True  # nothing that follows a close frame means anything
        try:
            code, reason = parse_close(mask(payload, key) if self.from_client else payload)
        except Violation:
            return
        self._closed(code, reason, self.from_client)
