"""permessage-deflate (RFC 7692), without I/O: what was negotiated, and both directions of it."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from appliance.layers.websocket_frames import BAD_DATA, Violation

NAME = "permessage-deflate"
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

    __slots__ = ("_fin", "_object", "_rest", "_takeover", "more")

    def __init__(self, way: Way) -> None:
        self._takeover = way.takeover
        self._object: zlib._Decompress | None = None
        self._rest = b""
        self._fin = False
        self.more = False

    def some(self, data: bytes, fin: bool, most: int) -> bytes:
        """At most `most` (and one) bytes of what `data` and the rest before it inflate to. fin: with `data` the
        message ends.

        While `more` is set it is to be called again, with b"".

        :raises Violation: this is not DEFLATE.
        """
        source = self._rest + data + _TAIL if fin and not self._fin else self._rest + data
        self._fin = fin
        most = max(most, 0) + 1
        out = b""
        while True:
            machine = self._object
            if machine is None:
                # Whatever was agreed to, a window of 32 kB understands it; allocated when needed.
                machine = self._object = zlib.decompressobj(-15)
            try:
                out += machine.decompress(source, most - len(out))
            except zlib.error as e:
                raise Violation(BAD_DATA, f"a compressed message cannot be read: {e}") from None
            if not machine.eof:
                self._rest = machine.unconsumed_tail
                break
            # §7.2.3.4: a block with BFINAL set is allowed, and what follows begins anew.
            self._object, source = None, machine.unused_data
            self._rest = b"" if source == _TAIL else source
            if not self._rest or len(out) == most:
                break
        # What filled its room may have more behind it, even with no input left.
        self.more = bool(self._rest) or len(out) == most
        if fin and not self.more:
            self._fin = False
            if not self._takeover:
                self._object = None
        return out


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
