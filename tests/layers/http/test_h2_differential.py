"""Both implementations of HTTP/2's framing, fed the same: they hear the same, and say the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import hpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appliance.layers.http.h2_codec import CODECS
from appliance.layers.http.h2_session import PREFACE, Fault
from tests.layers.http import h2_frames as h2
from tests.layers.http.h2_frames import T

GET, POST = h2.block(h2.request()), h2.block(h2.request(method=b"POST"))
PAYLOADS: dict[int, list[bytes]] = {
    T.DATA: [b"", b"x" * 10, b"\x03xyz\0\0\0", b"\xff", bytes(16384)],
    T.HEADERS: [GET, POST, GET[:9], b"\x82", b"", h2.block([(b"x-t", b"1")]), b"\x80", b"\x03" + GET + b"\0\0\0",
                b"\0\0\0\0\x10" + GET, h2.block([(b":status", b"200")]), GET + h2.literal(b"x-i", b"1", 0x40), b"\xbe"],
    T.PRIORITY: [b"\0\0\0\x09\x10", b"\0\0\0\0\x10"],  # of wrong ones RFC 9113 leaves open what they are
    T.RST_STREAM: [b"\0\0\0\x08", b"\0\0\0", b"\0\0\0\0"],
    T.SETTINGS: [b"", b"\0", b"\0\4\0\0\0\0", b"\0\4\xff\xff\xff\xff", b"\0\5\0\0\0\1", b"\0\5\0\0\x80\0",
                 b"\0\2\0\0\0\1",
                 b"\0\2\0\0\0\5", b"\0\3\0\0\0\1", b"\xfa\xce\0\0\0\1", b"\0\1\0\0\0\0", b"\0\1\xff\xff\xff\xff"],
    T.PUSH_PROMISE: [b"\0\0\0\2" + GET],
    T.PING: [b"12345678", b"1234567"],
    T.GOAWAY: [bytes(8), bytes(7), b"\0\0\0\1\0\0\0\x02bye"],
    T.WINDOW_UPDATE: [b"\0\0\0\1", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0", b"\x80\0\0\1"],
    T.CONTINUATION: [b"", GET[9:], GET],
    0xFE: [b"", b"whatever"],
}  # fmt: skip
FLAGS = {
    T.DATA: [0, 1, 8, 9],
    T.HEADERS: [4, 5, 5, 0, 1, 0x0C, 0x0D, 0x24, 0x25],
    T.SETTINGS: [0, 0, 1],
    T.PING: [0, 1],
    T.CONTINUATION: [0, 4],
    T.PUSH_PROMISE: [4],
}
DEFAULTS = {b"\0\1\0\0\x10\0", b"\0\5\0\0\x40\0"}
"""Settings that need not be said."""
Step = tuple[Any, ...]


@st.composite
def frames(draw: st.DrawFn) -> Step:
    kind = draw(st.sampled_from([T.HEADERS, T.HEADERS, T.DATA, T.DATA, T.WINDOW_UPDATE, T.RST_STREAM, *PAYLOADS]))
    flags = draw(st.sampled_from(FLAGS.get(kind, [0])))
    usual = [0] if kind in (T.SETTINGS, T.PING, T.GOAWAY) else [1, 3, 5, 7]
    stream = draw(st.sampled_from([*usual * 6, 0, 1, 2, 3, 1 << 31 | 1]))
    return "frame", h2.frame(kind, flags, stream, draw(st.sampled_from(PAYLOADS[kind])))


ours = st.tuples(st.sampled_from(["respond", "head", "data", "end", "reset", "credit"]), st.sampled_from([1, 3, 5, 7]))
steps = st.lists(st.one_of(frames(), frames(), frames(), ours), max_size=14)


class Heard:
    """A session's listener, who writes everything down."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def headers(self, stream: int, fields: Sequence[tuple[bytes, bytes]], end: bool) -> None:
        self.all.append(("headers", stream, [(bytes(n), bytes(v)) for n, v in fields], end))

    def too_large(self, stream: int, end: bool) -> None:
        self.all.append(("too large", stream, end))

    def data(self, stream: int, data: bytes, length: int, end: bool) -> None:
        self.all.append(("data", stream, bytes(data), length, end))

    def was_reset(self, stream: int, code: int) -> None:
        self.all.append(("was reset", stream, code))

    def failed(self, stream: int, code: int, text: str) -> None:
        self.all.append(("failed", stream, code))

    def opened(self, stream: int) -> None:
        pass  # waking too often is no fault

    def settled(self) -> None:
        self.all.append("settled")

    def goes_away(self, last: int, code: int, text: bytes) -> None:
        self.all.append(("goes away", last, code, bytes(text)))


