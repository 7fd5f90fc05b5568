"""What each view makes of good and of hostile input."""

from __future__ import annotations

import gzip
import io
import struct
import time
import zipfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import contentviews
from appliance.contentviews import Contentview, InteractiveContentview, Metadata, Registry, registry
from appliance.contentviews.base import View, format_dict, format_text
from appliance.http import Headers, Response
from appliance.test import tflow


def shown(body: bytes, kind: str = "", view: str = "auto", **headers: str) -> contentviews.Prettified:
    flow = tflow.tflow(resp=Response.make(200, body, Headers(content_type=kind, **headers)))
    return contentviews.prettify_message(flow.response, flow, view)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/b.txt", "hello")
    return file.getvalue()


PROTO = b"\x08\x96\x01\x12\x05hello\x1a\x03\x08\xff\x01\x25\x00\x00\x80\x3f"
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 3, 4, 8, 2, 0, 0, 0) + b"\0\0\0\0"
MULTI = b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\nv\r\n--b--\r\n'


@pytest.mark.parametrize(
    "body, kind, name, text",
    [
        (b'{"a": [1]}', "application/json", "JSON", '{\n  "a": [\n    1\n  ]\n}'),
        (b'{"a":1}', "application/vnd.x+json; charset=utf-8", "JSON", '{\n  "a": 1\n}'),
        (b"<a><b>t</b><br></a>", "text/html", "XML/HTML", "<a>\n  <b>\n    t\n  </b>\n  <br>\n</a>"),
        (b"<?xml version='1.0'?><a/>", "", "XML/HTML", "<?xml version='1.0'?>\n<a/>"),
        (b"a{b:c;d:'}'}", "text/css", "CSS", "a{\n  b:c;\n  d:'}'\n}"),
        (b"f(){for(a;b;c){x;}}", "text/javascript", "JavaScript", "f(){\n  for(a;b;c){\n    x;\n  }\n}"),
        (b"a=1&b=%20x", "application/x-www-form-urlencoded", "URL-encoded", "a: 1\nb:  x"),
        (MULTI, "multipart/form-data; boundary=b", "Multipart Form", "k: v"),
        (b'{"query": "{ a }", "variables": {}}', "application/json", "GraphQL", '{ a }\n---\n{\n  "variables": {}\n}'),
        (b"\x82\xa1a\x01\xa1b\x93\xc3\xc0\xcb?\xf0\0\0\0\0\0\0", "application/msgpack", "MsgPack",
         '{\n  "a": 1,\n  "b": [\n    true,\n    null,\n    1.0\n  ]\n}'),
        (PROTO, "application/x-protobuf", "Protocol Buffer", '1: 150\n2: "hello"\n3:\n  1: 255\n4: 1065353216  # or 1'),
        (b"\0\0\0\0\x02\x08\x01", "application/grpc", "gRPC", "# message 1, 2 bytes\n1: 1"),
        (PNG, "image/png", "Image", "Format: PNG\nDimensions: 3 x 4\nBits: 8\nColor type: 2 (RGB)\nSize: 33b"),
        (zipped(), "application/zip", "ZIP Archive", "    5b  a/b.txt"),
        (b"\0\1\2\3", "", "Hex Dump", "0000000000  00 01 02 03                                      ...."),
        (b"plain\x1b[2J", "text/plain", "Raw", "plain\\x1b[2J"),
    ],
)  # fmt: skip
def test_auto(body: bytes, kind: str, name: str, text: str) -> None:
    found = shown(body, kind)
    assert (found.view_name, found.text) == (name, text)


def test_by_name() -> None:
    assert shown(b"\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04abcd\x30\x05\0\x01thi", view="mqtt").text == (
        "CONNECT MQTT level=4 keepalive=0 client=abcd\nPUBLISH qos=0 t: hi"
    )
    assert shown(b"ab", view="hex stream").text == "6162"
    assert shown(b"{", view="json").syntax_highlight == "error"
    assert shown(b"x", view="nosuch").description == "unknown view 'nosuch'"
    compressed = b"\1" + struct.pack(">I", len(gzip.compress(b"\x08\x07"))) + gzip.compress(b"\x08\x07")
    assert shown(compressed, view="grpc").text.endswith("1: 7")
    web = b"\0\0\0\0\2\x08\x01" + b"\x80" + struct.pack(">I", 15) + b"grpc-status:0\r\n"
    assert shown(web, "application/grpc-web+proto").text == "# message 1, 2 bytes\n1: 1\n# trailers\ngrpc-status:0"


