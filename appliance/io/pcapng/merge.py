"""A real capture (of tcpdump, dumpcap, Wireshark) with the TLS secrets that open it, in one file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from appliance.io.pcapng.blocks import PACKET, SECTION, block, interface, secrets, section

MAX_BLOCK = 64 << 20
"""Bytes; whatever says that it is larger is no capture."""
_PCAP = {
    b"\xd4\xc3\xb2\xa1": ("<", 6), b"\xa1\xb2\xc3\xd4": (">", 6),
    b"\x4d\x3c\xb2\xa1": ("<", 9), b"\xa1\xb2\x3c\x4d": (">", 9),
}  # fmt: skip
"""Byte order and resolution of the old format, by its first bytes."""
_SECTION = SECTION.to_bytes(4, "big")


class NoCapture(ValueError):
    """The file is no capture, or broken."""


def is_capture(start: bytes) -> bool:
    """By a file's first four bytes."""
    return start[:4] == _SECTION or start[:4] in _PCAP


def with_secrets(capture: IO[bytes], keylog: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    """The blocks of `capture` as pcapng, with the lines of a key log before its first packet.

    keylog: called for its lines, once a section. A capture whose end is cut (tcpdump was killed) is taken up to there.
    What is yielded of a pcapng is what stood there, byte for byte.

    :raises NoCapture: it is none. :raises OSError: it cannot be read.
    """
    start = capture.read(4)
    if start in _PCAP:
        order, resolution = _PCAP[start]
        yield from _old(capture, order, resolution, keylog)
    elif start == _SECTION:
        yield from _sections(capture, start, keylog)
    else:
        raise NoCapture("neither a pcap nor a pcapng file")


def _old(capture: IO[bytes], order: str, resolution: int, keylog: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    head = capture.read(20)
    if len(head) < 20:
        raise NoCapture("the pcap file ends inside its header")
    major, _minor, _zone, _sigfigs, snaplen, link = struct.unpack(f"{order}HHiIII", head)
    if major != 2:
        raise NoCapture(f"pcap version {major} is not known")
    yield section()
    yield from secrets(keylog())
    yield interface(link & 0xFFFF, resolution=resolution, snaplen=snaplen)
    unit = 10**resolution
    while len(record := capture.read(16)) == 16:
        seconds, fraction, captured, length = struct.unpack(f"{order}IIII", record)
        if captured > MAX_BLOCK:
            raise NoCapture(f"a packet of {captured} bytes: the pcap file is broken")
        data = capture.read(captured)
        if len(data) < captured:
            return
        stamp = seconds * unit + fraction
        body = struct.pack("<IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, captured, length) + data
        yield block(PACKET, body)


def _sections(capture: IO[bytes], start: bytes, keylog: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    order, any_yet = "<", False
    while len(start) == 4:
        size = capture.read(4)
        rest = b""
        if start == _SECTION:
            rest = capture.read(4)
            if len(rest) == 4 and rest not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                raise NoCapture("a section header without its byte-order magic")
            order = "<" if rest[:1] == b"\x4d" else ">"
        length = int.from_bytes(size, "little" if order == "<" else "big")
        if len(size) < 4 or len(rest) % 4:
            break
        if length > MAX_BLOCK or length < 12 + len(rest) or length % 4:
            raise NoCapture(f"a block of {length} bytes: the pcapng file is broken")
        body = rest + capture.read(length - 8 - len(rest))
        if len(body) < length - 8:
            break
        yield start + size + body
        any_yet = True
        if start == _SECTION:
            yield from secrets(keylog(), order)
        start = capture.read(4)
    if not any_yet:
        raise NoCapture("the pcapng file ends inside its header")
