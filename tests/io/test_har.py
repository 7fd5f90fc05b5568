"""HAR 1.2: what is written is valid and complete, and what others write is read."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.exceptions import FlowReadException
from appliance.flow import Flow
from appliance.http import Headers, HTTPFlow
from appliance.io import FlowReader
from appliance.io.har import HarWriter, as_bytes, as_text, dump
from tests.flowkit import failed, http, several, tcp, websocket
from tests.io.har_schema import check


def exported(*flows: Flow) -> dict[str, Any]:
    parts: list[str] = []
    dump(flows, parts.append)
    return check("".join(parts))


def entry(flow: Flow) -> dict[str, Any]:
    (found,) = exported(flow)["log"]["entries"]
    assert isinstance(found, dict)
    return found


def imported(har: object) -> list[HTTPFlow]:
    data = har if isinstance(har, bytes) else json.dumps(har).encode()
    flows = list(FlowReader(io.BytesIO(data)).stream())
    assert all(isinstance(flow, HTTPFlow) for flow in flows)
    return flows  # type: ignore[return-value]


def there_and_back(flow: HTTPFlow) -> HTTPFlow:
    (again,) = imported(exported(flow))
    return again


def test_every_kind_is_valid_and_what_is_not_http_is_left_out() -> None:
    assert len(exported(*several())["log"]["entries"]) == 4
    assert exported(tcp())["log"]["entries"] == []


def test_an_entry() -> None:
    flow = http("https://a.example:8443/p?x=1&y=%20", method="POST", body=b"k=v", set_cookie="s=1; HttpOnly; Path=/",
                location="/next", content_type="text/html; charset=utf-8", answer="grüße".encode())  # fmt: skip
    flow.request.headers["content-type"] = "application/x-www-form-urlencoded"
    flow.request.headers["cookie"] = "a=b"
    flow.request.timestamp_start, flow.request.timestamp_end = 1000.0, 1000.25
    server = flow.server_conn
    server.timestamp_start, server.timestamp_tcp_setup, server.timestamp_tls_setup = 999.0, 999.01, 999.04
    assert flow.response is not None
    flow.response.timestamp_start, flow.response.timestamp_end = 1000.5, 1001.5
    made = entry(flow)
    assert made["startedDateTime"] == "1970-01-01T00:16:40.000000+00:00"
    assert made["timings"] == {"blocked": -1.0, "dns": -1.0, "connect": 40.0, "ssl": 30.0, "send": 250.0, "wait": 250.0,
                               "receive": 1000.0}  # fmt: skip
    assert made["request"]["url"] == "https://pretty.example/p?x=1&y=%20" and made["serverIPAddress"] == "2001:db8::1"
    assert made["request"]["queryString"] == [{"name": "x", "value": "1"}, {"name": "y", "value": " "}]
    assert made["request"]["postData"]["params"] == [{"name": "k", "value": "v"}]
    assert made["request"]["cookies"] == [{"name": "a", "value": "b"}]
    assert made["response"]["cookies"] == [{"name": "s", "value": "1", "path": "/", "httpOnly": True, "secure": False}]
    assert made["response"]["content"]["text"] == "grüße" and made["response"]["redirectURL"] == "/next"
    assert made["_resourceType"] == "document"


def test_a_connection_is_made_once() -> None:
    first, second = http(), http()
    second.server_conn = first.server_conn
    first.server_conn.timestamp_start, first.server_conn.timestamp_tcp_setup = 1.0, 2.0
    har = HarWriter()
    assert [har.entry(flow)["timings"]["connect"] for flow in (first, second)] == [1000.0, -1.0]


def test_bodies_in_full_and_what_was_not_kept_is_marked() -> None:
    flow = http(method="PUT", body=b"\x00\xff" * 10, answer=b"\x89PNG\x00" * 100_000, content_type="image/png")
    made = entry(flow)
    assert base64.b64decode(made["response"]["content"]["text"]) == b"\x89PNG\x00" * 100_000
    assert made["request"]["postData"]["_encoding"] == "base64"
    assert flow.response is not None
    flow.response.raw_content, flow.response.moved = None, 12345
    made = entry(flow)
    assert made["response"]["content"] == {"mimeType": "image/png", "size": 12345, "_truncated": True}
    assert made["response"]["bodySize"] == 12345
    flow.request.raw_content = None
    assert entry(flow)["request"]["postData"]["_truncated"] is True and entry(flow)["request"]["bodySize"] == -1
    again = there_and_back(flow)
    assert again.request.raw_content is None and again.response is not None and again.response.raw_content is None
    assert again.response.moved == 12345


def test_compressed_bodies() -> None:
    flow = http(answer=b"x" * 1000, content_type="text/plain")
    assert flow.response is not None
    flow.response.encode("gzip")
    made = entry(flow)["response"]
    assert made["content"]["text"] == "x" * 1000 and made["content"]["size"] == 1000
    assert made["content"]["compression"] == 1000 - made["bodySize"]
    again = there_and_back(flow).response
    assert again is not None and again.content == b"x" * 1000 and again.headers["content-encoding"] == "gzip"
    flow.response.raw_content = b"no gzip"
    assert entry(flow)["response"]["content"]["_raw"] is True
    again = there_and_back(flow).response
    assert again is not None and again.raw_content == b"no gzip" and again.headers["content-encoding"] == "gzip"


def test_failures_websockets_and_trailers_survive() -> None:
    again = there_and_back(failed())
    assert again.response is None and again.error is not None and again.error.msg == "it failed"
    assert again.comment == "a foo comment"
    data = there_and_back(websocket()).websocket
    assert data is not None
    assert [(m.type, m.from_client, m.content, m.dropped) for m in data.messages] == [
        (1, True, "grüße".encode(), False), (2, False, b"\x00\xff", True),
    ]  # fmt: skip
    flow = http()
    assert flow.response is not None
    flow.response.trailers = Headers(x_sum="1")
    flow.request.http_version = "HTTP/2.0"
    back = there_and_back(flow)
    assert back.response is not None and back.response.trailers == flow.response.trailers
    assert back.request.is_http2 and entry(flow)["request"]["httpVersion"] == "HTTP/2"


def test_a_head_response_keeps_its_length() -> None:
    flow = http(method="HEAD", answer=b"")
    assert flow.response is not None
    flow.response.headers["content-length"] = "1234"
    again = there_and_back(flow).response
    assert again is not None and again.headers["content-length"] == "1234" and again.raw_content == b""


def test_bytes_that_are_no_utf8_in_headers_and_paths_do_no_harm() -> None:
    flow = http()
    flow.request.raw_path = b"/\xff\xfe"
    flow.request.headers.fields += ((b"x-\xff", b"\xfe"),)
    assert entry(flow)["request"]["headers"][-1]["value"] == "\\xfe"


_BODIES = st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
_KINDS = st.sampled_from(["", "text/html", "text/html; charset=latin-1", "text/plain; charset=utf-16", "image/png",
                          "text/x; charset=idna", "text/x; charset=nonsense", "x; charset=rot13"])  # fmt: skip


@given(_BODIES, _KINDS, st.sampled_from(["", "gzip", "br"]))
def test_any_body_comes_back(body: bytes, kind: str, coding: str) -> None:
    flow = http(method="POST", body=body, answer=body, content_type=kind)
    assert flow.response is not None
    if coding:
        flow.response.encode(coding)
    again = there_and_back(flow)
    assert again.response is not None and again.request.content == body and again.response.content == body
    assert (text := as_text(body, kind)) is None or as_bytes(text, kind) == body


_CHROME = {
    "startedDateTime": "2024-05-01T10:00:00.000Z", "time": 12.5, "_priority": "High", "serverIPAddress": "[::1]",
    "request": {"method": "GET", "url": "https://c.example/a", "httpVersion": "http/2.0", "queryString": [],
                "headers": [{"name": ":authority", "value": "c.example"}, {"name": "accept", "value": "*/*"}]},
    "response": {"status": 200, "statusText": "", "httpVersion": "h3", "headers": [{"name": "a", "value": "b"}],
                 "content": {"size": 3, "mimeType": "text/plain", "text": "aGV5", "encoding": "base64"}},
    "timings": {"blocked": 1, "dns": -1, "connect": None, "send": 0.5, "wait": 10, "receive": 1},
}  # fmt: skip


def test_what_browsers_and_others_write() -> None:
    (flow,) = imported(b"\xef\xbb\xbf" + json.dumps({"log": {"entries": [_CHROME]}}).encode())
    assert flow.response is not None and flow.response.content == b"hey" and flow.response.http_version == "HTTP/3"
    assert flow.request.is_http2 and flow.request.headers.fields == ((b"accept", b"*/*"),)
    assert flow.server_conn.address == ("c.example", 443) and flow.server_conn.peername == ("::1", 443)
    assert flow.request.timestamp_start == 1714557600.0 and flow.server_conn.tls
    slack = {"request": {"method": "post", "url": "http://s.example/", "headers": {"X-A": 1},
                         "postData": {"params": [{"name": "k", "value": "v w"}]}}, "response": None}  # fmt: skip
    (flow,) = imported({"log": {"entries": [slack]}})
    assert flow.request.headers["x-a"] == "1" and flow.request.content == b"k=v+w" and flow.response is not None


@pytest.mark.parametrize("data", [b"{", b'{"log": 1}', b'{"log": {"entries": 5}}', b"{}", b"{\xff}", b"{" * 5])
def test_what_is_no_har(data: bytes) -> None:
    with pytest.raises(FlowReadException, match="this is no HAR file"):
        imported(data)


def test_bad_entries_are_named_and_the_others_read() -> None:
    flows = []
    har = {"log": {"entries": [_CHROME, {"request": {"method": "GET", "url": "nonsense"}}, 5, _CHROME]}}
    with pytest.raises(FlowReadException, match=r"entry 2: .*; entry 3: .*\(2 entries were read\)"):
        for flow in FlowReader(io.BytesIO(json.dumps(har).encode())).stream():
            flows.append(flow)
    assert len(flows) == 2
