"""What the two sides of a flow said, as bytes that a dissector reads: (seconds of the epoch, from the client, bytes).

HTTP of any version is written as HTTP/1.1, for HTTP/2 outside TLS is what few tools look for. Contents are as they were
transferred (content codings stay); chunks are joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from appliance.layers.websocket_frames import ABNORMAL, CLOSE, NO_STATUS, close_payload, frame
from appliance.status_codes import RESPONSES

if TYPE_CHECKING:
    from appliance.dns import DNSFlow
    from appliance.headers import Headers
    from appliance.http import HTTPFlow
    from appliance.message import Message
    from appliance.request import Request
    from appliance.response import Response
    from appliance.tcp import TCPFlow
    from appliance.udp import UDPFlow
    from appliance.websocket import WebSocketData

Said = tuple[float, bool, bytes]
NOT_KEPT = b"X-Lockgate-Body-Not-Kept"
"""A field in place of a body that streamed past: its value is the size, or `unknown`."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"trailer"})


def http(flow: HTTPFlow) -> Iterator[Said]:
    """Request, response, and the messages of a WebSocket."""
    request, response = flow.request, flow.response
    if request is None:
        return
    start = request.timestamp_start
    yield start, True, _request(request)
    at = request.timestamp_end or start
    if (content := _content(request)) is not None:
        yield at, True, content
    if response is None:
        return
    begun = response.timestamp_start or at
    yield begun, False, _response(response, bare := _bodiless(request, response))
    if not bare and (content := _content(response)) is not None:
        yield response.timestamp_end or begun, False, content
    if flow.websocket is not None and response.status_code == 101:
        yield from websocket(flow.websocket)


def websocket(data: WebSocketData) -> Iterator[Said]:
    """Each message as one frame, uncompressed; the close frames at the end."""
    for message in data.messages:
        if not message.dropped:
            content = message.content
            yield message.timestamp, message.from_client, frame(int(message.type), content, message.from_client)
    code = data.close_code
    if code is not None and code != ABNORMAL:
        at, side = data.timestamp_end or 0.0, bool(data.closed_by_client)
        payload = close_payload(code, data.close_reason or "") if code != NO_STATUS else b""
        for one in (side, not side):
            yield at, one, frame(CLOSE, payload, one)


def conversation(flow: TCPFlow | UDPFlow) -> Iterator[Said]:
    for message in flow.messages:
        if message.content:
            yield message.timestamp, message.from_client, message.content


def dns(flow: DNSFlow, framed: bool) -> Iterator[Said]:
    """framed: with the length before it that TCP wants (RFC 7766 §8)."""
    for message, from_client in ((flow.request, True), (flow.response, False)):
        if message is not None:
            data = bytes(message.packed)
            yield message.timestamp or 0.0, from_client, len(data).to_bytes(2, "big") + data if framed else data


def _request(request: Request) -> bytes:
    path = request.raw_path or b"/"
    if request.raw_method == b"CONNECT":
        path = request.raw_authority
    fields = _fields(request, bool(request.raw_content) or request.raw_content is None)
    if b"host" not in {name.lower() for name, _ in fields}:
        fields.insert(0, (b"Host", request.raw_authority or request.raw_host.encode("utf-8", "surrogateescape")))
    return _head(b"%s %s %s" % (_word(request.raw_method), _word(path), _version(request)), fields)


def _response(response: Response, bare: bool) -> bytes:
    status = response.status_code
    reason = response.raw_reason or RESPONSES.get(status, "").encode()
    if bare:
        framing = _FRAMING if status < 200 or status == 204 else frozenset()  # RFC 9110 §8.6: others may say a length
        fields = [(name, value) for name, value in response.headers.fields
                  if name[:1] != b":" and name.lower() not in framing]  # fmt: skip
    else:
        fields = _fields(response, True)
    return _head(b"%s %03d %s" % (_version(response), status, reason), fields)


def _bodiless(request: Request, response: Response) -> bool:
    return request.raw_method == b"HEAD" or response.status_code < 200 or response.status_code in (204, 304)


def _version(message: Message) -> bytes:
    return message.raw_http_version if message.raw_http_version in (b"HTTP/1.0", b"HTTP/1.1") else b"HTTP/1.1"


def _fields(message: Message, body: bool) -> list[tuple[bytes, bytes]]:
    """With the framing of what follows. body: say a length even if it is 0."""
    fields = [(name, value) for name, value in message.headers.fields
              if name[:1] != b":" and name.lower() not in _FRAMING]  # fmt: skip
    content = message.raw_content
    if content is None:
        if message.headers.get("content-length") != "0":
            moved = message.moved
            fields.append((NOT_KEPT, b"unknown" if moved is None else b"%d" % moved))
        fields.append((b"Content-Length", b"0"))
    elif message.trailers:
        fields.append((b"Transfer-Encoding", b"chunked"))
    elif content or body:
        fields.append((b"Content-Length", b"%d" % len(content)))
    return fields


def _content(message: Message) -> bytes | None:
    content, trailers = message.raw_content, message.trailers
    if trailers and content is not None:
        return b"".join((b"%x\r\n%s\r\n" % (len(content), content) if content else b"", b"0\r\n", _lines(trailers)))
    return content or None


def _lines(headers: Headers) -> bytes:
    return b"".join([_word(name) + b": " + _value(value) + b"\r\n" for name, value in headers.fields]) + b"\r\n"


def _head(line: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    lines = [b"%s: %s\r\n" % (_word(name), _value(value)) for name, value in fields]
    return b"".join([_value(line), b"\r\n", *lines, b"\r\n"])


def _word(data: bytes) -> bytes:
    """Without what would end it; what flows hold may be anything an add-on wrote."""
    return data if not data.translate(None, _PRINTED) else bytes(b if b in _PRINTED else 63 for b in data)


def _value(data: bytes) -> bytes:
    return data.replace(b"\r", b" ").replace(b"\n", b" ") if b"\r" in data or b"\n" in data else data


_PRINTED = bytes(b for b in range(256) if b > 32 and b != 127)
