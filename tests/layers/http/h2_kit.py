"""A gateway between a frame-level client and a scripted origin, which speaks HTTP/1 or 2 as it is spoken to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from appliance.connection import Address
from tests.harness import Events, Peer, Rig, until
from tests.layers.http.h2_frames import END_STREAM, PREFACE, Code, Frame, T, data, get, headers, settings, window
from tests.layers.http.h2_peer import H2Peer

Fields = list[tuple[bytes, bytes]]
SERVER_SETTINGS = settings()


@dataclass
class Ask:
    """A request as the origin got it, in HTTP/2's terms (of HTTP/1: pseudo-headers made from the request line)."""

    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    http: str = "1"

    @property
    def path(self) -> bytes:
        return dict(self.fields)[b":path"]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]


class Origin:
    """Answers by path: `/hold...` once released, `/never`, `/big/N`, `/echo`, `/none` (204), anything else "hello"."""

    def __init__(self, opening: bytes = SERVER_SETTINGS) -> None:
        self.opening = opening  # the first frames of HTTP/2
        self.asked: list[Ask] = []
        self.begun: list[bytes] = []  # paths, as soon as the head is here
        self.released = asyncio.Event()
        self.connections = 0
        self.h2: list[H2Peer] = []

    def paths(self) -> list[bytes]:
        return [ask.path for ask in self.asked]

    async def __call__(self, peer: Peer) -> None:
        self.connections += 1
        start = await peer.exactly(4)
        if start == PREFACE[:4]:
            await peer.exactly(len(PREFACE) - 4)
            await self._two(peer)
        else:
            await self._one(peer, start)

    async def answer(self, ask: Ask) -> tuple[int, bytes]:
        path = ask.path
        if path.startswith(b"/never"):
            await asyncio.sleep(3600)
        if path.startswith(b"/hold"):
            await self.released.wait()
        if path.startswith(b"/none"):
            return 204, b""
        if path.startswith(b"/big/"):
            return 200, pattern(int(path[5:]))
        if path.startswith(b"/echo"):
            return 200, ask.body
        return 200, b"hello"

    # -- HTTP/1

    async def _one(self, peer: Peer, start: bytes) -> None:
        while True:
            head = start + await peer.head()
            start = b""
            line, *rest = head[:-4].split(b"\r\n")
            method, target, _ = line.split(b" ")
            ask = Ask([(b":method", method), (b":path", target)])
            self.begun.append(target)
            for one in rest:
                name, _, value = one.partition(b":")
                ask.fields.append((name, value.strip()))
            if ask.values(b"transfer-encoding"):
                while size := int((await peer.until(b"\r\n")).split(b";")[0], 16):
                    ask.body += await peer.exactly(size)
                    await peer.exactly(2)
                while (one := await peer.until(b"\r\n")) != b"\r\n":
                    name, _, value = one.partition(b":")
                    ask.trailers.append((name, value.strip()))
            elif ask.values(b"content-length"):
                ask.body = await peer.exactly(int(ask.values(b"content-length")[0]))
            self.asked.append(ask)
            status, body = await self.answer(ask)
            length = b"" if status == 204 else b"Content-Length: %d\r\n" % len(body)
            await peer.say(b"HTTP/1.1 %d OK\r\n%b\r\n%b" % (status, length, b"" if method == b"HEAD" else body))

    # -- HTTP/2

    async def _two(self, peer: Peer) -> None:
        server = H2Peer(peer, client=False)
        self.h2.append(server)
        tasks: set[asyncio.Task[None]] = set()

        def note(got: Frame) -> None:
            stream = server.streams.get(got.stream)
            if stream is None or not stream.heads:
                return
            if got.type == T.DATA and got.payload:
                server.write(window(0, len(got.payload)) + window(got.stream, len(got.payload)))
            if got.type == T.HEADERS and len(stream.heads) == 1:
                self.begun.append(dict(stream.heads[0])[b":path"])
            if stream.ended and got.flags & END_STREAM:
                ask = Ask(stream.heads[0], stream.body, stream.heads[1] if len(stream.heads) > 1 else [], "2")
                self.asked.append(ask)
                task = asyncio.ensure_future(self._answer_two(server, got.stream, ask))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        await server.say(self.opening)
        server.on_frame = note
        try:
            while await server.next(3600):
                pass
        finally:
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer_two(self, server: H2Peer, stream: int, ask: Ask) -> None:
        status, body = await self.answer(ask)
        length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
        bare = not body or dict(ask.fields)[b":method"] == b"HEAD"
        await server.say(headers(stream, [(b":status", b"%d" % status), *length], end=bare))
        if not bare:
            await server.send_body(stream, body, seconds=60)


