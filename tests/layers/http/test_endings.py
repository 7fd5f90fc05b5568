"""Every flow ends in `response` or in `error`, once, whatever happens; the client is told where it still can be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from appliance import http
from tests.harness import Events, Make, Peer, until
from tests.layers.http.httpkit import OK, Message, Setting, ended, read_response, setting

Act = Callable[[Setting], Awaitable[None]]
Script = Callable[[Peer, Message], Awaitable[None]]


@dataclass
class Case:
    name: str
    ends: str  # response, error
    client: str = ""  # a status; "reset", "closed": no response; "cut": one that does not end; "": not looked at
    script: Script | bytes = OK
    act: Act | None = None  # what the client does instead of a plain GET
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    error: str = ""  # in flow.error
    reaches: bool = True  # the origin saw the request
    whole: bool = True  # the origin reads bodies
    keeps: bool = False  # the client's connection serves another request


# -- what servers do


def says(data: bytes, end: str = "fin") -> Script:
    async def script(peer: Peer, request: Message) -> None:
        if data:
            await peer.say(data)
            await asyncio.sleep(0.03)
        if end == "rst":
            peer.reset()
        elif end == "fin":
            await peer.close()
        else:
            await asyncio.sleep(30)

    return script


# -- what clients do


def sends(method: str, body: bytes, *lines: str, then: str = "", wait: float = 0.08) -> Act:
    async def act(s: Setting) -> None:
        await s.client.say(s.head(method, "/", *lines) + body)
        if then:
            await asyncio.sleep(wait)
        if then == "rst":
            s.client.reset()
        elif then == "fin":
            s.client.eof()

    return act


def raw(data: bytes, fin: bool = False) -> Act:
    async def act(s: Setting) -> None:
        await s.client.say(data)
        if fin:
            s.client.eof()

    return act


async def when_begun(s: Setting, do: str) -> None:
    await s.client.say(s.head())
    await s.client.head()
    if do == "rst":
        s.client.reset()
    elif do == "fin":
        s.client.eof()
    else:
        s.events.of("requestheaders")[0].kill()


def begun(do: str) -> Act:
    return lambda s: when_begun(s, do)


async def killed_while_waiting(s: Setting) -> None:
    await s.client.say(s.head())
    await until(lambda: s.origin.requests)
    s.events.of("requestheaders")[0].kill()


async def killed_in_upload(s: Setting) -> None:
    await s.client.say(s.head("POST", "/", "Content-Length: 10") + b"12")
    await s.events.wait("requestheaders")
    await asyncio.sleep(0.05)
    s.events.of("requestheaders")[0].kill()


async def shut_down(s: Setting) -> None:
    await s.client.say(s.head())
    await until(lambda: s.origin.requests)
    await s.rig.worker.stop(0.3)


async def shut_down_in_hook(s: Setting) -> None:
    await s.client.say(s.head())
    await s.events.wait("requestheaders")
    await s.rig.worker.stop(0.1)


async def killed_when_intercepted(s: Setting) -> None:
    await s.client.say(s.head())
    await s.events.wait("request")
    await asyncio.sleep(0.03)
    s.events.of("request")[0].kill()


def kill(flow: http.HTTPFlow) -> None:
    flow.kill()


async def kill_later(flow: http.HTTPFlow) -> None:
    await asyncio.sleep(0.01)
    flow.kill()


def raises(flow: http.HTTPFlow) -> None:
    raise RuntimeError("an add-on's fault")


async def raises_later(flow: http.HTTPFlow) -> None:
    await asyncio.sleep(0.01)
    raise RuntimeError("an add-on's fault")


def answers(flow: http.HTTPFlow) -> None:
    flow.response = http.Response.make(403, b"no")


def streams(flow: http.HTTPFlow) -> None:
    flow.request.stream = True


def streams_response(flow: http.HTTPFlow) -> None:
    assert flow.response is not None
    flow.response.stream = True


def fails_in_stream(flow: http.HTTPFlow) -> None:
    def change(data: bytes) -> bytes:
        raise ValueError("an add-on's fault")

    flow.request.stream = change


def strings_in_stream(flow: http.HTTPFlow) -> None:
    flow.request.stream = lambda data: "text"  # type: ignore[assignment, return-value]


def fails_in_response_stream(flow: http.HTTPFlow) -> None:
    def change(data: bytes) -> bytes:
        raise ValueError("an add-on's fault")

    assert flow.response is not None
    flow.response.stream = change


async def sleeps(flow: http.HTTPFlow) -> None:
    await asyncio.sleep(0.2)


def forever(flow: http.HTTPFlow) -> None:
    flow.intercept()


SLOW = says(b"", "hang")
HALF_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1234"
HALF_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
BAD_CHUNK = HALF_CHUNKED + b"+5\r\nhello\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + b"x" * 50
BIG_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n" + b"x" * 50 + b"\r\n0\r\n\r\n"
LIMIT = {"body_size_limit": "20"}
STREAMED = {"requestheaders": streams, "responseheaders": streams_response}

CASES = [
    Case("all is well", "response", "200", keeps=True),
    Case("no body at all", "response", "204", b"HTTP/1.1 204 No Content\r\n\r\n", keeps=True),
    # kill
    *[
        Case(f"killed in {hook}", "error", "reset", hooks={hook: how}, error="killed", reaches=hook.startswith("resp"))
        for hook in ("requestheaders", "request", "responseheaders")
        for how in (kill, kill_later)
    ],
    Case("killed in response", "response", "reset", hooks={"response": kill}, error="killed"),
    Case("killed in response later", "response", "reset", hooks={"response": kill_later}, error="killed"),
    Case("killed while waiting", "error", "reset", SLOW, killed_while_waiting, error="killed"),
    Case("killed while streaming", "error", "cut", says(SSE, "hang"), begun("kill"), error="killed"),
    Case(
        "killed while chunks stream",
        "error",
        "cut",
        says(HALF_CHUNKED, "hang"),
        begun("kill"),
        STREAMED,
        error="killed",
    ),
    Case("killed in an upload that is held", "error", "reset", OK, killed_in_upload, error="killed", reaches=False),
    Case("killed in an upload", "error", "reset", OK, killed_in_upload, STREAMED, error="killed", reaches=False),
    Case(
        "killed when intercepted",
        "error",
        "reset",
        OK,
        killed_when_intercepted,
        {"request": forever},
        error="killed",
        reaches=False,
    ),
    # the server
    Case("server closes before a byte", "error", "502", says(b""), error="without a response", keeps=True),
    Case("server resets before a byte", "error", "502", says(b"", "rst"), error="reset"),
    Case("server closes in the head", "error", "502", says(b"HTTP/1.1 200 OK\r\nCont"), error="inside a response head"),
    Case("server resets in the head", "error", "502", says(b"HTTP/1.1 200 OK\r\nCont", "rst"), error="reset"),
    Case("server closes in a length", "error", "502", says(HALF_LENGTH), error="in the middle"),
    Case("server resets in a length", "error", "502", says(HALF_LENGTH, "rst"), error="reset"),
    Case("server closes in chunks", "error", "502", says(HALF_CHUNKED), error="in the middle"),
    Case("server resets in chunks", "error", "502", says(HALF_CHUNKED, "rst"), error="reset"),
    Case(
        "server resets before the end of EOF", "error", "502", says(b"HTTP/1.1 200 OK\r\n\r\nab", "rst"), error="reset"
    ),
    Case(
        "server closes in a streamed length", "error", "cut", says(HALF_LENGTH), hooks=STREAMED, error="in the middle"
    ),
    Case("server resets in a streamed length", "error", "cut", says(HALF_LENGTH, "rst"), hooks=STREAMED, error="reset"),
    Case("server closes in streamed chunks", "error", "cut", says(HALF_CHUNKED), hooks=STREAMED, error="in the middle"),
    Case("server resets in streamed chunks", "error", "cut", says(HALF_CHUNKED, "rst"), hooks=STREAMED, error="reset"),
    Case("server resets in an event stream", "error", "cut", says(SSE, "rst"), error="reset"),
    Case("event stream ends", "response", "200", says(SSE)),
    Case("bad chunk", "error", "502", says(BAD_CHUNK), error="chunk"),
    Case("bad chunk, streamed", "error", "cut", says(BAD_CHUNK), hooks=STREAMED, error="chunk"),
    Case("no HTTP", "error", "502", says(b"SSH-2.0-x\r\n\r\n"), error="bad response"),
    Case("bare LF in the head", "error", "502", says(b"HTTP/1.1 200 OK\n\n"), error="bad response"),
    Case("two lengths", "error", "502", says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")),
    Case("101 unasked", "error", "502", says(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), error="nobody had asked"),
    Case("endless 1xx", "error", "", says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 5000, "hang"), error="informational"),
    Case("head too large", "error", "502", says(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70000, "hang"), error="over"),
    # the client
    Case(
        "client resets while waiting", "error", "", SLOW, sends("GET", b"", then="rst"), error="the client disconnected"
    ),
    Case(
        "client closes while waiting", "error", "", SLOW, sends("GET", b"", then="fin"), error="the client disconnected"
    ),
    Case("client resets in the stream", "error", "", says(SSE, "hang"), begun("rst"), error="the client disconnected"),
    Case("client closes in the stream", "error", "", says(SSE, "hang"), begun("fin"), error="the client disconnected"),
    Case(
        "client resets in its body",
        "error",
        "",
        OK,
        sends("POST", b"12", "Content-Length: 5", then="rst"),
        reaches=False,
    ),
    Case(
        "client closes in its body",
        "error",
        "400",
        OK,
        sends("POST", b"12", "Content-Length: 5", then="fin"),
        error="in the middle",
        reaches=False,
    ),
    Case(
        "client closes in its chunks",
        "error",
        "400",
        OK,
        sends("POST", b"2\r\n12\r\n", "Transfer-Encoding: chunked", then="fin"),
        error="in the middle",
        reaches=False,
    ),
    Case(
        "client resets in a streamed body",
        "error",
        "",
        OK,
        sends("POST", b"12", "Content-Length: 5", then="rst"),
        STREAMED,
        reaches=False,
    ),
    Case(
        "client closes in a streamed body",
        "error",
        "400",
        OK,
        sends("POST", b"12", "Content-Length: 5", then="fin"),
        STREAMED,
        error="in the middle",
        reaches=False,
    ),
    Case(
        "bad chunk from the client",
        "error",
        "400",
        OK,
        sends("POST", b"+5\r\nhello\r\n", "Transfer-Encoding: chunked"),
        error="chunk",
        reaches=False,
    ),
    Case(
        "bad chunk in a streamed body",
        "error",
        "400",
        OK,
        sends("POST", b"2\r\n12\r\n+5\r\nhello\r\n", "Transfer-Encoding: chunked"),
        STREAMED,
        error="chunk",
        reaches=False,
    ),
    Case(
        "client closes once its request is out, with Connection: close",
        "response",
        "200",
        OK,
        sends("GET", b"", "Connection: close", then="fin", wait=0),
    ),
    # refused
    Case("no HTTP from the client", "error", "400", OK, raw(b"\x00\x01\x02\x03\r\n\r\n"), reaches=False),
    Case("bare LF from the client", "error", "400", OK, raw(b"GET http://a/ HTTP/1.1\nHost: a\n\n"), reaches=False),
    Case("half a head", "error", "400", OK, raw(b"GET http://a/ HTTP/1.1\r\nHo", fin=True), reaches=False),
    Case("head too large", "error", "431", OK, raw(b"GET http://a/ HTTP/1.1\r\nA: " + b"x" * 70000), reaches=False),
    Case("two Hosts", "error", "400", OK, raw(b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), reaches=False),
    Case("an origin's request", "error", "400", OK, raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), reaches=False),
    Case(
        "slow head",
        "error",
        "408",
        OK,
        raw(b"GET http://a/ HTTP/1.1\r\nHo"),
        options={"client_header_timeout": 1},
        reaches=False,
    ),
    # limits
    Case(
        "request too large",
        "error",
        "413",
        OK,
        sends("POST", b"x" * 50, "Content-Length: 50"),
        options=LIMIT,
        reaches=False,
    ),
    Case(
        "request too large, chunked",
        "error",
        "413",
        OK,
        sends("POST", b"32\r\n" + b"x" * 50 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        options=LIMIT,
        reaches=False,
    ),
    Case(
        "request too large, chunked and streamed",
        "error",
        "413",
        OK,
        sends("POST", b"32\r\n" + b"x" * 50 + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        STREAMED,
        LIMIT,
        error="over body_size_limit",
        reaches=False,
    ),
    Case("response too large", "error", "502", says(BIG, "hang"), options=LIMIT, error="over body_size_limit"),
    Case(
        "response too large, chunked",
        "error",
        "502",
        says(BIG_CHUNKED, "hang"),
        options=LIMIT,
        error="over body_size_limit",
    ),
    Case(
        "response too large, chunked and streamed",
        "error",
        "cut",
        says(BIG_CHUNKED, "hang"),
        hooks=STREAMED,
        options=LIMIT,
        error="over body_size_limit",
    ),
    # add-ons
    *[
        Case(f"{hook} raises", "response", "200", hooks={hook: how}, keeps=True)
        for hook in ("requestheaders", "request", "responseheaders", "response")
        for how in (raises, raises_later)
    ],
    Case("error raises", "error", "502", says(b""), hooks={"error": raises}),
    *[
        Case(f"answered in {hook}", "response", "403", hooks={hook: answers}, reaches=hook.startswith("resp"))
        for hook in ("requestheaders", "request", "responseheaders", "response")
    ],
    Case(
        "request stream raises",
        "error",
        "500",
        OK,
        sends("POST", b"hello", "Content-Length: 5"),
        {"requestheaders": fails_in_stream},
        reaches=False,
        error="stream",
    ),
    Case(
        "request stream gives text",
        "error",
        "500",
        OK,
        sends("POST", b"hello", "Content-Length: 5"),
        {"requestheaders": strings_in_stream},
        reaches=False,
        error="str",
    ),
    Case("response stream raises", "error", "cut", hooks={"responseheaders": fails_in_response_stream}, error="stream"),
    # us
    Case("shutdown while waiting", "error", "closed", SLOW, shut_down, error="shutting down"),
    Case(
        "shutdown in a hook",
        "error",
        "",
        SLOW,
        shut_down_in_hook,
        {"requestheaders": forever},
        error="shutting down",
        reaches=False,
    ),
    Case(
        "client resets in a hook",
        "error",
        "",
        OK,
        sends("GET", b"", then="rst", wait=0.05),
        {"request": sleeps},
        reaches=False,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_one_ending(rigs: Make, case: Case) -> None:
    events = Events(**case.hooks)
    s = await setting(rigs, case.script, events, whole=case.whole, **case.options)
    if case.act is None:
        await s.client.say(s.head())
    else:
        await case.act(s)
    if case.client.isdigit():
        assert (await read_response(s.client)).status == int(case.client)
    elif case.client in ("closed", "reset"):
        got = b""
        with contextlib.suppress(ConnectionError):
            got = await s.client.rest()
        assert got == b""
    elif case.client == "cut":
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            if case.act is None:
                await s.client.head()
            assert not (await s.client.rest()).endswith(b"0\r\n\r\n")
    flow = (await ended(s))[0]
    assert s.endings() == [case.ends]
    if case.ends == "error":
        assert flow.error is not None
        assert case.error in flow.error.msg, flow.error.msg
    elif not case.error:
        assert flow.error is None
    if case.error == "killed":
        assert flow.error.msg == "Connection killed."
    assert bool(s.origin.requests) == case.reaches
    if "shutdown" in case.name:
        return
    if case.keeps:
        s.origin.script = OK
        with_hooks = await s.ask(path="/second")
        assert with_hooks.status == 200
    elif case.client not in ("200", "204", "403", "502", "500"):
        s.client.writer.close()
    s.client.writer.close()
    await s.rig.idle()
    if not case.hooks and not case.options:
        await s.alive()


async def test_connect_refused(rigs: Make) -> None:
    s = await setting(rigs)
    await s.client.say(b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n")
    page = await read_response(s.client)
    assert page.status == 502
    assert b"127.0.0.1:1" in page.body
    flow = (await ended(s))[0]
    assert s.endings() == ["error"]
    assert flow.server_conn.address == ("127.0.0.1", 1)
    assert flow.server_conn.error
    assert (await s.ask()).status == 200  # on the same connection


async def test_upstream_certificate_invalid(rigs: Make) -> None:
    s = await setting(rigs)
    other = await s.rig.origin(s.origin, tls=s.rig.pki.bad["expired"])
    for _ in range(2):
        await s.client.say(b"GET https://origin.test:%d/ HTTP/1.1\r\nHost: origin.test\r\n\r\n" % other[1])
        page = await read_response(s.client)
        assert page.status == 502
        assert b"certificate" in page.body
    flow = (await ended(s, flows=2))[0]
    assert s.endings() == ["error", "error"]
    assert flow.server_conn.address == ("origin.test", other[1])
    assert s.origin.requests == []
    assert len(s.events.of("server_connect")) == 1  # the fault is remembered


async def test_killed_while_dialling_which_then_fails(rigs: Make) -> None:
    events = Events(server_connect=lambda data: asyncio.sleep(0.1))
    s = await setting(rigs, OK, events)
    await s.client.say(b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n")
    await events.wait("server_connect")
    events.of("request")[0].kill()
    flow = (await ended(s))[0]
    assert (s.endings(), flow.error.msg) == (["error"], "Connection killed.")
