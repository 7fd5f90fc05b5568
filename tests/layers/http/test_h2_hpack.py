"""Our HPACK against hpack's, in both directions, with tables that live through many blocks."""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hypothesis import given
from hypothesis import strategies as st

from appliance.layers.http.h2_hpack import STATIC, TABLE, Decoder, Encoder, HpackError, NeverIndexed, TooLarge

NAMES = st.one_of(
    st.sampled_from([name for name, _ in STATIC] + [b"x-one", b"x-two", b"authorization", b"cookie"]),
    st.binary(min_size=1, max_size=40),
)
VALUES = st.one_of(
    st.sampled_from([b"", b"a", b"gzip, deflate", b"200"]), st.binary(max_size=300), st.just(b"v" * 1500)
)
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=12), max_size=8)


@given(BLOCKS, st.lists(st.sampled_from([0, 64, 500, 4096, 70000]), max_size=8))
def test_what_we_encode_is_read_as_it_was(blocks: list[list[tuple[bytes, bytes]]], sizes: list[int]) -> None:
    ours, theirs = Encoder(), hpack.Decoder(max_header_list_size=1 << 20)
    for n, fields in enumerate(blocks):
        if n < len(sizes):
            theirs.max_allowed_table_size = max(sizes[n], 0)
            ours.resize(sizes[n])
        assert [(bytes(name), bytes(value)) for name, value in theirs.decode(ours.encode(fields), raw=True)] == fields
        assert theirs.header_table.maxsize <= TABLE
        assert sum([len(n) + len(v) + 32 for (n, v), _ in ours._entries]) == ours._size <= ours._limit


@given(st.lists(st.integers(0, 5000), min_size=1))
def test_of_many_sizes_the_least_and_the_last_are_said(sizes: list[int]) -> None:
    """RFC 7541 §4.2; and no more are remembered, however many come."""
    ours, theirs = Encoder(), hpack.Decoder()
    theirs.decode(ours.encode([(b"x-one", b"in the table")]))
    for size in sizes:
        ours.resize(size)
    assert len(ours._say) <= 2
    theirs.max_allowed_table_size = max(sizes)
    assert theirs.decode(ours.encode([(b"x-one", b"in the table")]), raw=True) == [(b"x-one", b"in the table")]
    assert theirs.header_table.maxsize == min(sizes[-1], TABLE)
    assert len(theirs.header_table.dynamic_entries) == len(ours._entries)


@given(BLOCKS, st.booleans(), st.lists(st.sampled_from([0, 64, 500, 4096]), max_size=8))
def test_what_they_encode_we_read_as_it_was(
    blocks: list[list[tuple[bytes, bytes]]], huffman: bool, sizes: list[int]
) -> None:
    ours, theirs = Decoder(1 << 20), hpack.Encoder()
    for n, fields in enumerate(blocks):
        if n < len(sizes):
            theirs.header_table_size = sizes[n]
        got, size = ours.decode(theirs.encode(fields, huffman=huffman))
        assert got == fields
        assert size == sum([len(name) + len(value) + 32 for name, value in fields])


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_what_we_refuse_they_refuse(blocks: list[bytes]) -> None:
    ours, theirs = Decoder(4096), hpack.Decoder(max_header_list_size=4096)
    for block in blocks:
        try:
            expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
        except (OversizedHeaderListError, HPACKError):
            expected = None
        try:
            got = ours.decode(block)[0]
        except (HpackError, TooLarge):
            got = None
        if got is not None:
            assert got == expected
        elif expected is not None:  # what only we refuse: integers that nobody needs, and late or large tables
            assert len(block) > 4
        if got is None or expected is None:
            return  # the tables are out of step: such a connection ends


def test_repeats_cost_a_byte() -> None:
    encoder = Encoder()
    fields = [(b":status", b"200"), (b"server", b"nginx"), (b"x-bench", b"1")]
    first = encoder.encode(fields)
    assert len(encoder.encode(fields)) == 3 < len(first)


@pytest.mark.parametrize(
    "field", [(b"authorization", b"Bearer x"), (b"cookie", b"short=1"), NeverIndexed((b"x-token", b"secret"))]
)
def test_secrets_are_never_indexed(field: tuple[bytes, bytes]) -> None:
    encoder = Encoder()
    for _ in range(2):
        decoded = list(hpack.Decoder().decode(encoder.encode([field]), raw=True))
        assert isinstance(decoded[0], hpack.NeverIndexedHeaderTuple)
    assert not encoder._entries


def test_never_indexed_stays_so() -> None:
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(b"x-token", b"secret")])
    (field,), _ = Decoder(4096).decode(block)
    assert field == (b"x-token", b"secret")
    again = list(hpack.Decoder().decode(Encoder().encode([field]), raw=True))
    assert isinstance(again[0], hpack.NeverIndexedHeaderTuple)


def test_a_bomb_is_not_unpacked() -> None:
    encoder = hpack.Encoder()
    seed = encoder.encode([(b"x-bomb", b"b" * 3000)])
    decoder = Decoder(65536)
    decoder.decode(seed)
    with pytest.raises(TooLarge):
        decoder.decode(b"\xbe" * 100)
    assert decoder._size <= TABLE


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xbe",
        b"\xff\xff\xff\xff\xff\xff\x7f",
        b"\x82\x20",
        b"\x3f\xe2\x1f",
        b"\x40\x05ab",
        b"\x00\x81\xff\x01a",
    ],
    ids=[
        "index 0",
        "beyond the tables",
        "a huge integer",
        "a late resize",
        "a table too large",
        "cut short",
        "padding",
    ],
)
def test_malformed(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder(4096).decode(block)
