"""CONNECT (RFC 9113 §8.5) and extended CONNECT (RFC 8441) inside HTTP/2, over either codec and to either version."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from appliance.flow import Error
from appliance.http import Response
from appliance.layers.websocket_frames import close_payload, frame, mask
from tests.harness import Events, Make, Peer, Rig, answering, echo, until
from tests.layers.http.h2_frames import (
    END_STREAM,
    PREFACE,
    Code,
    Fields,
    Frame,
    S,
    T,
    data,
    get,
    headers,
    request,
    rst,
    settings,
    window,
)
from tests.layers.http.h2_kit import Origin, setting
from tests.layers.http.h2_peer import H2Peer

HOOKS = ("http_connect", "http_connected", "http_connect_error", "tcp_end", "tcp_error", "request", "response", "error")
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3


@pytest.fixture(params=["lean", "h2"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(stream: int, to: str, *more: tuple[bytes, bytes], end: bool = False) -> bytes:
    return headers(stream, [(b":method", b"CONNECT"), (b":authority", to.encode()), *more], end=end)


async def proxy(rigs: Make, codec: str, *addons: object, **options: object) -> tuple[Rig, H2Peer]:
    rig = await rigs(*addons, http2_codec=codec, **options)
    return rig, await H2Peer(await rig.connect(await rig.regular())).start()


async def body(client: H2Peer, stream: int, want: bytes) -> None:
    await client.until(lambda: stream in client.streams and client.streams[stream].body == want)
    assert client.streams[stream].body == want, client


class TestConnect:
    async def test_two_side_by_side_and_a_request(self, rigs: Make, codec: str) -> None:
        events = Events(*HOOKS, "client_connected", "client_disconnected")
        rig, client = await proxy(rigs, codec, events)
        one, two = [f"127.0.0.1:{(await rig.origin(echo))[1]}" for _ in range(2)]
        web = f"127.0.0.1:{(await rig.origin(answering()))[1]}"
        await client.say(connect(1, one), connect(3, two))
        assert (await client.head(1)).status == 200 == (await client.head(3)).status
        await client.say(
            data(1, b"\x00one"), data(3, b"\x00two"), get(5, b"/", (b"x", b"y")).replace(b"origin.test", b"origin.test")
        )
        await body(client, 1, b"\x00one")
        await body(client, 3, b"\x00two")
        fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", web.encode()), (b":path", b"/")]
        await client.say(headers(7, fields))
        assert (await client.response(7)).body == b"hello"
        await client.say(data(1, b"", end=True))  # a half-close goes through, and the echo ends in its turn
        assert (await client.response(1)).reset is None
        await client.say(data(3, b"more"))
        await body(client, 3, b"\x00twomore")
        await client.peer.close()
        await until(lambda: events.names.count("client_disconnected") == 3)
        flows = events.of("http_connect")
        assert [f"{flow.request.host}:{flow.request.port}" for flow in flows] == [one, two]
        assert flows[0].client_conn is not flows[1].client_conn
        assert events.names.count("http_connected") == 2 and "http_connect_error" not in events.names
        verdicts = [conn.verdict.action for conn in events.of("client_disconnected")]
        assert verdicts == ["decrypt"] * 3

    async def test_tls_inside(self, rigs: Make, codec: str) -> None:
        """The tunnel's TLS is decrypted like any other: the flow is seen."""
        events = Events(*HOOKS)
        rig, client = await proxy(rigs, codec, events)
        origin = await rig.origin(answering(), tls=True)
        await client.say(connect(1, f"127.0.0.1:{origin[1]}"))
        assert (await client.head(1)).status == 200
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = context.wrap_bio(incoming, outgoing, server_hostname="origin.test")
        got = client.streams[1]
        fed = [0]

        async def step(do: Callable[[], Any]) -> Any:
            while True:
                try:
                    result = do()
                except ssl.SSLWantReadError:
                    result = None
                if said := outgoing.read():
                    await client.say(data(1, said))
                if result is not None:
                    return result
                await client.until(lambda: len(got.body) > fed[0] or client.over(1))
                incoming.write(got.body[fed[0] :])
                fed[0] = len(got.body)

        await step(lambda: tls.do_handshake() or True)
        leaf = x509.load_der_x509_certificate(tls.getpeercert(True) or b"")
        assert "lockgate" in leaf.issuer.rfc4514_string()
        await step(lambda: tls.write(b"GET /in HTTP/1.1\r\nHost: origin.test\r\n\r\n"))
        reply = b""
        while b"hello" not in reply:
            reply += await step(lambda: tls.read(65536))
        assert reply.startswith(b"HTTP/1.1 200")
        assert [flow.request.path for flow in events.of("response")] == ["/in"]

    async def test_what_cannot_be_reached(self, rigs: Make, codec: str) -> None:
        events = Events(*HOOKS)
        _rig, client = await proxy(rigs, codec, events)
        await client.say(connect(1, "127.0.0.1:1"))
        assert (await client.response(1)).status == 502
        assert events.names.count("http_connect_error") == 1
        await client.alive()

    async def test_refused_and_killed_by_an_add_on(self, rigs: Make, codec: str) -> None:
        def hook(flow: Any) -> None:
            if flow.request.port == 444:
                flow.kill()
            else:
                flow.response = Response.make(403, b"no")

        _rig, client = await proxy(rigs, codec, Events(http_connect=hook))
        await client.say(connect(1, "origin.test:443"), connect(3, "origin.test:444"))
        got = await client.response(1)
        assert (got.status, got.body) == (403, b"no")
        assert (await client.response(3)).reset is not None
        await client.alive()

    async def test_a_server_that_resets(self, rigs: Make, codec: str) -> None:
        """RFC 9113 §8.5: a stream error of type CONNECT_ERROR."""

        async def origin(peer: Peer) -> None:
            await peer.exactly(2)
            peer.reset()

        rig, client = await proxy(rigs, codec)
        await client.say(connect(1, f"127.0.0.1:{(await rig.origin(origin))[1]}"))
        await client.head(1)
        await client.say(data(1, b"\x00x"))
        assert (await client.response(1)).reset == Code.CONNECT_ERROR
        await client.alive()

    @pytest.mark.parametrize(
        ("send", "code"),
        [
            (headers(1, [(b"x", b"y")]), Code.PROTOCOL_ERROR),
            (rst(1, Code.CANCEL), None),
        ],
        ids=["HEADERS in a tunnel", "reset by the client"],
    )
    async def test_the_servers_side_is_reset(self, rigs: Make, codec: str, send: bytes, code: Code | None) -> None:
        ended = asyncio.Event()

        async def origin(peer: Peer) -> None:
            try:
                while await peer.some():
                    pass
            except ConnectionError:
                ended.set()

        rig, client = await proxy(rigs, codec)
        await client.say(connect(1, f"127.0.0.1:{(await rig.origin(origin))[1]}"))
        await client.head(1)
        await client.say(data(1, b"\x00x"))
        await asyncio.sleep(0.05)
        await client.say(send)
        if code is not None:
            assert (await client.response(1)).reset == code
        await asyncio.wait_for(ended.wait(), 5)
        await client.alive()

    async def test_a_megabyte_each_way_within_the_windows(self, rigs: Make, codec: str) -> None:
        rig, client = await proxy(rigs, codec)
        await client.say(connect(1, f"127.0.0.1:{(await rig.origin(echo))[1]}"))
        await client.head(1)
        whole = b"\x00" + bytes(range(256)) * 4096
        got = client.streams[1]

        def note(frame: Frame) -> None:
            if frame.type == T.DATA and frame.payload:
                client.write(window(0, len(frame.payload)) + window(1, len(frame.payload)))

        client.on_frame = note
        await client.send_body(1, whole, seconds=30)
        await client.until(lambda: got.ended, 30)
        assert got.body == whole and got.reset is None

    async def test_one_that_is_not_read_stalls_no_other(self, rigs: Make, codec: str) -> None:
        async def flood(peer: Peer) -> None:
            await peer.exactly(2)
            for _ in range(64):
                await peer.say(bytes(65536))

        rig, client = await proxy(rigs, codec)
        big, small = [f"127.0.0.1:{(await rig.origin(one))[1]}" for one in (flood, echo)]
        await client.say(window(0, 1 << 24), connect(1, big), connect(3, small))
        await client.head(1)
        await client.head(3)
        await client.say(data(1, b"\x00x"))
        await client.until(lambda: len(client.streams[1].body) == 65535)  # all that its window allows
        await client.say(data(3, b"\x00still here"))
        await body(client, 3, b"\x00still here")

    async def test_full_gateway(self, rigs: Make, codec: str) -> None:
        _rig, client = await proxy(rigs, codec, max_connections=1)
        await client.say(connect(1, "origin.test:443"))
        assert (await client.response(1)).reset == Code.REFUSED_STREAM


