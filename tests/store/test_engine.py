"""What goes through a gateway is in its store: real sockets, real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.connection import Client
from appliance.http import HTTPFlow
from appliance.layers.base import Context
from appliance.store.recorder import Recorder
from appliance.store.records import Kept
from appliance.store.store import Row, Store
from appliance.tcp import TCPFlow
from tests.harness import Events, Make, Peer, Rig, answering, echo, until

pytestmark = pytest.mark.filterwarnings("error")


class Recorded:
    """A Rig whose worker records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorder: Recorder

    def into(self, rig: Rig, **options: int) -> Rig:
        self.recorder = rig.worker.recorder = Recorder(self.folder, loop=asyncio.get_running_loop(), **options)  # type: ignore[arg-type]
        self.recorder.start()
        return rig

    def rows(self, flt: str | None = None) -> list[Row]:
        self.recorder.sync()
        with Store(self.folder) as store:
            return list(store.rows(flt, newest=False))

    def one(self, flt: str | None = None) -> tuple[Row, HTTPFlow]:
        self.recorder.sync()
        with Store(self.folder) as store:
            (row,), (flow,) = store.rows(flt), store.flows(flt)
        return row, flow  # type: ignore[return-value]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    made = Recorded(tmp_path / "s")
    yield made
    made.recorder.close()
    assert made.recorder.dropped == 0


