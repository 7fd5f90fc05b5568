"""What add-ons may set that cannot be sent, and what clients may send that can be read in two ways."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from appliance import http
from tests.harness import Events, Make
from tests.layers.http.httpkit import OK, ended, read_response, setting

Hook = Callable[[Any], object]


def header(name: bytes, value: bytes) -> Hook:
    def on(message: Any) -> None:
        message.headers.fields = (*message.headers.fields, (name, value))

    return on


def attribute(name: str, value: object) -> Hook:
    return lambda message: setattr(message, name, value)


HEADERS = {
    "CR LF in a value": header(b"X-A", b"1\r\nX-Evil: 1"),
    "LF in a value": header(b"X-A", b"1\nX-Evil: 1"),
    "CR in a value": header(b"X-A", b"1\rX-Evil: 1"),
    "a second head in a value": header(b"X-A", b"1\r\n\r\nGET /evil HTTP/1.1\r\nX-Evil: 1"),
    "NUL in a value": header(b"X-A", b"1\0X-Evil"),
    "CR LF in a name": header(b"X-A: 1\r\nX-Evil", b"1"),
    "LF in a name": header(b"X-Evil\n", b"1"),
    "colon in a name": header(b"X-Evil: 1, X", b"1"),
    "blank in a name": header(b"X-Evil ", b"1"),
    "blank before a name": header(b" X-Evil", b"1"),
    "tab in a name": header(b"X-Evil\t", b"1"),
    "length with a blank": header(b"Content-Length ", b"100"),
    "no name": header(b"", b"X-Evil"),
    "name beyond ASCII": header("X-Evil-\u00e9".encode(), b"1"),
    "two lengths": header(b"Content-Length", b"5, 6"),
    "odd length": header(b"Content-Length", b"+5"),
    "odd coding": header(b"Transfer-Encoding", b"chunked, X-Evil"),
    "headers a dict": attribute("headers", {"x": "X-Evil"}),
    "headers None": attribute("headers", None),
    "fields of str": lambda message: setattr(message.headers, "fields", (("X-Evil", "1"),)),
    "fields no pairs": lambda message: setattr(message.headers, "fields", (b"X-Evil",)),
    "content str": attribute("raw_content", "X-Evil"),
    "long content str": attribute("raw_content", "X-Evil" * 20000),
    "content int": attribute("raw_content", 5),
    "trailers a dict": attribute("trailers", {"x": "X-Evil"}),
    "CR LF in a trailer": attribute("trailers", http.Headers([(b"x", b"1\r\nX-Evil: 1")])),
    "blank in a trailer's name": attribute("trailers", http.Headers([(b"X-Evil ", b"1")])),
}
REQUEST = HEADERS | {
    "blank in the path": attribute("raw_path", b"/ HTTP/1.1\tX-Evil"),
    "blank in the path, no method": lambda r: (setattr(r, "raw_path", b"/X-Evil /"), setattr(r, "raw_method", b"")),
    "CR LF in the path": attribute("path", "/ HTTP/1.1\r\nX-Evil: 1\r\nX:"),
    "LF in the path": attribute("path", "/\nX-Evil: 1"),
    "tab in the path": attribute("path", "/\tX-Evil"),
    "NUL in the path": attribute("path", "/\0X-Evil"),
    "path of str": attribute("raw_path", "/X-Evil"),
    "blank in the method": attribute("method", "GET /X-Evil HTTP/1.1 "),
    "CR LF in the method": attribute("method", "GET / HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET"),
    "tab in the method": attribute("method", "X-Evil\t"),
    "no method": attribute("method", ""),
    "method str": attribute("raw_method", "X-Evil"),
    "port too high": attribute("raw_port", 70000),
    "port str": attribute("raw_port", "X-Evil"),
    "host bytes": attribute("raw_host", b"X-Evil"),
    "NUL in the host": attribute("raw_host", "X-Evil\0"),
    "host too long": attribute("raw_host", "x" * 300 + ".X-Evil"),
    "no host": attribute("raw_host", ""),
}
RESPONSE = HEADERS | {
    "CR LF in the reason": attribute("reason", "fine\r\nX-Evil: 1"),
    "LF in the reason": attribute("reason", "fine\nX-Evil: 1"),
    "NUL in the reason": attribute("reason", "fine\0X-Evil"),
    "reason str": attribute("raw_reason", "X-Evil"),
    "status 99": attribute("status_code", 99),
    "status 1000": attribute("status_code", 1000),
    "status -1": attribute("status_code", -1),
    "status 0": attribute("status_code", 0),
    "status 100": attribute("status_code", 100),
    "status 101": attribute("status_code", 101),
    "status 103": attribute("status_code", 103),
    "status str": attribute("status_code", "200"),
    "status None": attribute("status_code", None),
}


def of_request(hook: Hook) -> Callable[[http.HTTPFlow], None]:
    def request(flow: http.HTTPFlow) -> None:
        if flow.request.path == "/":
            hook(flow.request)

    return request


def of_response(hook: Hook) -> Callable[[http.HTTPFlow], None]:
    def response(flow: http.HTTPFlow) -> None:
        if flow.request.path == "/":
            hook(flow.response)

    return response


MENDED = {"two lengths", "odd length"}
"""Where a body streams these are not an add-on's business: what it says of the length is put right."""