def test_query_socket_io_and_coded_bodies() -> None:
    flow = tflow.tflow()
    flow.request.url = "http://a/?k=v"
    flow.request.content = b""
    assert contentviews.prettify_message(flow.request, flow).text == "k: v"
    view = registry["socket.io"]
    assert view.prettify(b'42["a",1]', Metadata()) == 'message EVENT\n[\n  "a",\n  1\n]'
    assert view.prettify(b"2", Metadata()) == "ping"
    response = Response.make(200, b"", {"content-encoding": "gzip", "content-type": "application/json"})
    response.content = b"{}"
    assert contentviews.prettify_message(response, flow).description == "[decoded gzip]"
    response.raw_content = b"no gzip"
    found = contentviews.prettify_message(response, flow)
    assert found.view_name == "Raw" and "no gzip" in found.text
    response.raw_content = None
    assert contentviews.prettify_message(response, flow).text == "Content is missing."


def test_messages_of_conversations() -> None:
    flow = tflow.ttcpflow()
    assert contentviews.prettify_message(flow.messages[0], flow).text == "hello"


def test_edited_and_encoded_again() -> None:
    flow = tflow.tflow()
    assert contentviews.reencode_message("00ff", flow.request, flow, "Hex Stream") == b"\0\xff"
    with pytest.raises(ValueError, match="cannot be edited"):
        contentviews.reencode_message("", flow.request, flow, "raw")


class Swap(InteractiveContentview):
    def prettify(self, data: bytes, metadata: Metadata) -> str:
        return data[::-1].decode()

    def reencode(self, prettified: str, metadata: Metadata) -> bytes:
        return prettified.encode()[::-1]

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        return 9 if metadata.content_type == "x/swap" else 0


class Old(View):
    name = "old"

    def __call__(self, data: bytes, **metadata: Any) -> Any:
        return "Old", format_dict({"a": data.decode(), "b": "c"})

    def render_priority(self, data: bytes, *, content_type: str | None = None, **metadata: Any) -> float:
        return 9 if content_type == "x/old" else 0


class Broken(Contentview):
    def prettify(self, data: bytes, metadata: Metadata) -> Any:
        return 1 / 0 if data else 3

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        if metadata.content_type != "x/broken":
            raise RuntimeError
        return 9


def test_views_of_addons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_views", dict(registry._views))
    contentviews.add(Swap)
    contentviews.add(Old())
    contentviews.add(Broken())
    assert "swap" in registry.available_views() and registry.available_views()[0] == "auto"
    assert shown(b"abc", "x/swap").text == "cba" and shown(b"abc", view="SWAP").text == "cba"
    assert shown(b"v", "x/old").text == "a: v\nb: c"
    found = shown(b"v", "x/broken")
    assert (found.text, found.description) == ("v", "[failed to parse as Broken]")
    assert shown(b"", view="broken").text == "Couldn't parse as Broken: it gave int, not str"
    assert list(format_text(b"a\nb")) == [[("text", "a")], [("text", "b")]]


def test_registry_names() -> None:
    empty = Registry()
    with pytest.raises(KeyError):
        empty["raw"]
    assert len(registry) == len(set(registry)) > 15


@pytest.mark.parametrize("name", sorted(registry))
@settings(max_examples=15, deadline=None)
@given(data=st.binary(max_size=300))
def test_nothing_escapes(name: str, data: bytes) -> None:
    for char in shown(data, "application/json", name).text:
        assert char in "\n\t" or char.isprintable() or ord(char) > 0xA0


HOSTILE = {
    "deep json": b"[" * 900 + b"1," * 40_000,
    "deeper json": b'{"a":' * 40_000,
    "deep but whole": b"[" * 400 + b"1" + b",1" * 20_000 + b"]" * 400,
    "comments": b"/*" * 40_000,
    "markup": b"<!--" * 20_000,
    "open tags": b"<a>" * 20_000,
    "quotes": b'\\"' * 40_000,
    "cdata": b"<![CDATA[" * 20_000,
    "msgpack": b"\x91" * 80_000,
    "proto": b"\x0a\x84\x80\x80\x00" * 40_000,
    "proto pairs": b"\x08\x01" * 40_000,
    "scripts": b"<script" * 8_000,
    "zeros": bytes(80_000),
    "newlines": b"\n" * 80_000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_input_is_bounded(what: str) -> None:
    data = HOSTILE[what]
    before = time.process_time()
    for name in registry:
        if len(shown(data, "text/html", name).text) > contentviews.MAX_OUTPUT * 2:
            raise AssertionError(name)
    assert time.process_time() - before < 20  # it is a second; a square would be hours
