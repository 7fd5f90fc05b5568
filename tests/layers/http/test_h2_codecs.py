"""Two implementations of HTTP/2's framing, told the same: they hear the same, and answer alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.layers.http.h2_hyper import HyperSession
from appliance.layers.http.h2_lean import LeanSession
from appliance.layers.http.h2_session import Fault, Patience
from tests.layers.http import h2_frames as f

STREAMS = st.sampled_from([1, 3, 5, 7])
PARTS = st.one_of(
    st.builds(f.get, STREAMS),
    st.builds(f.post, STREAMS),
    st.builds(lambda n: f.headers(n, [(b"x-sum", b"1")]), STREAMS),
    st.builds(f.data, STREAMS, st.binary(max_size=40), st.booleans()),
    st.builds(lambda n: f.frame(f.T.DATA, f.PADDED, n, b"\3abcxyz"), STREAMS),
    st.builds(f.rst, STREAMS),
    st.builds(f.window, st.sampled_from([0, 1, 3]), st.sampled_from([1, 70000, f.MAX_WINDOW])),
    st.builds(lambda v: f.settings((f.S.INITIAL_WINDOW_SIZE, v)), st.sampled_from([0, 100, 1 << 20])),
    st.just(f.settings((f.S.MAX_FRAME_SIZE, 20000), (f.S.HEADER_TABLE_SIZE, 100))),
    st.just(f.frame(f.T.PING, 0, 0, b"12345678")),
    st.builds(lambda n: f.frame(f.T.PRIORITY, 0, n, bytes(5)), STREAMS),
    st.just(f.frame(0x42, 0, 3, b"unknown")),
    st.just(f.goaway(0)),
    # what we do ourselves
    st.tuples(st.just("respond"), STREAMS),
    st.tuples(st.just("send"), STREAMS),
    st.tuples(st.just("reset"), STREAMS),
)


class Heard:
    """A listener that writes down."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def note(*args: Any) -> None:
            if name == "headers":
                args = (args[0], [(bytes(n), bytes(v)) for n, v in args[1]], args[2])
            if name == "failed":
                args = args[:2]  # not in the same words
            self.calls.append((name, *args))

        return note


def kinds(out: bytes) -> list[tuple[int, int, bytes]]:
    """Frames without HPACK and debug data, which may differ."""
    found = []
    while out:
        size, kind, stream = int.from_bytes(out[:3], "big"), out[3], int.from_bytes(out[5:9], "big")
        payload = out[9 : 9 + size]
        found.append((kind, stream, b"" if kind in (1, 4) else payload[4:8] if kind == 7 else payload))
        out = out[9 + size :]
    return found


def told(cls: Any, parts: list[Any]) -> tuple[list[Any], list[Any], int | None]:
    heard = Heard()
    session = cls(False, heard, 65536, lambda: 0.0)
    session.start()
    fault = None
    said: set[int] = set()
    try:
        session.receive(f.PREFACE + f.settings())
        for part in parts:
            if isinstance(part, bytes):
                session.receive(part)
                continue
            what, stream = part
            known = any(call[0] == "headers" and call[1] == stream for call in heard.calls)
            if what == "respond" and known and stream not in said:
                said.add(stream)
                session.headers(stream, [(b":status", b"200"), (b"server", b"x")], False)
            elif what == "send" and stream in said and session.window(stream) > 5:
                session.data(stream, b"hello", False)
            elif what == "reset":
                session.reset(stream, 8)
    except Fault as e:
        fault = e.code
    return heard.calls, kinds(session.output()), fault


@settings(max_examples=400, deadline=None)
@given(st.lists(PARTS, max_size=14))
def test_they_agree(parts: list[Any]) -> None:
    assert told(LeanSession, parts) == told(HyperSession, parts)


@given(st.lists(PARTS.filter(lambda part: isinstance(part, bytes)), max_size=10), st.lists(st.integers(1, 60)))
def test_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    """TCP may cut frames anywhere."""
    whole = b"".join(parts)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(whole[at : at + cut])
        at += cut
    pieces.append(whole[at:])
    assert told(LeanSession, [piece for piece in pieces if piece]) == told(LeanSession, [whole])


@given(st.binary(max_size=300))
def test_nothing_but_a_fault_comes_of_noise(noise: bytes) -> None:
    for cls in (LeanSession, HyperSession):
        session: Any = cls(False, Heard(), 65536, lambda: 0.0)
        session.start()
        for start in (b"", f.PREFACE, f.PREFACE + f.settings()):
            try:
                session.receive(start + noise)
            except Fault:
                break


def test_patience_is_spent_and_comes_back() -> None:
    now = 0.0
    patience = Patience(lambda: now)
    assert all(patience.spend(1) for _ in range(Patience.BURST))
    assert not patience.spend(1)
    now = 1.0
    assert sum(patience.spend(1) for _ in range(1000)) == Patience.A_SECOND - 1
    for _ in range(5000):
        patience.earn(4)
    assert patience.left <= Patience.EARNED + 4


@pytest.mark.parametrize("cls", [LeanSession, HyperSession])
def test_sizes_of_the_table_are_not_gathered(cls: Any) -> None:
    """Until there is a head to send: a client need never ask for anything."""
    now = [0.0]
    session: Any = cls(False, Heard(), 65536, lambda: now[0])
    session.start()
    session.receive(f.PREFACE)
    for turn in range(300):
        now[0] += 0.1
        session.receive(f.settings(*[(f.S.HEADER_TABLE_SIZE, size) for size in (turn, 4000, 300 + turn)]))
        session.output()
    held = session._encoder._say if cls is LeanSession else session._core.encoder.table_size_changes
    assert (len(held), held[-1]) == (2, 599)
