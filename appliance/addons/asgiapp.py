"""Web applications of Python as origins: `addons = [WSGIApp(app, "lab.example", 80)]` answers for that host and port.

ASGI 3 and WSGI (PEP 3333), HTTP alone: the response is sent once it is whole, and there is neither lifespan nor
WebSocket. Nothing goes upstream for such a host.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from appliance import ctx
from appliance.http import Headers, HTTPFlow, Response
from appliance.status_codes import RESPONSES
from appliance.tls import ClientHelloData

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ASGIApp:
    """Answers `host`:`port` with an ASGI application."""

    def __init__(self, asgi_app: Any, host: str, port: int | None) -> None:
        """port: None = any."""
        self.asgi_app = asgi_app
        self.host = host
        self.port = port

    @property
    def name(self) -> str:
        return f"asgiapp:{self.host}:{self.port}"

    def should_serve(self, flow: HTTPFlow) -> bool:
        """Is it for us, and nobody has answered?"""
        request = flow.request
        return bool(
            self._ours(request.pretty_host, request.port) and flow.live and not flow.error and flow.response is None
        )

    def _ours(self, host: str, port: int) -> bool:
        return host.lower() == self.host.lower() and self.port in (None, port)

    def http_connect(self, flow: HTTPFlow) -> None:
        """A tunnel to us has no server: granted without dialling one."""
        if self._ours(flow.request.host, flow.request.port) and flow.response is None:
            flow.response = Response.make(200)
            flow.response.reason = "Connection established"

    def tls_clienthello(self, data: ClientHelloData) -> None:
        address = data.context.server.address
        if address is not None and self._ours(address[0], address[1]):
            data.establish_server_tls_first = False

    async def request(self, flow: HTTPFlow) -> None:
        if self.should_serve(flow):
            try:
                flow.response = await self.answer(flow)
            except Exception:
                logger.exception("the application at %s:%s failed", self.host, self.port)
                flow.response = Response.make(500, b"The application failed; the gateway's log says why.\n")

    async def answer(self, flow: HTTPFlow) -> Response:
        """Run the application. Raises what it raises, and RuntimeError if it ends without a response."""
        started: Message | None = None
        body: list[bytes] = []
        done = asyncio.Event()
        asked = False

        async def receive() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": flow.request.content or b"", "more_body": False}
            await done.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal started
            kind = message["type"]
            if done.is_set():
                raise RuntimeError(f"{kind} after the response's end")
            if kind == "http.response.start" and started is None:
                started = message
            elif kind == "http.response.body" and started is not None:
                body.append(bytes(message.get("body", b"")))
                if not message.get("more_body", False):
                    done.set()
            else:
                raise RuntimeError(f"{kind} is not expected here")

        await self.asgi_app(self._scope(flow), receive, send)
        if started is None or not done.is_set():
            raise RuntimeError("the application ended without a whole response")
        return _response(started["status"], started.get("headers", ()), b"".join(body))

    def _scope(self, flow: HTTPFlow) -> Message:
        request = flow.request
        path, _, query = request.raw_path.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.http_version.removeprefix("HTTP/").removesuffix(".0"),
            "method": request.method,
            "scheme": request.scheme,
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query.partition(b"#")[0],
            "root_path": "",
            "headers": [[name.lower(), value] for name, value in request.headers.fields],
            "client": _address(flow.client_conn.peername),
            "server": [self.host, request.port],
            "extensions": {"mitmproxy.master": vars(ctx).get("master")},
        }


class WSGIApp(ASGIApp):
    """Answers `host`:`port` with a WSGI application, which runs in a thread."""

    def __init__(self, wsgi_app: Any, host: str, port: int | None) -> None:
        super().__init__(None, host, port)
        self.wsgi_app: WsgiApp = wsgi_app

    async def answer(self, flow: HTTPFlow) -> Response:
        return await asyncio.to_thread(self._run, self._environ(flow))

    def _run(self, environ: dict[str, Any]) -> Response:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        body: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
            if started and exc_info is None:
                raise RuntimeError("start_response was called before")
            started[:] = [(status, headers)]
            return body.append

        result = self.wsgi_app(environ, start_response)
        try:
            body += result
        finally:
            if (close := getattr(result, "close", None)) is not None:
                close()
        if not started:
            raise RuntimeError("the application ended without a response")
        status, headers = started[0]
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return _response(int(status.split(" ", 1)[0]), fields, b"".join(body))

    def _environ(self, flow: HTTPFlow) -> dict[str, Any]:
        request = flow.request
        path, _, query = request.raw_path.partition(b"?")
        content = request.content or b""
        peer = _address(flow.client_conn.peername)
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query.partition(b"#")[0].decode("latin-1"),
            "CONTENT_LENGTH": str(len(content)),
            "SERVER_NAME": self.host,
            "SERVER_PORT": str(request.port),
            "SERVER_PROTOCOL": request.http_version,
            "REMOTE_ADDR": peer[0] if peer else "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": request.scheme,
            "wsgi.input": io.BytesIO(content),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, _ in request.headers.fields:
            key = name.decode("latin-1").upper().replace("-", "_")
            value = request.headers.raw(name) or b""
            if key == "CONTENT_TYPE":
                environ[key] = value.decode("latin-1")
            elif key != "CONTENT_LENGTH":
                environ[f"HTTP_{key}"] = value.decode("latin-1")
        return environ


def _response(status: int, headers: Iterable[Any], body: bytes) -> Response:
    response = Response.make(status, b"", Headers((bytes(name), bytes(value)) for name, value in headers))
    response.reason = RESPONSES.get(status, "")
    response.raw_content = body  # as the application coded it
    response.headers["content-length"] = str(len(body))
    return response


def _address(address: Any) -> list[Any] | None:
    return [address[0], address[1]] if address else None
