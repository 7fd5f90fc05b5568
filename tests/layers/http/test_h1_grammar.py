"""What is refused, what is tolerated, and what a head reads as."""

from __future__ import annotations

import contextlib
import time

import pytest

from appliance.layers.http.h1_grammar import (
    Refused,
    check_head,
    check_partial,
    parse_request,
    parse_response,
    serialize_request,
    serialize_response,
    split_target,
)


def request(*lines: bytes, start: bytes = b"POST / HTTP/1.1", host: bool = True) -> bytes:
    return b"\r\n".join([start, *([b"Host: a.test"] if host else []), *lines, b"", b""])


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([start, *lines, b"", b""])


LENGTHS = [b"+5", b"-1", b"0x5", b"", b"5 5", b"5, 5", b"5,5", b"5, 6", b"5;", b"5.0", b"1e3", b"5_0", b"05", b"00"]
LENGTHS += [b"9223372036854775808", b"18446744073709551621", b"9" * 400, b"\xb2", b'"5"', b"5\x0b"]
CODINGS = [b"xchunked", b"chunked, chunked", b"chunked;q=1", b"identity", b"gzip, chunked", b"chunked, gzip"]
CODINGS += [b"chunked, identity", b"", b",chunked", b"chunked,", b'"chunked"', b"chun ked", b"chunkedx", b"\xffchunked"]

