from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from appliance.addons.asgiapp import ASGIApp, WSGIApp
from appliance.http import HTTPFlow
from appliance.test import taddons, tflow, tutils


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    text = f"{scope['method']} {scope['path']} {scope['query_string'].decode()} {scope['headers'][0]}".encode()
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-app", b"1"), (b"x-app", b"2")]})
    await send({"type": "http.response.body", "body": text + b" ", "more_body": True})
    await send({"type": "http.response.body", "body": message["body"]})
    assert (await receive())["type"] == "http.disconnect"


def plain(environ: dict[str, Any], start_response: Any) -> Any:
    write = start_response("202 Accepted", [("Content-Type", "text/plain")])
    write(b"written ")
    yield environ["PATH_INFO"].encode("latin-1")
    yield b" " + environ["wsgi.input"].read() + environ["HTTP_HEADER"].encode() + environ["QUERY_STRING"].encode()


def flow(**changes: Any) -> HTTPFlow:
    given = {"host": "app.example", "port": 80, "path": b"/a%20b?c=d", "method": b"POST"}
    return tflow.tflow(req=tutils.treq(**given | changes))


async def test_asgi() -> None:
    app = ASGIApp(echo, "App.example", 80)
    with taddons.context(app):
        asked = flow()
        await app.request(asked)
    response = asked.response
    assert response is not None and response.status_code == 201 and response.reason == "Created"
    assert response.content == b"POST /a b c=d [b'header', b'qvalue'] content"
    assert response.headers.get_all("x-app") == ["1", "2"]
    assert response.headers["content-length"] == str(len(response.content))


async def test_wsgi() -> None:
    app = WSGIApp(plain, "app.example", None)
    with taddons.context(app):
        asked = flow(port=8080)
        await app.request(asked)
    assert asked.response is not None and asked.response.status_code == 202
    assert asked.response.text == "written /a b contentqvaluec=d"


async def test_what_is_not_for_it() -> None:
    app = ASGIApp(echo, "app.example", 80)
    answered = flow()
    answered.response = tutils.tresp()
    for other in (flow(host="b.example"), flow(port=81), answered, tflow.tflow(live=False)):
        before = other.response
        await app.request(other)
        assert other.response is before


@pytest.mark.parametrize(
    "said",
    [
        [],
        [{"type": "http.response.start", "status": 200}],
        [{"type": "http.response.body"}],
        [
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body"},
            {"type": "http.response.body"},
        ],
    ],
)
async def test_a_bad_application_is_a_500(said: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in said:
            await send(message)

    asked = flow()
    await ASGIApp(app, "app.example", 80).request(asked)
    assert asked.response is not None and asked.response.status_code == 500
    assert "the application at app.example:80 failed" in caplog.text


async def test_a_wsgi_application_without_a_response_is_a_500() -> None:
    asked = flow()
    await WSGIApp(lambda environ, start: [b"x"], "app.example", 80).request(asked)
    assert asked.response is not None and asked.response.status_code == 500


def test_tunnels_are_granted_without_a_server() -> None:
    app = ASGIApp(echo, "app.example", 443)
    connect = flow(method=b"CONNECT", port=443)
    app.http_connect(connect)
    assert connect.response is not None and connect.response.status_code == 200
    other = flow(method=b"CONNECT", port=444)
    app.http_connect(other)
    assert other.response is None
    for address, first in ((("app.example", 443), False), (("b.example", 443), True), (None, True)):
        data = SimpleNamespace(context=SimpleNamespace(server=SimpleNamespace(address=address)))
        data.establish_server_tls_first = True
        app.tls_clienthello(data)  # type: ignore[arg-type]
        assert data.establish_server_tls_first is first
