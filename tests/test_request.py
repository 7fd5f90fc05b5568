from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.http import Headers, Request


def make(target: str = "http://a.example/x?a=1&b=2#f", method: str = "GET", **headers: str) -> Request:
    r = Request.make(method, target, headers=Headers(**headers))
    del r.headers["content-length"]
    return r


def connect(authority: bytes = b"a.example:443") -> Request:
    return Request("a.example", 443, b"CONNECT", b"", authority, b"", b"HTTP/1.1", Headers(), b"", None, 0.0, None)


def h2(authority: bytes = b"a.example", **headers: str) -> Request:
    fields = Headers(**headers)
    return Request("10.0.0.1", 443, b"GET", b"https", authority, b"/x", b"HTTP/2.0", fields, b"", None, 0.0, 0.0)


def test_make() -> None:
    r = Request.make(
        "post", "https://a.example:8443/x", "grün", {"A": "b", "content-type": "text/plain; charset=utf-8"}
    )
    assert (r.method, r.raw_method, r.scheme, r.host, r.port, r.path) == (
        "POST",
        b"post",
        "https",
        "a.example",
        8443,
        "/x",
    )
    assert (r.content, r.headers["content-length"], r.headers["a"]) == ("grün".encode(), "5", "b")
    assert r.authority == ""
    assert r.timestamp_start > 1e9
    assert repr(r) == "Request(POST https://a.example:8443/x)"
    assert Request.make("GET", "http://a.example/", headers={"Host": "b.example"}).pretty_host == "b.example"
    mine = Headers(a="b")
    assert Request.make("GET", "http://a.example/", b"x", mine).headers["content-length"] == "1"
    assert mine == Headers(a="b")
    with pytest.raises(ValueError, match="URL"):
        Request.make("GET", "/x")


