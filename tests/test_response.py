from __future__ import annotations

import pytest

from appliance.cookies import CookieAttrs
from appliance.http import Headers, Response


def test_make() -> None:
    r = Response.make()
    assert (r.status_code, r.reason, r.content, r.http_version) == (200, "OK", b"", "HTTP/1.1")
    assert r.headers["content-length"] == "0"
    r = Response.make(404, "grün", {"Content-Type": "text/plain; charset=utf-8"})
    assert r.raw_content == "grün".encode()
    assert r.headers.fields == ((b"Content-Type", b"text/plain; charset=utf-8"), (b"content-length", b"5"))
    assert Response.make(200, b"x", Headers(a="b")).headers["a"] == "b"
    assert Response.make(200, b"x", [(b"a", b"b")]).headers["a"] == "b"
    assert Response.make(799).reason == ""
    assert Response.make(304, None).raw_content is None
    assert "content-length" not in Response.make(304, None).headers
    with pytest.raises(TypeError):
        Response.make(200, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Response.make(200, b"", [("a", "b")])  # type: ignore[list-item]


def test_str_is_taken_for_bytes() -> None:
    r = Response("HTTP/1.0", 200, "Très bien", [(b"a", b"b")], b"", ((b"t", b"1"),), 1.0, None)
    assert (r.raw_http_version, r.raw_reason) == (b"HTTP/1.0", b"Tr\xe8s bien")
    assert r.trailers == Headers([(b"t", b"1")])
    assert r.reason == "Très bien"
    r.reason = "ü"
    assert r.raw_reason == b"\xfc"
    with pytest.raises(TypeError):
        Response(b"HTTP/1.0", 200, b"", Headers(), "text", None, 0.0, None)  # type: ignore[arg-type]


def test_headers_subclasses_are_kept() -> None:
    class Mine(Headers):
        pass

    mine = Mine([(b"a", b"b")])
    assert Response(b"HTTP/1.1", 200, b"", mine, None, None, 0.0, None).headers is mine


def test_cookies() -> None:
    r = Response.make(200, b"", [(b"Set-Cookie", b"a=1; Secure; Path=/"), (b"X", b"y"), (b"set-cookie", b"b=2")])
    value, attrs = r.cookies["a"]
    assert value == "1"
    assert attrs["secure"] is None
    attrs["path"] = "/x"
    assert r.headers.get_all("set-cookie") == ["a=1; Secure; Path=/", "b=2"]
    r.cookies["a"] = value, attrs
    assert r.headers.get_all("set-cookie") == ["a=1; Secure; Path=/x", "b=2"]
    r.cookies["c"] = "3", CookieAttrs()
    assert r.headers.get_all("set-cookie")[-1] == "c=3"
    del r.cookies["a"]
    assert list(r.cookies) == ["b", "c"]
    r.cookies = [("only", ("1", CookieAttrs()))]
    assert r.headers.get_all("set-cookie") == ["only=1"]
    r.cookies = r.cookies
    assert r.headers.get_all("set-cookie") == ["only=1"]


def test_refresh() -> None:
    date = b"Wed, 09 Jun 2021 10:18:14 GMT"
    r = Response.make(
        200,
        b"",
        [(b"Date", date), (b"Expires", b"0"), (b"Last-Modified", date), (b"Set-Cookie", b"a=1; expires=" + date)],
    )
    r.timestamp_start = 1000.0
    r.refresh(1060.0)
    later = "Wed, 09 Jun 2021 10:19:14 GMT"
    assert (r.headers["date"], r.headers["expires"], r.headers["last-modified"]) == (later, "0", later)
    assert r.headers["set-cookie"] == f"a=1; expires={later}"


def test_repr() -> None:
    r = Response.make(200, b"abc", {"content-type": "text/css"})
    assert repr(r) == "Response(200, text/css, 3 B)"
    r.raw_content = None
    assert repr(r) == "Response(200, text/css, no content)"
