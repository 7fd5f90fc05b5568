"""WebSocket frames: our reader against wsproto, which is the authority, and what wsproto does not have."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from appliance.layers import websocket_frames as ws
from appliance.layers.websocket_deflate import FINAL_BLOCKS, Compress, Deflate, Inflate, Unknown, Way, agreed
from appliance.layers.websocket_follow import Follower
from appliance.layers.websocket_frames import SLACK, Control, Message, Piece, Reader, Violation

HOLD = 1 << 20


def read(data: bytes, masked: bool = True, step: int = 0, **more: Any) -> tuple[list[Any], int]:
    """(what there is in it, close code of a violation or 0)."""
    reader = Reader(masked, more.pop("inflate", None), more.pop("hold", HOLD), **more)
    found = []
    step = step or len(data) or 1
    try:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
            while (one := reader.next()) is not None:
                found.append(one)
                if isinstance(one, Control) and one.opcode == ws.CLOSE:
                    return found, 0
    except Violation as e:
        return found, e.code
    return found, 0


def authority(data: bytes, masked: bool, deflate: bool = False) -> tuple[list[Any], int]:
    """The same by wsproto."""
    extensions = [PerMessageDeflate()] if deflate else []
    for extension in extensions:
        extension._enabled = True
    protocol = FrameProtocol(client=not masked, extensions=list(extensions))
    found: list[Any] = []
    parts: list[Any] = []
    opcode = 0
    try:
        protocol.receive_bytes(data)
        for one in protocol.received_frames():
            if one.opcode == ws.CLOSE:
                found.append((8, int(one.payload[0]), one.payload[1] or ""))
                return found, 0
            if one.opcode >= 8:
                found.append((int(one.opcode), bytes(one.payload)))
                continue
            opcode = int(one.opcode) or opcode
            parts.append(one.payload.encode() if isinstance(one.payload, str) else bytes(one.payload))
            if one.message_finished:
                found.append((opcode, b"".join(parts)))
                parts = []
    except ParseFailed as e:
        return found, int(e.code)
    return found, 0


def plain(found: list[Any]) -> list[Any]:
    return [
        (one.opcode, one.code, one.reason) if one.opcode == ws.CLOSE else (one.opcode, one.content) for one in found
    ]


payloads = st.one_of(st.binary(max_size=40), st.binary(min_size=120, max_size=130),
                     st.sampled_from([b"x" * 65535, b"x" * 65536]), st.text(max_size=20).map(str.encode))  # fmt: skip
closes = st.tuples(st.integers(900, 5100), st.binary(max_size=6) | st.text(max_size=5).map(str.encode)).map(
    lambda pair: pair[0].to_bytes(2, "big") + pair[1]
) | st.sampled_from([b"", b"\x03", b"\x03\xe8"])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A few frames, most of them right, and then perhaps a byte that is not."""
    masked = draw(st.booleans())
    out, inside = [], False
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["data", "data", "data", "data", "ping", "pong", "close", "odd"]))
        fin = draw(st.booleans())
        if kind == "data":
            opcode = 0 if inside else draw(st.sampled_from([1, 2]))
            out.append(ws.frame(opcode, draw(payloads), masked, fin))
            inside = not fin
        elif kind == "odd":
            out.append(ws.frame(draw(st.integers(0, 15)), draw(payloads), masked, fin, draw(st.booleans())))
        else:
            opcode = {"ping": 9, "pong": 10, "close": 8}[kind]
            payload = draw(closes) if opcode == 8 else draw(st.binary(max_size=20))
            out.append(ws.frame(opcode, payload, masked))
    data = bytearray(b"".join(out))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, min(len(data), 40) - 1))
        data[at] = draw(st.integers(0, 255))
    return bytes(data), masked


@settings(max_examples=150, deadline=None)
@given(conversations(), st.integers(1, 50))
def test_as_wsproto_reads(conversation: tuple[bytes, bool], step: int) -> None:
    data, masked = conversation
    theirs, their_code = authority(data, masked)
    for size in (0, step) if len(data) < 5000 else (0,):
        ours, our_code = read(data, masked, size)
        ours = [one for one in ours if not isinstance(one, Piece)]  # of a frame that claims to be huge
        event("refused" if our_code else "read")
        if our_code and not their_code:  # found before the frame's head is whole
            assert authority(data + bytes(14), masked)[1], (plain(ours), our_code, theirs)
            continue
        if their_code == ws.BAD_DATA:  # it looks at each fragment, we at the whole: other faults may come between
            assert plain(ours)[: len(theirs)] == theirs
            assert our_code or not _whole(data, masked) or (ours and ours[-1].opcode == ws.CLOSE)
            continue
        if their_code and not our_code:
            # 1014 is registered since, and wsproto does not know it. Some faults it finds before a frame is whole.
            assert b"\x03\xf6" in data or not _whole(data, masked), (plain(ours), theirs, their_code)
            continue
        assert plain(ours) == theirs
        assert our_code == their_code


