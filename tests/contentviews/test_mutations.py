"""Each view on its own kind of content with damage in it: whatever comes of it, nothing gets out of the machinery."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import contentviews
from appliance.contentviews import InteractiveContentview, Metadata, registry
from appliance.http import Headers, Response
from appliance.tcp import TCPMessage
from appliance.test import tflow
from appliance.udp import UDPMessage
from appliance.websocket import WebSocketMessage
from tests.contentviews.samples import GIF, IMAGES, MQTT5, SAMPLES, WEBP


def shown(body: bytes, kind: str, view: str) -> contentviews.Prettified:
    flow = tflow.tflow(resp=Response.make(200, body, Headers(content_type=kind)))
    return contentviews.prettify_message(flow.response, flow, view)


def test_there_is_a_sample_for_every_view() -> None:
    assert SAMPLES.keys() == set(registry)


@pytest.mark.parametrize("view", sorted(SAMPLES.keys() - {"query", "dns", "mqtt", "socket.io", "hex stream"}))
def test_auto_takes_the_view_for_its_kind(view: str) -> None:
    body, kind = SAMPLES[view]
    found = shown(body, kind, "auto")
    assert found.view_name and found.view_name.lower() == view and found.description == ""


def test_auto_takes_the_view_for_messages() -> None:
    body, _ = SAMPLES["dns"]
    flow = tflow.tudpflow()
    flow.server_conn.state = flow.server_conn.state.CLOSED
    flow.server_conn.address = ("8.8.8.8", 53)
    found = contentviews.prettify_message(UDPMessage(False, body), flow)
    assert found.view_name == "DNS" and "8.8.8.8" in found.text
    query = tflow.tdnsflow(resp=True)
    assert contentviews.prettify_message(query.response, query).view_name == "DNS"
    talk = tflow.twebsocketflow()
    talk.request.path = "/socket.io/?EIO=4"
    found = contentviews.prettify_message(WebSocketMessage(1, True, SAMPLES["socket.io"][0]), talk)
    assert found.view_name == "Socket.IO" and found.text.startswith("message EVENT /chat,")


def test_images() -> None:
    said = {name: shown(data, f"image/{name}", "auto").text for name, data in IMAGES.items()}
    assert said["png"].split("\n")[:-1] == [
        "Format: PNG", "Dimensions: 3 x 4", "Bits: 8", "Color type: 6 (RGB with alpha)", "Comment: made here",
        "Titel: grüße", "Packed: (compressed)", "Pixels: 2835 x 2835 per metre", "Make: ACME", "Orientation: 6",
        "GPS: present", "Taken: now",
    ]  # fmt: skip
    assert said["gif"] == "Format: GIF89a\nDimensions: 3 x 4\nComment: note\nFrames: 2\nSize: 58b"
    assert said["jpeg"].startswith(
        "Format: JPEG\nMake: ACME\nOrientation: 6\nGPS: present\nTaken: now\nComment: note\n"
    )
    assert "Dimensions: 3 x 4\nBits: 8\nComponents: 3" in said["jpeg"]
    assert said["webp"].startswith("Format: WebP\nDimensions: 3 x 4\nAnimated: yes")
    lossy = WEBP[:12] + b"VP8 " + bytes(10) + b"\3\0\4\0"
    assert "3 x 4" in shown(lossy, "image/webp", "auto").text
    lossless = WEBP[:12] + b"VP8L" + bytes(4) + b"\x2f" + (2 | 3 << 14).to_bytes(4, "little")
    assert "3 x 4" in shown(lossless, "image/webp", "auto").text
    icon = b"\0\0\1\0\1\0\x10\0" + bytes(14)
    assert "Images: 1\nImage 1: 16 x 256" in shown(icon, "image/x-icon", "auto").text
    bitmap = b"BM" + bytes(16) + b"\3\0\0\0\4\0\0\0\1\0\x18\0"
    assert "Format: BMP\nDimensions: 3 x 4\nBits: 24" in shown(bitmap, "image/bmp", "auto").text
    assert "ISO media, avif" in shown(b"\0\0\0\x1cftypavif", "image/avif", "auto").text
    assert shown(GIF[:8], "image/gif", "image").text == "Couldn't parse as Image: cut off in its head"
    assert shown(b"x", "image/odd", "auto").description == "[failed to parse as Image]"


def test_mqtt_5() -> None:
    flow = tflow.ttcpflow()
    flow.messages = [TCPMessage(True, MQTT5[:30]), TCPMessage(True, MQTT5[30:])]
    lines = [
        "CONNECT MQTT level=5 keepalive=60 client=me will=w: x user=u",
        "PUBLISH qos=0 retain t: abc",
        "SUBSCRIBE ab (qos=1)",
    ]
    assert shown(MQTT5, "", "mqtt").text.split("\n") == lines
    assert contentviews.prettify_message(flow.messages[1], flow, "mqtt").text.split("\n") == lines[1:]


_DAMAGE = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=6)), max_size=4)


def damaged(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, size, piece in changes:
        at %= len(data) + 1
        data = data[:at] + piece + data[at + size :]
    return data


@pytest.mark.parametrize("view", sorted(SAMPLES))
@settings(max_examples=25, deadline=None)
@given(changes=_DAMAGE, times=st.integers(1, 3))
def test_damage(view: str, changes: list[tuple[int, int, bytes]], times: int) -> None:
    body, kind = SAMPLES[view]
    data = damaged(body * times, changes)
    for found in (shown(data, kind, view), shown(data, kind, "auto")):
        assert found.text == contentviews.clean(found.text)
        assert "[decoded" not in found.description
    metadata = Metadata(content_type=kind)
    for one in registry.values():
        assert isinstance(one.render_priority(data, metadata), int | float)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(IMAGES)), _DAMAGE)
def test_damaged_images(name: str, changes: list[tuple[int, int, bytes]]) -> None:
    assert shown(damaged(IMAGES[name], changes), f"image/{name}", "auto").text


_MESSAGES: list[Any] = [
    (tflow.ttcpflow, TCPMessage),
    (tflow.tudpflow, UDPMessage),
    (tflow.twebsocketflow, lambda from_client, data: WebSocketMessage(1, from_client, data)),
]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(_MESSAGES), st.sampled_from(["auto", *sorted(SAMPLES)]), st.binary(max_size=60), st.booleans())
def test_messages_of_conversations(kind: Any, view: str, data: bytes, port: bool) -> None:
    make, message = kind
    flow = make()
    flow.server_conn.state = flow.server_conn.state.CLOSED
    flow.server_conn.address = ("h", 53) if port else None
    found = contentviews.prettify_message(message(True, data), flow, view)
    assert found.text == contentviews.clean(found.text)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_what_was_edited_is_bytes_or_a_value_error(text: str) -> None:
    flow = tflow.tflow()
    for view in registry.values():
        try:
            assert isinstance(contentviews.reencode_message(text, flow.request, flow, view.name), bytes)
            assert isinstance(view, InteractiveContentview)
        except ValueError:
            continue


@pytest.mark.slow
def test_a_long_body_of_each_kind_takes_a_bounded_time() -> None:
    before = time.process_time()
    for view, (body, kind) in SAMPLES.items():
        found = shown(body * (contentviews.MAX_INPUT // max(1, len(body)) + 5), kind, view)
        assert len(found.text) <= contentviews.MAX_OUTPUT * 4 + 100, view
    assert time.process_time() - before < 60  # 6 s on a busy machine
