"""WebSocket frames (RFC 6455 §5), without I/O: bytes in, messages out, and frames made of what add-ons left of them.

A message that nobody changes goes on as the very bytes it came in, so everything read keeps them (`raw`). What is
over the limit is never held: it comes in pieces, each of at most `PIECE` bytes once inflated.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from appliance.websocket import Opcode

if TYPE_CHECKING:
    from appliance.layers.websocket_deflate import Inflate

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = (int(opcode) for opcode in Opcode)
_DATA = frozenset({CONTINUATION, TEXT, BINARY})
_KNOWN = _DATA | {CLOSE, PING, PONG}
_FIN, _RSV1, _RSV = 0x80, 0x40, 0x70

NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_STATUS, ABNORMAL, BAD_DATA, TOO_BIG, INTERNAL_ERROR, BAD_GATEWAY = (
    1000, 1001, 1002, 1005, 1006, 1007, 1009, 1011, 1014,
)  # fmt: skip
"""Close codes (§7.4.1, and the IANA registry)."""
PIECE = 65536
MAX_CONTROL = 125
MAX_FRAGMENTS = 16384
"""Frames of one message that is held; each may be empty, and still costs something."""
SLACK = 1 << 16
"""What compression may add to a message in small fragments before that counts."""
REFRAGMENTED = 4000
"""Bytes of a fragment where a message that came in several has another length now."""


class Violation(Exception):
    """The peer broke the protocol. code: the close code it is told; str(): why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Message:
    """A whole text or binary message. sizes: bytes of each fragment, inflated. raw: its frames as they came."""

    __slots__ = ("compressed", "content", "opcode", "raw", "sizes")

    def __init__(self, opcode: int, content: bytes, sizes: list[int], raw: bytes, compressed: bool) -> None:
        self.opcode = opcode
        self.content = content
        self.sizes = sizes
        self.raw = raw
        self.compressed = compressed


class Piece:
    """A part of a message that is too large to be held. raw: the bytes it came in, perhaps b"", for one stretch of
    raw bytes may inflate to many pieces. whole: `raw` ends with the end of a frame."""

    __slots__ = ("compressed", "content", "first", "last", "opcode", "raw", "whole")

    def __init__(
        self, opcode: int, content: bytes, raw: bytes, compressed: bool, first: bool, last: bool, whole: bool
    ) -> None:
        self.opcode = opcode
        self.content = content
        self.raw = raw
        self.compressed = compressed
        self.first = first
        self.last = last
        self.whole = whole


class Control:
    """A ping, pong or close frame. code, reason: of a close."""

    __slots__ = ("code", "content", "opcode", "raw", "reason")

    def __init__(self, opcode: int, content: bytes, raw: bytes) -> None:
        self.opcode = opcode
        self.content = content
        self.raw = raw
        self.code, self.reason = parse_close(content) if opcode == CLOSE else (0, "")


