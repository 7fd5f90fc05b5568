"""Bodies, connection options, and what stays behind on its hop."""

from __future__ import annotations

import pytest

from appliance.layers.http.h1_grammar import (
    CHUNKED,
    EOF,
    NONE,
    Refused,
    body_of_request,
    body_of_response,
    framing,
    hop_names,
    parse_request,
    parse_response,
    strip_hop,
)

LENGTH = (b"Content-Length", b"5")
CODING = (b"Transfer-Encoding", b"chunked")


def fields(*lines: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))


def request(method: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    target = b"a:1" if method == b"CONNECT" else b"/"
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, target, version), b"Host: a", *lines, b"", b""])


@pytest.mark.parametrize(
    ("method", "lines", "body"),
    [
        (b"GET", [], NONE),
        (b"POST", [], NONE),
        (b"GET", [b"Content-Length: 5"], 5),
        (b"POST", [b"Content-Length: 0"], NONE),
        (b"POST", [b"Content-Length: 9223372036854775807"], 2**63 - 1),
        (b"DELETE", [b"Transfer-Encoding: Chunked"], CHUNKED),
        (b"CONNECT", [b"Content-Length: 0"], NONE),
    ],
)
def test_body_of_request(method: bytes, lines: list[bytes], body: int) -> None:
    assert body_of_request(parse_request(request(method, *lines))) == body


@pytest.mark.parametrize(
    ("status", "lines", "method", "body"),
    [
        (200, [], b"GET", EOF),
        (200, [b"Content-Length: 5"], b"GET", 5),
        (200, [b"Content-Length: 0"], b"GET", NONE),
        (200, [b"Transfer-Encoding: chunked"], b"GET", CHUNKED),
        (200, [b"Content-Length: 5"], b"HEAD", NONE),
        (200, [b"Transfer-Encoding: chunked"], b"HEAD", NONE),
        (200, [], b"HEAD", NONE),
        (204, [b"Content-Length: 5"], b"GET", NONE),
        (304, [b"Content-Length: 5"], b"GET", NONE),
        (304, [b"Transfer-Encoding: chunked"], b"GET", NONE),
        (100, [], b"POST", NONE),
        (101, [], b"GET", NONE),
        (103, [b"Content-Length: 5"], b"GET", NONE),
        (200, [b"Content-Length: 5"], b"CONNECT", NONE),
        (200, [b"Transfer-Encoding: chunked"], b"CONNECT", NONE),
        (407, [b"Content-Length: 5"], b"CONNECT", 5),
        (502, [], b"CONNECT", EOF),
        (205, [b"Content-Length: 0"], b"GET", NONE),
        (999, [], b"GET", EOF),
    ],
)
def test_body_of_response(status: int, lines: list[bytes], method: bytes, body: int) -> None:
    block = b"\r\n".join([b"HTTP/1.1 %d x" % status, *lines, b"", b""])
    assert body_of_response(parse_response(block), method) == body


def test_connection_options() -> None:
    frame = framing(fields(b"Connection: Keep-Alive, X-Foo ,, Upgrade", b"connection: close", b"Upgrade: websocket"))
    assert (frame.close, frame.keep_alive, frame.upgrade, frame.hop) == (True, True, b"websocket", True)
    assert frame.connection_tokens == frozenset({b"keep-alive", b"x-foo", b"upgrade", b"close"})
    assert b"x-foo" in hop_names(frame)


@pytest.mark.parametrize("value", [b"close", b"Close", b"CLOSE", b"close, x", b"x,close"])
def test_close(value: bytes) -> None:
    head = parse_request(request(b"GET", b"Connection: " + value))
    assert head.framing.close and not head.persistent


def test_close_wins_over_keep_alive_in_http10() -> None:
    assert not parse_request(request(b"GET", b"Connection: keep-alive, close", version=b"1.0")).persistent


def test_upgrade_needs_connection_and_http11() -> None:
    asked = [b"Upgrade: websocket", b"Connection: upgrade"]
    assert parse_request(request(b"GET", *asked)).framing.upgrade == b"websocket"
    assert parse_request(request(b"GET", asked[0])).framing.upgrade is None
    assert parse_request(request(b"GET", *asked, version=b"1.0")).framing.upgrade is None


