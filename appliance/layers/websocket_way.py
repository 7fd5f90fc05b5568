"""One direction of a WebSocket: what waits to be said in it, and how a changed message is framed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from appliance.layers.websocket_deflate import Compress
from appliance.layers.websocket_frames import BINARY, TEXT, fragments, frame

if TYPE_CHECKING:
    from appliance.layers.websocket_deflate import Deflate
    from appliance.net.stream import Stream
    from appliance.websocket import WebSocketMessage


class Way:
    """One direction."""

    __slots__ = ("closed", "compress", "dst", "from_client", "injected", "mid_frame", "same", "src", "waits")

    def __init__(self, from_client: bool, src: Stream, dst: Stream, came: Deflate | None, goes: Deflate | None) -> None:
        self.from_client = from_client
        self.src = src
        self.dst = dst
        self.injected: deque[WebSocketMessage] = deque()
        self.closed = False  # no more comes this way
        self.waits = False  # in read()
        self.mid_frame = False  # what was written last ends inside a frame
        here = None if came is None else came.way(from_client)
        there = None if goes is None else goes.way(from_client)
        # Compressed messages can go on as they came: the other side has seen all that they refer to.
        self.same = here == there
        self.compress = Compress(there) if there is not None else None

    def changed(self, came: Deflate | None) -> None:
        """A compressed message did not go on as it came: what refers back to it cannot either."""
        if came is not None and came.way(self.from_client).takeover:
            self.same = False

    def encode(self, opcode: int, content: bytes, sizes: list[int], compressed: bool) -> bytes:
        """The frames of a message that was changed, or comes from nobody."""
        compress = self.compress if compressed and self.compress is not None and self.compress.able else None
        if opcode not in (TEXT, BINARY):
            raise ValueError(f"a message's type is TEXT or BINARY, not {opcode!r}")
        parts = list(fragments(content, sizes))
        made = []
        for number, part in enumerate(parts):
            fin = number == len(parts) - 1
            payload = part if compress is None else compress.some(part, fin)
            code = 0 if number else opcode
            made.append(frame(code, payload, self.from_client, fin, compress is not None and not number))
        return b"".join(made)
