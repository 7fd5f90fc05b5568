"""A client that leaves while its server is being dialled: nobody waits for that server any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from appliance import http
from appliance.layers.base import Context, Layer
from appliance.layers.http.pool import HttpPool
from appliance.net.dial import Attempt
from appliance.net.egress import CannotConnect
from tests.harness import Events, Make, Peer, descriptors, until
from tests.layers.http.httpkit import OK, Message, Origin, ended, setting

Leave = Callable[[Any, Peer], None]


def closes(flow: http.HTTPFlow, client: Peer) -> None:
    client.writer.close()


def resets(flow: http.HTTPFlow, client: Peer) -> None:
    client.reset()


def killed(flow: http.HTTPFlow, client: Peer) -> None:
    flow.kill()


@pytest.mark.parametrize("leave", [closes, resets, killed])
@pytest.mark.parametrize("host", ["127.0.0.1", "origin.test"])
async def test_dial_is_given_up(rigs: Make, deaf: int, host: str, leave: Leave) -> None:
    s = await setting(rigs)
    before, start = descriptors(), time.monotonic()
    await s.client.say(f"GET http://{host}:{deaf}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await s.events.wait("server_connect")
    await asyncio.sleep(0.05)
    leave(s.events.of("request")[0], s.client)
    await s.rig.idle()
    assert time.monotonic() - start < 2
    (flow,) = await ended(s)
    assert s.endings() == ["error"]
    assert flow.error.msg == ("Connection killed." if leave is killed else "the client disconnected")
    (data,) = s.events.of("server_connect_error")
    assert data.server.error == "the client disconnected"
    assert s.events.names.count("server_connect_error") == s.events.names.count("server_connect") == 1
    assert descriptors() <= before
    await s.alive()


async def test_handshake_is_given_up(rigs: Make) -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    s = await setting(rigs)
    address = await s.rig.origin(silent)
    await s.client.say(b"GET https://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % address[1])
    await s.events.wait("tls_start_server")
    await asyncio.sleep(0.05)
    s.client.reset()
    await s.rig.idle()
    await ended(s)
    assert s.endings() == ["error"]
    assert len(s.events.of("tls_failed_server")) == len(s.events.of("server_disconnected")) == 1


@pytest.mark.parametrize("leave", [closes, resets, killed])
async def test_tunnel(rigs: Make, deaf: int, leave: Leave) -> None:
    s = await setting(rigs)
    start = time.monotonic()
    await s.client.say(f"CONNECT origin.test:{deaf} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await s.events.wait("server_connect")
    await asyncio.sleep(0.05)
    leave(s.events.of("http_connect")[0], s.client)
    await s.rig.idle()
    assert time.monotonic() - start < 2
    assert len(s.events.of("server_connect_error")) == 1


class Held(Layer):
    """A connection that does nothing until it is told to end."""

    made: asyncio.Queue[Context]

    async def run(self, client: Any) -> None:
        Held.made.put_nowait(self.context)
        await client.read()


async def test_others_that_wait_for_it_are_not_let_down(rigs: Make) -> None:
    """Of many requests on one client connection (HTTP/2), the one that dials goes: the next dials in its place."""
    slow = asyncio.Event()
    events = Events("server_connect", "server_connect_error", server_connect=lambda data: slow.wait())
    rig = await rigs(events)
    address = await rig.origin(Origin(OK))
    Held.made = asyncio.Queue()
    near, _ = rig.memory(("127.0.0.1", 1), Held)
    context = await Held.made.get()
    pool = HttpPool(context)
    request = http.Request.make("GET", f"http://127.0.0.1:{address[1]}/")
    attempts = [Attempt() for _ in range(3)]
    gets = [asyncio.ensure_future(pool.get(request, attempt=attempt)) for attempt in attempts]
    await events.wait("server_connect")
    attempts[1].abandon("left")  # as it waits for its turn
    with pytest.raises(CannotConnect, match="left"):
        await asyncio.wait_for(gets[1], 1)
    attempts[0].abandon("left")
    slow.set()
    with pytest.raises(CannotConnect, match="left") as gone:
        await asyncio.wait_for(gets[0], 1)
    assert gone.value.kind == "gone"
    link = await asyncio.wait_for(gets[2], 1)
    assert events.names == ["server_connect", "server_connect_error", "server_connect"]
    await pool.drop(link)
    assert not pool._queues
    assert not pool._links
    near.close()


async def test_nothing_is_kept_of_hosts_that_were_asked_for_once(rigs: Make) -> None:
    """A client that asks for ever new hosts over one connection."""
    s = await setting(rigs)
    for port in range(1, 21):
        for scheme in ("http", "https"):
            await s.client.say(f"GET {scheme}://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await s.client.head()
            assert b" 502 " in head
            await s.client.until(b"</html>\n")
    (handler,) = s.rig.worker.handlers
    await until(lambda: not handler.upstreams._slots)
    assert not handler.context.layers[-1].pool._queues  # type: ignore[attr-defined]


async def test_between_two_tries(rigs: Make) -> None:
    """A kept connection turns out to be dead, and the client leaves before the next is dialled."""

    async def once(peer: Peer, request: Message) -> None:
        if request.start.split()[1] == b"/":
            await peer.say(OK)
        else:
            peer.writer.close()

    slow = {"server_disconnected": lambda data: asyncio.sleep(0.2)}
    events = Events("server_connect", "server_disconnected", "error", **slow)
    s = await setting(rigs, once, events)
    await s.ask()
    await s.client.say(s.head(path="/again"))
    await events.wait("server_disconnected")
    s.client.reset()
    await events.wait("error")
    await s.rig.idle()
    assert events.names == ["server_connect", "server_disconnected", "error"]
