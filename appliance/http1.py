"""HTTP/1 messages as bytes, for scripts: heads read, whole messages written. The engine's codec is another."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from appliance.headers import Headers
from appliance.layers.http.h1_chunked import encode_chunk, last_chunk
from appliance.layers.http.h1_fields import Refused
from appliance.layers.http.h1_framing import CHUNKED, EOF, body_of_request, body_of_response, framing
from appliance.layers.http.h1_grammar import parse_request, parse_response, serialize_request, serialize_response
from appliance.layers.http.h1_target import parse_target
from appliance.request import Request
from appliance.response import Response

__all__ = [
    "assemble_body",
    "assemble_request",
    "assemble_request_head",
    "assemble_response",
    "assemble_response_head",
    "connection_close",
    "expected_http_body_size",
    "read_request_head",
    "read_response_head",
]


def read_request_head(lines: Iterable[bytes]) -> Request:
    """The request of these lines (with or without their line ends), without its body. Raises ValueError."""
    try:
        head = parse_request(_block(lines))
        target = parse_target(head.method, head.target)
    except Refused as fault:
        raise ValueError(f"no request: {fault.why}") from None
    return Request(
        target.host, target.port, head.method, target.scheme, target.authority, target.path, head.version,
        Headers(head.fields), None, None, time.time(), None,
    )  # fmt: skip


def read_response_head(lines: Iterable[bytes]) -> Response:
    """The response of these lines, without its body. Raises ValueError."""
    try:
        head = parse_response(_block(lines))
    except Refused as fault:
        raise ValueError(f"no response: {fault.why}") from None
    return Response(head.version, head.status, head.reason, Headers(head.fields), None, None, time.time(), None)


def _block(lines: Iterable[bytes]) -> bytes:
    return b"".join([line.rstrip(b"\r\n") + b"\r\n" for line in lines if line.rstrip(b"\r\n")]) + b"\r\n"


def connection_close(http_version: str, headers: Headers) -> bool:
    """Whether the connection ends with this message (RFC 9112 §9.3)."""
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    if "close" in options:
        return True
    return "keep-alive" not in options and http_version not in ("HTTP/1.1", "HTTP/2.0", "HTTP/3")


def expected_http_body_size(request: Request, response: Response | None = None) -> int | None:
    """Bytes of the body that follows the head of `request`, or of `response` to it: None if it is chunked, -1 until
    the connection ends (RFC 9112 §6.3). Raises ValueError where the head contradicts itself.
    """
    message = request if response is None else response
    try:
        frame = framing(message.headers.fields, message.raw_http_version)
    except Refused as fault:
        raise ValueError(fault.why) from None
    if response is None:
        size = body_of_request(request.raw_method, frame)
    else:
        size = body_of_response(response.status_code, frame, request.raw_method)
    return {CHUNKED: None, EOF: -1}.get(size, size)


def assemble_request_head(request: Request) -> bytes:
    """Request line, fields and the empty line."""
    if request.first_line_format == "authority":
        target = request.raw_authority or request.url.encode()
    elif request.first_line_format == "absolute":
        target = b"%b://%b%b" % (request.raw_scheme, request.raw_authority, request.raw_path)
    else:
        target = request.raw_path
    return serialize_request(request.raw_method, target, request.raw_http_version, request.headers.fields)


def assemble_request(request: Request) -> bytes:
    """The whole request. Raises ValueError if its body is missing."""
    return assemble_request_head(request) + _body(request)


def assemble_response_head(response: Response) -> bytes:
    """Status line, fields and the empty line."""
    return serialize_response(
        response.raw_http_version, response.status_code, response.raw_reason, response.headers.fields
    )


def assemble_response(response: Response) -> bytes:
    """The whole response. Raises ValueError if its body is missing."""
    return assemble_response_head(response) + _body(response)


def _body(message: Request | Response) -> bytes:
    if message.raw_content is None:
        raise ValueError("the message's body is missing")
    return b"".join(assemble_body(message.headers, [message.raw_content], message.trailers))


def assemble_body(headers: Headers, body_chunks: Iterable[bytes], trailers: Headers | None) -> Iterator[bytes]:
    """The body's bytes, chunked if the fields say so. Raises ValueError for trailers that have no place."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        yield from (encode_chunk(chunk) for chunk in body_chunks if chunk)
        try:
            yield last_chunk(trailers.fields if trailers else ())
        except Refused as fault:
            raise ValueError(fault.why) from None
        return
    if trailers:
        raise ValueError("trailers need Transfer-Encoding: chunked")
    yield from (chunk for chunk in body_chunks if chunk)
