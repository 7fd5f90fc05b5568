"""One end of an HTTP/2 connection that does nothing by itself but read, remember and acknowledge SETTINGS and PING.

What it sends is bytes (h2_frames.py), so it misbehaves on demand; what comes is kept by stream. None of our code, and
of other people's only hpack, to read header blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import hpack

from tests.harness import Peer, until
from tests.layers.http.h2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTINGS_ACK,
    Code,
    Frame,
    S,
    T,
    data,
    ping,
    settings,
)

SECONDS = 5.0
"""How long a reaction may take."""


@dataclass
class Got:
    """What came on one stream."""

    heads: list[list[tuple[bytes, bytes]]] = field(default_factory=list)  # 1xx, the final one, trailers
    blocks: list[bytes] = field(default_factory=list)  # the same as header blocks
    body: bytes = b""
    pieces: list[int] = field(default_factory=list)  # sizes of the DATA frames
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def final(self) -> list[tuple[bytes, bytes]]:
        return next((h for h in self.heads if not dict(h).get(b":status", b"200").startswith(b"1")), [])

    @property
    def status(self) -> int:
        """Of the final response; 0 = there is none."""
        return int(dict(self.final).get(b":status", b"0"))

    @property
    def trailers(self) -> list[tuple[bytes, bytes]]:
        at = self.heads.index(self.final) + 1 if self.final else 0
        return self.heads[at] if len(self.heads) > at else []

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.final if key == name]

    def value(self, name: bytes) -> bytes | None:
        found = self.values(name)
        assert len(found) < 2, found
        return found[0] if found else None


class H2Peer:
    """On top of a harness Peer; `client` = its end. acks: whether it acknowledges SETTINGS and PING."""

    def __init__(self, peer: Peer, client: bool = True) -> None:
        self.peer = peer
        self.client = client
        self.acks = True
        self.streams: dict[int, Got] = {}
        self.frames: list[Frame] = []
        self.settings: dict[int, int] = {}
        self.settings_frames = 0
        self.settings_acks = 0
        self.pongs: list[bytes] = []
        self.goaway: tuple[int, int, bytes] | None = None
        self.closed = False
        self.was_reset = False
        self.windows: dict[int, int] = {0: 65535}  # what may still be sent, as WINDOW_UPDATE and SETTINGS tell
        self.on_frame: Callable[[Frame], None] | None = None
        self.decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self._buffer = bytearray()
        self._block: tuple[int, int, bytearray] | None = None

    # -- out

    def write(self, data: bytes) -> None:
        """Bytes as they are. That the other end has gone is no error: the reading side tells."""
        with contextlib.suppress(OSError, ssl.SSLError, AttributeError):  # the last: asyncio's TLS, once it is closed
            self.peer.write(data)

    async def say(self, *parts: bytes) -> None:
        """The same, and wait until it has left."""
        self.write(b"".join(parts))
        try:
            await asyncio.wait_for(self.peer.writer.drain(), SECONDS)
        except (OSError, ssl.SSLError):
            await asyncio.sleep(0)

    async def start(self, *pairs: tuple[int, int]) -> H2Peer:
        """Preface and SETTINGS, until both ends have acknowledged the other's."""
        await self.say(PREFACE if self.client else b"", settings(*pairs))
        await self.until(lambda: self.settings_frames and self.settings_acks)
        assert self.frames, "closed, without a frame"
        first = self.frames[0]
        assert (first.type, first.flags & ACK, first.stream) == (T.SETTINGS, 0, 0), (
            f"a preface is SETTINGS, not {first}"
        )
        assert self.settings_acks == 1
        return self

    async def send_body(self, stream: int, body: bytes, end: bool = True, seconds: float = SECONDS) -> None:
        """In DATA frames as the windows allow."""
        size = self.settings.get(S.MAX_FRAME_SIZE, 16384)
        at = 0
        while at < len(body):
            await self.until(lambda: self._room(stream) > 0 or self.over(stream), seconds)
            if self.over(stream):
                return
            count = min(size, self._room(stream), len(body) - at)
            self.windows[0] -= count
            self.windows[stream] = self._window(stream) - count
            piece = body[at : at + count]
            at += count
            await self.say(data(stream, piece, end and at == len(body)))
        if end and not body:
            await self.say(data(stream, end=True))

    def _window(self, stream: int) -> int:
        return self.windows.get(stream, self.settings.get(S.INITIAL_WINDOW_SIZE, 65535))

    def _room(self, stream: int) -> int:
        return min(self.windows[0], self._window(stream))

    # -- in

    async def next(self, seconds: float = SECONDS) -> Frame | None:
        """The next frame, noted already; None at the end. :raises TimeoutError: none came."""
        while not self.closed:
            if (found := self._frame()) is not None:
                self._note(found)
                return found
            try:
                got = await asyncio.wait_for(self.peer.reader.read(1 << 18), seconds)
            except TimeoutError:  # which is an OSError
                raise
            except (OSError, ssl.SSLError):
                got, self.was_reset = b"", True
                self._buffer += self.peer.reader._buffer  # type: ignore[attr-defined]  # what came before the reset
            self._buffer += got
            self.closed = not got
            if self.closed and self.was_reset:
                while (found := self._frame()) is not None:
                    self._note(found)
        return None

    def _frame(self) -> Frame | None:
        held = self._buffer
        if len(held) < 9:
            return None
        size = int.from_bytes(held[:3], "big")
        assert size <= 1 << 20, f"this is not HTTP/2: {bytes(held[:200])!r}"
        if len(held) < 9 + size:
            return None
        found = Frame(held[3], held[4], int.from_bytes(held[5:9], "big") & 0x7FFFFFFF, bytes(held[9 : 9 + size]))
        del held[: 9 + size]
        return found

    async def until(self, true: Callable[[], object], seconds: float = SECONDS) -> None:
        """Read on until it is so, or until the end. :raises AssertionError: it does not come to pass."""
        if not self.client:  # an origin has a task that reads
            await until(lambda: true() or self.closed, seconds, f"nothing of the kind; {self}")
            return
        end = time.monotonic() + seconds
        while not true():
            try:
                if await self.next(max(end - time.monotonic(), 0.001)) is None:
                    return
            except TimeoutError:
                raise AssertionError(f"nothing of the kind within {seconds} s; {self}") from None

    def over(self, stream: int) -> bool:
        """Nothing more will come on it."""
        got = self.streams.get(stream)
        return self.closed or (got is not None and (got.reset is not None or (got.ended and self.client)))

    async def response(self, stream: int, seconds: float = SECONDS) -> Got:
        """All that came on this stream, once it is over (or the connection is)."""
        await self.until(lambda: self.over(stream), seconds)
        return self.streams.setdefault(stream, Got())

    async def head(self, stream: int, seconds: float = SECONDS) -> Got:
        """The same once its final head is here."""
        await self.until(lambda: self.over(stream) or (stream in self.streams and self.streams[stream].final), seconds)
        return self.streams.setdefault(stream, Got())

    async def alive(self, mark: bytes = b"liveness") -> None:
        """It answers a PING: everything sent before has been read, and was no connection error."""
        await self.say(ping(mark))
        await self.until(lambda: mark in self.pongs)
        assert self.goaway is None and not self.closed and mark in self.pongs, f"the connection has ended; {self}"
        self.pongs.remove(mark)

    def _note(self, got: Frame) -> None:
        self.frames.append(got)
        if self._block is not None:
            assert got.type == T.CONTINUATION and got.stream == self._block[0], f"{got} in the middle of a header block"
        match got.type:
            case T.HEADERS | T.CONTINUATION:
                self._headers(got)
            case T.DATA:
                stream = self.streams.setdefault(got.stream, Got())
                assert not stream.ended, f"DATA after the end of stream {got.stream}"
                piece = _unpadded(got)
                stream.body += piece
                stream.pieces.append(len(piece))
                stream.ended = bool(got.flags & END_STREAM)
            case T.RST_STREAM:
                stream = self.streams.setdefault(got.stream, Got())
                if stream.reset is None:
                    stream.reset = got.number()
            case T.SETTINGS if got.flags & ACK:
                self.settings_acks += 1
            case T.SETTINGS:
                self._settings(got.payload)
            case T.PING if got.flags & ACK:
                self.pongs.append(got.payload)
            case T.PING if self.acks:
                self.write(ping(got.payload, ACK))
            case T.GOAWAY:
                self.goaway = got.number(), got.number(4), got.payload[8:]
            case T.WINDOW_UPDATE:
                self.windows[got.stream] = (
                    self.windows[0] if not got.stream else self._window(got.stream)
                ) + got.number()
            case _:
                assert got.type != T.PUSH_PROMISE, "nobody wants to be pushed"
        if self.on_frame is not None:
            self.on_frame(got)

    def _settings(self, payload: bytes) -> None:
        self.settings_frames += 1
        before = self.settings.get(S.INITIAL_WINDOW_SIZE, 65535)
        for at in range(0, len(payload), 6):
            self.settings[int.from_bytes(payload[at : at + 2], "big")] = int.from_bytes(payload[at + 2 : at + 6], "big")
        change = self.settings.get(S.INITIAL_WINDOW_SIZE, 65535) - before
        for stream in self.windows:
            if stream:
                self.windows[stream] += change
        if self.acks:
            self.write(SETTINGS_ACK)

    def _headers(self, got: Frame) -> None:
        if got.type == T.HEADERS:
            piece = _unpadded(got)
            self._block = got.stream, got.flags, bytearray(piece[5:] if got.flags & PRIORITY else piece)
        else:
            assert self._block is not None, "CONTINUATION of nothing"
            self._block[2].extend(got.payload)
        stream, flags, whole = self._block
        if got.flags & END_HEADERS:
            self._block = None
            state = self.streams.setdefault(stream, Got())
            assert not state.ended, f"HEADERS after the end of stream {stream}"
            state.blocks.append(bytes(whole))
            state.heads.append([(bytes(n), bytes(v)) for n, v in self.decoder.decode(bytes(whole), raw=True)])
            state.ended = bool(flags & END_STREAM)

    def __repr__(self) -> str:
        last = [
            (T(f.type).name if f.type < 10 else f.type, f.flags, f.stream, f.payload[:40]) for f in self.frames[-8:]
        ]
        return f"<goaway {self.goaway}, closed {self.closed}, reset {self.was_reset}; last frames {last}>"

    # -- what must have come of it

    async def expect_goaway(self, *codes: Code, last: int | None = None) -> None:
        """A connection error (§5.4.1): GOAWAY with one of these codes, then the end of the connection."""
        await self.until(lambda: self.goaway is not None)
        assert self.goaway is not None, f"closed without GOAWAY; {self}"
        assert self.goaway[1] in codes, (
            f"GOAWAY {_code(self.goaway[1])} {self.goaway[2]!r}, not {_names(codes)}; {self}"
        )
        assert last is None or self.goaway[0] == last, f"last stream {self.goaway[0]}, not {last}"
        await self.expect_close()

    async def expect_close(self, seconds: float = SECONDS) -> None:
        """The connection ends, with or without GOAWAY."""
        await self.until(lambda: self.closed, seconds)

    async def expect_rst(self, stream: int, *codes: Code) -> None:
        """A stream error (§5.4.2): RST_STREAM with one of these codes; the connection goes on."""
        await self.until(lambda: self.goaway or (stream in self.streams and self.streams[stream].reset is not None))
        got = self.streams.get(stream, Got())
        assert got.reset is not None, f"no RST_STREAM for {stream}; {self}"
        assert got.reset in codes, f"RST_STREAM {_code(got.reset)}, not {_names(codes)}; {self}"
        await self.alive()

    async def expect_either(self, stream: int, *codes: Code) -> None:
        """An error of this kind, of the stream or of the connection."""
        await self.until(lambda: self.goaway or (stream in self.streams and self.streams[stream].reset is not None))
        if self.goaway is not None or self.closed:
            await self.expect_goaway(*codes)
        else:
            await self.expect_rst(stream, *codes)

    async def expect_malformed(self, stream: int) -> None:
        """§8.1.1: a stream error PROTOCOL_ERROR, before which a 4xx may be said. The connection goes on."""
        await self.until(lambda: self.goaway or self.over(stream))
        got = self.streams.get(stream, Got())
        assert self.goaway is None and got.over, f"a malformed message is no connection error; {self}"
        if got.status:
            assert 400 <= got.status < 500 and got.status != 404, f"status {got.status}; {self}"
            assert got.reset in (None, Code.PROTOCOL_ERROR, Code.NO_ERROR), f"RST_STREAM {got.reset}"
        else:
            assert got.reset == Code.PROTOCOL_ERROR, f"RST_STREAM {got.reset}; {self}"
        await self.alive()


def _code(code: int) -> str:
    return Code(code).name if code < 14 else str(code)


def _names(codes: tuple[Code, ...]) -> str:
    return " or ".join(code.name for code in codes)


def _unpadded(got: Frame) -> bytes:
    if not got.flags & PADDED:
        return got.payload
    assert got.payload[0] < len(got.payload), "more padding than payload"
    return got.payload[1 : len(got.payload) - got.payload[0]]
