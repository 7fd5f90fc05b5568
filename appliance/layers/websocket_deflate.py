"""permessage-deflate (RFC 7692), without I/O: what was negotiated, and both directions of it."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from appliance.layers.websocket_frames import BAD_DATA, Violation

NAME = "permessage-deflate"
FINAL_BLOCKS = 64
"""Of one message. After each a window is set up anew, so that a message of nothing else would be costly."""
_STEP = 65536
_TAIL = b"\x00\x00\xff\xff"  # §7.2.1: taken off each message, and put back
_ITEM = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"?([!#$%&\'*+.^_`|~0-9A-Za-z-]*)"?))?\s*')


class Unknown(ValueError):
    """The server has agreed to something that this gateway does not know: frames cannot be read."""


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a compressed connection. takeover: the window lasts from message to message. bits: its size."""

    takeover: bool = True
    bits: int = 15


@dataclass(frozen=True, slots=True)
class Deflate:
    """What a 101 has agreed to."""

    from_client: Way = Way()
    from_server: Way = Way()

    def way(self, from_client: bool) -> Way:
        return self.from_client if from_client else self.from_server


def agreed(header: str | None) -> Deflate | None:
    """By the Sec-WebSocket-Extensions of a 101; None: nothing. :raises Unknown: another extension, odd parameters."""
    if header is None or not header.strip():
        return None
    if "," in header:
        raise Unknown(f"more than one extension: {header}")
    name, *parameters = header.split(";")
    if name.strip().lower() != NAME:
        raise Unknown(f"extension {name.strip()}")
    found: dict[str, str | None] = {}
    for text in parameters:
        match = _ITEM.fullmatch(text)
        if match is None or match[1].lower() in found:
            raise Unknown(f"parameters of {NAME}: {header}")
        found[match[1].lower()] = match[2]
    ways = []
    for side in ("client", "server"):
        bare, bits = f"{side}_no_context_takeover" in found, found.pop(f"{side}_max_window_bits", "15")
        if found.pop(f"{side}_no_context_takeover", None) is not None:
            raise Unknown(f"parameters of {NAME}: {header}")
        if bits is None or not bits.isdecimal() or not 8 <= int(bits) <= 15:
            raise Unknown(f"parameters of {NAME}: {header}")
        ways.append(Way(not bare, int(bits)))
    if found:
        raise Unknown(f"parameters of {NAME}: {header}")
    return Deflate(*ways)


class Inflate:
    """One direction's messages, decompressed. more: there is output left that `some` was not asked for."""

    __slots__ = ("_at", "_fin", "_finals", "_object", "_rest", "_takeover", "more")

    def __init__(self, way: Way) -> None:
        self._takeover = way.takeover
        self._object: zlib._Decompress | None = None
        self._rest = b""  # what has come of the message,
        self._at = 0  # and how much of it is inflated
        self._fin = False
        self._finals = 0  # final blocks in this message
        self.more = False

    def some(self, data: bytes, fin: bool, most: int) -> bytes:
        """At most `most` (and one) bytes of what `data` and the rest before it inflate to. fin: with `data` the
        message ends.

        While `more` is set it is to be called again, with b"".

        :raises Violation: this is not DEFLATE, or `FINAL_BLOCKS` are exceeded.
        """
        source, at = self._rest, self._at
        if fin and not self._fin:
            source, at = source[at:] + data + _TAIL, 0
        elif data:
            source, at = source[at:] + data, 0
        self._fin = fin
        room = max(most, 0) + 1
        out: list[bytes] = []
        while True:
            machine = self._object
            if machine is None:
                if fin and len(source) - at == len(_TAIL):  # which ends nothing
                    at = len(source)
                    break
                # Whatever was agreed to, a window of 32 kB understands it; allocated when needed.
                machine = self._object = zlib.decompressobj(-15)
            # It copies what it leaves of its input, so it never gets much.
            given = source[at : at + _STEP]
            try:
                piece = machine.decompress(given, room)
            except zlib.error as e:
                raise Violation(BAD_DATA, f"a compressed message cannot be read: {e}") from None
            out.append(piece)
            room -= len(piece)
            if machine.eof:
                # §7.2.3.4: a block with BFINAL set is allowed, and what follows begins anew.
                self._finals += 1
                if self._finals > FINAL_BLOCKS:
                    raise Violation(BAD_DATA, f"a compressed message has more than {FINAL_BLOCKS} final blocks")
                self._object = None
                at += len(given) - len(machine.unused_data)
            else:
                at += len(given) - len(machine.unconsumed_tail)
            if at == len(source) or not room:
                break
        done = at == len(source)
        self._rest, self._at = (b"", 0) if done else (source, at)
        # What filled its room may have more behind it, even with no input left.
        self.more = not done or not room
        if fin and not self.more:
            self._fin, self._finals = False, 0
            if not self._takeover:
                self._object = None
        return out[0] if len(out) == 1 else b"".join(out)


class Compress:
    """One direction's messages, compressed towards a peer that agreed to `way`. 8 bits are more than zlib can do: then
    `able` is False, and messages are sent as they are (which is always allowed)."""

    __slots__ = ("_bits", "_object", "_takeover", "able")

    def __init__(self, way: Way) -> None:
        self.able = way.bits > 8
        self._bits = way.bits
        self._takeover = way.takeover
        self._object: zlib._Compress | None = None

    def some(self, data: bytes, fin: bool) -> bytes:
        """A fragment's payload. fin: the message's last."""
        machine = self._object
        if machine is None:
            machine = self._object = zlib.compressobj(wbits=-self._bits, memLevel=6)
        out = machine.compress(data) + machine.flush(zlib.Z_SYNC_FLUSH)
        if not fin:
            return out
        if not self._takeover:
            self._object = None
        return out[:-4] if out.endswith(_TAIL) else b"\x00"  # nothing since the last flush: an empty block
