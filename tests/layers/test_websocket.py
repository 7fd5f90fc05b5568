"""The WebSocket layer: handshakes over loopback, frames by hand, hooks that look, change, drop, inject and kill."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from appliance.addons.core import Core
from appliance.exceptions import CommandError, ControlException
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow
from appliance.layers import kept
from appliance.layers import websocket as layer
from appliance.layers import websocket_frames as ws
from appliance.layers.websocket_deflate import Compress, Inflate, Way
from appliance.response import Response
from appliance.websocket import Opcode
from tests.harness import Events, Handle, Make, Peer, Rig, until

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HOOKS = (
    "websocket_start",
    "websocket_message",
    "websocket_end",
    "response",
    "error",
    "tcp_start",
    "client_disconnected",
)
DEFLATE = b"permessage-deflate; client_max_window_bits=15"


class Talk:
    """One end of a WebSocket, in frames. Raw bytes that were read are kept in `raw`."""

    def __init__(self, peer: Peer, client: bool) -> None:
        self.peer = peer
        self.client = client
        self.raw = b""

    async def say(self, content: bytes | str, fin: bool = True, opcode: int | None = None, rsv1: bool = False) -> bytes:
        data = content.encode() if isinstance(content, str) else content
        code = opcode if opcode is not None else 1 if isinstance(content, str) else 2
        frame = ws.frame(code, data, self.client, fin, rsv1)
        await self.peer.say(frame)
        return frame

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: (first byte, payload)."""
        head = await self.peer.exactly(2)
        length = head[1] & 127
        if length > 125:
            more = await self.peer.exactly(2 if length == 126 else 8)
            head, length = head + more, int.from_bytes(more, "big")
        assert bool(head[1] & 128) is not self.client, "masked by the wrong side"
        key = b"" if self.client else await self.peer.exactly(4)
        payload = await self.peer.exactly(length)
        self.raw = head + key + payload
        return head[0], payload if self.client else ws.mask(payload, key)

    async def hears(self, content: bytes | str, opcode: int | None = None) -> None:
        code = opcode if opcode is not None else 1 if isinstance(content, str) else 2
        expected = content.encode() if isinstance(content, str) else content
        assert await self.frame() == (0x80 | code, expected)

    async def closed(self, code: int) -> str:
        """A close frame comes, and then the end. Returns its reason."""
        first, payload = await self.frame()
        assert first == 0x88
        assert int.from_bytes(payload[:2], "big") == code, payload
        return payload[2:].decode()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.say(ws.close_payload(code, reason), opcode=8)


