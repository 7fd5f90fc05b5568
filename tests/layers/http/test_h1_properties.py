"""The fast path against h11: it may accept less, never more, and must read the same."""

from __future__ import annotations

import random

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.layers.http.h1_fields import usual_fields
from appliance.layers.http.h1_grammar import (
    _REQUEST_LINE,
    _STATUS_LINE,
    CHUNKED,
    EOF,
    Refused,
    body_of_request,
    body_of_response,
    check_head,
    parse_host_header,
    parse_request,
    parse_response,
    serialize_request,
    serialize_response,
    split_target,
    strip_hop,
)

REQUESTS = [
    b"GET /index.html?a=b HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x/1.0 (y)\r\nAccept: */*\r\nCookie: a=b; c=d\r\n\r\n",
    b"POST http://a.test:8080/x HTTP/1.1\r\nHost: a.test:8080\r\nContent-Length: 12\r\nContent-Type: a/b\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nhost: [::1]:80\r\ntransfer-encoding: chunked\r\nTrailer: X\r\nX-Empty:\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nX: \xc3\xa9 \t b\r\n\r\n",
    b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nProxy-Connection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: close\r\n\r\n",
]
RESPONSES = [
    b'HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 1024\r\nConnection: keep-alive\r\nETag: "5f-400"\r\n\r\n',
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nX-Empty:\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n",
    b"HTTP/1.0 302 \r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 204\r\nDate: Mon, 23 Nov 2026 07:00:00 GMT\r\n\r\n",
]
PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\x00",
    b"\x0b",
    b"\x7f",
    b"\xff",
    b":",
    b",",
    b";",
    b"#",
    b"@",
    b"0",
    b"5",
    b"+",
    b"-",
    b"x",
]
LINES = [
    b"Content-Length: 5\r\n", b"content-length: 12\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x\r\n", b"Host: b\r\n",
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"X: y\r\n", b"X:y\r\n", b"X:  y \r\n",
    b"X :y\r\n", b" fold\r\n",
]  # fmt: skip


