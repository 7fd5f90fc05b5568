"""Views of binary content: hex, archives, MessagePack, Protocol Buffers and gRPC."""

from __future__ import annotations

import io
import struct
import zipfile

from appliance.contentviews import msgpack, protobuf
from appliance.contentviews.api import Contentview, InteractiveContentview, Metadata
from appliance.contentviews.image import Image
from appliance.contentviews.mqtt import Mqtt
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
            if packed & 0x80:  # gRPC-Web
                shown.append(f"# trailers\n{body.decode('utf-8', 'backslashreplace').rstrip()}")
                continue
            if packed and len(body) == size:
                body = decode(body, coding, _MAX_FRAME)
            note = "" if at <= len(data) else " (cut off)"
            shown.append(
                f"# message {len(shown) + 1}, {size} bytes{note}\n{protobuf.show(body, strict=at <= len(data))}"
            )
        return "\n".join(shown)

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        kind = metadata.content_type or ""
        kinds = ("application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto")
        return float(bool(data) and kind in kinds)


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


VIEWS = (HexDump(), HexStream(), MsgPack(), Protobuf(), Grpc(), Image(), Zip(), Mqtt())
