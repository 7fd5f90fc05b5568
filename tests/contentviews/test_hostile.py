"""Bodies made to be dear to look at: nothing is raised, and time, text and memory stay bounded."""

from __future__ import annotations

import gzip
import struct
import time
import tracemalloc
import zlib

import pytest

from appliance import contentviews
from appliance.contentviews import MAX_INPUT, MAX_OUTPUT
from appliance.test import tflow

CASES: dict[str, tuple[bytes, ...]] = {
    "JSON": (b"[", b'{"a":', b"[" * 900 + b"1,", b"9", b'["\\u0000', b"[[],"),
    "XML/HTML": (b"<a>", b"<", b"<!--", b"<a b='", b"</a>", b"<![CDATA[", b"<?", b"<!DOCTYPE ", b"<script>", b"&",
                 b"<a "),
    "CSS": (b"{", b"a{b:c}", b"/*", b"@", b'"', b"(", b";", b"\\"),
    "JavaScript": (b"{", b"`${", b"/", b"'", b"(function(){", b"/[", b"[/", b"return /a/g;", b"\\"),
    "URL-encoded": (b"a=b&", b"%", b"&", b"+"),
    "Multipart Form": (
        b"--x\r\n",
        b"--x",
        b"--x\r\nContent-Disposition: " + b";" * 100,
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n',
    ),
    "MsgPack": (b"\x91", b"\x81\x01", b"\xdd\xff\xff\xff\xff", b"\xc7\x00\x01", b"\xc0",
                b"\xdd\0\0\xff\xff" + b"\1" * 65535),
    "Protocol Buffer": (b"\x08\x01", b"\x0a\x02\x08\x01", b"\x0b", b"\xff", b"\0"),
    "gRPC": (b"\0\0\0\0\0", b"\0\0\0\0\1\x08"),
    "Image": (b"GIF89a\1\0\1\0\x80\0\0\0\0\0\0\0\0" + b"!\xfe\0" * 1000,
              b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0tEXt\0\0\0\0" * 1000),
    "DNS": (b"\0\1\x81\x80\xff\xff\0\0\0\0\0\0" + b"\1a" * 120 + b"\0\0\1\0\1" + b"\xc0\x0c\0\1\0\1" * 9000,),
    "MQTT": (b"\xc0\0", b"\x30\x02\0\0", b"\x82\xff\xff\x1f"),
    "Socket.IO": (b'42["a"]', b"4", b"5-["),
    "GraphQL": (b'{"query":"' + b"{a" * 9000, b'[{"query":"' + b"(" * 9000),
}  # fmt: skip
"""What a body of each kind is filled with, to the limit."""


def look(view: str, body: bytes) -> tuple[str, float]:
    """The text, and seconds of processor time."""
    flow = tflow.tflow(resp=True)
    flow.response.headers["content-type"] = "multipart/form-data; boundary=x"
    flow.response.raw_content = body
    before = time.process_time()
    text = contentviews.prettify_message(flow.response, flow, view).text
    return text, time.process_time() - before


def test_every_case_has_its_view() -> None:
    assert all(contentviews.get(name.lower()) is not None for name in CASES)


@pytest.mark.slow
@pytest.mark.parametrize("view", CASES)
def test_long_and_dull(view: str) -> None:
    for piece in CASES[view]:
        text, seconds = look(view, piece * (MAX_INPUT // len(piece)))
        assert seconds < 10, piece[:20]  # 2 at most on a busy machine; a square would be minutes
        assert len(text) <= 4 * MAX_OUTPUT, piece[:20]  # control characters are spelt out


def test_small_bodies_of_much() -> None:
    """Compressed pieces inside of bodies are not opened without end."""
    zeros = b"\0" * 60_000_000
    packed = zlib.compress(zeros)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(packed) + 3) + b"zTXta\0\0" + packed + bytes(4)
    inner = gzip.compress(zeros, 1)
    grpc = b"\1" + struct.pack(">I", len(inner)) + inner
    del zeros
    for view, body, found in (("image", png, "Format: PNG"), ("grpc", grpc, "")):
        tracemalloc.start()
        try:
            assert look(view, body)[0].startswith(found)
            assert tracemalloc.get_traced_memory()[1] < 50_000_000
        finally:
            tracemalloc.stop()
