"""What exports leave out, and where it may stand."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.flow import Flow
from appliance.headers import Headers
from appliance.http import HTTPFlow
from appliance.store.records import Kept
from appliance.store.redact import PLACEHOLDER, SECRETS, Redactor
from tests import flowkit

HIDDEN = PLACEHOLDER.encode()
IN_URL = b"%5Bredacted%5D"


def redacted(flow: Flow) -> Any:
    Redactor(SECRETS)(flow)
    return flow


@pytest.mark.parametrize(("before", "after"), [
    (b"/a?token=S&b=1", b"/a?token=%b&b=1"),
    (b"/a?b=%20x&TOKEN=S", b"/a?b=%20x&TOKEN=%b"),
    (b"/a?%74oken=S#x", b"/a?%74oken=%b#x"),
    (b"https://u.example/cb#id_token=S;state=2", b"https://u.example/cb#id_token=%b;state=2"),
    (b"<https://u.example/?password=S>; rel=next", b"<https://u.example/?password=%b; rel=next"),
    (b"/a?tokens=1&token", b"/a?tokens=1&token"),
])  # fmt: skip
def test_urls(before: bytes, after: bytes) -> None:
    """Wherever they stand; what is not secret keeps its bytes."""
    after = after.replace(b"%b", IN_URL)
    flow = flowkit.http()
    flow.request.raw_path = before
    flow.request.headers = Headers([(b"Referer", before), (b"Authorization", b"S")])
    assert flow.response is not None
    flow.response.headers = Headers([(b"LOCATION", before), (b"Link", before), (b"Set-Cookie", b"S")])
    redacted(flow)
    assert flow.request.raw_path == after
    assert flow.request.headers.fields == ((b"Referer", after), (b"Authorization", HIDDEN))
    assert flow.response.headers.fields == ((b"LOCATION", after), (b"Link", after), (b"Set-Cookie", HIDDEN))


@pytest.mark.parametrize(("kind", "before", "after"), [
    ("application/json", b'{"Password" : "S", "b": [1.50]}', b'{"Password" : "%b", "b": [1.50]}'),
    ("application/json", b'{"a": [{"token": {"of": ["S"]}}], "token": 7}', b'{"a": [{"token": "%b"}], "token": "%b"}'),
    ("application/json", b'{"token": "S\\"S"}\n{"token": null}\n', b'{"token": "%b"}\n{"token": "%b"}\n'),
    ("application/json", b'{"token": "S', b'{"token": "%b"'),  # cut off
    ("text/plain", b' [{"secret":"S"}]', b' [{"secret":"%b"}]'),
    ("application/json", b")]}\',\n" + b'{"secret":"S"}', b")]}\',\n" + b'{"secret":"%b"}'),
    ("application/json", b'{"tokens": "\xff", "a": "\\"token\\": 1"}', b'{"tokens": "\xff", "a": "\\"token\\": 1"}'),
    ("application/x-www-form-urlencoded", b"password=S&a=b%20c", b"password=%5Bredacted%5D&a=b%20c"),
    ("application/x-www-form-urlencoded", b"a=b&client_secret=S", b"a=b&client_secret=%5Bredacted%5D"),
    ("text/html", b'<a href="?x">"token": "shown"</a>', b'<a href="?x">"token": "shown"</a>'),
    ("application/json", b'{"tok\\u0065n":"S", "\\u0061": 1}', b'{"tok\\u0065n":"%b", "\\u0061": 1}'),
    ("application/json", b'{"b\\n": {"\\"": "x"}, "token":"S"}', b'{"b\\n": {"\\"": "x"}, "token":"%b"}'),
    ("text/event-stream", b'data: {"token":"S"}\n\n', b'data: {"token":"%b"}\n\n'),
    ("application/x-www-form-urlencoded", b"user%5Bpassword%5D=S&password[x]=1",
     b"user%5Bpassword%5D=%5Bredacted%5D&password[x]=1"),
    ("multipart/form-data; boundary=Bo",
     b'--Bo\r\nContent-Disposition: form-data; name="user[password]"; filename="token"\r\n\r\nS\r\nS\r\n--Bo\r\n'
     b'content-disposition: form-data; name=a\r\nContent-Type: application/json\r\n\r\n{"token":"S"}\r\n--Bo--\r\n',
     b'--Bo\r\nContent-Disposition: form-data; name="user[password]"; filename="token"\r\n\r\n%b\r\n--Bo\r\n'
     b'content-disposition: form-data; name=a\r\nContent-Type: application/json\r\n\r\n{"token":"%b"}\r\n--Bo--\r\n'),
])  # fmt: skip
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_bodies(kind: str, before: bytes, after: bytes, coding: str) -> None:
    after = after.replace(b"%b", HIDDEN)
    flow = flowkit.http(method="POST", body=before, answer=before)
    assert flow.response is not None
    for message in (flow.request, flow.response):
        message.headers["content-type"] = kind
        if coding:
            message.encode(coding)
    redacted(flow)
    assert flow.request.content == flow.response.content == after


def test_what_is_kept_of_a_larger_body() -> None:
    flow = flowkit.http()
    assert flow.response is not None
    flow.response.raw_content = None
    flow.response.tee = Kept(1 << 30, None, b'{"token": "S", "a": "b', "")
    assert redacted(flow).response.tee.content == b'{"token": "[redacted]", "a": "b'


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "unknown"])
def test_the_beginning_of_a_compressed_body_is_left_out(coding: str) -> None:
    """Decoders read it as far as it goes."""
    flow = flowkit.http()
    assert flow.response is not None
    flow.response.headers["content-encoding"] = coding
    flow.response.raw_content = None
    flow.response.tee = Kept(1 << 30, b"hash", b"S" * 100, "larger than store_body_limit")
    (said,) = Redactor(SECRETS)(flow)
    assert said.startswith("the response's body is left out") and coding in said
    kept = flow.response.tee
    assert (kept.content, kept.size, kept.sha256) == (b"", 1 << 30, b"hash")


@pytest.mark.parametrize("coding", ["gzip", "aws-chunked", "utf-8"])
def test_a_body_whose_coding_cannot_be_undone_is_left_out(coding: str) -> None:
    """One that ends too early, and one that is in the clear under a coding's name."""
    body = gzip.compress(b'{"token": "S"}' * 100)[:-9] if coding == "gzip" else b'{"token": "S"}'
    flow = flowkit.http(method="POST", body=body)
    flow.request.headers["content-encoding"] = coding
    (said,) = Redactor(SECRETS)(flow)
    assert said.startswith("the request's body is left out")
    assert flow.request.raw_content is None and flow.request.moved == len(body)


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_json_in_other_encodings(charset: str) -> None:
    flow = flowkit.http(answer='{"ä": "ö", "token": "S"}'.encode(charset), Content_Type="application/json")
    assert flow.response is not None
    assert redacted(flow).response.content == '{"ä": "ö", "token": "[redacted]"}'.encode(charset)


