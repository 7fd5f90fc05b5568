"""What HTTP/2's framing looks like to the codecs, whoever does it: events come in, frames go out. No I/O.

A session keeps the frames, HPACK, the states of streams and both flow-control windows of one connection (RFC 9113 §4 to
§6); what requests, responses and their fields may be is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

Field = tuple[bytes, bytes]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_STREAMS = 100
"""Streams a client may have open at once, and the most we open towards a server."""
HARD_LIMIT = 4
"""A field list so many times over the limit is not even decoded to keep HPACK in step: a connection error."""
STREAM_WINDOW = 128 * 1024
"""Bytes a peer may send on a stream before any is taken; grows while they are taken quickly."""
STREAM_WINDOW_MOST = 4 * 1024 * 1024
CONNECTION_WINDOW = 24 * 1024 * 1024
"""More than MAX_STREAMS times STREAM_WINDOW: streams that nobody reads leave room for the others whatever they do."""


class Code(IntEnum):
    """Error codes (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


THEIR_FAULT = frozenset({Code.PROTOCOL_ERROR, Code.FLOW_CONTROL_ERROR, Code.STREAM_CLOSED})
"""Of the codes we reset streams with, those that a peer makes us use."""


def code_name(code: int) -> str:
    return Code(code).name if code in Code._value2member_map_ else f"error code {code}"


class Fault(Exception):
    """A connection error (RFC 9113 §5.4.1): the GOAWAY that says so is in the output, nothing more is read."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Listener(Protocol):
    """Hears what a peer did. Called from within `Session.receive`, one call a frame, in order; must not raise."""

    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None: ...  # a head or trailers
    def too_large(self, stream: int, end: bool) -> None: ...  # a head over the limit, which is not kept
    def data(self, stream: int, data: bytes, length: int, end: bool) -> None: ...  # length: as flow control counts it
    def was_reset(self, stream: int, code: int) -> None: ...
    def failed(self, stream: int, code: int, text: str) -> None: ...  # a stream error of the peer's; it was reset
    def opened(self, stream: int) -> None: ...  # its window grew; 0 = the connection's, or everybody's
    def settled(self) -> None: ...  # SETTINGS took effect
    def goes_away(self, last: int, code: int, text: bytes) -> None: ...
    def reprioritized(self, stream: int, value: bytes) -> None: ...  # PRIORITY_UPDATE (RFC 9218 §7.1)


class Session(Protocol):
    """One end of a connection. No method but `receive` raises, and calls for streams that are over do nothing."""

    @property
    def peer_streams(self) -> int: ...  # streams the peer lets us open at once
    @property
    def greeted(self) -> bool: ...  # its first SETTINGS have come
    @property
    def takes_protocols(self) -> bool: ...  # the peer has said that it takes extended CONNECT (RFC 8441 §3)
    def start(self) -> None: ...  # preface, SETTINGS
    def receive(self, data: bytes | bytearray | memoryview) -> None: ...  # :raises Fault:
    def output(self) -> bytes: ...  # frames to send; b"" = none
    @property
    def pending(self) -> int: ...  # bytes of output
    def open(self) -> int: ...  # the id of our next stream; 0 = they are used up
    def headers(self, stream: int, fields: Sequence[Field], end: bool) -> None: ...
    def window(self, stream: int) -> int: ...  # bytes of data that may be sent on it now
    def data(self, stream: int, data: bytes | memoryview, end: bool) -> None: ...  # no more than window()
    def credit(self, stream: int, count: int) -> None: ...  # the peer may send so much more; stream 0: in all
    def reset(self, stream: int, code: int) -> None: ...
    def ping(self) -> None: ...
    def goaway(self, code: int, text: str) -> None: ...


Clock = Callable[[], float]


class Patience:
    """Frames that cost us more than their sender: so many at once, so many a second, and what useful ones earn.

    Rapid resets, and floods of SETTINGS, PING, PRIORITY, WINDOW_UPDATE and empty frames all draw on it.
    """

    BURST = 1000
    A_SECOND = 100
    EARNED = 4000
    """The most that can be saved up."""

    __slots__ = ("_clock", "_filled", "left")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._filled = clock()
        self.left = self.BURST

    def spend(self, cost: int) -> bool:
        """False: it is exhausted."""
        self.left -= cost
        return self.left >= 0 or self._refill()

    def earn(self, gain: int) -> None:
        if self.left < self.EARNED:
            self.left += gain

    def _refill(self) -> bool:
        now = self._clock()
        self.left += min(self.BURST, int((now - self._filled) * self.A_SECOND))
        self._filled = now
        return self.left >= 0
