"""Client replay: recorded requests through a real engine to scripted origins, over HTTP/1, HTTP/2 and TLS."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.addons.clientplayback import ClientPlayback
from appliance.addons.recording import Recording
from appliance.connection import Client, ModeName, Server
from appliance.exceptions import CommandError, FlowReadException, OptionsError
from appliance.flow import Error, Flow
from appliance.http import HTTPFlow, Request, Response
from appliance.io import FlowWriter
from tests.addons.chain import Chain
from tests.flowkit import http, tcp, websocket
from tests.harness import Events, Make, Peer, Rig, answering, until
from tests.layers.http.h2_kit import Origin as AnyOrigin
from tests.layers.http.httpkit import OK, Message, Origin, read_response


def recorded(method: str, url: str, body: bytes = b"", mode: str = "regular", **headers: str) -> HTTPFlow:
    """A flow that has its response, as it lies in a file."""
    client = Client(peername=("192.0.2.9", 4000), sockname=("192.0.2.1", 8080), timestamp_start=1.0)
    client.proxy_mode = ModeName(mode)
    flow = HTTPFlow(client, Server(address=None))
    flow.request = Request.make(method, url, body)
    flow.request.headers["host"] = flow.request.host
    for name, value in headers.items():
        flow.request.headers[name.replace("_", "-")] = value
    flow.response = Response.make(200, b"of long ago")
    flow.server_conn.address = flow.request.host, flow.request.port
    return flow


async def playing(rigs: Make, *addons: object, **options: Any) -> tuple[Rig, ClientPlayback]:
    playback = ClientPlayback()
    rig = await rigs(playback, *addons, **options)
    rig.exit_code = 0  # type: ignore[attr-defined]
    rig.addons.configure()
    await rig.addons.running()
    return rig, playback


async def played(rig: Rig, playback: ClientPlayback, *flows: HTTPFlow) -> None:
    rig.addons.commands.call("replay.client", list(flows))
    await until(lambda: not playback.count(), what=f"{playback.count()} are left")
    assert not rig.worker.handlers and not any(flow.live for flow in flows)


async def test_a_request_goes_again_and_its_answer_is_the_flows(rigs: Make) -> None:
    events, origin = Events(), Origin(OK)
    rig, playback = await playing(rigs, events)
    host, port = await rig.origin(origin)
    flow = recorded("POST", f"http://{host}:{port}/again?x=1", b"said", Proxy_Authorization="Basic eDp5", X_One="1")
    number = flow.id
    await played(rig, playback, flow)
    (seen,) = origin.requests
    assert seen.start == b"POST /again?x=1 HTTP/1.1" and seen.body == b"said" and seen.value("x-one") == "1"
    assert seen.value("proxy-authorization") is None  # it was for the proxy
    assert flow.id == number and flow.is_replay == "request" and flow.error is None
    assert flow.response is not None and flow.response.content == b"hello" and flow.request.content == b"said"
    assert flow.server_conn.peername == (host, port) and flow.client_conn.peername == ("192.0.2.9", 4000)
    assert events.names == ["requestheaders", "request", "server_connect", "server_connected", "responseheaders",
                            "response", "server_disconnected"]  # fmt: skip
    assert all(each is flow for each in events.of("response"))
    flow.revert()
    assert flow.response.content == b"of long ago" and flow.is_replay is None


async def test_nobody_listens_and_still_the_response_is_kept(rigs: Make) -> None:
    rig, playback = await playing(rigs)
    host, port = await rig.origin(answering(b"x" * 3_000_000))
    flow = recorded("GET", f"http://{host}:{port}/")
    await played(rig, playback, flow)
    assert flow.response is not None and flow.response.raw_content == b"x" * 3_000_000


async def test_a_large_body_goes_as_it_was(rigs: Make) -> None:
    origin = Origin(OK)
    rig, playback = await playing(rigs)
    host, port = await rig.origin(origin)
    body = bytes(range(256)) * 12_000
    flow = recorded("PUT", f"http://{host}:{port}/", body)
    await played(rig, playback, flow)
    assert origin.requests[0].body == body == flow.request.content and flow.error is None


@pytest.mark.parametrize("say", [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 8\r\n\r\ndata: x\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
])  # fmt: skip
async def test_other_shapes_of_answers(rigs: Make, say: bytes) -> None:
    rig, playback = await playing(rigs)
    host, port = await rig.origin(Origin(say))
    flow = recorded("GET", f"http://{host}:{port}/")
    await played(rig, playback, flow)
    assert flow.error is None and flow.response is not None and flow.response.status_code in (200, 204)


@pytest.mark.parametrize("alpn", [("h2",), ("http/1.1",)])
@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/1.1", "HTTP/3"])
async def test_tls_with_either_version_on_either_side(rigs: Make, alpn: tuple[str, ...], version: str) -> None:
    origin = AnyOrigin()
    rig, playback = await playing(rigs, Events())
    _, port = await rig.origin(origin, tls=True, alpn=alpn)
    flow = recorded("POST", f"https://origin.test:{port}/echo", b"said", mode="transparent")
    flow.request.raw_http_version = version.encode()
    if version != "HTTP/1.1":
        del flow.request.headers["host"]
        flow.request.authority = f"origin.test:{port}"
    await played(rig, playback, flow)
    assert flow.error is None and flow.response is not None and flow.response.content == b"said"
    assert flow.server_conn.tls_established and flow.server_conn.sni == "origin.test"
    assert flow.response.http_version == ("HTTP/2.0" if "h2" in alpn and version != "HTTP/1.1" else "HTTP/1.1")
    assert origin.asked[0].values(b"host") or origin.asked[0].values(b":authority")


async def test_h2_without_tls_by_prior_knowledge(rigs: Make) -> None:
    origin = AnyOrigin()
    rig, playback = await playing(rigs)
    host, port = await rig.origin(origin)
    flow = recorded("GET", f"http://{host}:{port}/", mode="transparent")
    flow.request.raw_http_version = b"HTTP/2.0"
    await played(rig, playback, flow)
    assert flow.response is not None and flow.response.is_http2 and origin.h2


async def test_the_name_is_the_recorded_one_as_long_as_the_address_is(rigs: Make) -> None:
    rig, playback = await playing(rigs)
    host, port = await rig.origin(answering(), tls=True)
    by_address = recorded("GET", f"https://{host}:{port}/", mode="transparent")
    by_address.server_conn.sni = by_address.client_conn.sni = "origin.test"
    elsewhere = by_address.copy()
    elsewhere.request.host = "other.test"
    await played(rig, playback, by_address, elsewhere)
    assert by_address.error is None and by_address.server_conn.sni == "origin.test"
    assert elsewhere.error is None and elsewhere.server_conn.sni == "other.test"


async def test_no_byte_to_a_server_that_does_not_verify(rigs: Make, pki: Any) -> None:
    events, origin = Events(), Origin(OK)
    rig, playback = await playing(rigs, events)
    _, port = await rig.origin(origin, tls=pki.bad["expired"])
    flow = recorded("GET", f"https://origin.test:{port}/")
    await played(rig, playback, flow)
    assert flow.error is not None and "certificate of origin.test has expired" in flow.error.msg
    assert flow.error.status == 0 and flow.response is None and not origin.requests and not origin.raw
    assert events.names.count("error") == 1 and "response" not in events.names


async def test_errors_are_the_flows_own(rigs: Make) -> None:
    events = Events()
    rig, playback = await playing(rigs, events)

    async def hangs_up(peer: Peer) -> None:
        await peer.head()

    host, port = await rig.origin(hangs_up)
    flows = [recorded("POST", f"http://{host}:{port}/", b"x"), recorded("GET", "http://127.0.0.1:1/")]
    await played(rig, playback, *flows)
    assert all(flow.error is not None and flow.response is None for flow in flows)
    assert "refused" in str(flows[1].error) and events.names.count("error") == 2


async def test_hooks_may_answer_change_and_kill(rigs: Make) -> None:
    origin = Origin(OK)

    def request(flow: HTTPFlow) -> None:
        if flow.request.path == "/kill":
            flow.kill()
        elif flow.request.path == "/answer":
            flow.response = Response.make(418)
        else:
            flow.request.content = b"other"

    rig, playback = await playing(rigs, Events("request", request=request))
    host, port = await rig.origin(origin)
    killed, answered, changed = (
        recorded("POST", f"http://{host}:{port}/{what}", b"x") for what in ("kill", "answer", "")
    )
    await played(rig, playback, killed, answered, changed)
    assert killed.error is not None and killed.error.msg == Error.KILLED_MESSAGE and killed.response is None
    assert answered.response is not None and answered.response.status_code == 418
    assert [seen.body for seen in origin.requests] == [b"other"]


@pytest.mark.parametrize("where", ["in the answer", "while dialling"])
async def test_kill_while_it_is_waited_for(rigs: Make, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, playback = await playing(rigs, Events())
    begun = asyncio.Event()

    async def silent(peer: Peer) -> None:
        begun.set()
        await peer.rest()

    host, port = await rig.origin(silent)
    if where == "while dialling":
        host = "slow.invalid"

        async def getaddrinfo(*_: Any, **__: Any) -> Any:
            begun.set()
            await asyncio.sleep(3600)

        monkeypatch.setattr(rig.worker.loop, "getaddrinfo", getaddrinfo)
    flow, next_one = recorded("GET", f"http://{host}:{port}/"), recorded("GET", "http://127.0.0.1:1/")
    rig.addons.commands.call("replay.client", [flow, next_one])
    await asyncio.wait_for(begun.wait(), 5)
    assert flow.live and playback.count() == 2
    assert "while it is going on" in str(playback.check(flow)) and "while it is going on" in str(
        playback.check(next_one)
    )
    rig.addons.commands.call("replay.client.stop")
    assert playback.count() == 1 and next_one.response is not None and next_one.is_replay is None
    flow.kill()
    await until(lambda: not playback.count())
    assert flow.error is not None and flow.error.msg == Error.KILLED_MESSAGE


async def test_one_after_another_or_side_by_side(rigs: Make) -> None:
    rig, playback = await playing(rigs)
    now = most = 0

    async def slow(peer: Peer, message: Message) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        await peer.say(OK)

    host, port = await rig.origin(Origin(slow))
    flows = [recorded("GET", f"http://{host}:{port}/{n}") for n in range(6)]
    await played(rig, playback, *flows)
    assert most == 1
    rig.options.update(client_replay_concurrency=-1)
    await played(rig, playback, *[flow.copy() for flow in flows])
    assert most == 6


@pytest.mark.parametrize("event", ["request", "response"])
async def test_a_script_sends_a_copy_of_what_goes_by(rigs: Make, event: str) -> None:
    """The idiom of mitmproxy's own example."""
    origin = Origin(OK)

    def again(flow: HTTPFlow) -> None:
        if flow.is_replay == "request":
            return
        copy = flow.copy()
        copy.request.path = "/changed"
        rig.addons.commands.call("replay.client", [copy])

    rig, playback = await playing(rigs, events := Events(event, **{event: again}))
    host, port = await rig.origin(origin)
    client = await rig.connect(await rig.regular())
    await client.say(f"GET http://{host}:{port}/first HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert (await read_response(client)).status == 200
    await until(lambda: len(origin.requests) == 2 and not playback.count())
    assert {seen.start for seen in origin.requests} == {b"GET /first HTTP/1.1", b"GET /changed HTTP/1.1"}
    assert sorted(str(flow.is_replay) for flow in events.of(event)) == ["None", "request"]
    assert len({flow.id for flow in events.of(event)}) == len({flow.client_conn.id for flow in events.of(event)}) == 2


async def test_it_waits_for_room(rigs: Make) -> None:
    rig, playback = await playing(rigs, max_connections=1)
    address = await rig.origin(answering())
    client, task = rig.memory(address)
    await until(lambda: rig.worker.handlers)
    flow = recorded("GET", f"http://{address[0]}:{address[1]}/")
    rig.addons.commands.call("replay.client", [flow])
    await asyncio.sleep(0.05)
    assert playback.count() == 1 and rig.served == 0
    client.close()
    await task
    await until(lambda: not playback.count())
    assert flow.response is not None and flow.response.content == b"hello"


async def test_the_end_of_the_gateway_ends_it(rigs: Make) -> None:
    rig, _ = await playing(rigs)
    asked = asyncio.Event()

    async def silent(peer: Peer) -> None:
        asked.set()
        await peer.rest()

    host, port = await rig.origin(silent)
    flows = [recorded("GET", f"http://{host}:{port}/") for _ in range(3)]
    rig.addons.commands.call("replay.client", flows)
    await asyncio.wait_for(asked.wait(), 5)
    await rig.worker.stop(0.5)
    await rig.addons.done()
    assert flows[0].error is not None and "shutting down" in flows[0].error.msg
    assert rig.served == 1  # the next one was not begun


async def test_files_are_read_when_it_is_their_turn(rigs: Make, tmp_path: Path) -> None:
    origin = Origin(OK)
    rig, playback = await playing(rigs)
    host, port = await rig.origin(origin)
    path = tmp_path / "flows"
    with path.open("wb") as file:
        for flow in (*(recorded("GET", f"http://{host}:{port}/{n}") for n in range(20)), tcp()):
            FlowWriter(file).add(flow)
    rig.addons.commands.execute(f"replay.client.file {path}")
    late = recorded("GET", f"http://{host}:{port}/late")
    rig.addons.commands.call("replay.client", [late])
    await until(lambda: not playback.count())
    assert [seen.start.split()[1] for seen in origin.requests] == [b"/%d" % n for n in range(20)] + [b"/late"]
    # the option does the same, once for a value, and only if nobody refuses the change
    rig.options.update(client_replay=[str(path)])
    await asyncio.sleep(0)
    await until(lambda: len(origin.requests) == 41 and not playback.count())

    def refuse(*_: object) -> None:
        raise OptionsError("no")

    unsubscribe = rig.options.subscribe(refuse)
    with pytest.raises(OptionsError):
        rig.options.update(client_replay=[str(path), str(path)])
    unsubscribe()
    await asyncio.sleep(0.02)
    assert len(origin.requests) == 41 and not playback.count()
    # what breaks off half-way is told, and the gateway's exit code says so
    path.write_bytes(path.read_bytes()[:-5])
    rig.addons.commands.execute(f"replay.client.file {path}")
    await until(lambda: len(origin.requests) == 61 and not playback.count())
    assert rig.exit_code == 1  # type: ignore[attr-defined]


async def test_any_iterator_of_flows_can_be_replayed(rigs: Make) -> None:
    """The seam for the store."""
    origin = Origin(OK)
    rig, playback = await playing(rigs)
    host, port = await rig.origin(origin)
    playback.source(Recording("store", (recorded("GET", f"http://{host}:{port}/{n}") for n in range(3))))
    await until(lambda: not playback.count())
    assert len(origin.requests) == 3


async def test_stopped_while_a_file_is_read(rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
    """And what is broken in between does not hold up the rest."""
    rig, playback = await playing(rigs)
    host, port = await rig.origin(Origin(OK))
    reading, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[Flow]:
        reading.set()
        go_on.wait(5)
        yield recorded("GET", f"http://{host}:{port}/never")

    playback.source(Recording("slow", slow()))
    await asyncio.to_thread(reading.wait, 5)
    rig.addons.commands.call("replay.client.stop")

    def broken() -> Iterator[Flow]:
        raise RuntimeError("no good")
        yield

    playback.source(Recording("broken", broken()))
    good = recorded("GET", f"http://{host}:{port}/")
    rig.addons.commands.call("replay.client", [good])
    go_on.set()
    await until(lambda: not playback.count())
    assert good.response is not None and good.response.content == b"hello" and rig.served == 1
    assert "no good" in caplog.text and rig.exit_code == 0  # type: ignore[attr-defined]


def test_what_cannot_be_replayed_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    playback = ClientPlayback()
    chain = Chain(playback)
    live, held, streamed, tunnel, nowhere = http(live=True), http(), http(body=None), http(), http()
    held.intercepted = True
    tunnel.request.method = "CONNECT"
    nowhere.request.raw_host = ""
    for flow, why in ((live, "going on"), (held, "intercepted"), (streamed, "not kept"), (tunnel, "tunnel"),
                      (nowhere, "where it is to go"), (websocket(), "WebSocket"), (tcp(), "of tcp")):  # fmt: skip
        assert why in str(playback.check(flow))
        before = flow.get_state()
        chain.call("replay.client", [flow])
        assert why in caplog.text and flow.get_state() == before
        caplog.clear()
    assert playback.count() == 0
    (tmp_path / "text").write_text("no flows")
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "directory"), (tmp_path / "text", "neither")):
        with pytest.raises(CommandError, match=why):
            chain.call("replay.client.file", str(path))
        with pytest.raises(OptionsError, match=f"client_replay: .*{why}"):
            chain.options.update(client_replay=[str(path)])
        with pytest.raises(FlowReadException):
            Recording(str(path))
    with pytest.raises(OptionsError, match="neither 1"):
        chain.options.update(client_replay_concurrency=0)


def test_the_queue_is_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.addons.clientplayback.WAITING", 3)
    playback = ClientPlayback()
    chain = Chain(playback)
    flows = [http() for _ in range(5)]
    flows[0].backup()
    flows[0].request.path = "/edited"
    chain.call("replay.client", flows)
    assert playback.count() == 3 and "2 are left out" in caplog.text
    assert flows[0].is_replay == "request" and flows[4].is_replay is None and flows[4].response is not None
    with pytest.raises(CommandError, match="3 replays wait already"):
        playback.source(Recording("x", iter(())))
    chain.call("replay.client.stop")
    assert playback.count() == 0 and flows[0].response is not None and flows[0].is_replay is None
    assert flows[0].request.path == "/edited" and flows[0].modified() and not flows[1].modified()
