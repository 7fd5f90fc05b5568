"""Both ends of a WebSocket by the `websockets` library, for the lab.

python -m tests.lab.websocket_peer serve PORT [CERT KEY]: says what it hears with "server heard " before it; `/` is a
page for a browser. The same with `talk URL CA PROXY` ("" = none): says a few things, and prints as JSON what
comes back.
"""

from __future__ import annotations

import asyncio
import http
import json
import ssl
import sys
from typing import Any

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response

LARGE = 300_000
PAGE = b"""<!doctype html><title>ws</title><img src=/slow><pre id=log></pre><script>
const log = [], done = () => { document.getElementById("log").textContent = JSON.stringify(log); };
const ws = new WebSocket(location.href.replace(/^http/, "ws") + "chat");
ws.onopen = () => { for (const text of ["client 1", "drop me", "client 2"]) ws.send(text); };
ws.onmessage = (event) => { log.push(event.data); if (event.data.endsWith("2")) ws.close(1000, "bye"); };
ws.onclose = (event) => { log.push(event.code, event.reason, ws.extensions); done(); };
ws.onerror = () => { log.push("error"); done(); };
</script>"""


async def _answer(connection: Any, request: Any) -> Response | None:
    if "upgrade" in request.headers:
        return None
    if request.path == "/slow":  # keeps the browser's virtual time from running away
        await asyncio.sleep(1.5)
    body = PAGE if request.path == "/" else b""
    kind = "text/html" if body else "image/png"
    fields = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(http.HTTPStatus.OK, "OK", fields, body)


async def _serve(port: int, pair: list[str]) -> None:
    context = None
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)

    async def handler(connection: Any) -> None:
        try:
            async for message in connection:
                mark = "server heard " if isinstance(message, str) else b"server heard "
                await connection.send(mark + message if len(message) < 1000 else message)
        except ConnectionClosed:
            pass

    async with serve(handler, None, port, ssl=context, process_request=_answer, max_size=1 << 24):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


async def _talk(url: str, ca: str, proxy: str) -> None:
    context = ssl.create_default_context(cafile=ca) if ca else None
    if context:
        context.set_alpn_protocols(["h2", "http/1.1"] if "www." in url else ["http/1.1"])
    heard: list[object] = []
    async with connect(url, ssl=context, max_size=1 << 24, open_timeout=10, proxy=proxy or None) as connection:
        await connection.send("client 1")
        await connection.send("drop me")
        await connection.send(iter(["cli", "ent", " in fragments"]))
        await connection.send(b"\x00\x01")
        await connection.send("x" * LARGE)
        pong = await connection.ping()
        await asyncio.wait_for(pong, 10)
        await connection.send("last")
        async with asyncio.timeout(20):
            while not heard or not str(heard[-1]).endswith("last"):
                message = await connection.recv()
                text = message if isinstance(message, str) else message.decode("latin-1")
                heard.append(text if len(text) < 1000 else len(text))
        extensions = [extension.name for extension in connection.protocol.extensions]
        await connection.close(1000, "bye")
        print(json.dumps({"heard": heard, "code": connection.close_code, "reason": connection.close_reason,
                          "extensions": extensions}))  # fmt: skip


if __name__ == "__main__":
    what, where, *more = sys.argv[1:]
    asyncio.run(_serve(int(where), more) if what == "serve" else _talk(where, *more))
