"""Bodies that the end of a TLS connection delimits: whole with close_notify, perhaps not without (RFC 9112 §9.8)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

import pytest

from appliance import http
from tests.harness import Events, Make, Peer, Rig, until
from tests.layers.http.h2_frames import get
from tests.layers.http.h2_kit import setting as h2_setting
from tests.layers.http.httpkit import Message, Origin, read_body

BODY = b"all that came"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


def hang_up(peer: Peer) -> None:
    """A FIN and no close_notify."""
    sock = socket.socket(fileno=os.dup(peer.writer.get_extra_info("socket").fileno()))
    with sock:
        sock.shutdown(socket.SHUT_WR)


def says(data: bytes, clean: bool) -> Any:
    async def script(peer: Peer, request: Message) -> None:
        await peer.say(data)
        if clean:
            await peer.close()
        else:
            hang_up(peer)
            await asyncio.sleep(30)

    return script


class TlsClient:
    """TLS over memory BIOs: says whether its end came with close_notify, which asyncio does not."""

    def __init__(self, peer: Peer, rig: Rig) -> None:
        self.peer = peer
        context = ssl.create_default_context(cadata=(rig.worker.ca.pem + rig.pki.root.read_bytes()).decode())
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname="origin.test")

    async def _step(self, act: Any) -> Any:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                pass
            finally:
                if self.out.pending:
                    await self.peer.say(self.out.read())
            if data := await self.peer.some():
                self.into.write(data)
            else:
                self.into.write_eof()

    async def ask(self, more: bytes = b"") -> tuple[bytes, bytes, bool]:
        """Head and body as they come, to the end of the connection; whether that was said."""
        await self._step(self.tls.do_handshake)
        await self._step(lambda: self.tls.write(b"GET /x HTTP/1.1\r\nHost: origin.test\r\n%b\r\n" % more))
        got = b""
        try:
            while data := await self._step(lambda: self.tls.read(65536)):
                got += data
            said = True
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as e:
            said = isinstance(e, ssl.SSLZeroReturnError)
        head, _, body = got.partition(b"\r\n\r\n")
        return head.lower(), body, said


def hold(flow: http.HTTPFlow) -> None:
    """What a listener to `response` does."""


HOOKS = {
    "held": lambda: Events(response=hold),
    "streams": lambda: Events("error", responseheaders=lambda flow: setattr(flow.response, "stream", True)),
    "nobody listens": lambda: Events("error"),
}


@pytest.mark.parametrize("how", HOOKS)
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "cut"])
async def test_it_ends_for_the_client_as_it_ended_for_us(rigs: Make, how: str, clean: bool) -> None:
    events = HOOKS[how]()
    flows: list[Any] = []
    events.requestheaders = flows.append  # type: ignore[attr-defined]
    rig = await rigs(events)
    address = await rig.origin(Origin(says(HEAD + BODY, clean)), tls=True)
    client = TlsClient(await rig.tunnel(await rig.regular(), f"origin.test:{address[1]}"), rig)
    whole = how == "held" and clean  # nothing else would end the client's connection then
    head, body, said = await client.ask(b"Connection: close\r\n" if whole else b"")
    await until(lambda: not flows[0].live)
    assert not events.of("error") and flows[0].error is None
    assert ("response_incomplete" in flows[0].metadata) is not clean
    assert body == BODY and said is clean
    if whole:
        assert b"content-length: 13" in head
        return
    assert b"transfer-encoding" not in head and b"content-length" not in head and b"connection: close" in head


async def test_a_client_in_plain(rigs: Make) -> None:
    """Nothing at its end says more than that there is no more."""
    events = Events("response")
    rig = await rigs(events)
    address = await rig.origin(Origin(says(HEAD + BODY, False)), tls=True)
    client = await rig.connect(await rig.regular())
    await client.say(b"GET https://origin.test:%d/ HTTP/1.1\r\nHost: origin.test\r\n\r\n" % address[1])
    head = await client.head()
    assert b"content-length" not in head.lower() and b"chunked" not in head
    assert await client.rest() == BODY


async def test_an_add_ons_own_response_is_whole(rigs: Make) -> None:
    def replace(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(200, b"mine")

    rig = await rigs(Events(response=replace))
    address = await rig.origin(Origin(says(HEAD + BODY, False)), tls=True)
    client = await rig.tunnel(await rig.regular(), f"origin.test:{address[1]}")
    await client.start_tls()
    for _ in range(2):
        await client.say(b"GET /x HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        assert (await read_body(client, Message(await client.head()))).body == b"mine"


@pytest.mark.parametrize(
    "reply",
    [
        HEAD[:-2] + b"Content-Length: 13\r\n\r\n" + BODY,
        HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n",
    ],
)
async def test_what_says_its_length_is_whole_however_it_ends(rigs: Make, reply: bytes) -> None:
    events = Events("response", "server_disconnected")
    rig = await rigs(events)
    address = await rig.origin(Origin(says(reply, False)), tls=True)
    client = await rig.tunnel(await rig.regular(), f"origin.test:{address[1]}")
    await client.start_tls()
    for i in range(2):
        await client.say(b"GET /x HTTP/1.1\r\nHost: origin.test\r\n\r\n")
        assert (await read_body(client, Message(await client.head()))).body == BODY
        await events.wait("server_disconnected", i + 1)
    assert not any(flow.metadata for flow in events.of("response"))


async def test_a_client_of_http2(rigs: Make) -> None:
    """END_STREAM would be a lie, a reset would break what it gets from such a server without us: it is noted only."""
    s = await h2_setting(rigs, Origin(says(HEAD + BODY, False)), h1=True)
    client = await s.client()
    await client.say(get(1))
    got = await client.response(1)
    assert (got.status, got.body, got.reset) == (200, BODY, None)
    flow: Any = (await s.events.wait("response"), s.events.of("response")[0])[1]
    assert "response_incomplete" in flow.metadata
