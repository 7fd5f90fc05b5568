"""Request targets and Host values."""

from __future__ import annotations

import pytest

from appliance.layers.http.h1_grammar import Refused, parse_host_header, parse_request, split_target


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET /a?b", ("origin", b"", "", 0, b"", b"/a?b")),
        (b"GET //a.test/x", ("origin", b"", "", 0, b"", b"//a.test/x")),
        (b"OPTIONS *", ("asterisk", b"", "", 0, b"", b"*")),
        (b"GET http://a.test/x?y", ("absolute", b"http", "a.test", 80, b"a.test", b"/x?y")),
        (b"GET HTTPS://A.Test", ("absolute", b"https", "A.Test", 443, b"A.Test", b"/")),
        (b"GET http://a.test?x", ("absolute", b"http", "a.test", 80, b"a.test", b"/?x")),
        (b"GET http://a.test:8080/@:x", ("absolute", b"http", "a.test", 8080, b"a.test:8080", b"/@:x")),
        (b"GET http://a.test:/", ("absolute", b"http", "a.test", 80, b"a.test:", b"/")),
        (b"OPTIONS http://a.test:81", ("absolute", b"http", "a.test", 81, b"a.test:81", b"*")),
        (b"OPTIONS http://a.test/", ("absolute", b"http", "a.test", 80, b"a.test", b"/")),
        (b"GET http://[::1]:81/", ("absolute", b"http", "::1", 81, b"[::1]:81", b"/")),
        (b"GET http://[FE80::1]", ("absolute", b"http", "FE80::1", 80, b"[FE80::1]", b"/")),
        (
            b"GET http://xn--bcher-kva.test/",
            ("absolute", b"http", "xn--bcher-kva.test", 80, b"xn--bcher-kva.test", b"/"),
        ),
        (b"GET http://a_b.test/", ("absolute", b"http", "a_b.test", 80, b"a_b.test", b"/")),
        (b"CONNECT a.test:443", ("authority", b"", "a.test", 443, b"a.test:443", b"")),
        (b"CONNECT [2001:db8::1]:65535", ("authority", b"", "2001:db8::1", 65535, b"[2001:db8::1]:65535", b"")),
        (b"CONNECT [::ffff:192.0.2.1]:1", ("authority", b"", "::ffff:192.0.2.1", 1, b"[::ffff:192.0.2.1]:1", b"")),
    ],
)
def test_targets(line: bytes, expected: tuple[str, bytes, str, int, bytes, bytes]) -> None:
    assert split_target(parse_request(line + b" HTTP/1.1\r\nHost: h\r\n\r\n")) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://a.test:0/", b"GET http://a.test:65536/", b"GET http://a.test:080/", b"GET http://a.test:1:2/",
        b"GET http://[::1/", b"GET http://::1/", b"GET http://[::1]x/", b"GET http://[1::2::3]/",
        b"GET http://[1.2.3.4]/",
        b"GET http://[fe80::1%25eth0]/", b"GET http://[v1.x]/", b"GET http://a%2eb/", b"GET http://a\\b/",
        b"GET http:///x",
        b"GET http://u@a/", b"GET http://:80/", b"GET http://a,b/", b"GET http://" + b"a" * 256 + b"/",
        b"GET file:///x",
        b"GET ws://a/", b"GET a", b"GET a/b", b"GET ?x", b"POST *", b"OPTIONS **", b"CONNECT *",
        b"CONNECT a:0", b"CONNECT a:",
        b"CONNECT :443", b"CONNECT u@a:443", b"CONNECT a:443/", b"CONNECT [::1]", b"CONNECT a:+443", b"CONNECT a:4_3",
    ],
)  # fmt: skip
def test_bad_targets(line: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(line + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a.test", ("a.test", None)),
        (b"A.test:8080", ("A.test", 8080)),
        (b"a.test:", ("a.test", None)),
        (b"", ("", None)),
        (b"[::1]", ("::1", None)),
        (b"[::1]:65535", ("::1", 65535)),
        (b"192.0.2.1:1", ("192.0.2.1", 1)),
    ],
)
def test_host(value: bytes, expected: tuple[str, int | None]) -> None:
    assert parse_host_header(value) == expected
    assert parse_request(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value).host == value


@pytest.mark.parametrize(
    "value",
    [b"a b", b"a\tb", b"a,b", b"a/b", b"a?b", b"a#b", b"u@a", b"a:0", b"a:65536", b"a:99999", b"a:123456", b"a:+1",
     b"a:08", b":80", b"[::1", b"::1", b"[::g]", b"[::1]]", b"a%41", b"\xc3\xa9", b"a\\b", b"<a>", b"a:b",
     b"http://a"],
)  # fmt: skip
def test_bad_host(value: bytes) -> None:
    with pytest.raises(Refused):
        parse_host_header(value)
    with pytest.raises(Refused) as refused:
        parse_request(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value)
    assert refused.value.status == 400
