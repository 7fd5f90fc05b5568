"""What an image says about itself: format, size, and the notes in it. No pixel is looked at."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

from appliance.contentviews.api import Contentview, Metadata
from appliance.human import pretty_size

MAX_NOTES: Final = 50
MAX_NOTE: Final = 1000
"""Bytes of a note that are shown."""
Fact = tuple[str, Any]

_EXIF: Final = {
    0x10E: "Description", 0x10F: "Make", 0x110: "Model", 0x112: "Orientation", 0x131: "Software", 0x132: "Date",
    0x13B: "Artist", 0x8298: "Copyright", 0x9003: "Taken", 0x8825: "GPS", 0x8769: "Exif",
}  # fmt: skip
_COLORS: Final = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


class Image(Contentview):
    """Format, size, and the notes in it."""

    syntax_highlight = "yaml"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        size = len(metadata.original_data or data)
        facts = [*facts_of(data), ("Size", pretty_size(size))]
        return "\n".join(f"{name}: {value}" for name, value in facts)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kind = metadata.content_type or ""
        return float(bool(data) and kind.startswith("image/") and kind != "image/svg+xml")


def facts_of(data: bytes) -> list[Fact]:
    """Raises ValueError for what is no image known here, or is cut off before its size."""
    for magic, at, read in _FORMATS:
        if data[at : at + len(magic)] == magic:
            try:
                facts = []
                for fact in read(data):
                    facts.append(fact)
                    if len(facts) >= MAX_NOTES:
                        break
            except (struct.error, IndexError):
                if not facts:
                    raise ValueError("cut off in its head") from None
            return facts
    raise ValueError("unknown image format")


def _note(data: bytes) -> str:
    return data[:MAX_NOTE].strip(b"\0 ").decode("utf-8", "backslashreplace")


def _png(data: bytes) -> Iterator[Fact]:
    width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
    yield "Format", "PNG"
    yield "Dimensions", f"{width} x {height}"
    yield "Bits", depth
    yield "Color type", f"{color} ({_COLORS[color]})" if color in _COLORS else color
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + min(size, MAX_NOTE)]
        if kind in (b"tEXt", b"iTXt", b"zTXt"):
            key, _, value = body.partition(b"\0")
            if kind == b"iTXt" and value[:1] == b"\0":  # not compressed; then language and translated key
                value = value[2:].split(b"\0", 2)[-1]
            shown = value.decode("latin-1") if kind == b"tEXt" else _note(value)
            yield key.decode("latin-1"), "(compressed)" if kind == b"zTXt" else shown
        elif kind == b"pHYs":
            across, down, unit = struct.unpack_from(">IIB", body)
            yield "Pixels", f"{across} x {down}" + (" per metre" if unit == 1 else "")
        elif kind == b"acTL":
            yield "Frames", struct.unpack_from(">I", body)[0]
        elif kind == b"eXIf":
            yield from _exif(data[at + 8 : at + 8 + size])
        at += 12 + size


def _gif(data: bytes) -> Iterator[Fact]:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    yield "Format", data[:6].decode()
    yield "Dimensions", f"{width} x {height}"
    at, frames = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0), 0
    while at + 1 < len(data) and data[at] != 0x3B:
        if data[at] == 0x2C:
            frames += 1
            flags = data[at + 9]
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        elif data[at] == 0x21:
            if data[at + 1] == 0xFE:
                yield "Comment", _note(data[at + 3 : at + 3 + data[at + 2]])
            at += 2
        else:
            break
        while at < len(data) and data[at]:  # blocks, each with its length
            at += 1 + data[at]
        at += 1
    yield "Frames", frames


def _jpeg(data: bytes) -> Iterator[Fact]:
    yield "Format", "JPEG"
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        mark, size = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : at + 2 + size]
        if mark == 0xDA or size < 2:
            break
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
            depth, height, width, planes = struct.unpack_from(">BHHB", body)
            yield "Dimensions", f"{width} x {height}"
            yield "Bits", depth
            yield "Components", planes
        elif mark == 0xFE:
            yield "Comment", _note(body)
        elif mark == 0xE1 and body.startswith(b"Exif\0\0"):
            yield from _exif(body[6:])
        at += 2 + size


def _exif(tiff: bytes) -> Iterator[Fact]:
    """The first directory of a TIFF header, and the Exif directory it names: texts and small numbers."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return
    try:
        todo = [struct.unpack_from(order + "I", tiff, 4)[0]]
        for at in todo:
            for number in range(min(struct.unpack_from(order + "H", tiff, at)[0], 100)):
                entry = at + 2 + 12 * number
                tag, kind, count, value = struct.unpack_from(order + "HHII", tiff, entry)
                name = _EXIF.get(tag)
                if name == "Exif" and len(todo) == 1:
                    todo.append(value)
                elif name == "GPS":
                    yield name, "present"
                elif name and kind == 2:
                    start = value if count > 4 else entry + 8
                    yield name, _note(tiff[start : start + min(count, MAX_NOTE)])
                elif name and kind == 3:
                    yield name, struct.unpack_from(order + "H", tiff, entry + 8)[0]
    except struct.error:
        return


def _webp(data: bytes) -> Iterator[Fact]:
    yield "Format", "WebP"
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        yield "Dimensions", f"{width & 0x3FFF} x {height & 0x3FFF}"
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        yield "Dimensions", f"{(bits & 0x3FFF) + 1} x {(bits >> 14 & 0x3FFF) + 1}"
    elif kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        yield "Dimensions", f"{width} x {height}"
        if data[20] & 2:
            yield "Animated", "yes"


def _ico(data: bytes) -> Iterator[Fact]:
    count = struct.unpack_from("<H", data, 4)[0]
    yield "Format", "ICO"
    yield "Images", count
    for number in range(count):
        width, height = struct.unpack_from("BB", data, 6 + 16 * number)
        yield f"Image {number + 1}", f"{width or 256} x {height or 256}"


def _bmp(data: bytes) -> Iterator[Fact]:
    width, height, _, depth = struct.unpack_from("<iiHH", data, 18)
    yield "Format", "BMP"
    yield "Dimensions", f"{width} x {abs(height)}"
    yield "Bits", depth


def _boxes(data: bytes) -> Iterator[Fact]:
    yield "Format", f"ISO media, {_note(data[8:12])}"  # avif, heic


_FORMATS: Final[tuple[tuple[bytes, int, Callable[[bytes], Iterator[Fact]]], ...]] = (
    (b"\x89PNG\r\n\x1a\n", 0, _png),
    (b"GIF87a", 0, _gif),
    (b"GIF89a", 0, _gif),
    (b"\xff\xd8", 0, _jpeg),
    (b"WEBP", 8, _webp),
    (b"\0\0\1\0", 0, _ico),
    (b"BM", 0, _bmp),
    (b"ftyp", 4, _boxes),
)
