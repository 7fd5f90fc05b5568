from __future__ import annotations

import gzip

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance import encoding
from appliance.http import Headers, Request, Response


def make(content: bytes | None = b"", **headers: str) -> Response:
    return Response(b"HTTP/1.1", 200, b"OK", Headers(**headers), content, None, 1.0, None)


@pytest.mark.parametrize(
    ("version", "which"),
    [("HTTP/1.0", "is_http10"), ("HTTP/1.1", "is_http11"), ("HTTP/2.0", "is_http2"), ("HTTP/3", "is_http3")],
)
def test_versions(version: str, which: str) -> None:
    r = make()
    r.http_version = version
    assert r.http_version == version
    assert r.raw_http_version == version.encode()
    for name in ("is_http10", "is_http11", "is_http2", "is_http3"):
        assert getattr(r, name) == (name == which)


# content


@given(st.binary(), st.sampled_from(["gzip", "deflate", "br", "zstd", "identity", "gzip, br"]))
def test_content_round_trip(content: bytes, coding: str) -> None:
    r = make(content_encoding=coding)
    r.content = content
    assert r.content == content
    assert r.raw_content is not None
    assert encoding.decode(r.raw_content, coding) == content
    assert r.headers["content-length"] == str(len(r.raw_content))


def test_missing_and_empty() -> None:
    r = make(None, content_encoding="gzip")
    assert r.content is r.text is None
    r.raw_content = b""
    assert r.content == b""
    assert r.text == ""
    r.content = None
    assert r.raw_content is None
    assert "content-length" not in r.headers
    r.text = None
    assert r.raw_content is None


def test_bad_encodings() -> None:
    for coding, raw in (("gzip", b"no gzip"), ("utf8", b"x"), ("nope", b"x")):
        r = make(raw, content_encoding=coding)
        with pytest.raises(ValueError, match="content"):
            r.content  # noqa: B018
        with pytest.raises(ValueError, match="content"):
            r.text  # noqa: B018
        assert r.get_content(strict=False) == raw
        assert r.get_text(strict=False) == raw.decode()


def test_setting_content_under_an_unknown_coding() -> None:
    r = make(b"x", content_encoding="nope")
    r.content = b"plain"
    assert r.raw_content == b"plain"
    assert "content-encoding" not in r.headers


def test_content_length_and_transfer_encoding() -> None:
    r = make(b"", transfer_encoding="chunked")
    r.content = b"abc"
    assert "content-length" not in r.headers
    r = make(b"", Content_Length="9")
    r.content = b"abc"
    assert r.headers.fields == ((b"Content-Length", b"3"),)


@pytest.mark.parametrize("value", ["text", 5, bytearray(b"x"), [b"x"]])
def test_content_must_be_bytes(value: object) -> None:
    r = make(b"before")
    with pytest.raises(TypeError):
        r.content = value
    assert r.raw_content == b"before"
    assert "content-length" not in r.headers


def test_decompression_is_bounded() -> None:
    r = make(gzip.compress(bytes(3_000_000)), content_encoding="gzip")
    with pytest.raises(encoding.DecodedTooLong):
        r.get_content(limit=1_000_000)
    assert len(r.content) == 3_000_000
    small = make(gzip.compress(bytes(1000)), content_encoding="gzip")
    assert len(small.content) == 1000
    with pytest.raises(encoding.DecodedTooLong):  # also when it is remembered
        small.get_content(limit=10)


def test_what_is_remembered_is_never_stale() -> None:
    r = make(gzip.compress(b"one"), content_encoding="gzip")
    assert r.content is r.content
    r.raw_content = gzip.compress(b"two")
    assert r.content == b"two"
    raw = r.raw_content
    r.headers["content-encoding"] = "identity"
    assert r.content == raw


def test_decode_and_encode() -> None:
    r = make(b"")
    r.content = b"body" * 100
    r.encode("gzip")
    assert gzip.decompress(r.raw_content or b"") == r.content == b"body" * 100
    assert r.headers["content-encoding"] == "gzip"
    r.decode()
    assert r.raw_content == b"body" * 100
    assert "content-encoding" not in r.headers
    assert r.headers["content-length"] == "400"
    with pytest.raises(ValueError, match="unknown"):
        r.encode("nope")
    assert "content-encoding" not in r.headers
    r.raw_content = None
    with pytest.raises(ValueError, match="missing"):
        r.encode("gzip")


def test_decode_leaves_what_it_cannot_or_need_not() -> None:
    empty = make(b"", content_encoding="gzip", content_length="77")  # a response to HEAD
    empty.decode()
    assert empty.headers["content-encoding"] == "gzip"
    assert empty.headers["content-length"] == "77"
    bad = make(b"junk", content_encoding="gzip")
    with pytest.raises(ValueError, match="not valid"):
        bad.decode()
    assert bad.headers["content-encoding"] == "gzip"
    bad.decode(strict=False)
    assert bad.content == b"junk"


# text


