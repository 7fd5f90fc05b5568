"""Messages for tests of add-ons."""

from __future__ import annotations

from typing import Any

from appliance.dns import DNSMessage, Question, ResourceRecord
from appliance.http import Headers, Request, Response


def treq(**changes: Any) -> Request:
    """A GET of /path on address:22, with `changes` to the constructor's arguments."""
    arguments: dict[str, Any] = {
        "host": "address",
        "port": 22,
        "method": b"GET",
        "scheme": b"http",
        "authority": b"",
        "path": b"/path",
        "http_version": b"HTTP/1.1",
        "headers": Headers([(b"header", b"qvalue"), (b"content-length", b"7")]),
        "content": b"content",
        "trailers": None,
        "timestamp_start": 946681200.0,
        "timestamp_end": 946681201.0,
    }
    return Request(**arguments | changes)


def tresp(**changes: Any) -> Response:
    """A 200 with the body ``message``, with `changes` to the constructor's arguments."""
    arguments: dict[str, Any] = {
        "http_version": b"HTTP/1.1",
        "status_code": 200,
        "reason": b"OK",
        "headers": Headers([(b"header-response", b"svalue"), (b"content-length", b"7")]),
        "content": b"message",
        "trailers": None,
        "timestamp_start": 946681202.0,
        "timestamp_end": 946681203.0,
    }
    return Response(**arguments | changes)


def tdnsreq(**changes: Any) -> DNSMessage:
    """A query for the addresses of dns.google, with `changes` to the constructor's arguments."""
    arguments: dict[str, Any] = {
        "id": 42,
        "query": True,
        "questions": [Question("dns.google", 1, 1)],
        "timestamp": 946681200.0,
    }
    return DNSMessage(**arguments | changes)


def tdnsresp(**changes: Any) -> DNSMessage:
    """The answer to it: two addresses."""
    arguments: dict[str, Any] = {
        "id": 42,
        "query": False,
        "recursion_available": True,
        "questions": [Question("dns.google", 1, 1)],
        "answers": [ResourceRecord.A("dns.google", ip, ttl=32) for ip in ("8.8.8.8", "8.8.4.4")],
        "timestamp": 946681201.0,
    }
    return DNSMessage(**arguments | changes)