def websocket(stream: int, path: bytes = b"/chat", protocol: bytes = b"websocket", end: bool = False) -> bytes:
    scheme, authority, target = request(path)[1:]
    fields = [(b":method", b"CONNECT"), (b":protocol", protocol), scheme, authority, target]
    return headers(stream, [*fields, (b"sec-websocket-version", b"13"), (b"origin", b"http://a.test")], end=end)


class WebSocketOrigin:
    """HTTP/1: switches and echoes; `/no` gets 403, `/200` a 200."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.ended = 0

    async def __call__(self, peer: Peer) -> None:
        head = await peer.head()
        self.heads.append(head)
        if b" /no " in head or b" /200 " in head:
            await peer.say(
                b"HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\nno" % (b"403 No" if b" /no " in head else b"200 OK")
            )
            return
        key = next(
            line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        await peer.say(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        await echo(peer)
        self.ended += 1

    def lines(self, at: int = 0) -> dict[bytes, bytes]:
        pairs = [line.split(b": ", 1) for line in self.heads[at].split(b"\r\n")[1:] if b": " in line]
        return {name.lower(): value for name, value in pairs}


class TestExtended:
    async def test_to_http1(self, rigs: Make, codec: str) -> None:
        origin = WebSocketOrigin()
        events = Events(*HOOKS)
        s = await setting(rigs, origin, events, h1=True, http2_codec=codec, websocket=False)
        client = await s.client()
        assert client.settings[S.ENABLE_CONNECT_PROTOCOL] == 1
        await client.say(websocket(1))
        got = await client.head(1)
        assert got.status == 200
        assert not {b"connection", b"upgrade", b"sec-websocket-accept"} & {name for name, _ in got.final}
        await client.say(data(1, b"\x81\x02hi"))
        await body(client, 1, b"\x81\x02hi")
        await client.say(data(1, end=True))
        assert (await client.response(1)).reset is None
        await until(lambda: origin.ended == 1)
        assert origin.heads[0].startswith(b"GET /chat HTTP/1.1\r\n")
        said = origin.lines()
        assert (said[b"upgrade"], said[b"connection"]) == (b"websocket", b"Upgrade")
        assert len(base64.b64decode(said[b"sec-websocket-key"])) == 16 and said[b"sec-websocket-version"] == b"13"
        await until(lambda: "tcp_end" in events.names)
        flow = events.of("response")[0]
        assert (flow.request.method, flow.response.status_code) == ("GET", 101)
        assert flow.request.headers["upgrade"] == "websocket"
        assert "error" not in events.names

    @pytest.mark.parametrize(("path", "status"), [(b"/no", 403), (b"/200", 502)])
    async def test_a_server_that_does_not(self, rigs: Make, codec: str, path: bytes, status: int) -> None:
        """A 200 would say to the client that the tunnel is open."""
        s = await setting(rigs, WebSocketOrigin(), h1=True, http2_codec=codec)
        client = await s.client()
        await client.say(websocket(1, path))
        assert (await client.response(1)).status == status
        await client.alive()

    async def test_an_add_on_that_answers(self, rigs: Make, codec: str) -> None:
        def hook(flow: Any) -> None:
            flow.response = Response.make(404 if flow.request.path == "/404" else 200, b"x")

        s = await setting(
            rigs, WebSocketOrigin(), Events("response", "error", request=hook), h1=True, http2_codec=codec
        )
        client = await s.client()
        await client.say(websocket(1, b"/404"), websocket(3))
        assert (await client.response(1)).status == 404
        assert (await client.response(3)).status == 502
        await client.alive()

    @pytest.mark.parametrize("tls", [False, True])
    async def test_a_server_whose_http2_knows_it_not(self, rigs: Make, codec: str, tls: bool) -> None:
        """Its HTTP/1.1 is asked, on a connection of its own; requests go on over HTTP/2."""
        two, one = Origin(), WebSocketOrigin()

        async def both(peer: Peer) -> None:
            start = await peer.exactly(4)
            if start == PREFACE[:4]:
                peer.reader._buffer[:0] = start  # type: ignore[attr-defined]
                await two(peer)
            else:
                peer.reader._buffer[:0] = start  # type: ignore[attr-defined]
                await one(peer)

        s = await setting(rigs, both, tls=tls, http2_codec=codec, websocket=False)
        client = await s.client()
        await client.say(get(1), websocket(3), websocket(5))
        assert (await client.response(1)).body == b"hello"
        assert (await client.head(3)).status == 200 == (await client.head(5)).status
        await client.say(data(3, b"\x81\x01a"), data(5, b"\x81\x01b"), get(7))
        await body(client, 3, b"\x81\x01a")
        await body(client, 5, b"\x81\x01b")
        assert (await client.response(7)).status == 200
        assert two.connections == 1 and len(one.heads) == 2
        await client.say(*[websocket(stream) for stream in (9, 11, 13)])
        assert [(await client.head(stream)).status for stream in (9, 11)] == [200, 200]
        assert (await client.response(13)).status == 502  # bounded, and said
        await client.say(data(3, end=True))
        await until(lambda: one.ended == 1)
        await client.response(3)  # and the gateway knows it
        await client.say(websocket(15))
        assert (await client.head(15)).status == 200  # there is room again

    @pytest.mark.parametrize("end", [True, False])
    async def test_to_http2(self, rigs: Make, codec: str, end: bool) -> None:
        """Both ways, and a half-close or a reset of the server's."""
        seen: list[Fields] = []
        servers: list[H2Peer] = []

        async def origin(peer: Peer) -> None:
            await peer.exactly(len(PREFACE))
            server = H2Peer(peer, client=False)
            servers.append(server)

            def note(got: Frame) -> None:
                if got.type == T.HEADERS:
                    seen.append(server.streams[got.stream].heads[0])
                    server.write(
                        headers(got.stream, [(b":status", b"200"), (b"sec-websocket-protocol", b"x")], end=False)
                    )
                elif got.type == T.DATA and got.payload:
                    server.write(data(got.stream, got.payload))
                if got.type == T.DATA and got.flags & END_STREAM:
                    server.write(data(got.stream, end=True) if end else rst(got.stream, Code.CANCEL))

            server.on_frame = note
            await server.say(settings((S.ENABLE_CONNECT_PROTOCOL, 1)))
            while await server.next(3600):
                pass

        s = await setting(rigs, origin, http2_codec=codec)
        client = await s.client()
        await client.say(websocket(1), websocket(3))
        got = await client.head(1)
        assert got.status == 200 and got.value(b"sec-websocket-protocol") == b"x"
        await client.say(data(1, b"one"), data(3, b"two"))
        await body(client, 1, b"one")
        await body(client, 3, b"two")
        await client.say(data(1, end=True))
        assert ((await client.response(1)).reset is None) is end
        await client.say(data(3, b"!"))
        await body(client, 3, b"two!")
        fields = dict(seen[0])
        assert (fields[b":method"], fields[b":protocol"], fields[b":path"]) == (b"CONNECT", b"websocket", b"/chat")
        names = {name for name, _ in seen[0]}
        assert not names & {b"upgrade", b"connection", b"sec-websocket-key", b"host", b"content-length"}
        assert len(servers) == 1

    @pytest.mark.parametrize(
        "bad",
        [
            websocket(1, end=True),
            headers(
                1,
                [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *request()[1:], (b"content-length", b"3")],
                end=False,
            ),
        ],
        ids=["that ends at once", "with a length"],
    )
    async def test_malformed(self, rigs: Make, codec: str, bad: bytes) -> None:
        s = await setting(rigs, WebSocketOrigin(), h1=True, http2_codec=codec)
        client = await s.client()
        await client.say(bad)
        await client.expect_malformed(1)

    async def test_kill(self, rigs: Make, codec: str) -> None:
        flows: list[Any] = []
        events = Events(*HOOKS, tcp_start=flows.append)
        s = await setting(rigs, WebSocketOrigin(), events, h1=True, http2_codec=codec, websocket=False)
        client = await s.client()
        await client.say(websocket(1))
        await client.head(1)
        await until(lambda: flows)
        flows[0].kill()
        assert (await client.response(1)).reset is not None
        await until(lambda: "tcp_error" in events.names)
        assert events.of("tcp_error")[0].error.msg == Error.KILLED_MESSAGE
        await client.alive()

    async def test_messages(self, rigs: Make, codec: str) -> None:
        """To HTTP/1, with hooks, side by side; each ends by itself, and the connection goes on."""

        async def origin(peer: Peer) -> None:
            head = await peer.head()
            key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
            assert key is not None
            accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            await peer.say(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            while True:
                first, length = await peer.exactly(2)
                key, payload = await peer.exactly(4), await peer.exactly(length & 127)
                await peer.say(frame(first & 15, mask(payload, key), False))
                if first & 15 == 8:
                    return

        def upper(flow: Any) -> None:
            message = flow.websocket.messages[-1]
            if message.from_client:
                message.content = message.content.upper()

        events = Events(*HOOKS, "websocket_start", "websocket_end", websocket_message=upper)
        s = await setting(rigs, origin, events, h1=True, http2_codec=codec)
        client = await s.client()
        await client.say(websocket(1), websocket(3))
        assert (await client.head(1)).status == (await client.head(3)).status == 200
        await client.say(data(1, frame(1, b"one", True)), data(3, frame(1, b"three", True)))
        await body(client, 1, b"\x81\x03ONE")
        await body(client, 3, b"\x81\x05THREE")
        await client.say(data(1, frame(8, close_payload(1000), True)))
        got = await client.response(1)
        assert got.reset in (None, Code.NO_ERROR) and got.body.endswith(b"\x88\x02\x03\xe8")
        flow = await events.wait("websocket_end")
        assert (flow.websocket.close_code, flow.websocket.closed_by_client) == (1000, True)
        assert not {"tcp_start", "error"} & set(events.names)
        await client.say(rst(3, Code.CANCEL))
        assert (await events.wait("websocket_end", 2)).websocket.close_code == 1006
        await client.alive()

    async def test_kill_of_a_websocket(self, rigs: Make, codec: str) -> None:
        flows: list[Any] = []
        events = Events(*HOOKS, websocket_start=flows.append)
        s = await setting(rigs, WebSocketOrigin(), events, h1=True, http2_codec=codec)
        client = await s.client()
        await client.say(websocket(1))
        await client.head(1)
        await until(lambda: flows)
        flows[0].kill()
        assert (await client.response(1)).reset is not None
        await client.alive()


async def test_http1_to_extended_connect(rigs: Make, codec: str) -> None:
    """The client gets the 101 that it asked for, with the accept that answers its key."""
    heads: list[Fields] = []

    async def origin(peer: Peer) -> None:
        await peer.exactly(len(PREFACE))
        server = H2Peer(peer, client=False)

        def note(got: Frame) -> None:
            if got.type == T.HEADERS:
                heads.append(server.streams[got.stream].heads[0])
                server.write(headers(got.stream, [(b":status", b"200")], end=False))
            elif got.type == T.DATA:
                server.write(data(got.stream, got.payload, bool(got.flags & END_STREAM)))

        server.on_frame = note
        await server.say(settings((S.ENABLE_CONNECT_PROTOCOL, 1)))
        while await server.next(3600):
            pass

    def only_http2(about: Any) -> None:
        about.server.alpn_offers = (b"h2",)

    rig = await rigs(Events("error", server_connect=only_http2), http2_codec=codec)
    address = await rig.origin(origin, tls=True, alpn=("h2",))
    peer = await rig.connect(await rig.transparent(address))
    tls = await peer.start_tls("origin.test", alpn=("http/1.1",))
    assert tls.selected_alpn_protocol() != "h2"
    await peer.say(
        b"GET /chat HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
    )
    head = await peer.head()
    assert head.startswith(b"HTTP/1.1 101 ") and b"sec-websocket-accept: " + ACCEPT in head, head
    await peer.say(b"\x81\x02hi")
    assert await peer.exactly(4) == b"\x81\x02hi"
    said = dict(heads[0])
    assert said[b":protocol"] == b"websocket" and b"sec-websocket-key" not in said