TYPES = [
    "text/plain",
    "text/html",
    "application/json",
    "",
    "a/b;charset=gbk",
    "a/b; charset=utf-16",
    "a/b; charset=nope",
]


@given(st.text(st.characters(codec="utf-8")), st.sampled_from(TYPES))
@example("\0", "a/b; charset=utf-16")  # its mark and the NUL together are the mark of UTF-32
def test_text_round_trip(text: str, content_type: str) -> None:
    r = make(content_type=content_type)
    r.text = text
    if not text.startswith("\ufeff"):
        assert r.text == text


def test_text_that_the_charset_cannot_express() -> None:
    r = make(content_type="text/plain; charset=latin-1; x=y")
    r.text = "łódź"
    assert r.headers["content-type"] == "text/plain; charset=utf-8; x=y"
    assert r.raw_content == "łódź".encode()
    bare = make()
    bare.text = "ł"
    assert bare.headers["content-type"] == "text/plain; charset=utf-8"
    bare.headers["content-type"] = "application/json"
    bare.text = "\udcff"  # a byte that was no text when it was read
    assert bare.raw_content == b"\xff"


def test_text_that_cannot_be_decoded() -> None:
    r = make(b"a\xff", content_type="application/json")
    with pytest.raises(ValueError, match="decode"):
        r.text  # noqa: B018
    assert r.get_text(strict=False) == "a\udcff"


def test_json() -> None:
    assert make(b'{"a": [1.5]}').json() == {"a": [1.5]}
    assert make(b"1.5").json(parse_float=str) == "1.5"
    with pytest.raises(TypeError):
        make(None).json()
    with pytest.raises(ValueError, match="Expecting"):
        make(b"no").json()


# copies, state, raw names


def test_copy() -> None:
    r = make(b"x", a="1")
    r.trailers = Headers(t="1")
    r.stream = True
    copied = r.copy()
    assert type(copied) is Response
    assert copied.get_state() == r.get_state()
    assert copied.stream is False
    copied.headers["a"] = "2"
    copied.trailers["t"] = "2"
    assert (r.headers["a"], r.trailers["t"]) == ("1", "1")


def test_state_is_strict() -> None:
    state = make().get_state()
    assert set(state) == {
        "http_version", "headers", "content", "trailers", "timestamp_start", "timestamp_end", "status_code", "reason",
    }  # fmt: skip
    with pytest.raises(ValueError, match="extra"):
        Response.from_state(state | {"extra": 1})
    with pytest.raises(ValueError, match="Request"):
        Request.from_state(state)


def test_data() -> None:
    r = Request.make("get", "http://a.example/x")
    assert (r.data.method, r.data.path, r.data.host, r.data.port) == (b"get", b"/x", "a.example", 80)
    r.data.content = b"raw"
    r.data.path = b"/y"
    assert (r.raw_content, r.path) == (b"raw", "/y")
    assert r.data == r.copy().data
    with pytest.raises(AttributeError):
        r.data.nope  # noqa: B018
    with pytest.raises(AttributeError):
        r.data.url = "x"


@pytest.mark.parametrize(
    "kind, body, text",
    [
        ("text/html", "grüße".encode(), "grüße"),
        ("text/html", "grüße".encode("latin-1"), "grüße"),  # in nothing that was named
        ("text/xml", "grüße".encode("latin-1"), "grüße"),
        ("application/javascript", "grüße".encode("latin-1"), "grüße"),
        ("text/html", '<meta charset="utf-8">grüße'.encode("latin-1"), None),  # it was named
        ("text/html; charset=utf-8", "grüße".encode("latin-1"), None),
        ("application/json", '"grüße"'.encode("latin-1"), None),
    ],
)
def test_text_in_no_declared_character_set(kind: str, body: bytes, text: str | None) -> None:
    response = Response.make(200, body, {"content-type": kind})
    if text is None:
        with pytest.raises(ValueError):
            _ = response.text
    else:
        assert response.text == text


@pytest.mark.parametrize(
    "kind, body",
    [
        ("text/html", '<meta charset="gb2312">中'.encode("gb18030")),
        ("text/html", "grüße".encode("latin-1")),
        ("text/html", "grüße".encode()),
        ("text/plain", "grüße".encode("latin-1")),
        ("text/xml", '<?xml version="1.0" encoding="iso-8859-1"?><a>ü</a>'.encode("latin-1")),
        ("text/css", '@charset "iso-8859-1";ü'.encode("latin-1")),
        ("text/html; charset=iso-8859-1", "grüße".encode("latin-1")),
        ("application/json", '"ü"'.encode()),
    ],
)
def test_a_text_that_is_edited_stays_in_its_character_set(kind: str, body: bytes) -> None:
    response = Response.make(200, body, {"content-type": kind})
    assert response.text is not None
    response.text += " more"
    assert response.raw_content == body + b" more" and response.headers["content-type"] == kind
    response.text += " \U0001f600"  # in some of them there is none
    assert response.text.endswith(" more \U0001f600")
