"""Content codings (RFC 9110 §8.4.1): gzip, deflate, br, zstd, identity. Decoding is bounded.

Several codings may be listed, in the order they were applied: "gzip, br".
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import zstandard

DECODED_LIMIT = 128 << 20  # bytes; a longer result is taken for a decompression bomb
MEMBERS = 10_000
"""gzip members, or frames of zstd, of one content: each costs a decoder. (Of 64 kB each, as bgzip makes them, they come
to far more than the limit above.)"""
BLOCKS = 1 << 18
"""Blocks of zstd."""
_STEP = 1 << 20
_SLICE = 1 << 16
_MAX_CODINGS = 8


class DecodedTooLong(ValueError):
    """The decoded content would exceed the limit given."""


def names(coding: str) -> list[str]:
    """The codings of a Content-Encoding value, lower-cased, in the order they were applied, without identity."""
    return [name for part in coding.split(",") if (name := part.strip().lower()) not in ("", "identity", "none")]


def supported(coding: str) -> bool:
    listed = names(coding)
    return len(listed) <= _MAX_CODINGS and all(name in _CODINGS for name in listed)


def decode(content: bytes, coding: str, limit: int = DECODED_LIMIT) -> bytes:
    """Undo `coding`. Raises ValueError for an unknown coding or bad data, DecodedTooLong above `limit` bytes."""
    if content and (listed := names(coding)):
        _check(coding)
        for name in reversed(listed):
            try:
                content = _CODINGS[name][1](content, limit)
            except (zlib.error, brotli.error, zstandard.ZstdError, EOFError) as error:
                raise ValueError(f"content is not valid {name}: {error}") from error
    return content


def encode(content: bytes, coding: str) -> bytes:
    """Apply `coding`. Raises ValueError for an unknown coding."""
    if listed := names(coding):
        _check(coding)
        for name in listed:
            content = _CODINGS[name][0](content)
    return content


def _check(coding: str) -> None:
    if not supported(coding):
        raise ValueError(f"unknown content coding {coding!r}")


def _inflate(content: bytes, limit: int, wbits: int) -> bytes:
    """A zlib stream, or gzip members on end. Raises EOFError when it is truncated."""
    out: list[bytes] = []
    room, at, members = limit, 0, 0
    while True:
        stream = zlib.decompressobj(wbits)
        while not stream.eof:
            # It copies what it leaves of its input, so it never gets much.
            given = content[at : at + _SLICE]
            if not given:
                raise EOFError("truncated")
            piece = stream.decompress(given, room + 1)
            room -= len(piece)
            if room < 0:
                raise DecodedTooLong(f"decoded content is over {limit} bytes")
            out.append(piece)
            at += len(given) - len(stream.unused_data)
        if wbits < 16 or not content.startswith(b"\x1f\x8b", at):  # what is no further gzip member is padding
            return out[0] if len(out) == 1 else b"".join(out)
        members += 1
        if members == MEMBERS:
            raise ValueError(f"content has over {MEMBERS} members")


def _gunzip(content: bytes, limit: int) -> bytes:
    return _inflate(content, limit, 31)


def _undeflate(content: bytes, limit: int) -> bytes:
    try:
        return _inflate(content, limit, zlib.MAX_WBITS)
    except zlib.error:  # "deflate" without the zlib wrapper, which many servers send (RFC 9110 §8.4.1.2)
        return _inflate(content, limit, -zlib.MAX_WBITS)


def _unbrotli(content: bytes, limit: int) -> bytes:
    stream = brotli.Decompressor()
    out = [stream.process(content, output_buffer_limit=min(limit + 1, _STEP))]
    size = len(out[0])
    while not stream.is_finished():
        if size > limit:
            break
        piece = stream.process(b"", output_buffer_limit=min(limit + 1, _STEP))
        if not piece and stream.can_accept_more_data():
            raise EOFError("truncated")
        size += len(piece)
        out.append(piece)
    if size > limit:
        raise DecodedTooLong(f"decoded content is over {limit} bytes")
    return b"".join(out)


def _unzstd(content: bytes, limit: int) -> bytes:
    if not _zstd_whole(content):
        raise EOFError("truncated")
    # RFC 8878 §3.1.1.1.2, RFC 9659: a coding "zstd" needs no window above 8 MB.
    stream = zstandard.ZstdDecompressor(max_window_size=8 << 20).stream_reader(content, read_across_frames=True)
    out, size = [], 0
    while piece := stream.read(_STEP):
        size += len(piece)
        if size > limit:
            raise DecodedTooLong(f"decoded content is over {limit} bytes")
        out.append(piece)
    return b"".join(out)


def _zstd_whole(content: bytes) -> bool:
    """Whether the last frame (RFC 8878 §3.1) is complete, which the reader above does not tell. Raises ValueError for
    too many frames or blocks.
    """
    at = frames = blocks = 0
    while at < len(content):
        frames += 1
        if frames > MEMBERS:
            raise ValueError(f"content has over {MEMBERS} frames")
        head = content[at : at + 18]
        if head[1:4] == b"\x2a\x4d\x18":  # skippable frame
            at += 8 + int.from_bytes(head[4:8], "little")
            continue
        checksum = 4 if zstandard.get_frame_parameters(head).has_checksum else 0
        at += zstandard.frame_header_size(head)
        last = 0
        while not last:
            if at + 3 > len(content):
                return False
            block = int.from_bytes(content[at : at + 3], "little")
            last, kind, size = block & 1, block >> 1 & 3, block >> 3
            at += 3 + (1 if kind == 1 else size)
            blocks += 1
            if blocks > BLOCKS:
                raise ValueError(f"content has over {BLOCKS} blocks")
        at += checksum
    return at == len(content)


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)


def _brotli(content: bytes) -> bytes:
    compressed: bytes = brotli.compress(content, quality=5)
    return compressed


def _zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(content)


_CODINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]] = {
    "gzip": (_gzip, _gunzip),
    "x-gzip": (_gzip, _gunzip),
    "deflate": (zlib.compress, _undeflate),
    "br": (_brotli, _unbrotli),
    "zstd": (_zstd, _unzstd),
}
