"""Server connections: their events, once and in order; vetoes; limits; faults that are remembered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from appliance.connection import ConnectionState, Server
from appliance.handler import ConnectionHandler
from appliance.layers.base import Context, Layer
from appliance.net.dial import Attempt
from appliance.net.egress import MAX_PER_ADDRESS, CannotConnect, Upstreams
from appliance.net.reasons import Reason
from appliance.net.stream import Stream
from tests.harness import ORIGIN, Events, Make, Peer, Rig, TestPki, descriptors, echo, rst, until

SERVER_EVENTS = ("server_connect", "server_connected", "server_connect_error", "server_disconnected")
TLS_EVENTS = ("tls_start_server", "tls_established_server", "tls_failed_server")


class Held(Layer):
    """A connection that does nothing until it is told to end."""

    made: asyncio.Queue[Context]

    async def run(self, client: Any) -> None:
        Held.made.put_nowait(self.context)
        await client.read()


async def upstreams(rig: Rig) -> tuple[Upstreams, ConnectionHandler, Stream]:
    Held.made = asyncio.Queue()
    near, _ = rig.memory(("127.0.0.1", 1), Held)
    context = await Held.made.get()
    return context.handler.upstreams, context.handler, near


async def hang(peer: Peer) -> None:
    await peer.rest()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def test_events_of_a_connection(rigs: Make) -> None:
    events = Events(*SERVER_EVENTS)
    rig = await rigs(events)
    origin = await rig.origin(echo)
    ups, handler, _ = await upstreams(rig)
    server = Server(address=origin)
    stream = await ups.open(server)
    assert await ups.open(server) is stream
    assert ups.stream(server) is stream
    assert server.state is ConnectionState.OPEN
    assert server.peername == origin
    assert server.sockname
    assert server.timestamp_start
    assert server.timestamp_tcp_setup
    with pytest.raises(RuntimeError):
        server.address = ("127.0.0.1", 1)
    await ups.end(server)
    await ups.end(server)
    assert events.names == ["server_connect", "server_connected", "server_disconnected"]
    data = events.of("server_connect")[0]
    assert data.server is server
    assert data.client is handler.client
    assert server.state is ConnectionState.CLOSED
    assert server.timestamp_end
    assert stream.why is not None
    server.address = ("127.0.0.1", 1)


async def test_events_of_a_failure_and_of_the_next_attempt(rigs: Make) -> None:
    events = Events(*SERVER_EVENTS)
    rig = await rigs(events)
    ups, _, _ = await upstreams(rig)
    port = closed_port()
    server = Server(address=("127.0.0.1", port))
    for _ in range(2):
        with pytest.raises(CannotConnect, match="Connection refused") as e:
            await ups.open(server)
        assert e.value.kind == "dial"
        assert server.error is not None
        assert "Connection refused" in server.error
    assert events.names == ["server_connect", "server_connect_error"] * 2
    with socket.create_server(("127.0.0.1", port)):
        await ups.open(server)
        assert server.error is None, "the earlier attempt's error is not this one's"
    await ups.end(server)
    assert events.names[4:] == ["server_connect", "server_connected", "server_disconnected"]


async def test_a_veto(rigs: Make) -> None:
    def veto(data: Any) -> None:
        data.server.error = "not today"

    events = Events(*SERVER_EVENTS, server_connect=veto)
    rig = await rigs(events)
    origin = await rig.origin(echo)
    ups, _, _ = await upstreams(rig)
    with pytest.raises(CannotConnect, match=r"Connection killed: not today") as e:
        await ups.open(Server(address=origin))
    assert e.value.kind == "killed"
    assert events.names == ["server_connect", "server_connect_error"]
    assert rig.served == 0


async def test_a_hook_may_change_destination_and_source(rigs: Make) -> None:
    async def change(data: Any) -> None:
        await asyncio.sleep(0)
        data.server.address = origin
        data.server.sockname = ("127.0.0.8", 0)

    events = Events(*SERVER_EVENTS, server_connect=change)
    rig = await rigs(events)
    origin = await rig.origin(echo)
    ups, _, _ = await upstreams(rig)
    server = Server(address=("127.0.0.1", closed_port()))
    await ups.open(server)
    assert server.peername == origin
    assert server.sockname is not None
    assert server.sockname[0] == "127.0.0.8"


async def test_connect_addr(rigs: Make) -> None:
    rig = await rigs(connect_addr="127.0.0.7")
    ups, _, _ = await upstreams(rig)
    server = Server(address=await rig.origin(echo))
    await ups.open(server)
    assert server.sockname is not None
    assert server.sockname[0] == "127.0.0.7"


async def test_never_ourselves(rigs: Make) -> None:
    events = Events(*SERVER_EVENTS)
    rig = await rigs(events)
    proxy = await rig.regular()
    ups, _, _ = await upstreams(rig)
    for host in ("127.0.0.1", "localhost", "::ffff:127.0.0.1"):
        with pytest.raises(CannotConnect, match="this gateway itself"):
            await ups.open(Server(address=(host, proxy[1])))
    assert events.names == ["server_connect", "server_connect_error"] * 3
    with pytest.raises(CannotConnect):
        await ups.open(Server(address=None))


async def test_five_at_once_to_one_address(rigs: Make) -> None:
    events = Events(*SERVER_EVENTS)
    rig = await rigs(events)
    origin, other = await rig.origin(hang), await rig.origin(hang)
    ups, _, _ = await upstreams(rig)
    servers = [Server(address=origin) for _ in range(MAX_PER_ADDRESS + 1)]
    for server in servers[:-1]:
        await ups.open(server)
    sixth = asyncio.ensure_future(ups.open(servers[-1]))
    await ups.open(Server(address=other))
    await asyncio.sleep(0.05)
    assert not sixth.done()
    assert len(events.of("server_connect")) == MAX_PER_ADDRESS + 1
    await ups.end(servers[0])
    await asyncio.wait_for(sixth, 2)


async def test_failures_give_their_place_back(rigs: Make) -> None:
    rig = await rigs()
    ups, _, _ = await upstreams(rig)
    server = Server(address=("127.0.0.1", closed_port()))
    for _ in range(MAX_PER_ADDRESS * 2):
        with pytest.raises(CannotConnect):
            await asyncio.wait_for(ups.open(server), 2)


async def test_those_who_wait_keep_the_places(rigs: Make) -> None:
    """What is dropped when nobody uses it is not dropped too early."""
    rig = await rigs()
    ups, _, _ = await upstreams(rig)
    address = await rig.origin(hang)
    servers = [Server(address=address) for _ in range(MAX_PER_ADDRESS + 3)]
    tasks = [asyncio.ensure_future(ups.open(server)) for server in servers]
    await until(lambda: sum(task.done() for task in tasks) == MAX_PER_ADDRESS)
    tasks[-1].cancel()
    for server in servers[:-1]:
        await asyncio.wait_for(tasks[servers.index(server)], 2)
        await ups.end(server)
    assert not ups._slots


async def test_who_leaves_while_it_waits_for_a_place(rigs: Make) -> None:
    """The places may be had by WebSockets, which end when they like."""
    rig = await rigs(events := Events("server_connect"))
    address = await rig.origin(hang)
    ups, _, _ = await upstreams(rig)
    servers = [Server(address=address) for _ in range(MAX_PER_ADDRESS)]
    for server in servers:
        await ups.open(server)
    attempts = [Attempt(), Attempt()]
    tasks = [asyncio.ensure_future(ups.open(Server(address=address), attempt)) for attempt in attempts]
    await asyncio.sleep(0.02)
    attempts[0].abandon("left")
    with pytest.raises(CannotConnect, match="left") as gone:
        await asyncio.wait_for(tasks[0], 1)
    assert gone.value.kind == "gone"
    await ups.end(servers.pop())
    await asyncio.wait_for(tasks[1], 1)
    assert len(events.of("server_connect")) == MAX_PER_ADDRESS + 1
    await ups.close()
    assert not ups._slots


async def test_faults_are_not_remembered_without_end(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.net.egress.MAX_FAULTS", 3)
    rig = await rigs()
    ups, _, _ = await upstreams(rig)
    address = await rig.origin(echo)
    servers = [Server(address=address, tls=True, sni=f"{i}.test") for i in range(5)]
    for server in servers:
        with pytest.raises(CannotConnect):
            await asyncio.wait_for(ups.open(server), 2)
    assert [ups.fault(server) is not None for server in servers] == [False, False, True, True, True]


async def test_a_cancelled_attempt_gives_its_place_back(rigs: Make) -> None:
    rig = await rigs(Events("server_connect", server_connect=lambda data: asyncio.sleep(60)))
    ups, _, _ = await upstreams(rig)
    address = ("127.0.0.1", closed_port())
    for _ in range(MAX_PER_ADDRESS + 1):
        task = asyncio.ensure_future(ups.open(Server(address=address)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not ups._slots


async def test_reset_right_after_the_handshake_of_tcp(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(*SERVER_EVENTS)
    rig = await rigs(events)
    ups, _, _ = await upstreams(rig)

    async def dead(*args: Any) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock = socket.create_connection(listener.getsockname())
            rst(listener.accept()[0])
        sock.setblocking(False)
        await asyncio.sleep(0.01)
        with contextlib.suppress(OSError):
            sock.recv(1)
        return sock

    monkeypatch.setattr("appliance.net.egress.dial", dead)
    before = descriptors()
    with pytest.raises(CannotConnect, match="reset by peer"):
        await ups.open(Server(address=("127.0.0.1", 9)))
    assert events.names == ["server_connect", "server_connect_error"]
    assert descriptors() == before
    assert not ups._slots


async def test_tls_events_and_facts(rigs: Make) -> None:
    events = Events(*SERVER_EVENTS, *TLS_EVENTS)
    rig = await rigs(events)
    origin = await rig.origin(echo, tls=True, alpn=("http/1.1",))
    ups, _, _ = await upstreams(rig)
    server = Server(address=origin, tls=True, sni=ORIGIN, alpn_offers=(b"http/1.1",))
    stream = await ups.open(server)
    assert events.names == ["server_connect", "server_connected", "tls_start_server", "tls_established_server"]
    assert server.tls_established
    assert server.alpn == b"http/1.1"
    assert server.tls_version == "TLSv1.3"
    assert server.certificate_list
    assert not stream.deadline
    stream.write(b"hi")
    assert await stream.read() == b"hi"
    await ups.close()
    assert events.names[4:] == ["server_disconnected"]


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("expired", "has expired"),
        ("wrong-name", "is for another name"),
        ("self-signed", "self-signed"),
        ("unknown-root", "unknown"),
    ],
)
async def test_bad_certificates(rigs: Make, pki: TestPki, which: str, says: str) -> None:
    events = Events(*SERVER_EVENTS, *TLS_EVENTS)
    rig = await rigs(events)
    origin = await rig.origin(echo, tls=pki.bad[which])
    ups, _, _ = await upstreams(rig)
    server = Server(address=origin, tls=True, sni=ORIGIN)
    with pytest.raises(CannotConnect, match=says) as e:
        await ups.open(server)
    assert e.value.kind == "certificate"
    assert events.names == [
        "server_connect",
        "server_connected",
        "tls_start_server",
        "tls_failed_server",
        "server_disconnected",
    ]
    assert server.error == e.value.text
    assert server.certificate_list
    fault = ups.fault(Server(address=origin, tls=True, sni=ORIGIN))
    assert fault is not None
    assert fault.text == e.value.text
    assert ups.fault(Server(address=origin, tls=True, sni="other.test")) is None


async def test_ssl_insecure(rigs: Make, pki: TestPki) -> None:
    rig = await rigs(ssl_insecure=True)
    origin = await rig.origin(echo, tls=pki.bad["expired"])
    ups, _, _ = await upstreams(rig)
    await ups.open(Server(address=origin, tls=True, sni=ORIGIN))


async def test_an_address_is_verified_without_sni(rigs: Make, pki: TestPki) -> None:
    rig = await rigs()
    ups, _, _ = await upstreams(rig)
    await ups.open(Server(address=await rig.origin(echo, tls=True), tls=True))
    with pytest.raises(CannotConnect, match="another address"):
        await ups.open(Server(address=await rig.origin(echo, tls=pki.bad["wrong-name"]), tls=True))


async def test_an_addons_own_connection_is_used(rigs: Make) -> None:
    mine: list[Any] = []

    def start(data: Any) -> None:
        data.ssl_conn = rig.worker.tls.connect(data.conn, sni=ORIGIN)
        mine.append(data.ssl_conn)

    rig = await rigs(Events(tls_start_server=start))
    origin = await rig.origin(echo, tls=True)
    ups, _, _ = await upstreams(rig)
    stream = await ups.open(Server(address=origin, tls=True))
    assert stream.tls is not None
    assert stream.tls.conn is mine[0]


async def test_an_addons_nonsense_fails_cleanly(rigs: Make) -> None:
    def start(data: Any) -> None:
        data.ssl_conn = "nonsense"

    events = Events(*SERVER_EVENTS, *TLS_EVENTS, tls_start_server=start)
    rig = await rigs(events)
    ups, _, _ = await upstreams(rig)
    with pytest.raises(CannotConnect):
        await ups.open(Server(address=await rig.origin(echo, tls=True), tls=True))
    assert events.names[-2:] == ["tls_failed_server", "server_disconnected"]


async def test_a_server_that_is_silent_in_the_handshake(rigs: Make) -> None:
    rig = await rigs(tls_handshake_timeout=1)
    rig.worker.settings.handshake_timeout = 0.1
    ups, _, _ = await upstreams(rig)
    with pytest.raises(CannotConnect, match="in time"):
        await asyncio.wait_for(ups.open(Server(address=await rig.origin(hang), tls=True)), 3)


async def test_one_that_gave_up_before_tls_is_dialled_again(rigs: Make) -> None:
    """CONNECT, then nothing for a minute: the server has closed what was dialled for the answer to it."""
    rig = await rigs(events := Events(*SERVER_EVENTS))
    origin = await rig.origin(echo, tls=True)
    ups, _, _ = await upstreams(rig)
    server = Server(address=origin, sni=ORIGIN)
    stream = await ups.raw(server)
    stream.ended()  # as if
    server.tls = True
    again = await ups.open(server)
    assert again is not stream
    assert server.tls_established
    assert events.names == [
        "server_connect",
        "server_connected",
        "server_disconnected",
        "server_connect",
        "server_connected",
    ]


async def test_all_end_with_the_client(rigs: Make) -> None:
    events = Events("client_disconnected", *SERVER_EVENTS)
    rig = await rigs(events)
    ups, handler, near = await upstreams(rig)
    streams = [await ups.open(Server(address=await rig.origin(hang))) for _ in range(3)]
    near.close()
    await rig.idle()
    assert events.names[6] == "client_disconnected", "before those that are left are ended"
    assert events.names[7:] == ["server_disconnected"] * 3
    assert all(stream.why for stream in streams)
    assert not handler.streams


async def test_one_that_rests_and_is_closed_by_its_server(rigs: Make) -> None:
    events = Events(*SERVER_EVENTS)
    rig = await rigs(events)
    ups, _, _ = await upstreams(rig)
    server = Server(address=await rig.origin(echo))
    stream = await ups.open(server)
    ups.ended(server, Reason("closed", "by the server"))
    await events.wait("server_disconnected")
    ups.ended(server, Reason("closed", "by the server"))
    await until(lambda: not ups._farewells)
    assert len(events.of("server_disconnected")) == 1
    assert stream.why is not None


async def test_what_was_taken_is_forgotten_with_its_connection(rigs: Make) -> None:
    rig = await rigs()
    origin = await rig.origin(echo)
    ups, _, _ = await upstreams(rig)
    for _ in range(20):
        server = Server(address=origin)
        await ups.open(server)
        ups.take(server)
        assert not ups.free(server)
        await ups.end(server)
    assert not ups._taken
    assert not ups._held
