"""Frames of HTTP/2 (RFC 9113 §4, §6): kinds, flags, layouts, and what is wrong with them."""

from __future__ import annotations

import struct

from appliance.layers.http.h2_session import STREAM_WINDOW, Code, Fault

FRAME_MOST = 16384
"""Of what we receive (the default, §6.5.2)."""
WINDOW_MOST = 0x7FFFFFFF
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
PRIORITY_UPDATE = 16
END_STREAM = ACK = 1
END_HEADERS, PADDED, WITH_PRIORITY = 4, 8, 32
HEADER = struct.Struct(">HBBBL")
TWO = struct.Struct(">LL")
SETTING = struct.Struct(">HL")


class StreamState:
    """sends, receives: bytes of window each way. heard: its head has come. ended: the peer sends no more; ours: we."""

    __slots__ = ("ended", "heard", "number", "ours", "receives", "sends")

    def __init__(self, number: int, sends: int, heard: bool) -> None:
        self.number = number
        self.sends = sends
        self.receives = STREAM_WINDOW
        self.heard = heard
        self.ended = False
        self.ours = False


class StreamFault(Exception):
    """A stream error (§5.4.2)."""

    def __init__(self, stream: int, code: int, text: str) -> None:
        super().__init__(text)
        self.stream = stream
        self.code = code
        self.text = text


def expect(place: bool, size: bool, what: str) -> None:
    if not place:
        raise Fault(Code.PROTOCOL_ERROR, f"{what} in the wrong place")
    if not size:
        raise Fault(Code.FRAME_SIZE_ERROR, f"{what} of the wrong size")


def unpadded(data: bytes) -> bytes:
    """:raises Fault: more padding than payload (§6.1)."""
    if not data:
        raise Fault(Code.FRAME_SIZE_ERROR, "a padded frame without its first byte")
    if data[0] >= len(data):
        raise Fault(Code.PROTOCOL_ERROR, "padding longer than its frame")
    return data[1 : len(data) - data[0]]