@pytest.mark.parametrize(
    ("name", "event"),
    [(name, "request") for name in REQUEST]
    + [(name, "requestheaders") for name in REQUEST if "content" not in name and name not in MENDED],
)
async def test_nonsense_in_a_request(rigs: Make, name: str, event: str) -> None:
    hooks = {event: of_request(REQUEST[name])}
    if event == "requestheaders":
        hooks["requestheaders"] = lambda flow: (of_request(REQUEST[name])(flow), setattr(flow.request, "stream", True))
    s = await setting(rigs, OK, Events(**hooks))
    await s.client.say(s.head("POST", "/", "Content-Length: 2") + b"ab")
    page = await read_response(s.client)
    assert page.status in (400, 500, 502)
    assert b"X-Evil" not in page.head
    await ended(s)
    assert s.endings() == ["error"]
    assert b"X-Evil" not in s.origin.raw
    assert not any(b"X-Evil" in request.head + request.body for request in s.origin.requests)
    s.client.writer.close()
    await s.alive()


@pytest.mark.parametrize(
    ("name", "event"),
    [(name, "response") for name in RESPONSE]
    + [(name, "responseheaders") for name in RESPONSE if not re.search("content|trailer", name) and name not in MENDED],
)
async def test_nonsense_in_a_response(rigs: Make, name: str, event: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    hooks = {event: of_response(RESPONSE[name])}
    if event == "responseheaders":
        hooks["responseheaders"] = lambda flow: (
            of_response(RESPONSE[name])(flow),
            setattr(flow.response, "stream", True),
        )
    s = await setting(rigs, OK, Events(**hooks))
    await s.client.say(s.head())
    got = b""
    with contextlib.suppress(ConnectionError):
        page = await read_response(s.client)
        got = page.head
        assert page.status == 500
    assert b"X-Evil" not in got.partition(b"<html")[0]
    assert caplog.records
    await ended(s)
    assert s.endings() == ["response" if event == "response" else "error"]
    s.client.writer.close()
    await s.alive()


def no_response(flow: http.HTTPFlow) -> None:
    flow.response = None


@pytest.mark.parametrize("event", ["responseheaders", "response"])
async def test_a_response_taken_away(rigs: Make, event: str) -> None:
    s = await setting(rigs, OK, Events(**{event: no_response}))
    assert (await s.ask()).body == b"hello"


@pytest.mark.parametrize("event", ["requestheaders", "request", "responseheaders", "response"])
@pytest.mark.parametrize("value", ["text", 5, b"bytes"])
async def test_a_response_that_is_none(rigs: Make, event: str, value: object) -> None:
    s = await setting(rigs, OK, Events(**{event: lambda flow: setattr(flow, "response", value)}))
    assert (await s.ask()).status == 500
    assert len(s.endings()) == 1


@pytest.mark.parametrize("event", ["requestheaders", "request"])
async def test_a_request_taken_away(rigs: Make, event: str) -> None:
    s = await setting(rigs, OK, Events("error", "response", **{event: lambda flow: setattr(flow, "request", None)}))
    assert (await s.ask()).status == 500
    assert s.events.names.count("error") == 1


@pytest.mark.parametrize("event", ["requestheaders", "request", "responseheaders"])
async def test_error_is_no_error(rigs: Make, event: str) -> None:
    s = await setting(rigs, OK, Events(**{event: lambda flow: setattr(flow, "error", "text")}))
    assert (await s.ask()).status in (200, 500)
    assert len(s.endings()) == 1


@pytest.mark.parametrize("content", [None, b""])
async def test_no_content(rigs: Make, content: bytes | None) -> None:
    def empty(flow: http.HTTPFlow) -> None:
        (flow.response or flow.request).raw_content = content

    s = await setting(rigs, OK, Events(request=empty, response=empty))
    for _ in range(2):
        response = await s.ask("POST", body=b"abc")
        assert (response.status, response.body, response.value("content-length")) == (200, b"", "0")
    assert [request.body for request in s.origin.requests] == [b"", b""]
    assert s.origin.requests[0].value("content-length") == "0"


@pytest.mark.parametrize(("before", "after"), [("HEAD", "GET"), ("GET", "HEAD")])
async def test_method_changed_between_head_and_get(rigs: Make, before: str, after: str) -> None:
    async def script(peer: Any, request: Any) -> None:
        await peer.say(OK if request.start.startswith(b"GET") else OK.removesuffix(b"hello"))

    for stream in (True, False):

        def change(flow: http.HTTPFlow) -> None:
            flow.request.method = after

        def streams(flow: http.HTTPFlow, stream: bool = stream) -> None:
            assert flow.response is not None
            flow.response.stream = stream

        s = await setting(rigs, script, Events(requestheaders=change, responseheaders=streams))
        for _ in range(2):
            response = await s.ask(before)
            assert (response.status, response.body) == (200, b"")


async def test_the_page_says_what_and_escapes_it(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(b"GET http://127.0.0.1:1/<script> HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n")
    page = await read_response(s.client)
    assert page.value("content-type") == "text/html; charset=utf-8"
    assert b"127.0.0.1:1" in page.body and b"<script>" not in page.body
    await s.client.say(b"GET /<script>alert(1)</script> HTTP/1.1\r\nHost: <script>\r\n\r\n")
    page = await read_response(s.client)
    assert (page.status, page.value("connection")) == (400, "close")
    assert b"<script>" not in page.body


# -- what can be read in two ways

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
SHAPES = {
    "length and chunked": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "two lengths": (b"Content-Length: 5\r\nContent-Length: 6", b"hello"),
    "a list of lengths": (b"Content-Length: 5, 5", b"hello"),
    "+5": (b"Content-Length: +5", b"hello"),
    "0x5": (b"Content-Length: 0x5", b"hello"),
    "05": (b"Content-Length: 05", b"hello"),
    "-1": (b"Content-Length: -1", b"hello"),
    "length too long": (b"Content-Length: 99999999999999999999", b"hello"),
    "empty length": (b"Content-Length:", b"hello"),
    "bare CR": (b"X: a\rContent-Length: 5", b"hello"),
    "bare LF": (b"X: a\nContent-Length: 5", b"hello"),
    "obs-fold": (b"X: a\r\n Content-Length: 5", b"hello"),
    "fold of a coding": (b"Transfer-Encoding:\r\n chunked", b"0\r\n\r\n"),
    "blank before the colon": (b"Content-Length : 5", b"hello"),
    "blank before a coding's colon": (b"Transfer-Encoding : chunked", b"0\r\n\r\n"),
    "NUL": (b"X: a\0b", b""),
    "no colon": (b"Content-Length 5", b""),
    "TE twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n"),
    "TE chunked, identity": (b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n"),
    "TE xchunked": (b"Transfer-Encoding: xchunked", b"0\r\n\r\n"),
    "TE quoted": (b'Transfer-Encoding: "chunked"', b"0\r\n\r\n"),
    "TE with a tab": (b"Transfer-Encoding:\x0bchunked", b"0\r\n\r\n"),
    "TE beyond ASCII": (b"Transfer-Encoding: chun\xe2\x84\xaaed", b"0\r\n\r\n"),
    "chunk size +": (b"Transfer-Encoding: chunked", b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk size 0x": (b"Transfer-Encoding: chunked", b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size overflow": (b"Transfer-Encoding: chunked", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk size -": (b"Transfer-Encoding: chunked", b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk size empty": (b"Transfer-Encoding: chunked", b"\r\nhello\r\n0\r\n\r\n"),
    "chunk bare LF": (b"Transfer-Encoding: chunked", b"5\nhello\r\n0\r\n\r\n"),
    "chunk extension with LF": (b"Transfer-Encoding: chunked", b"5;a\nhello\r\n0\r\n\r\n"),
    "chunk too long": (b"Transfer-Encoding: chunked", b"5\r\nhelloX\r\n0\r\n\r\n"),
    "trailer folded": (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["proxy", "server", "streamed"])
@pytest.mark.parametrize("shape", [*SHAPES, "TE in HTTP/1.0"])
async def test_smuggling(rigs: Make, shape: str, mode: str) -> None:
    lines, body = SHAPES.get(shape, (b"Transfer-Encoding: chunked", b"0\r\n\r\n"))
    events = Events("error") if mode == "streamed" else Events()  # nobody wants bodies: they stream
    s = await setting(rigs, OK, events)
    client, target = s.client, s.url.encode()
    if mode == "server":
        client, target = await s.rig.connect(await s.rig.transparent(s.address)), b""
    version = b"1.0" if "1.0" in shape else b"1.1"
    head = b"POST %s/ HTTP/%s\r\nHost: 127.0.0.1:%d\r\n%s\r\n\r\n" % (target, version, s.address[1], lines)
    await client.say(head + body + HIDDEN)
    assert (await read_response(client)).status in (400, 501)
    with contextlib.suppress(ConnectionError):
        assert await client.rest() == b""
    assert s.events.names.count("error") == 1
    await asyncio.sleep(0.02)
    assert s.origin.requests == []
    if mode != "streamed":  # there the body's fault shows when the head is out already
        assert s.origin.raw == b""
    assert b"hidden" not in s.origin.raw
