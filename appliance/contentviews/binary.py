"""Views of binary content: hex, images, archives, MessagePack, Protocol Buffers and gRPC, MQTT."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from typing import Any

from appliance.contentviews import msgpack, protobuf
from appliance.contentviews.api import Contentview, InteractiveContentview, Metadata
from appliance.contentviews.text import bounded
from appliance.encoding import decode
from appliance.human import pretty_size
from appliance.strutils import hexdump, is_mostly_bin

MAX_ENTRIES = 1000
_MAX_PACKETS = 1000
_MAX_FRAME = 4 << 20


class HexDump(Contentview):
    _name = "Hex Dump"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return "\n".join(f"{at}  {row}  {shown}" for at, row, shown in hexdump(data))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return 0.5 if is_mostly_bin(data) else 0


class HexStream(InteractiveContentview):
    _name = "Hex Stream"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return data.hex()

    def reencode(self, prettified: str, metadata: Metadata) -> bytes:
        return bytes.fromhex(prettified)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return 0.4 if is_mostly_bin(data) else 0


class MsgPack(Contentview):
    syntax_highlight = "yaml"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return bounded(msgpack.decode(data))

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kinds = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
        return float(bool(data) and metadata.content_type in kinds)


class Protobuf(Contentview):
    """Without a schema: field numbers, and the likeliest reading of each value."""

    syntax_highlight = "yaml"
    _name = "Protocol Buffer"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return protobuf.show(data)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kinds = ("application/x-protobuf", "application/x-protobuffer", "application/protobuf")
        return float(bool(data) and metadata.content_type in kinds)


class Grpc(Contentview):
    """Length-prefixed messages, compressed ones too."""

    syntax_highlight = "yaml"
    _name = "gRPC"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        headers = metadata.http_message.headers if metadata.http_message else {}
        coding = headers.get("grpc-encoding") or "gzip"
        shown: list[str] = []
        at = 0
        while at < len(data) and len(shown) < _MAX_PACKETS:
            if at + 5 > len(data):
                raise ValueError("cut off in the head of a message")
            packed, size = struct.unpack_from(">BI", data, at)
            body = data[at + 5 : at + 5 + size]
            at += 5 + size
            if packed and len(body) == size:
                body = decode(body, coding, _MAX_FRAME)
            note = "" if at <= len(data) else " (cut off)"
            shown.append(
                f"# message {len(shown) + 1}, {size} bytes{note}\n{protobuf.show(body, strict=at <= len(data))}"
            )
        return "\n".join(shown)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kind = metadata.content_type or ""
        return float(bool(data) and (kind == "application/grpc" or kind.startswith("application/grpc+proto")))


class Image(Contentview):
    """Format, size, and the notes in it."""

    syntax_highlight = "yaml"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        facts = [*_image(data), ("Size", pretty_size(len(data)))]
        return "\n".join(f"{name}: {value}" for name, value in facts)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kind = metadata.content_type or ""
        return float(bool(data) and kind.startswith("image/") and kind != "image/svg+xml")


def _image(data: bytes) -> list[tuple[str, Any]]:
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 26:
        width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
        notes = [("Format", "PNG"), ("Dimensions", f"{width} x {height}"), ("Bits", depth), ("Color type", color)]
        at = 8
        while at + 8 <= len(data) and len(notes) < 50:
            size, kind = struct.unpack_from(">I4s", data, at)
            if kind == b"tEXt":
                key, _, value = data[at + 8 : at + 8 + min(size, 1000)].partition(b"\0")
                notes.append((key.decode("latin-1"), value.decode("latin-1")))
            at += 12 + size
        return notes
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
        return [("Format", data[:6].decode()), ("Dimensions", f"{width} x {height}")]
    if data.startswith(b"\xff\xd8"):
        at = 2
        while at + 9 <= len(data):
            if data[at] != 0xFF:
                break
            mark, size = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
            if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack_from(">HH", data, at + 5)
                return [("Format", "JPEG"), ("Dimensions", f"{width} x {height}"), ("Bits", data[at + 4])]
            at += 2 + size
        return [("Format", "JPEG")]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return [("Format", "WebP")]
    if data[:4] == b"\0\0\1\0" and len(data) >= 6:
        return [("Format", "ICO"), ("Images", struct.unpack_from("<H", data, 4)[0])]
    raise ValueError("unknown image format")


class Zip(Contentview):
    """The names in an archive; nothing is unpacked."""

    _name = "ZIP Archive"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
        lines = [f"{pretty_size(one.file_size):>6}  {one.filename}" for one in entries[:MAX_ENTRIES]]
        if len(entries) > MAX_ENTRIES:
            lines.append(f"({len(entries) - MAX_ENTRIES} more)")
        return "\n".join(lines)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kinds = ("application/zip", "application/x-zip-compressed", "application/java-archive")
        return float(bool(data) and metadata.content_type in kinds)


_PACKETS = (
    "reserved CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ"
    " PINGRESP DISCONNECT AUTH"
)
_PACKET_NAMES = re.split(" ", _PACKETS)


class Mqtt(Contentview):
    """Control packets of MQTT 3.1.1, one a line."""

    _name = "MQTT"

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        shown: list[str] = []
        at = 0
        while at < len(data) and len(shown) < _MAX_PACKETS:
            first = data[at]
            size, at = _remaining(data, at + 1)
            shown.append(_packet(first, data[at : at + size]) + ("" if at + size <= len(data) else " (cut off)"))
            at += size
        return "\n".join(shown)


def _remaining(data: bytes, at: int) -> tuple[int, int]:
    size = 0
    for shift in range(0, 28, 7):
        if at >= len(data):
            raise ValueError("cut off in a packet's length")
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return size, at
    raise ValueError("a packet's length has more than four bytes")


def _packet(first: int, body: bytes) -> str:
    name = _PACKET_NAMES[first >> 4]
    if name == "PUBLISH":
        topic, rest = _field(body)
        qos = first >> 1 & 3
        return f"{name} qos={qos} {topic}: {_readable(rest[2:] if qos else rest)}"
    if name == "CONNECT":
        protocol, rest = _field(body)
        client, _ = _field(rest[4:])
        return f"{name} {protocol} level={rest[0] if rest else '?'} client={client}"
    if name in ("SUBSCRIBE", "UNSUBSCRIBE"):
        topic, _ = _field(body[2:])
        return f"{name} {topic}"
    return f"{name} {body.hex()}".rstrip()


def _field(data: bytes) -> tuple[str, bytes]:
    size = int.from_bytes(data[:2])
    return data[2 : 2 + size].decode("utf-8", "backslashreplace"), data[2 + size :]


def _readable(data: bytes) -> str:
    return data.hex() if is_mostly_bin(data) else data.decode("utf-8", "backslashreplace")


VIEWS = (HexDump(), HexStream(), MsgPack(), Protobuf(), Grpc(), Image(), Zip(), Mqtt())
