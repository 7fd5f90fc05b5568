"""Something good for each content view, made here."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from appliance.dns import DNSMessage
from appliance.test import tflow


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/b.txt", "hello")
        archive.writestr("c", b"\0" * 500)
    return file.getvalue()


def dns() -> bytes:
    flow = tflow.tdnsflow(resp=True)
    response: DNSMessage = flow.response
    return response.packed


TIFF = (
    b"MM\0*\0\0\0\x08\0\4"
    + struct.pack(">HHII", 0x10F, 2, 5, 62)
    + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
    + struct.pack(">HHII", 0x8825, 4, 1, 0)
    + struct.pack(">HHII", 0x8769, 4, 1, 68)
    + bytes(4)
    + b"ACME\0\0"
    + b"\0\1"
    + struct.pack(">HHI4s", 0x9003, 2, 4, b"now\0")
)
PNG = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 4, 8, 6, 0, 0, 0))
    + chunk(b"tEXt", b"Comment\0made here")
    + chunk(b"iTXt", "Titel\0\0\0de\0Titel\0grüße".encode())
    + chunk(b"zTXt", b"Packed\0\0" + zlib.compress(b"x"))
    + chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))
    + chunk(b"eXIf", TIFF)
    + chunk(b"IEND", b"")
)
GIF = b"GIF89a\3\0\4\0\x80\0\0" + bytes(6) + b"!\xfe\4note\0" + (b",\0\0\0\0\3\0\4\0\0\2\2\x44\1\0" * 2) + b";"
JPEG = (
    b"\xff\xd8\xff\xe1" + struct.pack(">H", 8 + len(TIFF)) + b"Exif\0\0" + TIFF
    + b"\xff\xfe\0\6note" + b"\xff\xc0\0\x11\x08\0\4\0\3\3" + bytes(9) + b"\xff\xda\0\2"
)  # fmt: skip
WEBP = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0\2\0\0\3\0\0"
MQTT5 = b"\x10\x1c\0\4MQTT\5\xc6\0<\0\0\2me\0\0\1w\0\1x\0\1u\0\1p" + b"\x31\x07\0\1t\0abc" + b"\x82\x08\0\1\0\0\2ab\1"
MULTIPART = b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\nv\r\n--b--\r\n'

#: view: (content, content type)
SAMPLES: dict[str, tuple[bytes, str]] = {
    "raw": (b"text\xff", "text/plain"),
    "hex dump": (bytes(range(40)), ""),
    "hex stream": (bytes(range(40)), ""),
    "json": (b'{"a": [1, 2.5, null, "x\\u0000"], "b": {"c": true}}', "application/json"),
    "xml/html": (b"<!doctype html><html><!-- c --><body a='<'>t<br><script>if (a<b) {}</script></body>", "text/html"),
    "css": (b"@media x{a:hover{b:url('}');/* { */}}", "text/css"),
    "javascript": (b"for(a;b;c){x=`${y}`;// }\n}/* { */ z='}'", "text/javascript"),
    "url-encoded": (b"a=1&b=%20x&c&=d", "application/x-www-form-urlencoded"),
    "multipart form": (MULTIPART, "multipart/form-data; boundary=b"),
    "graphql": (b'[{"query": "{ a }", "variables": {"x": 1}}]', "application/json"),
    "protocol buffer": (b"\x08\x96\x01\x12\x05hello\x1a\x03\x08\xff\x01\x25\0\0\x80\x3f", "application/x-protobuf"),
    "grpc": (b"\0\0\0\0\2\x08\1\0\0\0\0\2\x10\2\x80\0\0\0\3a:b", "application/grpc"),
    "msgpack": (
        b"\x84\xa1a\x01\xa1b\x93\xc3\xc0\xcb?\xf0\0\0\0\0\0\0\xa1c\xc4\1\xff\xa1d\xd4\1\2",
        "application/msgpack",
    ),
    "image": (PNG, "image/png"),
    "dns": (dns(), "application/dns-message"),
    "query": (b"", ""),
    "zip archive": (zipped(), "application/zip"),
    "mqtt": (MQTT5, ""),
    "socket.io": (b'42/chat,["event",{"a":1}]', ""),
}
IMAGES = {"png": PNG, "gif": GIF, "jpeg": JPEG, "webp": WEBP}
