"""What the model costs, in µs: `python tests/bench/model.py` (best of seven; not a test)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import time
from timeit import repeat

sys.path.insert(0, str(Path(__file__).parent.parent))

from appliance.connection import Client, Server
from appliance.http import Headers, HTTPFlow, Request, Response
from appliance.tcp import TCPMessage

CALLS = 20_000
ASKED = tuple((name, b"value") for name in (b"Host", b"User-Agent", b"Accept", b"Accept-Encoding", b"Cookie", b"X-A"))
ANSWERED = tuple(
    (name, b"value")
    for name in (b"Server", b"Date", b"Content-Type", b"Content-Length", b"ETag", b"Vary", b"Connection", b"Age")
)
client, server = Client(peername=None, sockname=None), Server(address=("a.example", 80))


def request() -> Request:
    headers = Headers.trusted(ASKED)
    return Request("a.example", 80, b"GET", b"http", b"", b"/x?y", b"HTTP/1.1", headers, b"", None, time(), None)


def exchange() -> HTTPFlow:
    flow = HTTPFlow(client, server)
    flow.request = request()
    headers = Headers.trusted(ANSWERED)
    flow.response = Response(b"HTTP/1.1", 200, b"OK", headers, b"body", None, time(), None)
    return flow


def set_content(response: Response) -> None:
    response.content = b"body"


def main() -> None:
    asked, flow, headers = request(), exchange(), Headers.trusted(ANSWERED)
    response = flow.response
    assert response is not None
    rows: dict[str, Callable[[], object]] = {
        "Headers.trusted": lambda: Headers.trusted(ANSWERED),
        "Headers, 8 checked": lambda: Headers(ANSWERED),
        "Request + headers": request,
        "flow + request + response + 2 headers": exchange,
        "the same + id": lambda: exchange().id,
        "headers[name] = value, present": lambda: headers.__setitem__("etag", "x"),
        "headers[name] = value, new": lambda: Headers.trusted(ANSWERED).__setitem__("x-new", "x"),
        "headers.get, there": lambda: headers.get("content-type"),
        "headers.get, not there": lambda: headers.get("x-none"),
        "pretty_url": lambda: asked.pretty_url,
        "pretty_host": lambda: asked.pretty_host,
        "url": lambda: asked.url,
        "method": lambda: asked.method,
        "content": lambda: response.content,
        "content = ": lambda: set_content(response),
        "text": lambda: response.text,
        "Client": lambda: Client(peername=None, sockname=None, timestamp_start=1.0),
        "TCPMessage": lambda: TCPMessage(True, b"x"),
        "Response.make": lambda: Response.make(404, b"x", {"a": "b"}),
        "flow.copy": flow.copy,
    }
    for name, call in rows.items():
        print(f"{name:40}{min(repeat(call, number=CALLS, repeat=7)) / CALLS * 1e6:7.2f}")


if __name__ == "__main__":
    main()
