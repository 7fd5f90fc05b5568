"""What fields of HTTP/2 may be, and what becomes of them on the way to and from our model."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.headers import Headers
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.h2_fields import (
    Malformed,
    for_http1,
    read_request,
    read_response,
    read_trailers,
    write_request,
    write_response,
    write_trailers,
)
from appliance.layers.http.h2_hpack import NeverIndexed
from appliance.request import Request
from appliance.response import Response

Fields = list[tuple[bytes, bytes]]
GET: Fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.test"), (b":path", b"/x?y")]
STATUS: Fields = [(b":status", b"200")]


def request(fields: Fields, version: bytes = b"HTTP/2.0", method: bytes = b"GET", authority: bytes = b"") -> Request:
    now = time.time()
    return Request("a.test", 443, method, b"https", authority, b"/", version, Headers(fields), b"", None, now, now)


def response(fields: Fields, status: int = 200) -> Response:
    now = time.time()
    return Response(b"HTTP/1.1", status, b"OK", Headers(fields), b"", None, now, now)


def test_a_request() -> None:
    head = read_request([*GET, (b"accept", b"*/*"), (b"content-length", b"7"), (b"expect", b"100-continue")])
    assert (head.method, head.scheme, head.authority, head.path) == (b"GET", b"https", b"a.test", b"/x?y")
    assert (head.host, head.port, head.length, head.expect_continue, head.protocol) == ("a.test", 443, 7, True, None)
    assert head.headers.fields[0] == (b"accept", b"*/*")


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [(b"a.test:8443", "a.test", 8443), (b"[::1]:1", "::1", 1), (b"127.0.0.1", "127.0.0.1", 443)],
)
def test_authority(authority: bytes, host: str, port: int) -> None:
    head = read_request([GET[0], GET[1], (b":authority", authority), GET[3]])
    assert (head.host, head.port) == (host, port)


def test_host_stands_in_for_authority() -> None:
    head = read_request([GET[0], GET[1], GET[3], (b"host", b"b.test:81")])
    assert (head.authority, head.host, head.port) == (b"b.test:81", "b.test", 81)
    assert read_request([*GET, (b"host", b"A.test")]).authority == b"a.test"


def test_crumbs_become_one_cookie() -> None:
    head = read_request([*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3")])
    assert head.headers.fields == ((b"cookie", b"a=1; b=2; c=3"), (b"x", b"y"))


BAD_REQUESTS: dict[str, Fields] = {
    "no method": GET[1:],
    "no scheme": [GET[0], *GET[2:]],
    "no path": GET[:3],
    "empty path": [*GET[:3], (b":path", b"")],
    "path without slash": [*GET[:3], (b":path", b"x")],
    "star for GET": [*GET[:3], (b":path", b"*")],
    "two paths": [*GET, (b":path", b"/")],
    "unknown pseudo": [*GET, (b":version", b"2")],
    "status": [*GET, (b":status", b"200")],
    "pseudo behind a field": [*GET[:3], (b"x", b"y"), GET[3]],
    "method is no token": [(b":method", b"G T"), *GET[1:]],
    "blank in path": [*GET[:3], (b":path", b"/a b")],
    "NUL in path": [*GET[:3], (b":path", b"/a\0")],
    "userinfo": [*GET[:2], (b":authority", b"u@a.test"), GET[3]],
    "bad port": [*GET[:2], (b":authority", b"a.test:99999"), GET[3]],
    "Host contradicts": [*GET, (b"host", b"b.test")],
    "two Hosts": [*GET, (b"host", b"a.test"), (b"host", b"a.test")],
    "CONNECT with a path": [(b":method", b"CONNECT"), *GET[1:]],
    "CONNECT without a port": [(b":method", b"CONNECT"), (b":authority", b"a.test")],
    "protocol without CONNECT": [*GET, (b":protocol", b"websocket")],
}
BAD_FIELDS: dict[str, tuple[bytes, bytes]] = {
    "uppercase": (b"Accept", b"x"),
    "empty name": (b"", b"x"),
    "blank in name": (b"a b", b"x"),
    "colon in name": (b"a:b", b"x"),
    "high byte in name": (b"a\xff", b"x"),
    "CR": (b"x", b"a\rb"),
    "LF": (b"x", b"a\nb"),
    "NUL": (b"x", b"a\0b"),
    "control": (b"x", b"a\x01b"),
    "leading blank": (b"x", b" a"),
    "trailing tab": (b"x", b"a\t"),
    "connection": (b"connection", b"close"),
    "keep-alive": (b"keep-alive", b"1"),
    "proxy-connection": (b"proxy-connection", b"x"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "upgrade": (b"upgrade", b"h2c"),
    "TE": (b"te", b"gzip"),
    "length": (b"content-length", b"+5"),
    "length as a list": (b"content-length", b"5, 5"),
}


@pytest.mark.parametrize("fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests(fields: Fields) -> None:
    with pytest.raises(Malformed):
        read_request(fields)


@pytest.mark.parametrize("bad", BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_bad_fields(bad: tuple[bytes, bytes]) -> None:
    for read, start in ((read_request, GET), (read_response, STATUS)):
        with pytest.raises(Malformed):
            read([*start, (b"x-good", b"1"), bad])
    with pytest.raises(Malformed):
        read_trailers([bad])


def test_two_lengths_and_trailers() -> None:
    for second in (b"4", b"5"):
        with pytest.raises(Malformed):
            read_request([*GET, (b"content-length", b"5"), (b"content-length", second)])
    read_request([*GET, (b"te", b"Trailers")])
    with pytest.raises(Malformed):
        read_trailers([(b":status", b"200")])


def test_lenient_lets_pass_what_cannot_split_a_message() -> None:
    assert read_request([*GET, (b"x", b" a\x01")], strict=False).headers["x"] == " a\x01"
    for fatal in (b"a\r\nb", b"a\0"):
        with pytest.raises(Malformed):
            read_request([*GET, (b"x", fatal)], strict=False)


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"abc", b"099", b"101", b"+20"])
def test_bad_status(status: bytes) -> None:
    with pytest.raises(Malformed):
        read_response([(b":status", status)])


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=20)), max_size=6))
def test_no_field_reaches_http1_that_could_end_its_line(fields: Fields) -> None:
    try:
        headers = read_request([*GET, *fields]).headers
    except Malformed:
        return
    for name, value in headers.fields:
        assert name and name == name.lower() and not set(name) & set(b" \t\r\n\0:")
        assert not set(value) & set(b"\r\n\0") and value == value.strip(b" \t")


# -- to HTTP/2


def test_from_http1() -> None:
    fields = [
        (b"Host", b"b.test:8080"),
        (b"Connection", b"keep-alive, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"5"),
        (b"Transfer-Encoding", b"chunked"),
        (b"TE", b"trailers, deflate"),
        (b"HTTP2-Settings", b"x"),
        (b"X-Kept", b"1"),
    ]
    assert write_request(request(fields, b"HTTP/1.1"), b"/p", None) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"b.test:8080"),
        (b":path", b"/p"),
        (b"x-kept", b"1"),
        (b"te", b"trailers"),
    ]


def test_authority_of_what_is_sent() -> None:
    def sent(made: Request) -> bytes:
        return dict(write_request(made, b"/", 0))[b":authority"]

    assert sent(request([(b"host", b"h.test")], authority=b"a.test:1")) == b"a.test:1"
    assert sent(request([(b"host", b"h.test")])) == b"h.test"
    assert sent(request([])) == b"a.test"
    made = request([], authority=b"a.test")
    made.host = "changed.test"
    assert sent(made) == b"changed.test"


def test_length_is_made_true() -> None:
    assert (b"content-length", b"3") in write_request(request([(b"content-length", b"9")]), b"/", 3)
    assert (b"content-length", b"9") in write_response(response([(b"Content-Length", b"9")]), None)
    assert write_response(response([(b"Content-Length", b"9")], 204), 0) == [(b":status", b"204")]


def test_never_indexed_is_kept() -> None:
    secret = NeverIndexed((b"x-token", b"s"))
    made = request([])
    made.headers = Headers.trusted(((b"content-length", b"5"), secret))
    assert type(write_request(made, b"/", 3)[-1]) is NeverIndexed


@pytest.mark.parametrize("bad", [(b"x", b"a\r\nb: c"), (b"x", b"a\0"), (b"a b", b"x"), (b"", b"x")])
def test_what_addons_break_is_not_sent(bad: tuple[bytes, bytes]) -> None:
    with pytest.raises(Refused):
        write_request(request([bad]), b"/", 0)
    with pytest.raises(Refused):
        write_response(response([bad]), 0)
    with pytest.raises(Refused):
        write_trailers(Headers([bad]))


@pytest.mark.parametrize(("path", "method"), [(b"/a b", b"GET"), (b"/\r\n", b"GET"), (b"/", b"G T"), (b"", b"CONNECT")])
def test_bad_targets_are_not_sent(path: bytes, method: bytes) -> None:
    with pytest.raises(Refused):
        write_request(request([], method=method), path, 0)


@pytest.mark.parametrize("status", [99, 101, 1000])
def test_bad_status_is_not_sent(status: int) -> None:
    with pytest.raises(Refused):
        write_response(response([], status), 0)


# -- to HTTP/1


@pytest.mark.parametrize(
    ("fields", "authority", "expected"),
    [
        ([(b"x", b"y")], b"a.test:1", [(b"Host", b"a.test:1"), (b"x", b"y")]),
        ([(b"host", b"h.test")], b"", [(b"host", b"h.test")]),
        ([(b"host", b"h.test")], b"a.test", [(b"Host", b"a.test")]),
        ([], b"", [(b"Host", b"a.test")]),
    ],
)
def test_host_for_http1(fields: Fields, authority: bytes, expected: Fields) -> None:
    made = request(fields, authority=authority)
    assert list(for_http1(made.headers, made).fields) == expected