class Reader:
    """The frames of one direction.

    masked: they have to be (they come from a client). inflate: what undoes permessage-deflate, None where it was not
    negotiated. hold: bytes of a message beyond which it comes in pieces. most: beyond these it is refused, None = no
    limit.
    """

    __slots__ = (
        "_at", "_begun", "_buf", "_compressed", "_content", "_fin", "_frames", "_held", "_inflate", "_key", "_left",
        "_length", "_masked", "_most", "_offset", "_opcode", "_raw", "_sizes", "_tail", "_weight", "hold", "streaming",
    )  # fmt: skip

    def __init__(self, masked: bool, inflate: Inflate | None, hold: int, most: int | None = None) -> None:
        self.hold = hold
        self.streaming = False  # the present message comes in pieces
        self._masked = masked
        self._inflate = inflate
        self._most = most
        self._buf: bytes | bytearray = b""
        self._at = 0
        # The message that is being read; opcode 0 = none.
        self._opcode = 0
        self._compressed = False
        self._begun = False  # a piece of it has gone
        self._frames = 0
        self._held = 0  # bytes in _content,
        self._weight = 0  # and in _raw, if it is compressed: it may inflate to nothing
        self._length = 0  # of all there has been of it, as the limit counts it
        self._content: list[bytes] = []
        self._sizes: list[int] = []
        self._raw: list[bytes] = []
        # The frame whose payload is coming in pieces.
        self._left = 0
        self._key = b""
        self._offset = 0
        self._fin = False
        self._tail = False  # the inflater has more of what it was given already

    def feed(self, data: bytes) -> None:
        if self._at >= len(self._buf):
            self._buf, self._at = data, 0
            return
        if not isinstance(self._buf, bytearray):
            self._buf = bytearray(self._buf)
        del self._buf[: self._at]
        self._at = 0
        self._buf += data

    @property
    def idle(self) -> bool:
        """No message is half way through."""
        return not self._opcode

    def next(self) -> Message | Piece | Control | None:
        """What comes next in the bytes fed so far; None: more are needed.

        :raises Violation: they are no WebSocket; nothing more can be read.
        """
        while True:
            if self.streaming and (self._left or self._tail):
                return self._piece()
            buf, at = self._buf, self._at
            have = len(buf) - at
            if have < 2:
                return None
            first, second = buf[at], buf[at + 1]
            opcode, length, head = first & 15, second & 127, 2
            self._check(first, second)
            if length == 126:
                if have < 4:
                    return None
                length, head = int.from_bytes(buf[at + 2 : at + 4], "big"), 4
                if length < 126:
                    raise Violation(PROTOCOL_ERROR, "a frame's length is not in its shortest form")
            elif length == 127:
                if have < 10:
                    return None
                length, head = int.from_bytes(buf[at + 2 : at + 10], "big"), 10
                if not 65535 < length < 1 << 63:
                    raise Violation(PROTOCOL_ERROR, "a frame's length is not in its shortest form")
            if self._masked:
                head += 4
                if have < head:
                    return None
            if opcode & 8:
                end = at + head + length
                if end > len(buf):
                    return None
                raw, self._at = bytes(buf[at:end]), end
                return Control(opcode, self._open(raw, head), raw)
            if self._most is not None and self._length + length > self._most:
                raise Violation(TOO_BIG, f"a message is over {self._most} bytes")
            if opcode:
                self._opcode, self._compressed = opcode, bool(first & _RSV1)
            fin = bool(first & _FIN)
            self._frames += 1
            held = max(self._held, self._weight - SLACK)
            if self.streaming or held + length > self.hold or self._frames > MAX_FRAGMENTS:
                self._raw.append(bytes(buf[at : at + head]))
                self._key = self._raw[-1][-4:] if self._masked else b""
                self._offset, self._left, self._fin, self._at = 0, length, fin, at + head
                self.streaming = True
                if not length:
                    return self._emit(self._inflated(b"") if self._compressed else b"")
                continue
            end = at + head + length
            if end > len(buf):
                self._uncount(opcode)
                return None
            raw, self._at = bytes(buf[at:end]), end
            found = self._frame(self._open(raw, head), raw, fin)
            if found is not None:
                return found

    def _uncount(self, opcode: int) -> None:
        """A frame that is not all here yet will be looked at again."""
        self._frames -= 1
        if opcode:
            self._opcode = 0

    def _check(self, first: int, second: int) -> None:
        """What can be wrong with a frame's first two bytes (§5.2, §5.4, §5.5)."""
        opcode = first & 15
        if opcode not in _KNOWN:
            raise Violation(PROTOCOL_ERROR, f"opcode {opcode:#x} is reserved")
        if opcode & 8:
            if not first & _FIN or second & 127 > MAX_CONTROL:
                raise Violation(PROTOCOL_ERROR, "a control frame is fragmented, or over 125 bytes")
            if first & _RSV:
                raise Violation(PROTOCOL_ERROR, "a control frame has reserved bits set")
        else:
            if bool(opcode) is bool(self._opcode):
                what = "a message begins inside another one" if opcode else "a continuation of nothing"
                raise Violation(PROTOCOL_ERROR, what)
            if first & (_RSV if not opcode or self._inflate is None else _RSV & ~_RSV1):
                raise Violation(PROTOCOL_ERROR, "reserved bits are set, and no extension gives them a meaning")
        if bool(second & 0x80) is not self._masked:
            raise Violation(PROTOCOL_ERROR, "an unmasked frame" if self._masked else "a masked frame from a server")

    def _open(self, raw: bytes, head: int) -> bytes:
        """A whole frame's payload."""
        return mask(raw[head:], raw[head - 4 : head]) if self._masked else raw[head:]

    def _frame(self, payload: bytes, raw: bytes, fin: bool) -> Message | Piece | None:
        """One more frame of a message that is held."""
        if self._compressed:
            assert self._inflate is not None
            payload = self._inflate.some(payload, fin, self.hold - self._held)
            self._tail = self._inflate.more
        self._length += len(payload)
        if self._most is not None and self._length > self._most:
            raise Violation(TOO_BIG, f"a message is over {self._most} bytes")
        if self._tail:  # it inflates to more than is held
            self._raw.append(raw)
            self._length -= len(payload)  # _emit counts it
            self._fin, self._left, self.streaming = fin, 0, True
            return self._emit(payload)
        if fin and not self._raw:  # the usual one: a message of one frame
            opcode, compressed = self._opcode, self._compressed
            sizes = [len(payload)]
        else:
            self._content.append(payload)
            self._raw.append(raw)
            self._sizes.append(len(payload))
            self._held += len(payload)
            if self._compressed:
                self._weight += len(raw)
            if not fin:
                return None
            opcode, compressed, sizes = self._opcode, self._compressed, self._sizes
            payload, raw = b"".join(self._content), b"".join(self._raw)
        self._reset()
        if opcode == TEXT:
            try:
                payload.decode()
            except UnicodeDecodeError as e:
                raise Violation(BAD_DATA, f"a text message is not UTF-8: {e.reason}") from None
        return Message(opcode, payload, sizes, raw, compressed)

    def _piece(self) -> Piece | None:
        """As much of a streaming message as is here, one piece."""
        if self._tail:
            return self._emit(self._inflated(b""))
        at = self._at
        end = min(len(self._buf), at + self._left, at + PIECE)
        if end == at:
            return None
        raw = bytes(self._buf[at:end])
        self._at, self._left = end, self._left - len(raw)
        self._raw.append(raw)
        payload = raw
        if self._masked:
            turn = self._offset & 3
            payload = mask(raw, self._key[turn:] + self._key[:turn])
            self._offset += len(raw)
        return self._emit(self._inflated(payload) if self._compressed else payload)

    def _inflated(self, payload: bytes) -> bytes:
        """At most a piece of what this inflates to; `_tail` says whether there is more."""
        inflate = self._inflate
        assert inflate is not None
        out = inflate.some(payload, self._fin and not self._left, PIECE)
        self._tail = inflate.more
        return out

    def _emit(self, payload: bytes) -> Piece:
        """What was held, and `payload`, as a piece."""
        self._length += len(payload)
        if self._most is not None and self._length > self._most:
            raise Violation(TOO_BIG, f"a message is over {self._most} bytes")
        content = b"".join([*self._content, payload]) if self._content else payload
        raw = self._raw[0] if len(self._raw) == 1 else b"".join(self._raw)
        self._raw, self._content, self._sizes = [], [], []
        self._held = self._weight = 0
        first, opcode, compressed, whole = not self._begun, self._opcode, self._compressed, not self._left
        self._begun = True
        last = whole and not self._tail and self._fin
        if last:
            self._reset()
        return Piece(opcode, content, raw, compressed, first, last, whole)

    def _reset(self) -> None:
        self._opcode = self._frames = self._held = self._weight = self._length = 0
        self._content, self._sizes, self._raw = [], [], []
        self.streaming = self._tail = self._begun = False