def pattern(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


@dataclass
class Setting:
    """A transparent gateway whose clients all go to `origin`."""

    rig: Rig
    origin: Any
    gate: Address
    events: Events
    tls: bool
    alpn: tuple[str, ...] = ("h2", "http/1.1")

    async def bare(self) -> H2Peer:
        """A client that has said nothing yet (but for TLS)."""
        peer = await self.rig.connect(self.gate)
        if self.tls:
            tls = await peer.start_tls("origin.test", alpn=self.alpn)
            assert tls.selected_alpn_protocol() == "h2"
        return H2Peer(peer)

    async def client(self, *pairs: tuple[int, int]) -> H2Peer:
        """A client after the exchange of prefaces."""
        return await (await self.bare()).start(*pairs)

    async def unharmed(self, client: H2Peer | None = None, stream: int = 0) -> None:
        """A request goes as if nothing had happened: on this client's connection, or else on another."""
        other = client or await self.client()
        stream = stream or (max(other.streams, default=-1) + 2 if client else 1)
        await other.say(get(stream, b"/unharmed"))
        got = await other.response(stream)
        assert (got.status, got.body, got.reset) == (200, b"hello", None), f"{got}; {other}"
        if client is None:
            await other.peer.close()

    def endings(self) -> list[tuple[str, str]]:
        """How every flow has ended and for which path."""
        return [(name, flow.request.path) for name, flow in self.events.fired if name in ("response", "error")]

    async def settled(self) -> None:
        """No flow is live; each has ended in exactly one of response and error."""
        flows = {id(f): f for n, f in self.events.fired if n in ("requestheaders", "response", "error")}
        await until(lambda: not any(flow.live for flow in flows.values()), what="a flow stays live")
        over = [id(flow) for name, flow in self.events.fired if name in ("response", "error")]
        assert sorted(over) == sorted(flows), [
            (n, f.request.path) for n, f in self.events.fired if hasattr(f, "request")
        ]


async def setting(
    rigs: Any, origin: Any = None, *addons: object, tls: bool = False, h1: bool = False, **options: Any
) -> Setting:
    """Plain HTTP/2 with prior knowledge on both legs; tls: by ALPN. h1: in TLS, before an origin of HTTP/1."""
    events = next((addon for addon in addons if isinstance(addon, Events)), None) or Events(
        "requestheaders", "request", "responseheaders", "response", "error"
    )
    rig: Rig = await rigs(*dict.fromkeys((*addons, events)), **options)
    origin = origin or Origin()
    offers = ("http/1.1",) if h1 else ("h2", "http/1.1") if tls else ()
    address = await rig.origin(origin, tls=tls or h1, alpn=offers)
    alpn = ("h2",) if h1 else ("h2", "http/1.1")
    return Setting(rig, origin, await rig.transparent(address), events, tls or h1, alpn)


class Scripted:
    """An HTTP/2 server whose first connection answers `/bad` by `reply(server, stream)`, and whose others behave.

    `/sibling` on any is answered once `released`; the rest at once.
    """

    def __init__(self, reply: Callable[[H2Peer, int], bytes], opening: bytes = SERVER_SETTINGS) -> None:
        self.reply = reply
        self.opening = opening
        self.servers: list[H2Peer] = []
        self.paths: list[bytes] = []
        self.released = False
        self._waiting: list[tuple[H2Peer, int]] = []

    async def __call__(self, peer: Peer) -> None:
        assert await peer.exactly(len(PREFACE)) == PREFACE
        server = H2Peer(peer, client=False)
        first = not self.servers
        self.servers.append(server)

        def note(got: Frame) -> None:
            state = server.streams.get(got.stream)
            if got.type not in (T.HEADERS, T.DATA) or state is None or not got.flags & END_STREAM:
                return
            path = dict(state.heads[0])[b":path"]
            self.paths.append(path)
            if path == b"/sibling" and not self.released:
                self._waiting.append((server, got.stream))
            else:
                server.write(self.reply(server, got.stream) if first and path == b"/bad" else good(got.stream))

        server.on_frame = note
        await server.say(self.opening if first else SERVER_SETTINGS)
        with contextlib.suppress(asyncio.CancelledError):
            while await server.next(3600):
                pass

    def release(self) -> None:
        self.released = True
        for server, stream in self._waiting:
            server.write(good(stream))


def good(stream: int, body: bytes = b"hello") -> bytes:
    """A good response."""
    return headers(stream, [(b":status", b"200")], end=False) + data(stream, body, end=True)


# -- tables of cases


Want = Callable[[H2Peer], Awaitable[None]]
LATER = 1001
"""A stream that no table uses."""


class Case(NamedTuple):
    """section: of RFC 9113, and what is done. send: after the prefaces. more: a further request may follow."""

    section: str
    send: bytes | Callable[[H2Peer], bytes]
    want: Want
    more: bool = True


def cases(*rows: Case) -> pytest.MarkDecorator:
    """The table as a parameter `case`."""
    return pytest.mark.parametrize("case", rows, ids=[row.section.replace(" ", "-") for row in rows])


def goaway_with(*codes: Code) -> Want:
    return lambda client: client.expect_goaway(*codes)


def rst_with(*codes: Code, stream: int = 1) -> Want:
    return lambda client: client.expect_rst(stream, *codes)


def either(*codes: Code, stream: int = 1) -> Want:
    return lambda client: client.expect_either(stream, *codes)


async def fine(client: H2Peer) -> None:
    """Nothing is said against it."""
    await client.alive()
    resets = {stream: got.reset for stream, got in client.streams.items() if got.reset is not None}
    assert not resets, f"{client}"


async def malformed(client: H2Peer) -> None:
    await client.expect_malformed(1)


def answered(body: bytes = b"hello", code: int = 200, stream: int = 1) -> Want:
    """A whole response comes on that stream."""

    async def want(client: H2Peer) -> None:
        got = await client.response(stream)
        assert (got.status, got.body, got.reset) == (code, body, None), f"{got}; {client}"

    return want


async def play(rigs: Any, case: Case, *addons: object, tls: bool = False) -> Setting:
    """Run one case; whatever it was, the connection goes on unless it had to end, and so does the next."""
    s = await setting(rigs, None, *addons, tls=tls)
    client = await s.client()
    await client.say(case.send if isinstance(case.send, bytes) else case.send(client))
    await case.want(client)
    if case.more and client.goaway is None and not client.closed:
        await s.unharmed(client, LATER)
    await client.peer.close()
    await s.unharmed()
    await s.settled()
    return s