def test_expect() -> None:
    assert parse_request(request(b"POST", b"Expect: 100-Continue")).framing.expect_continue
    assert not parse_request(request(b"POST", b"Expect: 100-continue", version=b"1.0")).framing.expect_continue
    assert not parse_request(request(b"POST", b"Expect: tea", version=b"1.0")).framing.expect_continue


@pytest.mark.parametrize(
    ("status", "changed"),
    [(400, (LENGTH, CODING)), (400, (LENGTH, LENGTH)), (501, ((b"transfer-encoding", b"gzip"),)),
     (400, ((b"content-length", b"+5"),)), (400, ((b"Host", b"a"), (b"host", b"a")))],
)  # fmt: skip
def test_changed_fields_are_checked_again(status: int, changed: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(Refused) as refused:
        framing(changed)
    assert refused.value.status == status


def test_coding_in_http10() -> None:
    with pytest.raises(Refused):
        framing((CODING,), b"HTTP/1.0")


def strip(*lines: bytes, upgrading: bool = True) -> list[bytes]:
    parsed = fields(*lines)
    return [b": ".join(field) for field in strip_hop(parsed, framing(parsed), upgrading=upgrading)]


def test_nothing_to_strip_is_the_same_tuple() -> None:
    same = fields(b"Host: a", b"Content-Length: 5", b"Expect: 100-continue", b"Trailer: X")
    assert strip_hop(same, framing(same)) is same


@pytest.mark.parametrize("value", [b"keep-alive", b"close", b"Keep-Alive", b"CLOSE", b"", b"a b"])
def test_connection_alone(value: bytes) -> None:
    assert strip(b"A: 1", b"Connection: " + value, b"B: 2") == [b"A: 1", b"B: 2"]


def test_strip_works_on_fields_read_again() -> None:
    first = fields(b"A: 1", b"Connection: close", b"B: 2")
    frame = framing(first)
    assert strip_hop(fields(b"Connection: x", b"C: 3", b"keep-alive: 5"), frame) == fields(b"C: 3")


def test_hop_fields_go() -> None:
    kept = strip(b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"A: 1", b"Proxy-Connection: x", b"Upgrade: h2c")
    assert kept == [b"A: 1"]
    assert strip(b"Proxy-Connection: keep-alive", b"A: 1") == [b"A: 1"]


def test_nominated_fields_go_but_not_those_that_frame_or_route() -> None:
    kept = strip(b"Host: a", b"Content-Length: 5", b"X-Foo: 1", b"Connection: x-FOO, host, content-length, close")
    assert kept == [b"Host: a", b"Content-Length: 5"]
    assert strip(b"Transfer-Encoding: chunked", b"Connection: transfer-encoding") == [b"Transfer-Encoding: chunked"]


def test_upgrade_stays_when_upgrading() -> None:
    lines = [b"Upgrade: websocket", b"cOnnection: keep-alive, Upgrade, X", b"X: 1", b"A: 1"]
    assert strip(*lines) == [b"Upgrade: websocket", b"cOnnection: Upgrade", b"A: 1"]
    assert strip(*lines, upgrading=False) == [b"A: 1"]
    assert strip(b"Upgrade: websocket", b"A: 1") == [b"A: 1"]


def test_te_stays_as_trailers() -> None:
    assert strip(b"TE: gzip, trailers", b"A: 1") == [b"A: 1", b"TE: trailers"]
    assert strip(b"TE: gzip", b"A: 1", b"Expect: 100-continue") == [b"A: 1", b"Expect: 100-continue"]
    assert strip(b"TE: trailers", b"Expect: 100-continue") == [b"Expect: 100-continue", b"TE: trailers"]
    assert strip(b"TE: trailers", b"Connection: TE, close", b"A: 1") == [b"Connection: TE", b"A: 1", b"TE: trailers"]
    assert strip(b"TE: gzip;q=1", b"Connection: TE", b"A: 1") == [b"A: 1"]
    both = strip(b"TE: trailers", b"Connection: upgrade, te", b"Connection: x", b"Upgrade: a")
    assert both == [b"Connection: Upgrade, TE", b"Upgrade: a", b"TE: trailers"]
