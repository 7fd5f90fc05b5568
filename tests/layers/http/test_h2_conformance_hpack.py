"""RFC 9113 §4.3 and RFC 7541: header blocks, in every representation and in every wrong one."""

from __future__ import annotations

import hpack
import pytest

from tests.harness import Make
from tests.layers.http.h2_frames import (
    HOST,
    Code,
    S,
    block,
    continuation,
    data,
    frame,
    get,
    headers,
    integer,
    literal,
    post,
    request,
    settings,
    string,
)
from tests.layers.http.h2_kit import Case, cases, goaway_with, malformed, play, setting

GOOD = b"\x82\x86\x84\x01" + string(HOST)  # :method GET, :scheme http, :path /, :authority as a literal
HUFFMAN = b"\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"  # www.example.com (RFC 7541 §C.4.1)
X = b"\0\3x-h"  # a literal field x-h, its value to come


def good(case: str, more: bytes, value: bytes, before: bytes = b"") -> tuple[str, bytes, bytes]:
    return case, headers(1, before + GOOD + more), value


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        pytest.param(frames, value, id=case)
        for case, frames, value in [
            good("6.2.1 incremental, new name", literal(b"x-h", b"1", 0x40), b"1"),
            good("6.2.1 incremental, twice the same", literal(b"x-h", b"1", 0x40) + b"\xbe", b"1"),
            good("6.2.1 incremental, a name of the table", literal(b"x-h", b"1", 0x40) + b"\x7e" + string(b"2"), b"2"),
            good("6.2.2 not indexed", literal(b"x-h", b"1"), b"1"),
            good("6.2.3 never indexed", literal(b"x-h", b"1", 0x10), b"1"),
            good("5.2 Huffman", X + HUFFMAN, b"www.example.com"),
            good("5.2 Huffman, name and value", b"\0\x83\xf2\xb3\x3f" + HUFFMAN, b""),
            good("5.1 an integer in several octets", literal(b"x-h", b"v" * 5000), b"v" * 5000),
            good("5.2 empty value", literal(b"x-h", b""), b""),
            good("4.2 size update first of all", literal(b"x-h", b"1", 0x40), b"1", b"\x20\x3f\xe1\x1f"),
            good("4.4 larger than the table", literal(b"x-h", b"v" * 4090, 0x40), b"v" * 4090),
            good("4.3 a table of nothing", literal(b"x-h", b"1", 0x40), b"1", b"\x20"),
        ]
    ],
)
async def test_rfc7541_representations(rigs: Make, sent: bytes, value: bytes) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(sent)
    assert (await client.response(1)).status == 200
    ask = s.origin.asked[0]
    if value:
        assert ask.values(b"x-h")[-1] == value
    await s.unharmed(client)


def wrong(case: str, tail: bytes) -> Case:
    return Case(case, headers(1, GOOD + tail), goaway_with(Code.COMPRESSION_ERROR))