def _whole(data: bytes, masked: bool) -> bool:
    """wsproto checks some things of a frame before all of it is there."""
    reader = Reader(masked, None, HOLD)
    reader.feed(data)
    while True:
        try:
            if reader.next() is None:
                return reader._at == len(data) and reader.idle
        except Violation:
            return True


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=300) | st.just(b"ab" * 5000)), max_size=6),
       st.booleans(), st.integers(1, 4), st.integers(8, 15), st.booleans())  # fmt: skip
def test_deflate_there_and_back(
    said: list[tuple[bool, bytes]], takeover: bool, cut: int, bits: int, masked: bool
) -> None:
    """What `Compress` makes, `Inflate` reads, in whatever fragments; wsproto too."""
    way = Way(takeover, bits)
    compress, inflate = Compress(way), Inflate(way)
    stream = b""
    for text, content in said:
        content = content.hex().encode() if text else content
        parts = [
            content[at : at + max(1, len(content) // cut)] for at in range(0, len(content), max(1, len(content) // cut))
        ]
        parts = parts or [b""]
        for number, part in enumerate(parts):
            fin = number == len(parts) - 1
            payload = compress.some(part, fin) if compress.able else part
            opcode = 0 if number else 1 if text else 2
            stream += ws.frame(opcode, payload, masked, fin, compress.able and not number)
    expected = [(1 if text else 2, content.hex().encode() if text else content) for text, content in said]
    found, code = read(stream, masked, inflate=inflate)
    assert (plain(found), code) == (expected, 0)
    if bits > 8:
        assert authority(stream, masked, deflate=True) == (expected, 0)


def test_deflate_of_wsproto() -> None:
    extension = PerMessageDeflate()
    extension._enabled = True
    theirs = Connection(ConnectionType.SERVER, [extension])
    inflate = Inflate(Way())
    data = b"".join(theirs.send(TextMessage(data=text)) for text in ("hello", "", "hello hello", "x" * 100_000))
    found, code = read(data, False, inflate=inflate)
    assert code == 0
    assert [one.content.decode() for one in found] == ["hello", "", "hello hello", "x" * 100_000]


def test_a_final_deflate_block() -> None:
    """RFC 7692 §7.2.3.4."""
    machine = zlib.compressobj(wbits=-15)
    payload = machine.compress(b"hello") + machine.flush(zlib.Z_FINISH) + b"\x00"
    found, code = read(ws.frame(1, payload, True, rsv1=True) * 2, inflate=Inflate(Way()))
    assert (plain(found), code) == ([(1, b"hello"), (1, b"hello")], 0)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_final_blocks_without_what_should_follow_them(parts: int) -> None:
    """In each fragment, the last one empty."""
    machine = zlib.compressobj(wbits=-15)
    payload = machine.compress(b"hello") + machine.flush(zlib.Z_FINISH)
    frames = [ws.frame(0 if number else 1, payload, True, False, not number) for number in range(parts)]
    stream = b"".join([*frames, ws.frame(0, b"", True)])
    found, code = read(stream * 2, inflate=Inflate(Way()))
    assert (plain(found), code) == ([(1, b"hello" * parts)] * 2, 0)


@pytest.mark.parametrize("hold", [10, HOLD])
def test_final_blocks_are_counted(hold: int) -> None:
    """Each makes the inflater anew."""
    few, many = (ws.frame(2, b"\x03\x00" * count, True, rsv1=True) for count in (FINAL_BLOCKS, FINAL_BLOCKS + 1))
    assert read(few * 3, hold=hold, inflate=Inflate(Way()))[1] == 0
    assert read(many, hold=hold, inflate=Inflate(Way()))[1] == ws.BAD_DATA


def test_examples_of_rfc_7692() -> None:
    """§7.2.3."""
    inflate = Inflate(Way())
    stream = bytes.fromhex("c107f248cdc9c90700") + bytes.fromhex("c105f200110000")
    found, code = read(stream, False, inflate=inflate)
    assert (plain(found), code) == ([(1, b"Hello"), (1, b"Hello")], 0)
    two = bytes.fromhex("4103f248cd") + bytes.fromhex("8004c9c90700")
    assert plain(read(two, False, inflate=Inflate(Way()))[0]) == [(1, b"Hello")]
    stored = bytes.fromhex("c10b000500faff48656c6c6f00")
    assert plain(read(stored, False, inflate=Inflate(Way()))[0]) == [(1, b"Hello")]


@pytest.mark.parametrize("step", [1, 7, 0])
def test_raw_is_what_came(step: int) -> None:
    stream = ws.frame(1, b"a", True, fin=False) + ws.frame(9, b"p", True) + ws.frame(0, b"bc", True)
    found, _ = read(stream, step=step)
    assert [type(one) for one in found] == [Control, Message]
    message = found[1]
    assert (message.content, message.sizes) == (b"abc", [1, 2])
    assert message.raw == stream[:7] + stream[14:]


def pieces(found: list[Any]) -> tuple[bytes, bytes]:
    assert all(isinstance(one, Piece) for one in found)
    assert [one.first for one in found] == [True] + [False] * (len(found) - 1)
    assert [one.last for one in found] == [False] * (len(found) - 1) + [True]
    return b"".join(one.content for one in found), b"".join(one.raw for one in found)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6), st.integers(5, 2000), st.integers(1, 900),
       st.booleans(), st.booleans())  # fmt: skip