def accepting(serve: Callable[[Talk], Any], extensions: bytes = b"") -> Handle:
    async def handle(peer: Peer) -> None:
        head = await peer.head()
        lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line]
        key = next(value for name, value in lines if name.lower() == b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        more = b"Sec-WebSocket-Extensions: " + extensions + b"\r\n" if extensions else b""
        await peer.say(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n" + more + b"\r\n"
        )
        await serve(Talk(peer, False))

    return handle


async def echoing(talk: Talk) -> None:
    while True:
        first, payload = await talk.frame()
        await talk.peer.say(ws.frame(first & 15, payload, False, bool(first & 128), bool(first & 64)))
        if first & 15 == 8:
            return


async def opened(rig: Rig, serve: Callable[[Talk], Any] = echoing, extensions: bytes = b"", tls: bool = False) -> Talk:
    address = await rig.origin(accepting(serve, extensions), tls)
    client = await rig.connect(await rig.transparent(address))
    if tls:
        await client.start_tls("origin.test")
    more = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if extensions else b""
    await client.say(
        b"GET /chat HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + more + b"\r\n"
    )
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 101 "), head
    return Talk(client, True)


def listening(**on: Any) -> Events:
    return Events(*HOOKS, **on)


def said(flow: HTTPFlow) -> list[tuple[bool, Any]]:
    assert flow.websocket is not None
    return [(m.from_client, m.text if m.is_text else m.content) for m in flow.websocket.messages]


@pytest.mark.parametrize("tls", [False, True])
async def test_messages_both_ways(rigs: Make, tls: bool) -> None:
    events = listening()
    rig = await rigs(events)
    talk = await opened(rig, tls=tls)
    sent = await talk.say("hello")
    await talk.hears("hello")
    await talk.say(b"\0\1")
    await talk.hears(b"\0\1")
    await talk.close(1000, "bye")
    assert await talk.closed(1000) == "bye"
    assert await talk.peer.rest() == b""
    await events.wait("client_disconnected")
    assert events.names == ["response", "websocket_start", *["websocket_message"] * 4, "websocket_end",
                            "client_disconnected"]  # fmt: skip
    flow = events.of("websocket_start")[0]
    assert said(flow) == [(True, "hello"), (False, "hello"), (True, b"\0\1"), (False, b"\0\1")]
    data = flow.websocket
    assert (data.close_code, data.close_reason, data.closed_by_client) == (1000, "bye", True)
    assert data.timestamp_end
    assert flow.error is None and not flow.live and flow.response.status_code == 101
    assert rig.worker.totals.flows == 1
    assert sent[2:6] != b"\0\0\0\0"


async def test_what_nobody_changes_goes_on_as_it_came(rigs: Make) -> None:
    """Masks, fragments, and a ping between them."""
    got = bytearray()

    async def origin(talk: Talk) -> None:
        while data := await talk.peer.some():
            got.extend(data)

    events = listening()
    talk = await opened(await rigs(events), origin)
    first = await talk.say("frag", fin=False)
    ping = await talk.say(b"are you there", opcode=9)
    second = await talk.say(b"ment", fin=False, opcode=0)
    third = await talk.say(b"ed", opcode=0)
    await until(lambda: len(got) == len(first + ping + second + third))
    assert bytes(got) == ping + first + second + third
    assert said(events.of("websocket_message")[0]) == [(True, "fragmented")]


async def test_change_drop_and_types(rigs: Make) -> None:
    def hook(flow: HTTPFlow) -> None:
        assert flow.websocket is not None
        message = flow.websocket.messages[-1]
        if not message.from_client:
            return
        if message.is_text and message.text == "drop":
            message.drop()
        elif message.is_text:
            message.text = message.text.upper()
        else:
            message.type, message.content = Opcode.TEXT, b"was binary"

    events = listening(websocket_message=hook)
    talk = await opened(await rigs(events))
    await talk.say("drop")
    await talk.say("shout")
    await talk.hears("SHOUT")
    await talk.say(b"\1")
    await talk.hears("was binary")
    flow = events.of("websocket_start")[0]
    assert [m.dropped for m in flow.websocket.messages] == [True, False, False, False, False]


@pytest.mark.parametrize("longer", [False, True])
async def test_fragments_of_what_was_changed(rigs: Make, longer: bool) -> None:
    def hook(flow: HTTPFlow) -> None:
        assert flow.websocket is not None
        message = flow.websocket.messages[-1]
        if message.from_client:
            message.content = b"x" * 9000 if longer else message.content.upper()

    talk = await opened(await rigs(listening(websocket_message=hook)))
    await talk.say("ab", fin=False)
    await talk.say(b"cde", opcode=0)
    if longer:
        assert [await talk.frame() for _ in range(3)] == [(1, b"x" * 4000), (0, b"x" * 4000), (0x80, b"x" * 1000)]
    else:
        assert [await talk.frame() for _ in range(2)] == [(1, b"AB"), (0x80, b"CDE")]


class TestDeflate:
    async def test_unchanged(self, rigs: Make) -> None:
        """The same bytes, and yet read."""
        events = listening()
        talk = await opened(await rigs(events), extensions=DEFLATE)
        compress = Compress(Way())
        for _ in range(3):
            sent = await talk.say(compress.some(b"hello hello", True), opcode=1, rsv1=True)
            assert await talk.frame() == (0xC1, ws.mask(sent[6:], sent[2:6]))
        assert said(events.of("websocket_start")[0]) == [(True, "hello hello"), (False, "hello hello")] * 3

    @pytest.mark.parametrize("takeover", [True, False])
    @pytest.mark.parametrize("what", ["change", "drop"])
    async def test_changed(self, rigs: Make, takeover: bool, what: str) -> None:
        """What refers back to what did not go on as it came is compressed anew."""

        def hook(flow: HTTPFlow) -> None:
            assert flow.websocket is not None
            message = flow.websocket.messages[-1]
            if message.from_client and message.text == "number 2 of a long line of the like":
                if what == "drop":
                    message.drop()
                else:
                    message.text = "another one"

        heard: list[bytes] = []
        way = Way(takeover)

        async def origin(talk: Talk) -> None:
            inflate = Inflate(way)
            while True:
                first, payload = await talk.frame()
                heard.append(inflate.some(payload, True, 10_000) if first & 0x40 else payload)

        extensions = DEFLATE if takeover else DEFLATE + b"; client_no_context_takeover"
        talk = await opened(await rigs(listening(websocket_message=hook)), origin, extensions)
        compress = Compress(way)
        lines = [f"number {n} of a long line of the like".encode() for n in range(5)]
        for line in lines:
            await talk.say(compress.some(line, True), opcode=1, rsv1=True)
        expected = list(lines)
        expected[2:3] = [b"another one"] if what == "change" else []
        await until(lambda: len(heard) == len(expected))
        assert heard == expected

    async def test_two_sides_that_agreed_to_different_things(self, rigs: Make) -> None:
        def hook(flow: HTTPFlow) -> None:
            assert flow.response is not None
            flow.response.headers.pop("sec-websocket-extensions")

        async def origin(talk: Talk) -> None:
            compress = Compress(Way())
            for _ in range(3):
                await talk.say(compress.some(b"hello hello", True), opcode=1, rsv1=True)
            await talk.peer.exactly(1000)

        talk = await opened(await rigs(listening(response=hook)), origin, DEFLATE)
        for _ in range(3):
            await talk.hears("hello hello")

    async def test_injected_beside_it(self, rigs: Make) -> None:
        events = listening()
        talk = await opened(await rigs(events), extensions=DEFLATE)
        compress, inflate = Compress(Way()), Inflate(Way())
        for _ in range(2):
            await talk.say(compress.some(b"hello hello", True), opcode=1, rsv1=True)
            assert inflate.some((await talk.frame())[1], True, 100) == b"hello hello"
            Core().inject_websocket(events.of("websocket_start")[0], True, b"psst")
            await talk.hears("psst")

    async def test_not_deflate(self, rigs: Make) -> None:
        events = listening()
        talk = await opened(await rigs(events), extensions=DEFLATE)
        await talk.say(b"\xff\xff\xff", opcode=1, rsv1=True)
        await talk.closed(1007)

    async def test_a_bomb(self, rigs: Make) -> None:
        """It goes on as it came, and is never there as a whole."""
        events = listening()
        rig = await rigs(events, stream_large_messages="64k")
        talk = await opened(rig, extensions=DEFLATE)
        payload = Compress(Way()).some(bytes(8 << 20), True)
        await talk.say(payload, opcode=2, rsv1=True)
        assert await talk.frame() == (0xC2, payload)
        await talk.say("after")
        await talk.hears("after")
        flow = events.of("websocket_start")[0]
        assert said(flow) == [(True, "after"), (False, "after")]
        assert flow.metadata["websocket_streamed"] == 2

    async def test_an_unknown_extension(self, rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
        """Its frames cannot be read, so it is raw TCP."""
        events = listening()
        talk = await opened(await rigs(events), extensions=b"x-webkit-deflate-frame")
        await talk.say(b"\xff\xff\xff", opcode=1, rsv1=True)
        assert await talk.frame() == (0xC1, b"\xff\xff\xff")
        assert "tcp_start" in events.names and "websocket_start" not in events.names
        assert "x-webkit-deflate-frame" in caplog.text


class TestInjection:
    async def test_both_ways(self, rigs: Make) -> None:
        events = listening()
        talk = await opened(await rigs(events))
        flow = await events.wait("websocket_start")
        Core().inject_websocket(flow, True, b"from nobody")
        await talk.hears("from nobody")
        Core().inject_websocket(flow, False, b"\0", is_text=False)
        await talk.hears(b"\0")
        assert [(m.from_client, m.injected) for m in flow.websocket.messages] == [
            (False, True), (True, True), (False, False),
        ]  # fmt: skip

    async def test_by_a_hook(self, rigs: Make) -> None:
        def hook(flow: HTTPFlow) -> None:
            assert flow.websocket is not None
            if flow.websocket.messages[-1].from_client and not flow.websocket.messages[-1].injected:
                for text in (b"one", b"two"):
                    Core().inject_websocket(flow, False, text)

        talk = await opened(await rigs(listening(websocket_message=hook)))
        await talk.say("first")
        for text in ("first", "one", "two"):
            await talk.hears(text)

    async def test_at_the_start(self, rigs: Make) -> None:
        def hook(flow: HTTPFlow) -> None:
            Core().inject_websocket(flow, False, b"early")

        talk = await opened(await rigs(Events("websocket_end", websocket_start=hook)))
        await talk.hears("early")

    async def test_from_a_task_while_it_lasts(self, rigs: Make) -> None:
        """The idiom of mitmproxy's example: it may be late by one, and that is a warning."""
        tasks: list[asyncio.Task[None]] = []

        async def feed(flow: HTTPFlow) -> None:
            assert flow.websocket is not None
            while flow.websocket.timestamp_end is None:
                Core().inject_websocket(flow, True, b"tick")
                await asyncio.sleep(0.002)

        def hook(flow: HTTPFlow) -> None:
            tasks.append(asyncio.ensure_future(feed(flow)))

        events = Events("websocket_end", websocket_start=hook)
        talk = await opened(await rigs(events))
        for _ in range(5):
            await talk.hears("tick")
        await talk.close()
        while (await talk.frame())[0] != 0x88:
            pass
        await events.wait("websocket_end")
        await asyncio.wait_for(tasks[0], 5)

    async def test_faults(self, rigs: Make) -> None:
        events = listening()
        talk = await opened(await rigs(events))
        flow = await events.wait("websocket_start")
        with pytest.raises(CommandError, match="not UTF-8"):
            Core().inject_websocket(flow, True, b"\xff")
        live = flow._live
        await talk.close()
        await events.wait("websocket_end")
        Core().inject_websocket(flow, True, b"late")  # a warning
        with pytest.raises(ControlException, match="closing"):
            live.inject(True, flow.websocket.messages)
        assert flow.websocket.messages == []


@pytest.mark.parametrize("where", ["websocket_start", "websocket_message"])
async def test_kill(rigs: Make, where: str) -> None:
    events = listening(**{where: HTTPFlow.kill})
    rig = await rigs(events)
    talk = await opened(rig)
    try:
        await talk.say("x")
        assert await talk.peer.some() == b""
    except ConnectionError:
        pass
    flow = await events.wait("websocket_end")
    assert flow.killed
    assert flow.websocket.close_code == 1006
    assert "error" not in events.names
    await rig.idle()


async def test_kill_from_outside(rigs: Make) -> None:
    events = listening()
    rig = await rigs(events)
    await opened(rig)
    (await events.wait("websocket_start")).kill()
    await events.wait("websocket_end")
    await rig.idle()


async def test_intercepted(rigs: Make) -> None:
    """It waits; the other direction does too, so that messages[-1] is this one for all hooks."""

    def hook(flow: HTTPFlow) -> None:
        assert flow.websocket is not None
        if flow.websocket.messages[-1].content == b"hold":
            flow.intercept()

    events = listening(websocket_message=hook)
    talk = await opened(await rigs(events))
    await talk.say("hold")
    await talk.say("next")
    flow = await events.wait("websocket_message")
    await asyncio.sleep(0.05)
    assert said(flow) == [(True, "hold")]
    flow.websocket.messages[-1].text = "held"
    flow.resume()
    await talk.hears("held")
    await talk.hears("next")


async def test_async_hooks_see_their_own_message(rigs: Make) -> None:
    seen: list[bytes] = []

    async def hook(flow: HTTPFlow) -> None:
        assert flow.websocket is not None
        before = flow.websocket.messages[-1]
        await asyncio.sleep(0.001)
        assert flow.websocket.messages[-1] is before
        seen.append(before.content)

    talk = await opened(await rigs(listening(websocket_message=hook)))
    for n in range(20):
        await talk.say(f"{n}")
    for n in range(20):
        await talk.hears(f"{n}")
    await until(lambda: len(seen) == 40)


class TestEndings:
    async def test_by_the_server(self, rigs: Make) -> None:
        async def origin(talk: Talk) -> None:
            await talk.close(1001, "going")
            await talk.closed(1001)

        events = listening()
        talk = await opened(await rigs(events), origin)
        assert await talk.closed(1001) == "going"
        await talk.close(1001)
        flow = await events.wait("websocket_end")
        assert (flow.websocket.close_code, flow.websocket.closed_by_client) == (1001, False)
        assert await talk.peer.rest() == b""

    async def test_without_a_code(self, rigs: Make) -> None:
        events = listening()
        talk = await opened(await rigs(events))
        await talk.say(b"", opcode=8)
        assert await talk.frame() == (0x88, b"")
        assert (await events.wait("websocket_end")).websocket.close_code == 1005

    @pytest.mark.parametrize("how", ["eof", "reset"])
    @pytest.mark.parametrize("client", [True, False])
    async def test_without_a_close_frame(self, rigs: Make, how: str, client: bool) -> None:
        ended = asyncio.Event()

        async def origin(talk: Talk) -> None:
            try:
                if client:
                    await talk.peer.rest()
                elif how == "reset":
                    talk.peer.reset()
            finally:
                ended.set()

        events = listening()
        rig = await rigs(events)
        talk = await opened(rig, origin)
        if client:
            talk.peer.eof() if how == "eof" else talk.peer.reset()
        flow = await events.wait("websocket_end")
        assert (flow.websocket.close_code, flow.websocket.closed_by_client) == (1006, client)
        await asyncio.wait_for(ended.wait(), 5)
        assert "error" not in events.names
        await rig.idle()

    async def test_data_after_the_others_close(self, rigs: Make) -> None:
        """The server still says what it has to say."""

        async def origin(talk: Talk) -> None:
            await talk.closed(1000)
            await talk.say("last words")
            await talk.close(1000)

        events = listening()
        talk = await opened(await rigs(events), origin)
        await talk.close(1000)
        await talk.hears("last words")
        await talk.closed(1000)
        await events.wait("websocket_end")

    async def test_a_server_that_closes_and_is_gone(self, rigs: Make) -> None:
        """Its reset does not overtake its close frame."""

        async def origin(talk: Talk) -> None:
            await talk.close(1000, "bye")
            await asyncio.sleep(0.05)
            talk.peer.reset()

        events = listening()
        talk = await opened(await rigs(events), origin)
        await asyncio.sleep(0.15)
        await talk.close(1000)
        assert await talk.closed(1000) == "bye"
        assert await talk.peer.rest() == b""
        assert (await events.wait("websocket_end")).websocket.close_code == 1000

    async def test_a_close_that_is_not_answered(self, rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(layer, "CLOSE_PATIENCE", 0.1)

        async def origin(talk: Talk) -> None:
            await talk.closed(1000)
            await talk.peer.rest()

        events = listening()
        rig = await rigs(events)
        talk = await opened(rig, origin)
        await talk.close(1000)
        flow = await events.wait("websocket_end")
        assert flow.websocket.close_code == 1000
        await rig.idle()

    @pytest.mark.parametrize(
        ("data", "code"),
        [(b"\x81\x01x", 1002), (b"\x83\x80\0\0\0\0", 1002), (b"\x81\x81\0\0\0\0\xff", 1007),
         (ws.frame(2, bytes(2000), True), 1009)],
    )  # fmt: skip
    async def test_a_client_at_fault(self, rigs: Make, data: bytes, code: int) -> None:
        heard: list[int] = []

        async def origin(talk: Talk) -> None:
            await talk.hears("before")
            heard.append(int.from_bytes((await talk.frame())[1], "big"))

        events = listening()
        talk = await opened(await rigs(events, body_size_limit="1k"), origin)
        await talk.peer.say(ws.frame(1, b"before", True) + data)
        assert await talk.closed(code)
        assert await talk.peer.rest() == b""
        flow = await events.wait("websocket_end")
        assert (flow.websocket.close_code, flow.websocket.closed_by_client) == (code, True)
        await until(lambda: heard == [1001])

    async def test_a_server_at_fault(self, rigs: Make) -> None:
        heard: list[int] = []

        async def origin(talk: Talk) -> None:
            await talk.peer.say(ws.frame(1, b"masked", True))
            heard.append(int.from_bytes((await talk.frame())[1][:2], "big"))

        events = listening()
        talk = await opened(await rigs(events), origin)
        await talk.closed(1014)
        flow = await events.wait("websocket_end")
        assert (flow.websocket.close_code, flow.websocket.closed_by_client) == (1002, False)
        await until(lambda: heard == [1002])

    async def test_shutdown(self, rigs: Make) -> None:
        events = listening()
        rig = await rigs(events)
        talk = await opened(rig)
        await events.wait("websocket_start")
        await rig.worker.stop(1)
        await talk.closed(1001)
        assert (await events.wait("websocket_end")).websocket.close_code == 1001

    async def test_idle(self, rigs: Make) -> None:
        events = listening()
        talk = await opened(await rigs(events, tcp_timeout=1))
        await talk.closed(1001)
        assert (await events.wait("websocket_end")).websocket.close_code == 1001


class TestLarge:
    @pytest.mark.parametrize("fragments", [1, 5])
    async def test_streams(self, rigs: Make, fragments: int) -> None:
        events = listening()
        talk = await opened(await rigs(events, stream_large_messages="100k"))
        data = bytes(range(256)) * 2000
        size = len(data) // fragments
        for n in range(fragments):
            asyncio.ensure_future(  # noqa: RUF006
                talk.say(data[n * size : (n + 1) * size], n == fragments - 1, 0 if n else 2)
            )
        got = b""
        while len(got) < len(data):
            got += (await talk.frame())[1]
        assert got == data
        await talk.say("small")
        await talk.hears("small")
        flow = events.of("websocket_start")[0]
        assert said(flow) == [(True, "small"), (False, "small")]
        assert flow.metadata["websocket_streamed"] == 2

    async def test_injected_after_it(self, rigs: Make) -> None:
        """Not into the middle of it."""
        events = listening()
        talk = await opened(await rigs(events, stream_large_messages="1k"))
        frame = ws.frame(2, bytes(5000), True)
        await talk.peer.say(frame[:3000])
        flow = await events.wait("websocket_start")
        await until(lambda: "websocket_streamed" in flow.metadata)
        Core().inject_websocket(flow, False, b"in between")
        await talk.peer.say(frame[3000:])
        assert (await talk.frame())[1] == bytes(5000)
        await talk.hears("in between")


async def test_what_is_kept_is_bounded(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_MESSAGES", 40)
    events = listening()
    talk = await opened(await rigs(events))
    for n in range(100):
        await talk.say(f"{n}")
        await talk.hears(f"{n}")
    messages = events.of("websocket_start")[0].websocket.messages
    assert len(messages) <= 41
    assert messages[-1].text == "99"


class TestNobodyNeedsMessages:
    class Marked:
        def __init__(self) -> None:
            self.flows: list[HTTPFlow] = []

        @body_not_needed
        def websocket_end(self, flow: HTTPFlow) -> None:
            self.flows.append(flow)

    @pytest.mark.parametrize("tls", [False, True])
    async def test_followed(self, rigs: Make, tls: bool) -> None:
        marked = self.Marked()
        rig = await rigs(marked)
        talk = await opened(rig, tls=tls)
        await talk.say("hello")
        await talk.hears("hello")
        await talk.say("x" * 70_000)
        await talk.hears("x" * 70_000)
        await talk.close(1000, "bye")
        await talk.closed(1000)
        assert await talk.peer.rest() == b""
        await until(lambda: marked.flows)
        data = marked.flows[0].websocket
        assert data is not None and data.messages == []
        assert (data.close_code, data.close_reason, data.closed_by_client, data.carried) == (1000, "bye", True, (2, 2))

    @pytest.mark.parametrize("tls", [False, True])
    async def test_blind(self, rigs: Make, tls: bool) -> None:
        rig = await rigs()
        talk = await opened(rig, tls=tls)
        await talk.say("hello")
        await talk.hears("hello")
        await talk.close()
        await talk.closed(1000)
        assert await talk.peer.rest() == b""
        await talk.peer.close()
        await rig.idle()


async def test_switched_off(rigs: Make) -> None:
    events = listening()
    talk = await opened(await rigs(events, websocket=False))
    await talk.say("hello")
    await talk.hears("hello")
    assert "tcp_start" in events.names and "websocket_start" not in events.names
    assert events.of("response")[0].websocket is None


@pytest.mark.parametrize("where", ["responseheaders", "response"])
async def test_an_add_on_refuses(rigs: Make, where: str) -> None:
    """It answers instead of the 101."""

    def hook(flow: HTTPFlow) -> None:
        assert flow.response is not None and flow.websocket is not None
        flow.response = Response.make(403, b"no")

    events = Events(*HOOKS, **{where: hook})
    rig = await rigs(events)
    with pytest.raises(AssertionError, match="403 Forbidden"):
        await opened(rig)
    assert "websocket_start" not in events.names
    assert events.names.count("websocket_end") == (where == "response")


async def test_kill_before_it_opens(rigs: Make) -> None:
    events = listening(response=HTTPFlow.kill)
    rig = await rigs(events)
    with pytest.raises((AssertionError, OSError, asyncio.IncompleteReadError)):
        await opened(rig)
    await rig.idle()
    assert "error" not in events.names and events.names.count("websocket_end") == 1


@pytest.mark.parametrize("content", ["text", None])
async def test_a_message_that_cannot_be_sent(rigs: Make, content: Any, caplog: pytest.LogCaptureFixture) -> None:
    def hook(flow: HTTPFlow) -> None:
        assert flow.websocket is not None
        flow.websocket.messages[-1].content = content

    events = listening(websocket_message=hook)
    rig = await rigs(events)
    talk = await opened(rig)
    await talk.say("hello")
    await talk.closed(1011)
    assert (await events.wait("websocket_end")).websocket.close_code == 1011
    assert "fault in a WebSocket" in caplog.text
    await rig.idle()


@pytest.mark.parametrize("seed", range(3))
async def test_any_bytes_after_the_handshake(rigs: Make, seed: int) -> None:
    import random

    dice = random.Random(seed)
    events = listening()
    rig = await rigs(events)
    for _ in range(10):
        talk = await opened(rig)
        talk.peer.write(dice.randbytes(dice.randrange(1, 200)))
        talk.peer.eof()
        await talk.peer.rest()
    await until(lambda: events.names.count("websocket_end") == 10)
    await rig.idle()
