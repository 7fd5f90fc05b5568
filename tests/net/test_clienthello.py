"""appliance/net/clienthello.py: finding a hello in a growing buffer, however it is cut."""

from __future__ import annotations

import ssl
import struct
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.net.clienthello import LIMIT, HelloScanner, NeedMore, NotTls, scan
from appliance.tls import ClientHello


def hello_message(alpn: int = 1) -> bytes:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.set_alpn_protocols([f"protocol-number-{i}" for i in range(alpn)])
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), out, server_hostname="www.example.org").do_handshake()
    return out.read()[5:]


MESSAGE = hello_message()
BIG = hello_message(800)


def records(message: bytes, cuts: list[int], version: bytes = b"\x03\x01") -> bytes:
    edges = [0, *sorted({c % len(message) for c in cuts} - {0}), len(message)]
    parts = [message[a:b] for a, b in pairwise(edges)]
    return b"".join(b"\x16" + version + struct.pack(">H", len(part)) + part for part in parts)


def is_hello(answer: object, message: bytes = MESSAGE) -> bool:
    return isinstance(answer, ClientHello) and answer.raw_bytes(wrap_in_record=False) == message[4:]


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x03\x01", b"\x03\x02", b"\x03\x03"])
def test_whole_hello(version: bytes) -> None:
    assert is_hello(scan(records(MESSAGE, [], version)))


@given(st.lists(st.integers(0, len(MESSAGE) - 1), max_size=40))
def test_cut_into_any_records(cuts: list[int]) -> None:
    wire = records(MESSAGE, cuts)
    assert is_hello(scan(wire))
    assert is_hello(scan(bytearray(wire + b"more")))
    assert is_hello(scan(memoryview(wire)))


@given(
    st.lists(st.integers(0, len(MESSAGE) - 1), max_size=40),
    st.lists(st.integers(1, 3000), min_size=1, max_size=60),
)
def test_cut_into_any_records_and_segments(cuts: list[int], segments: list[int]) -> None:
    wire = records(MESSAGE, cuts)
    scanner = HelloScanner()
    buffer = bytearray()
    at = 0
    for n in [*segments, len(wire)]:
        buffer += wire[at : at + n]
        at += n
        answer = scanner.scan(buffer)
        if at >= len(wire):
            assert is_hello(answer)
            return
        # The promise of NeedMore: nothing can be said before that many bytes, and it is never more than the hello.
        assert isinstance(answer, NeedMore)
        assert len(buffer) < answer.total <= len(wire)


def test_a_byte_at_a_time() -> None:
    for wire, message in ((records(MESSAGE, []), MESSAGE), (records(BIG, list(range(0, len(BIG), 7))), BIG)):
        scanner = HelloScanner()
        buffer = bytearray()
        for i, byte in enumerate(wire):
            buffer.append(byte)
            answer = scanner.scan(buffer)
            if i < len(wire) - 1:
                assert isinstance(answer, NeedMore) and i + 1 < answer.total <= len(wire)
        assert is_hello(answer, message)


def test_obeying_need_more_gets_there_in_few_steps() -> None:
    wire = records(BIG, [100, 5000, 9000])
    scanner, have, steps = HelloScanner(), 0, 0
    while isinstance(answer := scanner.scan(wire[:have]), NeedMore):
        have, steps = answer.total, steps + 1
    assert is_hello(answer, BIG)
    assert have == len(wire) and steps <= 5 + 2 * 4


def test_the_cost_of_dribbled_one_byte_records_is_linear() -> None:
    wire = records(BIG[:10000].ljust(10000, b"\0"), list(range(10000)))
    scanner = HelloScanner()
    start = time.process_time()
    for n in range(1, len(wire) + 1):
        if n % 16 == 0:
            scanner.scan(wire[:n])
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "handshake record"),
        (b"G", "handshake record"),
        (b"\x16A", "TLS version"),
        (b"\x16\x02", "TLS version"),
        (b"\x16\x03\x04", "TLS version"),
        (b"\x16\xfe\xfd", "TLS version"),
        (b"\x80\x2e\x01\x03\x01\x00\x15", "SSLv2"),
        (b"\x15\x03\x01\x00\x02\x01\x00", "handshake record"),
        (b"\x16\x03\x01\x00\x00", "0 bytes"),
        (b"\x16\x03\x01\x40\x01", "16385 bytes"),
        (b"\x16\x03\x01\x00\x10\x02", "type 2"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "empty"),
        (b"\x16\x03\x01\x00\x10\x01\x01\x00\x00", "longer than"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01A", "malformed"),
        (records(MESSAGE[:38] + b"\xff" + MESSAGE[39:], []), "malformed"),
    ],
)
def test_not_tls(data: bytes, reason: str) -> None:
    answer = scan(data)
    assert isinstance(answer, NotTls)
    assert reason in answer.reason


def test_another_record_in_the_middle() -> None:
    wire = records(MESSAGE, [100])
    answer = scan(wire[:105] + b"\x14\x03\x03\x00\x01\x01" + wire[105:])
    assert isinstance(answer, NotTls) and "type 20" in answer.reason


def test_the_shortest_prefixes_ask_for_one_byte_more() -> None:
    assert scan(b"") == NeedMore(1)
    assert scan(b"\x16") == NeedMore(2)
    assert scan(b"\x16\x03\x01\x02") == NeedMore(5)
    assert scan(b"\x16\x03\x01\x02\x00") == NeedMore(9)
    assert scan(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc") == NeedMore(5 + 512)


def test_the_bound() -> None:
    near = b"\x01" + (LIMIT - 64).to_bytes(3) + bytes(LIMIT - 64)
    assert "malformed" in getattr(scan(records(near, [16000, 32000, 48000, 64000])), "reason", "")
    answer = scan(records(near, list(range(0, len(near), 100))))
    assert isinstance(answer, NotTls) and "longer" in answer.reason


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 12))
def test_random_bytes_never_raise(data: bytes, keep: int) -> None:
    for bytes_in in (data, records(MESSAGE, [])[:keep] + data):
        answer = scan(bytes_in)
        assert isinstance(answer, (ClientHello, NotTls)) or answer.total > len(bytes_in)


@given(st.integers(0, len(MESSAGE) + 4), st.integers(0, 255))
def test_a_changed_byte_never_raises(at: int, value: int) -> None:
    wire = bytearray(records(MESSAGE, []))
    wire[at] = value
    assert isinstance(scan(wire), (ClientHello, NotTls, NeedMore))
