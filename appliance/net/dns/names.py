r"""Domain names, between the wire and text.

Text is the presentation form of RFC 1035 §5.1 without the last dot ("" is the root): dots and backslashes inside a
label, and bytes that are no printable ASCII, are escaped (`\.`, `\032`). It goes back to the very same bytes.
"""

from __future__ import annotations

import re

from appliance.net.dns import DNSError

MAX_NAME = 255
MAX_LABEL = 63
MAX_POINTERS = 127
"""In one name: more than one for each label makes no sense."""
_PLAIN = re.compile(rb"[!-\[\]-~]*")
_SPECIAL = re.compile(r"[^!-~]|[.\\]")
_ESCAPE = re.compile(rb"\\(\d\d\d|.)", re.DOTALL)
_LABEL = re.compile(r"(?:[^.\\]|\\\d\d\d|\\.)+", re.DOTALL | re.ASCII)
_POINTERS = 0x3FFF
"""Offsets that a compression pointer can name."""


def unpack(buf: bytes, at: int) -> tuple[str, int]:
    """The name at `at`, compressed or not, and where it ends. :raises DNSError: it is none.

    A pointer must point to before the run of labels that it ends (RFC 1035 §4.1.4: a prior occurrence), so every
    name ends, and soon.
    """
    labels: list[bytes] = []
    size, end, floor, hops = 1, 0, at, 0
    try:
        while length := buf[at]:
            if length <= MAX_LABEL:
                after = at + 1 + length
                labels.append(buf[at + 1 : after])
                size += length + 1
                if size > MAX_NAME:
                    raise DNSError("a name is longer than 255 bytes")
                at = after
            elif length >= 0xC0:
                target = (length & 0x3F) << 8 | buf[at + 1]
                end = end or at + 2
                hops += 1
                if target >= floor or hops > MAX_POINTERS:
                    raise DNSError("a compression pointer does not point back, or there are too many")
                at = floor = target
            else:
                raise DNSError(f"a label of the unknown kind {length >> 6:02b}")
    except IndexError:
        raise DNSError("a name is cut short") from None
    end = end or at + 1
    joined = b".".join(labels)
    if _PLAIN.fullmatch(joined) and joined.count(b".") == max(0, len(labels) - 1):
        return joined.decode("ascii"), end
    return ".".join([_SPECIAL.sub(_escaped, label.decode("latin-1")) for label in labels]), end


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return "\\" + char if char in ".\\" else f"\\{ord(char):03d}"


def skip(buf: bytes, at: int) -> int:
    """Where the name at `at` ends; pointers are not followed. :raises DNSError: it is cut short."""
    try:
        while length := buf[at]:
            if length >= 0xC0:
                return at + 2
            if length > MAX_LABEL:
                raise DNSError(f"a label of the unknown kind {length >> 6:02b}")
            at += length + 1
    except IndexError:
        raise DNSError("a name is cut short") from None
    return at + 1


def labels(name: str) -> list[bytes]:
    """Its labels on the wire; Unicode becomes an A-label (IDNA). :raises DNSError: it is no name."""
    if name in ("", "."):
        return []
    found = []
    for label in _split(name.removesuffix(".") if not name.endswith("\\.") else name):
        if label.isascii():
            data = label.encode("ascii")
            if "\\" in label:
                data = _ESCAPE.sub(_unescaped, data)
        else:
            try:
                data = label.encode("idna")
            except UnicodeError as e:
                raise DNSError(f"the label {label!r} cannot be encoded: {e}") from None
        if not 0 < len(data) <= MAX_LABEL:
            raise DNSError(f"a label of {name!r} has {len(data)} bytes, not 1 to 63")
        found.append(data)
    if sum(map(len, found)) + len(found) + 1 > MAX_NAME:
        raise DNSError(f"{name!r} is longer than 255 bytes")
    return found


def _split(name: str) -> list[str]:
    if "\\" not in name:
        return name.split(".")
    found, at = [], 0
    while True:
        match = _LABEL.match(name, at)
        if match is None:
            raise DNSError(f"{name!r} has an empty label, or ends in a backslash")
        found.append(match[0])
        at = match.end()
        if at == len(name):
            return found
        if name[at] != ".":
            raise DNSError(f"{name!r} ends in a backslash")
        at += 1


def _unescaped(match: re.Match[bytes]) -> bytes:
    if len(match[1]) == 1:
        return match[1]
    if int(match[1]) > 255:
        raise DNSError(f"there is no byte {match[1].decode()}")
    return bytes([int(match[1])])


def pack(name: str) -> bytes:
    """Without compression. :raises DNSError: it is no name."""
    return b"".join([bytes((len(label),)) + label for label in labels(name)]) + b"\0"


def pack_into(out: bytearray, name: str, known: dict[tuple[bytes, ...], int]) -> None:
    """Append it, compressed by what is `known` (labels to offset), and remember what is new there.

    Suffixes are shared only when they are the same to the letter, so that the case of no name changes.
    """
    rest = tuple(labels(name))
    while rest:
        at = known.get(rest)
        if at is not None:
            out += (0xC000 | at).to_bytes(2, "big")
            return
        if len(out) <= _POINTERS:
            known[rest] = len(out)
        out.append(len(rest[0]))
        out += rest[0]
        rest = rest[1:]
    out.append(0)
