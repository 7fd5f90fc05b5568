"""`stream = False`, set by an add-on: the body is held although its kind, its size or its pauses speak against it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance import http
from appliance.layers.http import exchange
from tests.harness import Events, Make, Peer
from tests.layers.http.httpkit import OK, Message, Setting, ended, setting

BODY = b"0123456789" * 400
OVER: dict[str, Any] = {"stream_large_bodies": "1k"}


def insist(flow: http.HTTPFlow) -> None:
    (flow.response or flow.request).stream = False


def says(head: bytes, *pieces: bytes, pause: float = 0.02) -> Any:
    async def script(peer: Peer, request: Message) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        for piece in pieces:
            await peer.say(piece)
            await asyncio.sleep(pause)

    return script


LENGTH = b"Content-Length: %d\r\n" % len(BODY)
KIND = b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "its size is said": (says(LENGTH, BODY[:100], BODY[100:]), OVER),
    "its size is found out": (says(CHUNKED, b"fa0\r\n", BODY[:2000], BODY[2000:], b"\r\n0\r\n\r\n"), OVER),
    "its kind": (says(LENGTH + KIND, BODY[:100], BODY[100:]), {}),
    "its pause": (says(LENGTH, BODY[:100], BODY[100:], pause=1.8), {}),  # over a second, and one look of the sweep
}


async def held(s: Setting) -> list[Any]:
    """What `response` saw as content, for one request whose body arrives whole."""
    assert (await s.ask()).body == BODY
    await ended(s)
    return [flow.response.content for flow in s.events.of("response")]


@pytest.mark.parametrize("case", CASES)
async def test_response(rigs: Make, case: str) -> None:
    script, options = CASES[case]
    s = await setting(rigs, script, Events(responseheaders=insist), **options)
    assert await held(s) == [BODY]


@pytest.mark.parametrize("case", CASES)
async def test_without_the_wish_it_streams(rigs: Make, case: str) -> None:
    script, options = CASES[case]
    s = await setting(rigs, script, **options)
    assert await held(s) == [None]


@pytest.mark.parametrize("case", ["its size is said", "its size is found out", "its kind"])
async def test_there_is_an_end_to_it(rigs: Make, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(exchange, "HELD_AT_MOST", 3000)
    script, options = CASES[case]
    s = await setting(rigs, script, Events(responseheaders=insist), **options)
    assert await held(s) == [None]


async def test_the_limit_goes_before(rigs: Make) -> None:
    s = await setting(rigs, CASES["its kind"][0], Events(responseheaders=insist), body_size_limit="2k")
    assert (await s.ask()).status == 502
    await ended(s)
    assert s.endings() == ["error"]


@pytest.mark.parametrize(("wish", "content"), [(insist, BODY), (None, None)])
async def test_request(rigs: Make, wish: Any, content: bytes | None) -> None:
    s = await setting(rigs, OK, Events(requestheaders=wish), **OVER)
    assert (await s.ask("POST", "/", "Content-Type: application/grpc", body=BODY)).body == b"hello"
    assert [flow.request.content for flow in s.events.of("request")] == [content]
    assert s.origin.requests[0].body == BODY