def mask(data: bytes, key: bytes) -> bytes:
    """`data` masked, or unmasked (§5.3)."""
    size = len(data)
    if size <= PIECE:
        pad = (key * (size // 4 + 1))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")
    return b"".join([mask(data[at : at + PIECE], key) for at in range(0, size, PIECE)])


def frame(opcode: int, payload: bytes, masked: bool, fin: bool = True, rsv1: bool = False) -> bytes:
    """One frame; masked: by a new key, as a client's has to be."""
    size = len(payload)
    first = opcode | (_FIN if fin else 0) | (_RSV1 if rsv1 else 0)
    flag = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, flag | size))
    elif size < 65536:
        head = bytes((first, flag | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, flag | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def fragments(content: bytes, sizes: list[int]) -> Iterable[bytes]:
    """`content` cut as the message that came in fragments of `sizes` was."""
    if len(sizes) <= 1:
        return (content,)
    if len(content) != sum(sizes):
        return [content[at : at + REFRAGMENTED] for at in range(0, len(content), REFRAGMENTED)] or (b"",)
    cut, at = [], 0
    for size in sizes:
        cut.append(content[at : at + size])
        at += size
    return cut


def close_payload(code: int, reason: str = "") -> bytes:
    """The body of a close frame; none for codes that are never sent."""
    if code in (NO_STATUS, ABNORMAL, 1015):
        return b""
    return code.to_bytes(2, "big") + reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore").encode()


def parse_close(payload: bytes) -> tuple[int, str]:
    """(code, reason) of a close frame's body; 1005 when it has none (§7.1.5). :raises Violation: it is none."""
    if not payload:
        return NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _SENDABLE or 3000 <= code <= 4999):
        raise Violation(PROTOCOL_ERROR, "a close frame without a code" if len(payload) == 1 else f"close code {code}")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(BAD_DATA, "the reason in a close frame is not UTF-8") from None


_SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