async def test_an_exchange(rigs: Make, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the short way."""
    monkeypatch.delattr("appliance.store.records.flow")
    rig = recorded.into(await rigs())
    origin = await rig.origin(answering(b"hello", b"Content-Type: text/plain\r\n"), tls=True)
    client = await rig.connect(await rig.transparent(origin))
    await client.start_tls("origin.test")
    for _ in range(3):
        await client.say(b"GET /a?b=1 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        assert (await client.until(b"hello")).startswith(b"HTTP/1.1 200")
    await until(lambda: recorded.recorder.flows == 3)
    rows = recorded.rows()
    assert [(r.method, r.url, r.status, r.type, r.down, r.verdict, r.tls, r.sni) for r in rows] == [
        ("GET", "https://origin.test/a?b=1", 200, "text/plain", 5, "decrypt", "TLSv1.3", "origin.test")
    ] * 3
    with Store(recorded.folder) as store:
        flows = list(store.flows())
    assert all(isinstance(flow, HTTPFlow) and flow.response and flow.response.content == b"hello" for flow in flows)
    assert flows[0].client_conn is flows[2].client_conn
    assert flows[0].server_conn.certificate_list[0].altnames


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [300_000, 3 << 20])
async def test_bodies_that_stream_are_kept(rigs: Make, recorded: Recorded, size: int, chunked: bool) -> None:
    """Both ways: an upload that is echoed, larger than what is held."""
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]

    async def handle(peer: Peer) -> None:
        await peer.head()
        got = b""
        if chunked:
            while piece := int((await peer.until(b"\r\n"))[:-2], 16):
                got += (await peer.exactly(piece + 2))[:-2]
            await peer.exactly(2)
            await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, got))
        else:
            got = await peer.exactly(size)
            await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (size, got))

    rig = recorded.into(await rigs(stream_large_bodies="100k"))
    origin = await rig.origin(handle)
    client = await rig.connect(await rig.transparent(origin))
    if chunked:
        client.write(
            b"POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, data)
        )
    else:
        client.write(b"POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: %d\r\n\r\n%s" % (size, data))
    await client.head()
    assert len(await client.exactly(size)) == size
    await until(lambda: recorded.recorder.flows == 1)
    row, flow = recorded.one()
    assert flow.request.raw_content == data
    assert flow.response is not None and flow.response.raw_content == data
    assert (row.up, row.down, row.cut) == (size, size, False)


async def test_a_large_body_is_marked_and_hashed(rigs: Make, recorded: Recorded) -> None:
    data = bytes(range(253)) * 20_000
    rig = recorded.into(await rigs(), body_limit=1 << 20)
    client = await rig.connect(await rig.transparent(await rig.origin(answering(data))))
    await client.say(b"GET / HTTP/1.1\r\nHost: o.test\r\n\r\n")
    await client.head()
    assert await client.exactly(len(data)) == data
    await until(lambda: recorded.recorder.flows == 1)
    row, flow = recorded.one()
    assert flow.response is not None and flow.response.raw_content is None
    kept = flow.response.tee
    assert isinstance(kept, Kept) and kept.content == data[: 1 << 20]
    assert (kept.size, kept.sha256) == (len(data), hashlib.sha256(data).digest())
    assert row.cut


async def test_what_a_stream_function_made_is_kept(rigs: Make, recorded: Recorded) -> None:
    def upper(flow: HTTPFlow) -> None:
        assert flow.response is not None
        flow.response.stream = bytes.upper

    rig = recorded.into(await rigs(Events("responseheaders", responseheaders=upper)))
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"quiet"))))
    await client.say(b"GET / HTTP/1.1\r\nHost: o.test\r\n\r\n")
    await client.until(b"QUIET")
    await until(lambda: recorded.recorder.flows == 1)
    _, flow = recorded.one()
    assert flow.response is not None and flow.response.content == b"QUIET"


@pytest.mark.parametrize("hooked", [False, True])
async def test_a_tcp_conversation(rigs: Make, recorded: Recorded, hooked: bool) -> None:
    """The same with and without messages being made for hooks."""
    rig = recorded.into(await rigs(Events("tcp_message") if hooked else Events("tcp_end")))
    client = await rig.connect(await rig.transparent(await rig.origin(echo)))
    for word in (b"\0one", b"two"):
        await client.say(word)
        await client.exactly(len(word))
    await until(lambda: recorded.rows("~tcp"))
    assert recorded.rows()[0].going_on  # while it goes on
    client.eof()
    assert await client.rest() == b""
    await rig.idle()
    row, flow = recorded.one("~tcp & ~b two")
    assert (row.up, row.down, row.going_on, row.cut) == (7, 7, False, False)
    assert [(m.from_client, m.content) for m in flow.messages] == [  # type: ignore[attr-defined]
        (True, b"\0one"), (False, b"\0one"), (True, b"two"), (False, b"two")
    ]  # fmt: skip


async def test_a_passed_connection(rigs: Make, recorded: Recorded) -> None:
    begun = time.time()
    rig = recorded.into(await rigs(ignore_hosts=[r"origin\.test"]))
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"secret" * 100), tls=True)))
    await client.start_tls("origin.test", verify=False)
    await client.say(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
    await client.head()
    await client.exactly(600)
    await client.close()
    await rig.idle()
    row, flow = recorded.one()
    assert isinstance(flow, TCPFlow) and not flow.messages
    assert (row.bare, row.kind, row.verdict, row.rule) == (True, "tcp", "pass", r"ignore_hosts origin\.test")
    assert row.down is not None and row.down > 600 and row.up is not None and row.up > 100
    assert row.sni == "origin.test" and row.reason and row.took is not None
    assert begun <= row.begun <= row.begun + row.took <= time.time()
    assert b"secret" not in b"".join(path.read_bytes() for path in recorded.folder.glob("*.seg"))


async def test_a_blocked_connection(rigs: Make, recorded: Recorded) -> None:
    def refuse(client: Client) -> None:
        client.error = "not today"

    rig = recorded.into(await rigs(Events("client_connected", client_connected=refuse)))
    begun = time.time()
    near, task = rig.memory(("198.51.100.1", 80))
    await task
    row, _ = recorded.one("~verdict block")
    assert row.bare and row.reason and row.error == "not today"
    assert row.took is not None and begun <= row.begun <= row.begun + row.took <= time.time()
    near.close()


async def test_a_client_that_does_not_trust_us(rigs: Make, recorded: Recorded) -> None:
    import ssl

    rig = recorded.into(await rigs())
    client = await rig.connect(await rig.transparent(await rig.origin(echo, tls=True)))
    with pytest.raises(ssl.SSLError):
        await client.start_tls("origin.test", trust=False)
    await client.close()
    await rig.idle()
    row, flow = recorded.one("~e")
    assert row.bare and row.sni == "origin.test" and flow.error is not None


async def test_failures_and_kills(rigs: Make, recorded: Recorded) -> None:
    def kill(flow: HTTPFlow) -> None:
        if flow.request.path == "/kill":
            flow.kill()

    rig = recorded.into(await rigs(Events("request", request=kill)))
    proxy = await rig.regular()
    client = await rig.connect(proxy)
    await client.say(b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"502" in await client.head()
    client = await rig.connect(proxy)
    await client.say(b"GET http://127.0.0.1:1/kill HTTP/1.1\r\nHost: x\r\n\r\n")
    with contextlib.suppress(OSError):
        await client.rest()
    client = await rig.connect(proxy)
    await client.say(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n")
    assert b"502" in await client.head()
    await until(lambda: recorded.recorder.flows == 3)
    assert [row.error for row in recorded.rows("~e")] == [
        "127.0.0.1:1: Connection refused", "Connection killed.", "127.0.0.1:1: Connection refused"
    ]  # fmt: skip


async def test_a_granted_connect_is_no_flow(rigs: Make, recorded: Recorded) -> None:
    rig = recorded.into(await rigs())
    origin = await rig.origin(answering(b"hello"), tls=True)
    client = await rig.tunnel(await rig.regular(), f"origin.test:{origin[1]}")
    await client.start_tls("origin.test")
    await client.say(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
    await client.until(b"hello")
    await until(lambda: recorded.recorder.flows == 1)
    await client.close()
    await rig.idle()
    assert [row.method for row in recorded.rows()] == ["GET"]


async def test_dns(rigs: Make, recorded: Recorded) -> None:
    from appliance.dns import DNSMessage, Question
    from appliance.layers.dns import DNSLayer

    rig = recorded.into(await rigs(dns_use_hosts_file=True))
    rig.worker.system.addresses = lambda name: ["192.0.2.9"]  # type: ignore[method-assign]
    rig.worker.system.knows = lambda name: True  # type: ignore[method-assign]
    near, task = rig.memory(None, lambda context: DNSLayer(_own(context)))
    query = DNSMessage(9, True, questions=[Question("printer.lab", 1, 1)]).packed
    near.write(len(query).to_bytes(2, "big") + query)
    await near.peek(20)
    row, flow = recorded.one("~dns")
    assert (row.url, row.method, row.status) == ("printer.lab", "A", 0)
    assert str(flow.response.answers[0]) == "192.0.2.9"  # type: ignore[union-attr]
    near.close()
    await task


def _own(context: Context) -> Context:
    context.server.address = None
    return context


async def test_nothing_costs_where_nothing_is_recorded(rigs: Make) -> None:
    rig = await rigs()
    assert rig.worker.recorder is None
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"x" * 3_000_000))))
    await client.say(b"GET / HTTP/1.1\r\nHost: o.test\r\n\r\n")
    await client.head()
    assert len(await client.exactly(3_000_000)) == 3_000_000