@cases(
    wrong("7541-6.1 index 0", b"\x80"),
    wrong("7541-2.3.3 index beyond both tables", b"\xbe"),
    wrong("7541-2.3.3 index far beyond", integer(70000, 7, 0x80)),
    wrong("7541-2.3.3 name index beyond", integer(70, 4) + string(b"v")),
    wrong("7541-2.3.3 incremental name index beyond", integer(70, 6, 0x40) + string(b"v")),
    wrong("7541-5.1 an integer without end", b"\xff\x80"),
    wrong("7541-5.1 an integer too large", b"\xff" + b"\xff" * 20 + b"\x01"),
    wrong("7541-5.2 a string longer than the block", X + b"\x7ev"),
    wrong("7541-5.2 a name longer than the block", b"\0\x7ev"),
    wrong("7541-5.2 no value", X),
    wrong("7541-5.2 Huffman padding of more than 7 bits", X + b"\x8d" + HUFFMAN[1:] + b"\xff"),
    wrong("7541-5.2 Huffman padding of zeros", X + b"\x81\x18"),
    wrong("7541-5.2 Huffman with EOS", X + b"\x84\xff\xff\xff\xff"),
    wrong("7541-4.2 size update last", b"\x20"),
    wrong("7541-4.2 size update in the middle", b"\x3f\xe1\x1f" + literal(b"x-h", b"1")),
    Case("7541-6.3 size update above the setting",
         lambda c: headers(1, integer(c.settings.get(S.HEADER_TABLE_SIZE, 4096) + 1, 5, 0x20) + GOOD),
         goaway_with(Code.COMPRESSION_ERROR)),
    Case("4.3 wrong in CONTINUATION", frame(1, 1, 1, GOOD) + continuation(1, b"\x80"),
         goaway_with(Code.COMPRESSION_ERROR)),
    Case("4.3 wrong in trailers", post(1) + data(1, b"abc") + headers(1, b"\x80"), goaway_with(Code.COMPRESSION_ERROR)),
    Case("4.3 wrong on a stream that was reset", get(1, b"/never") + frame(3, 0, 1, bytes(4)) + headers(1, b"\x80"),
         goaway_with(Code.COMPRESSION_ERROR, Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)),
    Case("4.3 empty block", headers(1, b""), malformed),
)  # fmt: skip
async def test_4_3_compression_errors(rigs: Make, case: Case) -> None:
    s = await play(rigs, case)
    assert set(s.origin.paths()) <= {b"/unharmed"}


async def test_4_3_the_table_lasts_over_requests(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    for n in range(3):
        await client.say(headers(2 * n + 1, GOOD + (literal(b"x-h", b"kept", 0x40) if not n else b"\xbe")))
        assert (await client.response(2 * n + 1)).status == 200
    assert [ask.values(b"x-h") for ask in s.origin.asked] == [[b"kept"]] * 3


async def test_4_3_blocks_of_malformed_requests_count(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client()
    await client.say(headers(1, GOOD + literal(b"x-h", b"kept", 0x40) + literal(b"Upper", b"1")))
    await client.expect_malformed(1)
    await client.say(headers(3, GOOD + b"\xbe"))
    assert (await client.response(3)).status == 200
    assert [ask.values(b"x-h") for ask in s.origin.asked] == [[b"kept"]]


@pytest.mark.parametrize("when", ["at the start", "later"])
async def test_4_3_1_a_client_without_a_table(rigs: Make, when: str) -> None:
    """Our encoder shrinks its table and says so; a decoder that holds to its word understands."""
    s = await setting(rigs)
    client = await s.client(*([(S.HEADER_TABLE_SIZE, 0)] if when == "at the start" else []))
    if when == "later":
        await client.say(get(1))
        await client.response(1)
        acks = client.settings_acks
        await client.say(settings((S.HEADER_TABLE_SIZE, 0)))
        await client.until(lambda: client.settings_acks > acks)
    client.decoder.max_allowed_table_size = 0
    for stream in range(3, 9, 2):
        await client.say(get(stream))
        assert (await client.response(stream)).value(b"content-length") in (b"5", None)
    assert client.decoder.header_table_size == 0


async def test_4_3_1_a_client_with_a_huge_table(rigs: Make) -> None:
    s = await setting(rigs)
    client = await s.client((S.HEADER_TABLE_SIZE, 1 << 16))
    client.decoder.max_allowed_table_size = 1 << 16
    for stream in range(1, 9, 2):
        await client.say(get(stream))
        assert (await client.response(stream)).status == 200


async def test_rfc7541_6_2_3_never_indexed_stays_so(rigs: Make) -> None:
    """An intermediary keeps a literal that is never indexed as it is, on the way to an HTTP/2 server."""
    s = await setting(rigs, tls=True)
    client = await s.client()
    await client.say(headers(1, block(request(scheme=b"https")) + literal(b"x-secret", b"hush", 0x10)))
    assert (await client.response(1)).status == 200
    sent = s.origin.h2[0].streams[1].blocks[0]
    fields = hpack.Decoder().decode(sent, raw=True)
    assert [type(field) for field in fields if field[0] == b"x-secret"] == [hpack.NeverIndexedHeaderTuple]