def test_what_is_over_the_limit_comes_in_pieces(
    sizes: list[int], hold: int, step: int, masked: bool, deflate: bool
) -> None:
    content = bytes(range(256)) * 90
    content = content[: sum(sizes)]
    compress = Compress(Way())
    stream, at = b"", 0
    for number, size in enumerate(sizes):
        fin, part = number == len(sizes) - 1, content[at : at + size]
        payload = compress.some(part, fin) if deflate else part
        stream += ws.frame(0 if number else 2, payload, masked, fin, deflate and not number)
        at += size
    after = ws.frame(1, b"after", masked)
    found, code = read(stream + after, masked, step, hold=hold, inflate=Inflate(Way()) if deflate else None)
    assert code == 0
    assert plain(found[-1:]) == [(1, b"after")]
    if isinstance(found[0], Message):
        assert found[0].content == content and len(content) <= hold
        return
    last = next(number for number, one in enumerate(found) if one.last)
    got, raw = pieces(found[: last + 1])
    assert got == content
    assert raw == stream
    assert found[last].whole


def test_a_bomb_is_bounded() -> None:
    machine = zlib.compressobj(wbits=-15)
    bomb = machine.compress(bytes(50 << 20)) + machine.flush(zlib.Z_SYNC_FLUSH)
    reader = Reader(True, Inflate(Way()), HOLD)
    total = most = 0
    stream = ws.frame(2, bomb[:-4], True, rsv1=True)
    for at in range(0, len(stream), 65536):
        reader.feed(stream[at : at + 65536])
        while (one := reader.next()) is not None:
            assert isinstance(one, Piece)
            total += len(one.content)
            most = max(most, len(one.content))
    assert total == 50 << 20
    assert most <= HOLD + ws.PIECE
    assert one is None and reader.idle


def test_body_size_limit() -> None:
    assert read(ws.frame(2, bytes(101), True), most=100)[1] == ws.TOO_BIG
    assert read(ws.frame(2, bytes(60), True, False) + ws.frame(0, bytes(60), True), most=100)[1] == ws.TOO_BIG
    assert read(ws.frame(2, bytes(100), True), most=100)[1] == 0
    payload = Compress(Way()).some(bytes(5000), True)
    assert read(ws.frame(2, payload, True, rsv1=True), most=100, inflate=Inflate(Way()))[1] == ws.TOO_BIG
    for hold in (10, 1000):
        stream = ws.frame(2, payload, True, rsv1=True)
        assert read(stream, most=4000, hold=hold, inflate=Inflate(Way()))[1] == ws.TOO_BIG


def test_many_empty_fragments() -> None:
    """They are not held without an end."""
    stream = ws.frame(2, b"", True, False) + ws.frame(0, b"", True, False) * (ws.MAX_FRAGMENTS + 10)
    found, code = read(stream)
    assert code == 0
    assert 0 < len(found) < 20


def test_fragments_that_are_just_held() -> None:
    stream = ws.frame(2, bytes(500), True, False) + ws.frame(0, bytes(500), True)
    assert [type(one) for one in read(stream, hold=1000)[0]] == [Message]
    assert {type(one) for one in read(stream, hold=999)[0]} == {Piece}


