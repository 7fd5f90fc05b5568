from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from appliance import encoding

CODINGS = ["gzip", "x-gzip", "deflate", "br", "zstd", "identity", "GZip", "gzip, br", "deflate,zstd , identity", ""]


@pytest.mark.parametrize("coding", CODINGS)
@given(content=st.binary(max_size=2000))
def test_round_trip(coding: str, content: bytes) -> None:
    assert encoding.decode(encoding.encode(content, coding), coding) == content


def test_real_encodings_are_written() -> None:
    data = b"a" * 1000
    assert gzip.decompress(encoding.encode(data, "gzip")) == data
    assert zlib.decompress(encoding.encode(data, "deflate")) == data
    assert brotli.decompress(encoding.encode(data, "br")) == data
    assert zstandard.decompress(encoding.encode(data, "zstd")) == data
    assert brotli.decompress(gzip.decompress(encoding.encode(data, "br, gzip"))) == data


@pytest.mark.parametrize("coding", ["rot13", "utf8", "gzip, nope", ",".join(["gzip"] * 9)])
def test_unknown(coding: str) -> None:
    assert not encoding.supported(coding)
    with pytest.raises(ValueError, match="unknown content coding"):
        encoding.decode(b"x", coding)
    with pytest.raises(ValueError, match="unknown content coding"):
        encoding.encode(b"x", coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_garbage_and_truncation(coding: str) -> None:
    with pytest.raises(ValueError, match="not valid"):
        encoding.decode(b"\x01this is no compressed content", coding)
    whole = encoding.encode(bytes(range(256)) * 8, coding)
    with pytest.raises(ValueError, match="not valid"):
        encoding.decode(whole[:-9], coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@given(content=st.binary(max_size=200))
def test_any_bytes_decode_or_raise_value_error(coding: str, content: bytes) -> None:
    try:
        encoding.decode(content, coding)
    except ValueError:
        pass
    else:
        assert content == b"" or encoding.decode(content, coding) is not None


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_bounded(coding: str) -> None:
    bomb = encoding.encode(bytes(50_000_000), coding)
    assert len(bomb) < 60_000
    with pytest.raises(encoding.DecodedTooLong):
        encoding.decode(bomb, coding, limit=1_000_000)
    exact = encoding.encode(bytes(1000), coding)
    assert len(encoding.decode(exact, coding, limit=1000)) == 1000
    with pytest.raises(encoding.DecodedTooLong):
        encoding.decode(exact, coding, limit=999)


@pytest.mark.parametrize(
    ("coding", "head", "part", "end", "most"),
    [
        ("gzip", b"", gzip.compress(b"", mtime=0), b"", encoding.MEMBERS),
        ("zstd", b"", zstandard.compress(b""), b"", encoding.MEMBERS),
        ("zstd", b"", b"\x50\x2a\x4d\x18\0\0\0\0", b"", encoding.MEMBERS),
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x40", b"\0\0\0", b"\1\0\0", encoding.BLOCKS - 1),
    ],
)
def test_parts_that_decode_to_nothing_are_counted(coding: str, head: bytes, part: bytes, end: bytes, most: int) -> None:
    assert encoding.decode(head + part * most + end, coding) == b""
    with pytest.raises(ValueError, match="content has over"):
        encoding.decode(head + part * (most + 1) + end, coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_is_longer_than_a_slice(coding: str) -> None:
    content = bytes(range(256)) * 2000
    stored = zlib.compressobj(0, wbits=31 if coding == "gzip" else 15)
    whole = stored.compress(content) + stored.flush()
    assert encoding.decode(whole, coding) == content
    with pytest.raises(ValueError, match="truncated"):
        encoding.decode(whole[:-1], coding)
    if coding == "gzip":
        assert encoding.decode(whole * 3 + b"\0", coding) == content * 3


def test_what_servers_send() -> None:
    members = gzip.compress(b"one ") + gzip.compress(b"two")
    assert encoding.decode(members, "gzip") == b"one two"
    assert encoding.decode(members + b"\0\0\0", "gzip") == b"one two"
    raw = zlib.compressobj(wbits=-15)
    assert encoding.decode(raw.compress(b"bare") + raw.flush(), "deflate") == b"bare"
    frames = zstandard.compress(b"one ") + zstandard.compress(b"two")
    assert encoding.decode(frames, "zstd") == b"one two"
    streamed = zstandard.ZstdCompressor().compressobj()
    assert encoding.decode(streamed.compress(b"no size") + streamed.flush(), "zstd") == b"no size"


def test_names_of_codings() -> None:
    assert encoding.names(" GZip , identity,, br ") == ["gzip", "br"]
    assert encoding.names("") == encoding.names("identity") == []
    assert encoding.supported("gzip, br") and not encoding.supported("gzip, rot13")
    assert not encoding.supported(", ".join(["gzip"] * 9))
