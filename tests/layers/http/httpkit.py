"""HTTP/1 at both ends of a Rig, read by a few lines of our own: what the gateway's parser says is not asked here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from appliance.connection import Address
from tests.harness import Events, Peer, Rig, until


@dataclass
class Message:
    """A message as it came: head bytes, body without its framing, trailers."""

    head: bytes
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)

    @property
    def start(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    def values(self, name: str) -> list[str]:
        found = []
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name:
                found.append(value.strip().decode())
        return found

    def value(self, name: str) -> str | None:
        found = self.values(name)
        assert len(found) < 2, found
        return found[0] if found else None


async def read_body(peer: Peer, message: Message, *, to_eof: bool = False) -> Message:
    if message.value("transfer-encoding"):
        while size := int((await peer.until(b"\r\n")).split(b";")[0], 16):
            message.body += await peer.exactly(size)
            assert await peer.exactly(2) == b"\r\n"
        while (line := await peer.until(b"\r\n")) != b"\r\n":
            message.trailers.append(line[:-2])
    elif (length := message.value("content-length")) is not None:
        message.body = await peer.exactly(int(length))
    elif to_eof:
        message.body = await peer.rest()
    return message


async def read_request(peer: Peer) -> Message:
    """:raises asyncio.IncompleteReadError: no further request."""
    return await read_body(peer, Message(await peer.head()))


async def read_response(peer: Peer, method: str = "GET") -> Message:
    """The next response, a 1xx included (which has no body)."""
    message = Message(await peer.head())
    status = message.status
    if status < 200 or status in (204, 304) or method == "HEAD":
        return message
    return await read_body(peer, message, to_eof=True)


Script = Callable[[Peer, Message], Awaitable[None]]


class Origin:
    """Answers each request by `script`; keeps what it was sent."""

    def __init__(self, script: Script | bytes, whole: bool = True) -> None:
        self.script = script
        self.whole = whole
        self.requests: list[Message] = []
        self.raw = b""
        self.connections = 0

    async def __call__(self, peer: Peer) -> None:
        self.connections += 1
        while True:
            try:
                request = await read_request(peer) if self.whole else Message(await peer.head())
            except asyncio.IncompleteReadError as e:
                self.raw += e.partial
                return
            self.requests.append(request)
            if isinstance(self.script, bytes):
                await peer.say(self.script)
            else:
                await self.script(peer, request)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@dataclass
class Setting:
    """A gateway in regular mode, an origin behind it, a client in front."""

    rig: Rig
    origin: Origin
    address: Address
    proxy: Address
    client: Peer
    events: Events

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def head(self, method: str = "GET", path: str = "/", *lines: str, version: str = "HTTP/1.1") -> bytes:
        """A request head for the proxy."""
        fields = "".join(f"{line}\r\n" for line in (f"Host: 127.0.0.1:{self.address[1]}", *lines))
        return f"{method} {self.url}{path} {version}\r\n{fields}\r\n".encode()

    async def ask(self, method: str = "GET", path: str = "/", *lines: str, body: bytes = b"") -> Message:
        """One request over the client's connection, and its response."""
        length = (f"Content-Length: {len(body)}",) if body else ()
        await self.client.say(self.head(method, path, *lines, *length) + body)
        return await read_response(self.client, method)

    async def again(self) -> Peer:
        """Another client."""
        return await self.rig.connect(self.proxy)

    async def alive(self) -> None:
        """Another client's exchange goes as if nothing had happened."""
        script, self.origin.script = self.origin.script, OK
        client = await self.again()
        await client.say(self.head(path="/alive"))
        assert (await read_response(client)).status in (200, 500, 502, 403)
        await client.close()
        self.origin.script = script

    def endings(self, path: str | None = None) -> list[str]:
        """Of every flow (for this path) that has ended: `response` or `error`, in order."""
        return [
            name
            for name, flow in self.events.fired
            if name in ("response", "error") and (path is None or flow.request.path.endswith(path))
        ]


async def setting(
    rigs: Any, script: Script | bytes = OK, *addons: object, whole: bool = True, **options: Any
) -> Setting:
    """addons: an Events among them is the one asked; without any there is one that listens to everything."""
    events = next((addon for addon in addons if isinstance(addon, Events)), None)
    if events is None:
        events = Events()
        addons = (*addons, events)
    rig: Rig = await rigs(*addons, **options)
    origin = Origin(script, whole)
    address = await rig.origin(origin)
    proxy = await rig.regular()
    return Setting(rig, origin, address, proxy, await rig.connect(proxy), events)


async def ended(setting: Setting, *, flows: int = 1) -> list[Any]:
    """The flows, once so many have ended; each in exactly one of response and error, and not live any more."""

    def over() -> list[Any]:
        return [flow for name, flow in setting.events.fired if name in ("response", "error")]

    await until(lambda: len(over()) >= flows, what=f"fired: {setting.events.names}")
    await until(lambda: not any(flow.live for flow in over()), what="a flow stays live")
    await asyncio.sleep(0.02)
    found = over()
    assert len({id(flow) for flow in found}) == len(found) == flows, setting.events.names
    return found