# Field lines that neither a request nor a response may have, however lax we are.
SMUGGLING: list[tuple[int, list[bytes]]] = [
    (400, [b"Content-Length: 5", b"Transfer-Encoding: chunked"]),
    (400, [b"Transfer-Encoding: chunked", b"Content-Length: 5"]),
    (400, [b"transfer-encoding: chunked", b"CONTENT-LENGTH: 0"]),
    (400, [b"Transfer-Encoding: identity", b"Content-Length: 5"]),
    (400, [b"Content-Length: 5", b"Content-Length: 6"]),
    (400, [b"Content-Length: 5", b"Content-Length: 5"]),
    (400, [b"Content-Length: 5", b"content-length: 5"]),
    (400, [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"]),
    (400, [b"Transfer-Encoding: chunked", b"TRANSFER-ENCODING: identity"]),
    *((400, [b"Content-Length: " + value]) for value in LENGTHS),
    *((501, [b"Transfer-Encoding: " + value]) for value in CODINGS),
    (400, [b"Transfer-Encoding: chunked\x0b"]),
    (400, [b"Transfer-Encoding:\x0bchunked"]),
    (400, [b"Transfer-Encoding: chunked\x0c"]),
    (400, [b"X: a\rb"]),
    (400, [b"X: a\r"]),
    (400, [b"X: a\nY: b"]),
    (400, [b"X: a\n"]),
    (400, [b"X: a\r\r"]),
    (400, [b"X: a", b" b"]),
    (400, [b"X: a", b"\tb"]),
    (400, [b"X: a", b" "]),
    (400, [b"X: a", b" Content-Length: 5"]),
    (400, [b"Content-Length:", b" 5"]),
    (400, [b"X : a"]),
    (400, [b"X\t: a"]),
    (400, [b"Content-Length : 5"]),
    (400, [b"Transfer-Encoding : chunked"]),
    (400, [b"X: a\x00b"]),
    (400, [b"X\x00: a"]),
    (400, [b"X: \x00"]),
    (400, [b"X: a\x0bb"]),
    (400, [b"X Y: a"]),
    (400, [b"X\xe9: a"]),
    (400, [b"X(: a"]),
    (400, [b": a"]),
    (400, [b"X"]),
    (400, [b"X: a", b"", b"Y: b"]),
]
IDS = [b" | ".join(lines).decode("latin-1").encode("unicode_escape").decode()[:60] for _, lines in SMUGGLING]


@pytest.mark.parametrize(("status", "lines"), SMUGGLING, ids=IDS)
@pytest.mark.parametrize("strict", [True, False])
def test_smuggling_shapes(status: int, lines: list[bytes], strict: bool) -> None:
    for parse, make in ((parse_request, request), (parse_response, response)):
        with pytest.raises(Refused) as refused:
            parse(make(*lines), strict)
        assert refused.value.status == status
        assert refused.value.why.isprintable()


@pytest.mark.parametrize("control", [*range(1, 9), *range(14, 32), 127])
def test_control_characters_are_refused_only_if_strict(control: int) -> None:
    line = b"X: a%cb" % control
    for parse, make in ((parse_request, request), (parse_response, response)):
        with pytest.raises(Refused, match=f"0x{control:02x}"):
            parse(make(line))
        assert (b"X", line[3:]) in parse(make(line), strict=False).fields


@pytest.mark.parametrize(
    ("status", "block"),
    [
        (400, request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0")),
        (400, request(host=False)),
        (400, request(b"Host: b.test")),
        (400, request(b"Host: a.test")),
        (400, request(b"HOST: a.test", start=b"GET / HTTP/1.0")),
        (400, request(start=b"GET  / HTTP/1.1")),
        (400, request(start=b"GET /  HTTP/1.1")),
        (400, request(start=b"GET / x HTTP/1.1")),
        (400, request(start=b"GET / HTTP/1.1 ")),
        (400, request(start=b" GET / HTTP/1.1")),
        (400, request(start=b"GET\t/\tHTTP/1.1")),
        (400, request(start=b"GET /\tx HTTP/1.1")),
        (400, request(start=b"GET /\x7f HTTP/1.1")),
        (400, request(start=b"GET /\x01 HTTP/1.1")),
        (400, request(start=b"GET /\x00 HTTP/1.1")),
        (400, request(start=b"GET /\xc3\xa9 HTTP/1.1")),
        (400, request(start=b"G(T / HTTP/1.1")),
        (400, request(start=b"G\xc9T / HTTP/1.1")),
        (400, request(start=b"GET /")),
        (400, request(start=b"GET")),
        (400, request(start=b"")),
        (400, request(start=b"GET / http/1.1")),
        (400, request(start=b"GET / HTTP/1.1x")),
        (400, request(start=b"GET / HTTP/11")),
        (400, request(start=b"GET / HTTP/1.10")),
        (400, request(start=b"GET / HTTPS/1.1")),
        (505, request(start=b"GET / HTTP/2.0")),
        (505, request(start=b"GET / HTTP/1.2")),
        (505, request(start=b"GET / HTTP/0.9")),
        (400, request(start=b"GET * HTTP/1.1")),
        (400, request(start=b"GET a.test:80 HTTP/1.1")),
        (400, request(start=b"GET a.test HTTP/1.1")),
        (400, request(start=b"GET ftp://a.test/ HTTP/1.1")),
        (400, request(start=b"GET http:/a.test/ HTTP/1.1")),
        (400, request(start=b"GET http://u:p@a.test/ HTTP/1.1")),
        (400, request(start=b"GET http://a.test#x HTTP/1.1")),
        (400, request(start=b"GET http:// HTTP/1.1")),
        (400, request(start=b"CONNECT / HTTP/1.1")),
        (400, request(start=b"CONNECT a.test HTTP/1.1")),
        (400, request(start=b"CONNECT http://a.test:80/ HTTP/1.1")),
        (400, request(start=b"CONNECT a.test:99999 HTTP/1.1")),
        (400, request(b"Content-Length: 3", start=b"CONNECT a.test:443 HTTP/1.1")),
        (400, request(b"Transfer-Encoding: chunked", start=b"CONNECT a.test:443 HTTP/1.1")),
        (400, b"GET / HTTP/1.1\r\nHost: a.test\r\n"),
        (400, b"GET / HTTP/1.1\r\n"),
        (400, b"\r\n\r\n"),
        (400, b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: a.test\n\n"),
        (400, b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n"),
        (400, b""),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_bad_requests(status: int, block: bytes, strict: bool) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(block, strict)
    assert refused.value.status == status
    assert refused.value.why.isprintable()


@pytest.mark.parametrize(
    ("status", "block"),
    [
        (400, request(start=b"GET /#x HTTP/1.1")),
        (400, request(b"Host: a b", host=False)),
        (400, request(b"Host: a, b", host=False)),
        (400, request(b"Host: a/b", host=False)),
        (400, request(b"Host: u@a", host=False)),
        (400, request(b"Host: a:0", host=False)),
        (400, request(b"Host: a:65536", host=False)),
        (400, request(b"Host: \xe9", host=False)),
        (417, request(b"Expect: tea")),
        (417, request(b"Expect: 100-continue, tea")),
        (417, request(b"Expect: 100-continue", b"Expect: 100-continue")),
    ],
)
def test_refused_only_if_strict(status: int, block: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_request(block)
    assert refused.value.status == status
    assert parse_request(block, strict=False).method


@pytest.mark.parametrize(
    ("status", "block"),
    [
        (400, response(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK")),
        (400, response(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 100 Continue")),
        (400, response(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 101 Switching")),
        (400, response(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 204 No Content")),
        (400, response(start=b"HTTP/1.1  200 OK")),
        (400, response(start=b"HTTP/1.1 20 OK")),
        (400, response(start=b"HTTP/1.1 2000 OK")),
        (400, response(start=b"HTTP/1.1 +20 OK")),
        (400, response(start=b"HTTP/1.1 099 OK")),
        (400, response(start=b"HTTP/1.1 000")),
        (400, response(start=b"HTTP/1.1 200\tOK")),
        (400, response(start=b"HTTP/1.1")),
        (400, response(start=b"ICY 200 OK")),
        (400, response(start=b" HTTP/1.1 200 OK")),
        (400, response(start=b"HTTP/1.1 200 O\x00K")),
        (505, response(start=b"HTTP/2.0 200 OK")),
        (505, response(start=b"HTTP/1.9 200 OK")),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_bad_responses(status: int, block: bytes, strict: bool) -> None:
    with pytest.raises(Refused) as refused:
        parse_response(block, strict)
    assert refused.value.status == status


def test_status_out_of_range_only_if_strict() -> None:
    with pytest.raises(Refused):
        parse_response(response(start=b"HTTP/1.1 600 x"))
    assert parse_response(response(start=b"HTTP/1.1 600 x"), strict=False).status == 600


@pytest.mark.parametrize(
    ("start", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.0 404 Not\tFound \xe9", 404, b"Not\tFound \xe9"),
        (b"HTTP/1.1 999 Denied", 999, b"Denied"),
        (b"HTTP/1.1 101 Switching Protocols", 101, b"Switching Protocols"),
        (b"HTTP/1.1 103 Early Hints", 103, b"Early Hints"),
    ],
)
def test_sloppy_status_lines(start: bytes, status: int, reason: bytes) -> None:
    # The blank behind a value sends the second one to h11.
    for lines in ([b"X: a"], [b"X: a "]):
        head = parse_response(response(*lines, start=start))
        assert (head.status, head.reason, head.fields) == (status, reason, ((b"X", b"a"),))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"X:a", b"a"),
        (b"X: a", b"a"),
        (b"X: \t  a \t", b"a"),
        (b"X:", b""),
        (b"X: ", b""),
        (b"X: a\tb  c", b"a\tb  c"),
        (b"X: \xe9\xff\x80", b"\xe9\xff\x80"),
        (b"X: a:b", b"a:b"),
        (b"X: a:b ", b"a:b"),
    ],
)
def test_values(line: bytes, value: bytes) -> None:
    assert parse_request(request(line)).fields[1:] == ((b"X", value),)
    assert parse_response(response(line)).fields == ((b"X", value),)


def test_request_reads_as_it_came() -> None:
    head = parse_request(request(b"x-CaSe: 1", b"Transfer-Encoding: ChunkeD", start=b"pAtch /a?b=%20|{ HTTP/1.1"))
    assert (head.method, head.target, head.version) == (b"pAtch", b"/a?b=%20|{", b"HTTP/1.1")
    assert head.fields == ((b"Host", b"a.test"), (b"x-CaSe", b"1"), (b"Transfer-Encoding", b"ChunkeD"))
    assert head.framing.chunked and head.host == b"a.test" and head.persistent
    # h11 writes the coding in lower case: not so what we hand on
    slow = parse_request(request(b"x-CaSe: 1 ", b"Transfer-Encoding: ChunkeD ", start=b"pAtch / HTTP/1.1"))
    assert slow.fields == head.fields


@pytest.mark.parametrize("blank", [b" ", b"\t"])
def test_a_folded_line_is_called_so(blank: bytes) -> None:
    for parse, make in ((parse_request, request), (parse_response, response)):
        with pytest.raises(Refused, match="folded"):
            parse(make(b"X: a", blank + b"Y: b"))


def test_http10_needs_no_host() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\n\r\n")
    assert (head.fields, head.host, head.version, head.persistent) == ((), None, b"HTTP/1.0", False)
    assert parse_request(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").persistent


def test_connect_may_say_that_it_has_no_body() -> None:
    head = parse_request(request(b"Content-Length: 0", start=b"CONNECT a.test:443 HTTP/1.1"))
    assert split_target(head).port == 443


def test_serialise_and_check() -> None:
    block = serialize_request(b"GET", b"/x", b"HTTP/1.1", ((b"Host", b"a"), (b"X", b"")))
    assert block == b"GET /x HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
    check_head(block, ((b"Host", b"a"), (b"X", b"")))
    block = serialize_response(b"HTTP/1.1", 204, b"", ())
    assert block == b"HTTP/1.1 204 \r\n\r\n"
    check_head(block, ())


@pytest.mark.parametrize(
    "field", [(b"X", b"a\r\nY: b"), (b"X", b"a\nb"), (b"X", b"\r\n\r\nGET / HTTP/1.1"), (b"X y", b"a"), (b"", b"a"),
              (b"X: a\r\nY", b"b"), (b"X:", b"a"), (b"X", b"a\r\n b"), (b"X", b"a\x00"), (b"X", b"a\r")],
)  # fmt: skip
def test_check_head_finds_what_an_addon_smuggled_in(field: tuple[bytes, bytes]) -> None:
    fields = ((b"Host", b"a"), field)
    for block in (
        serialize_request(b"GET", b"/", b"HTTP/1.1", fields),
        serialize_response(b"HTTP/1.1", 200, b"OK", fields),
    ):
        with pytest.raises(Refused) as refused:
            check_head(block, fields)
        assert refused.value.status == 500


@pytest.mark.parametrize("start", [b"GET / x HTTP/1.1", b"GET /\r\nX: y HTTP/1.1", b"GET  HTTP/1.1", b"HTTP/1.1 20 x"])
def test_check_head_finds_a_bad_start_line(start: bytes) -> None:
    with pytest.raises(Refused):
        check_head(start + b"\r\nHost: a\r\n\r\n", ((b"Host", b"a"),))


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\n\n", b"\x16\x03\x01", b"GET /\rX", b"\n", b" GET", b"A\x00"]
)
def test_check_partial_refuses_at_once(data: bytes) -> None:
    with pytest.raises(Refused):
        check_partial(bytearray(data))
    with pytest.raises(Refused):  # and byte by byte
        for end in range(1, len(data) + 1):
            check_partial(data[:end], end - 1)


def test_check_partial_lets_a_head_grow() -> None:
    data = b"\r\n" + request(b"X: \xe9\t", b"Y:")
    for end in range(len(data) + 1):
        check_partial(data[:end])
        check_partial(data[:end], max(0, end - 1))


MB = 1 << 20
SLOW = [
    b"a" * MB,
    b"a:" * (MB // 2),
    b"a:" + b" " * MB,
    b"a:" + b" " * MB + b"\x01",
    b"a:" + b" " * MB + b"\x00",
    b"a: " + b"x " * (MB // 2),
    b"a: " + b"x " * (MB // 2) + b"\x0b",
    b"a: b\r\n" * (MB // 6) + b"a : b",
    b"a: b \r\n" * (MB // 7) + b"x",
    b"a\r\n" * (MB // 3),
    b"\r" * MB,
    b"\n" * MB,
    b"\r\n" * (MB // 2),
    b"Connection: " + b"a," * (MB // 2),
    b"Connection: a \r\n" * (MB // 100),
    b"Content-Length: " + b"9" * MB,
    b"Expect: " + b"1" * MB,
    b"Expect: a\r\n" * (MB // 40),
    b"Transfer-Encoding: " + b"chunked," * (MB // 8),
]


@pytest.mark.parametrize("lines", SLOW, ids=range(len(SLOW)))
def test_time_is_linear(lines: bytes) -> None:
    blocks = [b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n", b"GET " + lines + b" HTTP/1.1\r\nHost: a\r\n\r\n"]
    blocks += [b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n", b"HTTP/1.1 200 " + lines + b"\r\n\r\n"]
    for strict in (True, False):
        for block in blocks:
            start = time.process_time()
            with contextlib.suppress(Refused):
                (parse_response if block[:1] == b"H" else parse_request)(block, strict)
            assert time.process_time() - start < 2.0
