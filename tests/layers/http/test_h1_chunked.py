"""Chunked coding: any cut into segments, every bound, both ways."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.layers.http.h1_chunked import FREE_EXTENSIONS, MAX_SIZE_LINE, MAX_TRAILERS
from appliance.layers.http.h1_grammar import ChunkedDecoder, Refused, encode_chunk, last_chunk


def decode(data: bytes, step: int | None = None, padding: bool = False) -> tuple[bytes, ChunkedDecoder, bytes]:
    """(payload, decoder, what is left) of `data`, fed `step` bytes at a time."""
    decoder = ChunkedDecoder(padding=padding)
    buf, out = bytearray(), b""
    for at in range(0, len(data), step or len(data)):
        buf += data[at : at + (step or len(data))]
        got = decoder.feed(buf)
        assert type(got) is bytes
        out += got
    return out, decoder, bytes(buf)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(0, 600), max_size=30),
    st.booleans(),
    st.binary(max_size=10),
)
@settings(max_examples=300, deadline=None)
def test_payload_under_any_segmentation(parts: list[bytes], cuts: list[int], trailer: bool, after: bytes) -> None:
    fields = ((b"X-Sum", b"1"), (b"x-other", b"")) if trailer else ()
    wire = b"".join(map(encode_chunk, parts)) + last_chunk(fields)
    whole = wire + after
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    decoder, buf, out = ChunkedDecoder(), bytearray(), b""
    for start, stop in itertools.pairwise(edges):
        buf += whole[start:stop]
        out += decoder.feed(buf)
        assert decoder.done == (stop >= len(wire))
    assert (out, decoder.trailers, bytes(buf)) == (b"".join(parts), fields, after)


@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize(
    "size", [b"5", b"05", b"0000000000000005", b"5;a", b"5;a=b", b'5;a="b;\\"\\\\ c"', b"5 ; a = b\t;c", b"5;a=b;c;d=e"]
)
def test_size_lines(size: bytes, step: int | None) -> None:
    payload, decoder, left = decode(size + b"\r\nhello\r\n0;last\r\n\r\nnext", step)
    assert (payload, decoder.done, left) == (b"hello", True, b"next")


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    "line",
    [
        b"+5", b"-5", b"0x5", b"0X5", b"5h", b"", b" 5", b"\t5", b"5_0", b"5.", b"5,5", b"g", b"5 5", b"5 ",
        b"5\t", b"5;", b"5;;a",
        b"5;a=", b'5;a="', b'5;a="b', b'5;a="b"c', b'5;a=b"c"', b'5;"a"', b"5;a b", b"5;a=b c", b'5;a="\\',
        b"5;a\x00", b"5;a=\x01",
        b"5\x00", b"5\x0b", b"5\r", b"5\n", b"5\rX", b"5;a\nb", b"5;a\rb", b"00000000000000005",
        b"8000000000000000", b"8000000000000000;a",
        b"ffffffffffffffff", b"10000000000000005", b"F" * 300, b"0" * 17, b"\xef\xbc\x95", b"5;\xe9", b"5;a=\xe9",
    ],
)  # fmt: skip
def test_bad_size_lines(line: bytes, step: int | None) -> None:
    with pytest.raises(Refused) as refused:
        decode(line + b"\r\nhello\r\n0\r\n\r\n", step)
    assert refused.value.status == 400
    assert refused.value.why.isprintable()


@pytest.mark.parametrize(
    "line", [b"+", b"-", b" ", b"x", b"5x", b"0x", b"\n", b"5\n", b"\r\n", b"5;a\n", b"\x00", b"5;\x00", b";"]
)
def test_a_bad_size_line_is_refused_before_its_end(line: bytes) -> None:
    with pytest.raises(Refused):
        ChunkedDecoder().feed(bytearray(line))


def test_blanks_behind_a_size_are_for_old_servers_only() -> None:
    assert decode(b"5  \r\nhello\r\n0 \r\n\r\n", padding=True)[0] == b"hello"
    with pytest.raises(Refused):
        decode(b"5\x0b\r\nhello\r\n0\r\n\r\n", padding=True)


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize("end", [b"\n", b"\rX", b"X", b"XX", b"0\r\n", b"\n\r", b"\r\r\n"])
def test_data_ends_where_its_size_says(end: bytes, step: int | None) -> None:
    with pytest.raises(Refused):
        decode(b"5\r\nhello" + end + b"0\r\n\r\n", step)


def test_largest_size_is_accepted() -> None:
    payload, decoder, _ = decode(b"7fffffffffffffff\r\nabc")
    assert payload == b"abc" and not decoder.done


def test_size_line_bound() -> None:
    fits = b"5;" + b"a" * (MAX_SIZE_LINE - 4) + b"\r\n"
    assert len(fits) == MAX_SIZE_LINE
    assert decode(fits + b"hello\r\n0\r\n\r\n")[1].done
    for data in (b"5;a" + fits[2:], b"5;" + b"a" * MAX_SIZE_LINE):
        with pytest.raises(Refused):
            decode(data)


def test_extensions_may_not_outweigh_the_payload() -> None:
    chunk = b"1;" + b"a" * 1000 + b"\r\nx\r\n"
    with pytest.raises(Refused, match="extensions"):
        decode(chunk * 20)
    assert len(decode(chunk * (FREE_EXTENSIONS // 1001))[0]) == 16
    assert len(decode((b"1000;signature=0123\r\n" + b"x" * 4096 + b"\r\n") * 2000)[0]) == 8192000


@pytest.mark.parametrize("step", [None, 1])
def test_trailers(step: int | None) -> None:
    wire = b"0\r\nX-A: 1\r\nContent-Length: 5\r\nHost: b\r\nTRANSFER-ENCODING: chunked\r\n"
    wire += b"Set-Cookie: x\r\nx-b:  2 \r\n\r\nGET"
    payload, decoder, left = decode(wire, step)
    assert (payload, decoder.done, left) == (b"", True, b"GET")
    assert decoder.trailers == ((b"X-A", b"1"), (b"x-b", b"2"))


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    "lines",
    [
        b"X",
        b"X : 1",
        b"X: 1\r\n y",
        b" X: 1",
        b"X: \x00",
        b"X: \x01",
        b"X: 1\nY: 2",
        b"X: 1\rY",
        b"X Y: 1",
        b": 1",
        b"\nX: 1",
    ],
)
def test_bad_trailers(lines: bytes, step: int | None) -> None:
    with pytest.raises(Refused) as refused:
        decode(b"0\r\n" + lines + b"\r\n\r\n", step)
    assert refused.value.status == 400


def test_trailer_bound() -> None:
    with pytest.raises(Refused) as refused:
        decode(b"0\r\nX: " + b"a" * MAX_TRAILERS, 4096)
    assert refused.value.status == 431


def test_encode() -> None:
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert encode_chunk(memoryview(b"ab")) == b"2\r\nab\r\n"
    assert encode_chunk(b"") == b""
    assert last_chunk() == b"0\r\n\r\n"
    assert last_chunk(((b"X", b"1"), (b"Content-Length", b"5"))) == b"0\r\nX: 1\r\n\r\n"
    assert last_chunk(((b"Host", b"a"),)) == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "field", [(b"X", b"1\r\nY: 2"), (b"X", b"\r\n\r\n"), (b"X y", b""), (b"", b""), (b"X", b"a\nb")]
)
def test_trailers_of_an_addon_cannot_smuggle(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(Refused) as refused:
        last_chunk((field,))
    assert refused.value.status == 500


@given(
    st.lists(
        st.sampled_from([b"0", b"5", b"a", b"\r\n", b"\r", b"\n", b";", b"=", b'"', b"hello", b": ", b"\x00", b" "]),
        max_size=20,
    )
)
@settings(max_examples=400, deadline=None)
def test_garbage_raises_nothing_but_refused_and_cuts_do_not_matter(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    results = []
    for step in (None, 1, 2):
        try:
            payload, decoder, left = decode(data, step) if data else (b"", ChunkedDecoder(), b"")
            results.append((payload, decoder.done, decoder.trailers, left))
        except Refused as refused:
            results.append(refused.status)  # type: ignore[arg-type]
    assert results[0] == results[1] == results[2]


def test_a_refusal_leaves_the_buffer_free() -> None:
    buf = bytearray(b"5\r\nhello\r\n+5\r\n")
    try:
        ChunkedDecoder().feed(buf)
    except Refused:
        buf.clear()  # a view left open would make this a BufferError
    assert not buf


def test_time_is_linear() -> None:
    start = time.process_time()
    assert len(decode(b"1\r\nx\r\n" * 200_000, 65536)[0]) == 200_000
    for data in (b"0" * MAX_SIZE_LINE, b"5" + b" " * MAX_SIZE_LINE, b"5" + b";a" * 2000 + b"\x01\r\n"):
        with pytest.raises(Refused):
            decode(data, 1)
    assert time.process_time() - start < 5
