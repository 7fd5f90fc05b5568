"""Blocks of pcapng files (draft-ietf-opsawg-pcapng), written little-endian, times in microseconds."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from appliance.version import VERSION

ETHERNET = 1
SECTION, INTERFACE, PACKET, SECRETS = 0x0A0D0D0A, 1, 6, 0x0000000A
TLS_KEY_LOG = 0x544C534B
SNAPLEN = 262144
MAX_SECRETS = 1 << 20
"""Bytes of key log lines in one block; readers refuse very large ones."""
_COMMENT, _APPLICATION, _NAME, _RESOLUTION = 1, 4, 2, 9
MAX_COMMENT = 1000


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A block around `body`, which is padded to 32 bits. order: "<" or ">"."""
    padding = -len(body) % 4
    length = struct.pack(f"{order}I", len(body) + padding + 12)
    return struct.pack(f"{order}I", kind) + length + body + bytes(padding) + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    """The section header that a file begins with."""
    name = f"lockgate {VERSION}".encode()
    head = struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)
    return block(SECTION, head + option(_APPLICATION, name, order) + bytes(4), order)


def interface(link: int, name: bytes = b"", order: str = "<", resolution: int = 6, snaplen: int = SNAPLEN) -> bytes:
    """An interface description. resolution: of times, as a negative power of ten."""
    options = option(_NAME, name, order) if name else b""
    options += option(_RESOLUTION, bytes((resolution,)), order) + bytes(4)
    return block(INTERFACE, struct.pack(f"{order}HHI", link, 0, snaplen) + options, order)


def header() -> bytes:
    """What stands before the blocks of `packets`: a section of one Ethernet interface."""
    return section() + interface(ETHERNET, b"lockgate (decrypted)")


def packet(data: bytes, time: float, comment: str = "") -> bytes:
    """One packet of the first interface. time: seconds since the epoch."""
    stamp = round(time * 1_000_000) if 0 <= time < 1e12 else 0  # a flow file may hold anything
    size = len(data)
    length = 32 + size + (-size % 4)
    options = b""
    if comment:
        text = comment.encode("utf-8", "backslashreplace")[:MAX_COMMENT].decode(errors="ignore").encode()
        options = option(_COMMENT, text) + bytes(4)
        length += len(options)
    return b"".join((
        struct.pack("<IIIIIII", PACKET, length, 0, stamp >> 32, stamp & 0xFFFFFFFF, size, size),
        data, bytes(-size % 4), options, struct.pack("<I", length),
    ))  # fmt: skip


def secrets(lines: Iterable[bytes], order: str = "<") -> Iterator[bytes]:
    """Decryption Secrets blocks of key log lines (NSS format). Comments and what is no such line are left out."""
    held, size = [], 0
    for line in lines:
        line = line.strip()
        words = line.split()
        if len(words) != 3 or line.startswith(b"#") or len(line) > 1000:
            continue
        held.append(line + b"\n")
        size += len(line) + 1
        if size >= MAX_SECRETS:
            yield _secrets(b"".join(held), order)
            held, size = [], 0
    if held:
        yield _secrets(b"".join(held), order)


def _secrets(data: bytes, order: str) -> bytes:
    return block(SECRETS, struct.pack(f"{order}II", TLS_KEY_LOG, len(data)) + data, order)