def test_str_is_taken_for_bytes() -> None:
    host, fields = b"xn--bcher-kva.example", [(b"a", b"b")]
    r = Request(host, 80, "GET", "http", "bücher.example", "/", "HTTP/1.1", fields, None, None, 0, 0)
    assert r.host == "bücher.example"
    assert r.raw_authority == b"xn--bcher-kva.example"
    assert r.authority == "bücher.example"
    assert (r.raw_method, r.raw_scheme, r.raw_path, r.raw_http_version) == (b"GET", b"http", b"/", b"HTTP/1.1")
    with pytest.raises(TypeError):
        Request("a", 80, 5, b"", b"", b"", b"", Headers(), None, None, 0, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Request("a", 80, b"GET", b"", b"", b"", b"", Headers(), "text", None, 0, 0)  # type: ignore[arg-type]


def test_first_line_format() -> None:
    assert connect().first_line_format == "authority"
    r = make()
    assert r.first_line_format == "relative"
    r.authority = "a.example"
    assert r.first_line_format == "absolute"
    assert h2().first_line_format == "absolute"


def test_host_and_port_take_host_header_and_authority_along() -> None:
    r = make(host="a.example")
    r.authority = "a.example"
    r.host = "b.example"
    assert (r.headers["host"], r.authority) == ("b.example", "b.example")
    r.port = 8080
    assert (r.headers["host"], r.authority) == ("b.example:8080", "b.example:8080")
    r.host = "::1"
    assert (r.headers["host"], r.authority) == ("[::1]:8080", "[::1]:8080")
    r.host = "bücher.example"
    assert (r.headers["host"], r.raw_authority) == ("xn--bcher-kva.example:8080", b"xn--bcher-kva.example:8080")
    bare = make()
    bare.host = "c.example"
    assert "host" not in bare.headers
    assert bare.authority == ""


@pytest.mark.parametrize("port", ["80", 1.0, None, -1, 65536, True])
def test_port_is_an_int(port: int) -> None:
    r = make()
    with pytest.raises(ValueError, match="port"):
        r.port = port
    assert r.port == 80


def test_url() -> None:
    r = make(host="a.example")
    assert r.url == "http://a.example/x?a=1&b=2#f"
    r.url = "https://b.example:444"
    assert (r.scheme, r.host, r.port, r.path, r.headers["host"]) == ("https", "b.example", 444, "/", "b.example:444")
    before = r.get_state()
    with pytest.raises(ValueError, match="URL"):
        r.url = "nonsense"
    assert r.get_state() == before
    assert connect().url == "a.example:443"
    star = make(method="OPTIONS")
    star.path = "*"
    assert star.url == star.pretty_url == "http://a.example"


@given(st.sampled_from(["http", "https"]), st.sampled_from(["a.example", "[::1]", "10.0.0.1"]),
       st.none() | st.integers(0, 65535), st.from_regex(r"/[!-~]{0,9}", fullmatch=True))  # fmt: skip
def test_url_get_and_set(scheme: str, host: str, port: int | None, path: str) -> None:
    r = make(host="x")
    given_url = f"{scheme}://{host}{'' if port is None else f':{port}'}{path}"
    r.url = given_url
    normal = r.url
    assert normal in (given_url, given_url.replace(":80/", "/", 1), given_url.replace(":443/", "/", 1))
    r.url = normal
    assert r.url == r.pretty_url == normal


@pytest.mark.parametrize(
    ("host", "pretty_host", "pretty_url"),
    [
        ("b.example", "b.example", "http://b.example/x"),
        ("b.example:81", "b.example", "http://b.example:81/x"),
        ("b.example:80", "b.example", "http://b.example/x"),
        ("[::1]:81", "::1", "http://[::1]:81/x"),
        ("[::1]", "::1", "http://[::1]/x"),
        ("what ever:x", "what ever:x", "http://what ever:x/x"),
        ("", "10.0.0.1", "http://10.0.0.1:8080/x"),
    ],
)
def test_pretty(host: str, pretty_host: str, pretty_url: str) -> None:
    r = make("http://10.0.0.1:8080/x", host=host)
    assert (r.pretty_host, r.pretty_url) == (pretty_host, pretty_url)
    assert r.host == "10.0.0.1"
    del r.headers["host"]
    assert (r.pretty_host, r.pretty_url) == ("10.0.0.1", "http://10.0.0.1:8080/x")


def test_pretty_elsewhere() -> None:
    assert connect().pretty_url == "a.example:443"
    assert h2(b"b.example:444").pretty_url == "https://b.example:444/x"
    assert h2(b"xn--bcher-kva.example").pretty_host == "bücher.example"
    assert h2(b"xn--\xff").authority == "xn--\udcff"


def test_host_header() -> None:
    r = make()
    assert r.host_header is None
    r.host_header = "b.example"
    assert r.headers["host"] == r.host_header == "b.example"
    r.host_header = None
    assert "host" not in r.headers
    two = h2()
    assert two.host_header == "a.example"
    two.host_header = "c.example"
    assert two.authority == "c.example"
    assert "host" not in two.headers
    two.headers["host"] = "x"
    two.host_header = "d.example"
    assert (two.authority, two.headers["host"]) == ("d.example", "d.example")
    two.host_header = None
    assert (two.raw_authority, two.host_header) == (b"", None)


def test_query() -> None:
    r = make()
    assert list(r.query.items(multi=True)) == [("a", "1"), ("b", "2")]
    r.query["a"] = "x y&z"
    assert r.path == "/x?a=x+y%26z&b=2#f"
    r.query = {"k": "v"}
    assert r.path == "/x?k=v#f"
    r.query.clear()
    assert r.path == "/x#f"
    r.path = "/?bare&c=1"
    r.query["c"] = "2"
    assert r.path == "/?bare&c=2"
    assert r.url == "http://a.example/?bare&c=2"


def test_path_components() -> None:
    r = make()
    r.path = "/a%2Fb//c%20d/?q#f"
    assert r.path_components == ("a/b", "c d")
    r.path_components = ["x/y", "ü"]
    assert r.path == "/x%2Fy/%C3%BC?q#f"
    r.path_components = ()
    assert r.path == "/?q#f"


def test_cookies() -> None:
    r = make(cookie="a=1; b=2")
    r.headers.add("Cookie", "c=3")
    assert list(r.cookies.items()) == [("a", "1"), ("b", "2"), ("c", "3")]
    r.cookies["b"] = "x"
    assert r.headers.get_all("cookie") == ["a=1; b=x; c=3"]
    r.cookies = [("only", "1")]
    assert r.headers["cookie"] == "only=1"
    del r.cookies["only"]
    assert "cookie" not in r.headers


def test_urlencoded_form() -> None:
    r = make(method="POST")
    r.content = b"a=1&b"
    assert not r.urlencoded_form
    r.headers["content-type"] = "application/x-www-form-urlencoded; charset=utf-8"
    assert r.urlencoded_form.fields == (("a", "1"), ("b", ""))
    r.urlencoded_form["a"] = "ü"
    assert r.content == b"a=%C3%BC&b"
    assert r.headers["content-length"] == "10"
    r.headers["content-type"] = "text/plain"
    r.urlencoded_form = {"x": "y"}
    assert r.headers["content-type"] == "application/x-www-form-urlencoded"
    assert r.content == b"x=y"


def test_multipart_form() -> None:
    r = make(method="POST")
    assert not r.multipart_form
    r.multipart_form = {b"a": b"1", b"b": b"\xff\r\n"}
    assert r.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert r.multipart_form.fields == ((b"a", b"1"), (b"b", b"\xff\r\n"))
    before = r.headers["content-type"]
    r.multipart_form[b"a"] = b"2"
    assert r.headers["content-type"] == before
    assert r.multipart_form[b"a"] == b"2"
    r.raw_content = None
    assert not r.multipart_form


def test_what_the_server_may_answer_with() -> None:
    r = make(if_none_match="x", if_modified_since="y", accept_encoding="gzip;q=0.5, br, compress, *;q=0, zstd")
    r.anticache()
    assert list(r.headers) == ["accept-encoding"]
    r.constrain_encoding()
    assert r.headers["accept-encoding"] == "gzip;q=0.5, br, zstd"
    r.headers["accept-encoding"] = "compress"
    r.constrain_encoding()
    assert r.headers["accept-encoding"] == "identity"
    r.headers["accept-encoding"] = "gzip"
    r.anticomp()
    assert r.headers["accept-encoding"] == "identity"
    bare = make()
    bare.constrain_encoding()
    assert not bare.headers
