"""Whole conversations through the layer over streams in memory: whatever hooks do, the receiver (wsproto) hears it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from appliance.connection import Client, Server
from appliance.hooks import Hooks
from appliance.http import HTTPFlow
from appliance.layers import websocket as layer
from appliance.layers import websocket_frames as ws
from appliance.layers.websocket_deflate import Compress, Deflate, Way
from appliance.layers.websocket_follow import Follower
from appliance.net.stream import Net, Stream
from appliance.websocket import Opcode, WebSocketData, WebSocketMessage

WORDS = ["", "a", "hello hello hello", "the quick brown fox " * 20, "ü" * 70, "0123456789" * 30]
ACTIONS = ["pass", "pass", "pass", "change", "longer", "drop", "inject"]
ways = st.builds(Way, st.booleans(), st.integers(9, 15))
agreements = st.one_of(st.none(), st.builds(Deflate, ways, ways))
messages = st.tuples(st.sampled_from(WORDS), st.booleans(), st.integers(1, 4), st.booleans(), st.sampled_from(ACTIONS))
"""Content, whether it is text, fragments, whether it is compressed (if it can be), what the hook does."""


class Addon:
    """Does with each message what its place in the conversation says."""

    def __init__(self, actions: list[str]) -> None:
        self.actions = actions
        self.seen = 0

    def websocket_message(self, flow: HTTPFlow) -> None:
        assert flow.websocket is not None
        message = flow.websocket.messages[-1]
        if message.injected:
            return
        action = self.actions[self.seen]
        self.seen += 1
        if action == "change":
            message.content = message.content.swapcase()
        elif action == "longer":
            message.content += b"!" * 5000
        elif action == "drop":
            message.drop()
        elif action == "inject":
            said = WebSocketMessage(Opcode.BINARY, message.from_client, b"injected")
            flow._live.inject(not message.from_client, said)  # type: ignore[union-attr]


def expected(said: list[Any], limit: int) -> list[tuple[int, bytes]]:
    heard = []
    for word, text, _, _, action in said:
        content, opcode = word.encode(), 1 if text else 2
        if len(content) > limit:  # passes without hooks
            heard.append((opcode, content))
            continue
        if action == "change":
            content = content.swapcase()
        elif action == "longer":
            content += b"!" * 5000
        if action != "drop":
            heard.append((opcode, content))
        if action == "inject":
            heard.append((2, b"injected"))
    return heard


def frames(said: list[Any], from_client: bool, way: Way | None) -> bytes:
    compress = Compress(way) if way is not None else None
    out = []
    for word, text, cut, deflated, _ in said:
        content = word.encode()
        size = max(1, len(content) // cut)
        parts = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
        for number, part in enumerate(parts):
            fin = number == len(parts) - 1
            squeezed = compress is not None and deflated
            payload = compress.some(part, fin) if squeezed and compress is not None else part
            code = 0 if number else 1 if text else 2
            out.append(ws.frame(code, payload, from_client, fin, squeezed and not number))
    return b"".join(out)


def heard(data: bytes, from_client: bool, way: Way | None) -> list[tuple[int, bytes]]:
    """By wsproto."""
    extensions = []
    if way is not None:
        side = "client" if from_client else "server"
        more: dict[str, Any] = {f"{side}_no_context_takeover": not way.takeover, f"{side}_max_window_bits": way.bits}
        extensions.append(PerMessageDeflate(**more))
        extensions[0]._enabled = True
    protocol = FrameProtocol(client=not from_client, extensions=extensions)  # type: ignore[arg-type]
    protocol.receive_bytes(data)
    found, parts, opcode = [], [], 0
    for one in protocol.received_frames():
        opcode = int(one.opcode) or opcode
        payload = one.payload
        if opcode == ws.CLOSE:
            found.append((8, payload[0].to_bytes(2, "big")))
            continue
        parts.append(payload.encode() if isinstance(payload, str) else bytes(payload))
        if one.message_finished:
            found.append((opcode, b"".join(parts)))
            parts = []
    return found


async def conversation(
    said: list[Any], from_client: bool, near: Deflate | None, far: Deflate | None, step: int, limit: int
) -> tuple[bytes, HTTPFlow]:
    """What the receiving side gets."""
    loop = asyncio.get_running_loop()
    net = Net(loop)
    client, ours = Stream.pair(net)
    theirs, server = Stream.pair(net)
    addon = Addon([action for word, _, _, _, action in said if len(word.encode()) <= limit])
    worker = SimpleNamespace(hooks=Hooks(addon), loop=loop, recorder=None,
                             settings=SimpleNamespace(stream_messages=limit, body_limit=None))  # fmt: skip
    handler: Any = SimpleNamespace(worker=worker, gated=0, splice=None, client="client")
    flow = HTTPFlow(
        Client(peername=("192.0.2.1", 1), sockname=("192.0.2.2", 2), timestamp_start=0), Server(address=None)
    )
    flow.websocket = WebSocketData()
    context: Any = SimpleNamespace(handler=handler)
    task = asyncio.ensure_future(layer.Conversation(context, flow, ours, theirs, near, far).run())
    sender, receiver = (client, server) if from_client else (server, client)
    came = near if from_client else far
    data = frames(said, from_client, came and came.way(from_client))
    data += ws.frame(ws.CLOSE, ws.close_payload(1000), from_client)
    got = bytearray()

    def answer(*_: object) -> None:
        receiver.write(ws.frame(ws.CLOSE, ws.close_payload(1000), not from_client))

    async def listen() -> None:
        follower = Follower(answer, from_client)
        while piece := await receiver.read():
            got.extend(piece)
            follower.feed(memoryview(piece))

    ears = asyncio.ensure_future(listen())
    for at in range(0, len(data), step):
        sender.write(data[at : at + step])
        await asyncio.sleep(0)
    await asyncio.wait_for(task, 10)
    ears.cancel()
    await asyncio.gather(ears, return_exceptions=True)
    return bytes(got), flow


@settings(max_examples=80, deadline=None)
@given(st.lists(messages, max_size=6), st.booleans(), agreements, agreements, st.booleans(),
       st.sampled_from([7, 100, 100_000]), st.sampled_from([50, 1 << 20]))  # fmt: skip
def test_conversations(
    said: list[Any], from_client: bool, near: Deflate | None, far: Deflate | None, same: bool, step: int, limit: int
) -> None:
    if same:
        far = near
    event(f"deflate: {near is not None} {near == far}")
    got, flow = asyncio.run(conversation(said, from_client, near, far, step, limit))
    goes = far if from_client else near
    found = heard(got, from_client, goes and goes.way(from_client))
    assert found[-1:] == [(8, b"\x03\xe8")]
    assert [one for one in found if one[0] != 8] == expected(said, limit)
    assert flow.websocket is not None and flow.websocket.close_code == 1000
    assert flow.websocket.closed_by_client is from_client