def parsed(output: bytes, decoder: hpack.Decoder) -> list[Any]:
    """Frames, header blocks decoded, what is for humans left out."""
    found: list[Any] = []
    while output:
        size = int.from_bytes(output[:3], "big")
        kind, flags, stream = output[3], output[4], int.from_bytes(output[5:9], "big")
        payload, output = output[9 : 9 + size], output[9 + size :]
        what: Any = payload
        if kind == T.HEADERS:
            what = decoder.decode(payload, raw=True)
        elif kind == T.SETTINGS:
            what = sorted({payload[at : at + 6] for at in range(0, size, 6)} - DEFAULTS)
        elif kind == T.GOAWAY:
            what = payload[:4], code_of(payload[7])
        found.append((kind, flags, stream, what))
    return found


def code_of(code: int) -> int:
    """A frame that is wrong in two ways may be called either."""
    return h2.Code.PROTOCOL_ERROR if code == h2.Code.FRAME_SIZE_ERROR else code


def played(codec: str, client: bool, story: list[Step]) -> list[Any]:
    """What is heard and said at every step."""
    heard, decoder = Heard(), hpack.Decoder()
    session = CODECS[codec](client, heard, 65536, lambda: 0.0)
    session.start()
    told: list[Any] = []
    first = session.output()
    told.append(parsed(first.removeprefix(PREFACE), decoder))
    for what, *more in [("frame", (b"" if client else PREFACE) + h2.settings()), *story]:
        fault = 0
        try:
            if what == "frame":
                session.receive(more[0])
            elif what == "respond":
                session.headers(more[0], ANSWER[client], True)
            elif what == "head":
                session.headers(more[0], ANSWER[client], False)
            elif what in ("data", "end"):
                session.data(more[0], b"y" * min(5, max(session.window(more[0]), 0)), what == "end")
            elif what == "reset":
                session.reset(more[0], 8)
            else:
                session.credit(more[0], 100)
        except Fault as e:
            fault = code_of(e.code)
        told.append((what, heard.all, parsed(session.output(), decoder), fault))
        heard.all = []
        if fault:
            break
    return told


ANSWER = {False: [(b":status", b"200"), (b"x-y", b"z")], True: h2.request()}


def sound(client: bool, story: list[Step]) -> list[Step]:
    """Without what a caller never does: each stream has one head, then data, then one end, as far as it is open."""
    state: dict[int, str] = {}
    kept: list[Step] = []
    for step in story:
        what, *more = step
        if what == "frame":
            kept.append(step)
            continue
        now = state.get(more[0], "")
        if what in ("respond", "head") and not now:
            state[more[0]] = "over" if what == "respond" else "begun"
        elif what in ("data", "end") and now == "begun":
            state[more[0]] = "over" if what == "end" else "begun"
        elif what == "reset" and (now or not client):
            state[more[0]] = "over"
        elif what != "credit":
            continue
        kept.append(step)
    return kept


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=steps)
@example(story=[("frame", h2.get(1)), ("respond", 1), ("frame", h2.data(1, b"late"))])
@example(story=[("frame", h2.post(1)), ("reset", 1), ("frame", h2.data(1, b"late")), ("frame", h2.get(3))])
def test_they_agree(client: bool, story: list[Step]) -> None:
    story = sound(client, story)
    lean, other = played("lean", client, story), played("h2", client, story)
    for one, two in zip(lean, other, strict=False):
        assert one == two
    assert len(lean) == len(other)


def fed(codec: str, pieces: Sequence[bytes]) -> tuple[list[Any], list[Any], int]:
    """What a server hears and says of bytes that come in these pieces."""
    heard = Heard()
    session = CODECS[codec](False, heard, 65536, lambda: 0.0)
    session.start()
    try:
        for piece in pieces:
            session.receive(piece)
    except Fault as e:
        return heard.all, parsed(session.output(), hpack.Decoder()), code_of(e.code)
    return heard.all, parsed(session.output(), hpack.Decoder()), 0


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=300, deadline=None)
@given(story=st.lists(frames(), max_size=8), cuts=st.lists(st.integers(0, 2000), max_size=6))
def test_how_bytes_come_is_all_the_same(codec: str, story: list[Step], cuts: list[int]) -> None:
    whole = PREFACE + h2.settings() + b"".join(step[1] for step in story)
    at = sorted({0, *(min(cut, len(whole)) for cut in cuts), len(whole)})
    pieces = [whole[start:end] for start, end in itertools.pairwise(at)]
    assert fed(codec, pieces) == fed(codec, [whole])


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=300, deadline=None)
@given(
    story=st.lists(frames(), min_size=1, max_size=6), at=st.integers(0, 500), noise=st.binary(min_size=1, max_size=20)
)
def test_noise_is_a_fault_or_nothing(codec: str, story: list[Step], at: int, noise: bytes) -> None:
    """No other exception, whatever comes."""
    good = b"".join(step[1] for step in story)
    at = min(at, len(good))
    fed(codec, [PREFACE + h2.settings() + good[:at] + noise + good[at + len(noise) :]])