def mutated(rng: random.Random, block: bytes) -> bytes:
    """`block` with a few changes of the kinds that smuggle, and of harmless kinds."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(block))
        kind = rng.randrange(6)
        if kind == 0:
            block = block[:at] + rng.choice(PIECES) + block[at:]
        elif kind == 1:
            block = block[:at] + block[at + 1 :]
        elif kind == 2:
            block = block[:at] + bytes([rng.randrange(33, 127)]) + block[at + 1 :]
        elif kind == 3:
            block = block[:at] + bytes([block[at] ^ 32]) + block[at + 1 :]
        else:
            lines = block.split(b"\r\n")
            at = rng.randrange(1, max(2, len(lines) - 1))
            line = rng.choice([*LINES, rng.choice(lines) + b"\r\n"])
            block = b"\r\n".join(lines[:at]) + b"\r\n" + line + b"\r\n".join(lines[at:])
    return block


def h11_request(block: bytes) -> h11.Request | None:
    connection = h11.Connection(h11.SERVER, len(block) + 1)
    try:
        connection.receive_data(block)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def h11_response(
    block: bytes, method: str = "GET"
) -> tuple[h11.Response | h11.InformationalResponse, h11.Connection] | None:
    connection = h11.Connection(h11.CLIENT, len(block) + 1)
    connection.send(
        h11.Request(method=method, target="/", headers=[("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "x")])
    )
    try:
        connection.receive_data(block)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return (event, connection) if isinstance(event, h11.Response | h11.InformationalResponse) else None


def lowered(fields: object) -> list[tuple[bytes, bytes]]:
    """h11 writes the transfer coding in lower case."""
    return [(n, v.lower() if n.lower() == b"transfer-encoding" else v) for n, v in fields]  # type: ignore[attr-defined]


def test_requests_read_as_h11_reads_them() -> None:
    rng = random.Random(1)
    fast = accepted = 0
    total = 12000
    for n in range(total):
        block = mutated(rng, REQUESTS[n % len(REQUESTS)])
        strict = n % 7 != 0
        match = _REQUEST_LINE.match(block)
        usual = match is not None and usual_fields(block, match.end()) is not None
        fast += usual
        try:
            head = parse_request(block, strict)
        except Refused:
            continue
        accepted += 1
        event = h11_request(block)
        assert event is not None, block
        assert (head.method, head.target, head.version[5:]) == (event.method, event.target, event.http_version), block
        assert lowered(head.fields) == event.headers.raw_items(), block
        headers = dict(event.headers)
        body = body_of_request(head)
        if body == CHUNKED:
            assert headers[b"transfer-encoding"] == b"chunked" and b"content-length" not in headers
        else:
            assert body == int(headers.get(b"content-length", 0)) and b"transfer-encoding" not in headers
    assert fast >= 0.3 * total
    assert accepted >= 0.3 * total


def test_responses_read_as_h11_reads_them() -> None:
    rng = random.Random(2)
    fast = accepted = 0
    total = 8000
    for n in range(total):
        block = mutated(rng, RESPONSES[n % len(RESPONSES)])
        match = _STATUS_LINE.match(block)
        fast += match is not None and usual_fields(block, match.end()) is not None
        try:
            head = parse_response(block, strict=n % 7 != 0)
        except Refused:
            continue
        accepted += 1
        read = h11_response(block)
        assert read is not None, block
        event, connection = read
        assert (head.version[5:], head.status, head.reason) == (event.http_version, event.status_code, event.reason), (
            block
        )
        assert lowered(head.fields) == event.headers.raw_items(), block
        if head.status < 200:
            continue
        # What h11 makes of the bytes behind the head tells its framing.
        body = body_of_response(head, b"GET")
        if body == EOF:
            connection.receive_data(b"3\r\nabc")
            data = connection.next_event()
            assert isinstance(data, h11.Data) and data.data == b"3\r\nabc", block
        elif body == CHUNKED:
            connection.receive_data(b"3\r\nabc\r\n")
            data = connection.next_event()
            assert isinstance(data, h11.Data) and data.data == b"abc", block
        elif 0 < body < 100:
            connection.receive_data(b"x" * body + b"y")
            data = connection.next_event()
            assert isinstance(data, h11.Data) and len(data.data) == body, block
        elif body == 0:
            assert isinstance(connection.next_event(), h11.EndOfMessage), block
    assert fast >= 0.3 * total
    assert accepted >= 0.3 * total


ALPHABET = st.sampled_from(
    [*PIECES, *LINES, b"GET ", b"CONNECT ", b"http://a.test", b"a:80", b"* ", b" HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n", b"Host: a\r\n",
     b"\r\n\r\n", b"Connection: ", b"Upgrade, te", b"Content-Length: ", b"[::1]", b"TE: trailers\r\n"]
)  # fmt: skip
GARBAGE = st.one_of(st.binary(max_size=80), st.lists(ALPHABET, max_size=16).map(b"".join))


@given(GARBAGE, st.booleans())
@settings(max_examples=1500, deadline=None)
def test_garbage_raises_nothing_but_refused(data: bytes, strict: bool) -> None:
    for block in (
        data,
        data + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n",
    ):
        try:
            head = parse_request(block, strict)
            split_target(head)
            strip_hop(head.fields, head.framing)
        except Refused as refused:
            assert refused.why.isprintable()
        try:
            answer = parse_response(block, strict)
            strip_hop(answer.fields, answer.framing)
        except Refused as refused:
            assert refused.why.isprintable()
    try:
        parse_host_header(data)
    except Refused as refused:
        assert refused.why.isprintable()


TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12).map(str.encode)
VISIBLE = st.integers(0x21, 0xFF).filter(lambda c: c != 0x7F).map(lambda c: bytes([c]))
VALUE = (
    st.lists(st.one_of(VISIBLE, st.sampled_from([b" ", b"\t"])), max_size=20)
    .map(b"".join)
    .map(lambda v: v.strip(b" \t"))
)
FIELDS = st.lists(st.tuples(TOKEN.map(lambda t: b"x" + t), VALUE), max_size=8).map(tuple)


@given(TOKEN, st.text("abc/?=&%.", max_size=20).map(str.encode), FIELDS)
@settings(max_examples=300, deadline=None)
def test_request_round_trip(method: bytes, path: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    fields = ((b"hOst", b"a.test"), *fields)
    block = serialize_request(method, b"/" + path, b"HTTP/1.1", fields)
    check_head(block, fields)
    head = parse_request(block)
    assert (head.method, head.target, head.version, head.fields) == (method, b"/" + path, b"HTTP/1.1", fields)
    assert serialize_request(head.method, head.target, head.version, head.fields) == block


@given(st.integers(100, 599), VALUE, FIELDS)
@settings(max_examples=300, deadline=None)
def test_response_round_trip(status: int, reason: bytes, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    block = serialize_response(b"HTTP/1.1", status, reason, fields)
    check_head(block, fields)
    head = parse_response(block)
    assert (head.status, head.reason, head.fields) == (status, reason, fields)


@given(FIELDS, st.tuples(st.binary(max_size=6), st.lists(ALPHABET, max_size=4).map(b"".join)))
@settings(max_examples=500, deadline=None)
def test_check_head_passes_only_what_reads_back(
    fields: tuple[tuple[bytes, bytes], ...], odd: tuple[bytes, bytes]
) -> None:
    sent = (*fields, odd)
    block = serialize_response(b"HTTP/1.1", 200, b"OK", sent)
    try:
        check_head(block, sent)
    except Refused:
        return
    read = h11_response(block)
    if read is not None:  # None: two lengths and the like, which are for framing() to refuse
        assert [n for n, _ in read[0].headers.raw_items()] == [n for n, _ in sent]


@pytest.mark.parametrize("block", REQUESTS)
def test_seeds_take_the_fast_path(block: bytes) -> None:
    match = _REQUEST_LINE.match(block)
    assert match is not None and usual_fields(block, match.end()) == parse_request(block).fields


@pytest.mark.parametrize("block", RESPONSES)
def test_response_seeds_take_the_fast_path(block: bytes) -> None:
    match = _STATUS_LINE.match(block)
    assert match is not None and usual_fields(block, match.end()) == parse_response(block).fields