def test_a_long_body_of_quotes_and_backslashes_takes_no_longer() -> None:
    for text in (b'\\"', b'"\\', b'"\\a"', b'"\\n":', b"\\\\", b'"'):
        flow = flowkit.http(answer=b"{" + text * 200_000)
        began = time.process_time()
        redacted(flow)
        assert time.process_time() - began < 5


def test_messages_the_state_before_edits_and_who_asked_the_proxy() -> None:
    flow = flowkit.websocket()
    assert flow.websocket is not None
    flow.websocket.messages[0].content = b'{"token":"S"}'
    flow.request.headers["Authorization"] = "S"
    flow.metadata["proxyauth"] = ("user", "S")
    flow.backup()
    redacted(flow)
    assert flow.websocket.messages[0].content == b'{"token":"[redacted]"}'
    assert flow.metadata["proxyauth"] == ("user", PLACEHOLDER) and flow.get_state()["backup"] is None
    raw = flowkit.tcp()
    raw.messages[0].content = b'{"token":"S"}\n'
    assert [one.content for one in redacted(raw).messages] == [b'{"token":"[redacted]"}\n', b"BAR\xff"]


keys = st.sampled_from(["a", "token", "Token", 'x"token"'])
values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
)


def expected(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: PLACEHOLDER if key.lower() == "token" else expected(inner) for key, inner in value.items()}
    return [expected(inner) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(keys, values, max_size=3), st.booleans())
def test_any_json(value: Any, ascii_only: bool) -> None:
    flow = HTTPFlow.from_state(flowkit.http(body=json.dumps(value, ensure_ascii=ascii_only).encode()).get_state())
    assert json.loads(redacted(flow).request.content) == expected(value)