def test_fragments_that_inflate_to_nothing() -> None:
    """They are not held without an end either."""
    nothing = b"\x00\x00\x00\xff\xff" * 2000
    reader = Reader(False, Inflate(Way()), HOLD)
    waiting = most = passed = 0
    for number in range(300):
        one = ws.frame(0 if number else 2, nothing, False, False, not number)
        waiting += len(one)
        reader.feed(one)
        while (found := reader.next()) is not None:
            waiting -= len(found.raw)
            passed += 1
        most = max(most, waiting)
    assert passed
    assert most <= HOLD + SLACK + len(nothing)
    reader.feed(ws.frame(0, Compress(Way()).some(b"at last", True), False))
    found = reader.next()
    assert isinstance(found, Piece) and found.last and found.content == b"at last"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x00", 1002),  # not masked
        (b"\x83\x80\0\0\0\0", 1002),  # opcode 3
        (b"\xc1\x80\0\0\0\0", 1002),  # RSV1 without an extension
        (b"\xa1\x80\0\0\0\0", 1002),
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in fragments
        (b"\x89\xfe\x00\x7e\0\0\0\0", 1002),  # a ping of 126 bytes
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0", 1002),  # a message inside a message
        (b"\x81\xfe\x00\x05\0\0\0\0", 1002),  # a longer form than needed
        (b"\x81\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 1002),
        (b"\x81\xff\xff\0\0\0\0\0\0\0\0\0\0\0", 1002),  # 2^63 and more
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\x88\x81\0\0\0\0\x03", 1002),
        (b"\x88\x82\0\0\0\0\x03\xed", 1002),  # 1005 is never sent
        (b"\x88\x83\0\0\0\0\x03\xe8\xff", 1007),
    ],
)
def test_violations(data: bytes, code: int) -> None:
    assert read(data)[1] == code
    assert read(data, step=1)[1] == code


def test_a_masked_frame_from_a_server() -> None:
    assert read(ws.frame(1, b"x", True), masked=False)[1] == 1002


def test_mask() -> None:
    for size in (0, 1, 5, 4096, 65537, 200_001):
        data = bytes(size)
        assert ws.mask(data, b"\1\2\3\4") == (b"\1\2\3\4" * (size // 4 + 1))[:size]


def test_fragments() -> None:
    assert list(ws.fragments(b"abcdef", [1, 2, 3])) == [b"a", b"bc", b"def"]
    assert list(ws.fragments(b"abcdefg", [6])) == [b"abcdefg"]
    assert [len(one) for one in ws.fragments(bytes(9000), [1, 2, 3])] == [4000, 4000, 1000]
    assert list(ws.fragments(b"", [1, 2, 3])) == [b""]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("permessage-deflate", Deflate()),
        ("Permessage-Deflate ; server_no_context_takeover", Deflate(Way(), Way(takeover=False))),
        (
            'permessage-deflate; client_max_window_bits="10"; server_max_window_bits=9',
            Deflate(Way(bits=10), Way(bits=9)),
        ),
        ("permessage-deflate;client_no_context_takeover;server_no_context_takeover", Deflate(Way(False), Way(False))),
    ],
)
def test_agreed(header: str | None, expected: Deflate | None) -> None:
    assert agreed(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        "x-webkit-deflate-frame",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; odd",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    ],
)
def test_not_agreed(header: str) -> None:
    with pytest.raises(Unknown):
        agreed(header)


@settings(max_examples=100, deadline=None)
@given(conversations(), st.integers(1, 60))
def test_the_follower_counts_as_the_reader(conversation: tuple[bytes, bool], step: int) -> None:
    data, masked = conversation
    found, code = read(data, masked)
    closed: list[Any] = []
    follower = Follower(lambda *how: closed.append(how), masked)
    for at in range(0, len(data), step):
        follower.feed(memoryview(data[at : at + step]))
    if not code:
        close = [(one.code, one.reason, masked) for one in found if one.opcode == ws.CLOSE]
        assert closed == close
        assert follower.messages >= sum(isinstance(one, Message) for one in found)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes(data: bytes, masked: bool, deflate: bool) -> None:
    whole = read(data, masked, inflate=Inflate(Way()) if deflate else None)
    single = read(data, masked, 1, inflate=Inflate(Way()) if deflate else None)
    assert plain(whole[0]) == plain(single[0])
    assert whole[1] == single[1]
