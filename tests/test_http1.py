from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import http1
from appliance.http import Headers
from appliance.test import tutils


def test_a_request_there_and_back() -> None:
    request = http1.read_request_head([b"POST /a?b HTTP/1.1\r\n", b"Host: a.example", b"Content-Length: 3\r\n"])
    assert (request.method, request.path, request.host, request.headers["host"]) == ("POST", "/a?b", "", "a.example")
    assert http1.expected_http_body_size(request) == 3
    with pytest.raises(ValueError, match="missing"):
        http1.assemble_request(request)
    request.raw_content = b"abc"
    assert http1.assemble_request(request) == (b"POST /a?b HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc")


@pytest.mark.parametrize(
    "line, host, port, form",
    [
        (b"GET http://a.example/x HTTP/1.1", "a.example", 80, "absolute"),
        (b"GET https://[::1]:8443/x HTTP/1.1", "::1", 8443, "absolute"),
        (b"CONNECT a.example:443 HTTP/1.1", "a.example", 443, "authority"),
        (b"OPTIONS * HTTP/1.1", "", 0, "relative"),
    ],
)
def test_forms_of_targets(line: bytes, host: str, port: int, form: str) -> None:
    request = http1.read_request_head([line, b"Host: a.example"])
    assert (request.host, request.port, request.first_line_format) == (host, port, form)
    assert http1.assemble_request_head(request).startswith(line + b"\r\n")


def test_a_response_there_and_back() -> None:
    response = http1.read_response_head([b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"])
    assert (response.status_code, response.reason) == (200, "OK")
    assert http1.expected_http_body_size(tutils.treq(), response) is None
    response.raw_content = b"abc"
    response.trailers = Headers(x_end="1")
    assert http1.assemble_response(response).endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nx-end: 1\r\n\r\n")
    assert b"".join(http1.assemble_body(Headers(), [b"a", b"", b"b"], None)) == b"ab"
    with pytest.raises(ValueError, match="chunked"):
        list(http1.assemble_body(Headers(), [], response.trailers))
    with pytest.raises(ValueError, match="bad trailers"):
        list(http1.assemble_body(response.headers, [], Headers(x="a\r\nb")))


@pytest.mark.parametrize("lines", [[b"GET"], [b"GET / HTTP/1.1", b"no colon"], [], [b"GET a b c HTTP/1.1"]])
def test_no_request(lines: list[bytes]) -> None:
    with pytest.raises(ValueError, match="no request"):
        http1.read_request_head(lines)


def test_no_response() -> None:
    with pytest.raises(ValueError, match="no response"):
        http1.read_response_head([b"HTTP/1.1 abc"])


def test_body_sizes() -> None:
    request = tutils.treq(method=b"HEAD", headers=Headers())
    assert http1.expected_http_body_size(request) == 0
    assert http1.expected_http_body_size(request, tutils.tresp()) == 0
    assert http1.expected_http_body_size(tutils.treq(), tutils.tresp(headers=Headers())) == -1
    with pytest.raises(ValueError, match="more than one"):
        http1.expected_http_body_size(
            tutils.treq(headers=Headers([(b"content-length", b"1"), (b"content-length", b"2")]))
        )


@pytest.mark.parametrize(
    "version, connection, closes",
    [
        ("HTTP/1.1", None, False),
        ("HTTP/1.1", "close", True),
        ("HTTP/1.1", "Foo, Close", True),
        ("HTTP/1.0", None, True),
        ("HTTP/1.0", "keep-alive", False),
        ("HTTP/2.0", None, False),
    ],
)
def test_connection_close(version: str, connection: str | None, closes: bool) -> None:
    headers = Headers() if connection is None else Headers(connection=connection)
    assert http1.connection_close(version, headers) is closes


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_anything_is_read_or_refused(lines: list[bytes]) -> None:
    for read in (http1.read_request_head, http1.read_response_head):
        try:
            message = read(lines)
        except ValueError:
            continue
        assert message.http_version.startswith("HTTP/1.")
