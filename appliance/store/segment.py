"""Segment files: framed records, one after the other, each with its length and CRC-32.

A segment has one writer, who holds a lock (flock) on it as long as it lives; anybody may read. Layout: 16 bytes of
head (`MAGIC`, the number as u64), then records: u32 length, u32 CRC-32 of the payload, payload. Little-endian.
Compressed (`.seg.zst`): head with `MAGIC_ZST`, zstd frames of whole records, a table of where they begin, and its
place. Offsets always are those in the file as it was written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from appliance.exceptions import LockgateError
from appliance.store.folder import give

MAGIC: Final = b"LGSEG\x01\r\n"
MAGIC_ZST: Final = b"LGSEGZ\x01\n"
HEAD: Final = struct.Struct("<8sQ")
FRAME: Final = struct.Struct("<II")
frame: Final = FRAME.pack
"""What stands before a payload: (its length, its CRC-32)."""
MAX_RECORD: Final = 1 << 30
"""Bytes of a payload; a length above it is no length."""
BLOCK: Final = 256 << 10
"""Bytes of records that are compressed together: what has to be unpacked to read one of them."""
FRAME_BYTES: Final = 2 << 20
"""Of unpacked frames that each open segment keeps, or the last one: a body of megabytes makes a large one."""
LEVEL: Final = 3
_VECTORS: Final = 512
"""Pieces that are written in one call: the system takes 1,024."""


class Damaged(LockgateError):
    """A segment, or a record in it, cannot be read: `path`, `offset` and why are in the text."""


def framed(payload: bytes) -> bytes:
    return frame(len(payload), zlib.crc32(payload)) + payload


def plain_path(folder: Path, number: int) -> Path:
    return folder / f"{number:010d}.seg"


def packed_path(folder: Path, number: int) -> Path:
    return folder / f"{number:010d}.seg.zst"


def numbers(folder: Path) -> list[int]:
    """The segments there are, oldest first. Raises OSError."""
    found = set()
    for entry in os.scandir(folder):
        stem, dot, rest = entry.name.partition(".")
        if dot and rest in ("seg", "seg.zst") and stem.isdecimal():
            found.add(int(stem))
    return sorted(found)


def create(folder: Path, floor: int) -> tuple[int, int]:
    """A new segment with a number above `floor` and all there are: (number, descriptor, locked). Raises OSError."""
    number = max([floor, *numbers(folder)]) + 1
    while True:
        path = plain_path(folder, number)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:  # another gateway was faster
            number += 1
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write(fd, [HEAD.pack(MAGIC, number)], 0)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return number, fd


def write(fd: int, parts: Sequence[bytes], at: int) -> None:
    """All of `parts`, one behind the other, at `at`, or nothing of it. Raises OSError."""
    done = at
    try:
        for first in range(0, len(parts), _VECTORS):
            some = parts[first : first + _VECTORS] if len(parts) > _VECTORS else parts
            size, wrote = sum(map(len, some)), os.pwritev(fd, some, done)
            done += wrote
            if wrote < size:
                rest = memoryview(b"".join(some))[wrote:]
                while rest:
                    if not (wrote := os.pwrite(fd, rest, done)):
                        raise OSError(28, os.strerror(28))
                    done += wrote
                    rest = rest[wrote:]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, at)
        raise


def lock_abandoned(path: Path) -> int | None:
    """The descriptor of a segment whose writer is gone, locked by us; None while it lives. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


class Segment:
    """A segment to read from, compressed or not."""

    _fd = -1  # until it is open

    def __init__(self, folder: Path, number: int) -> None:
        """:raises Damaged: it has no proper head. :raises FileNotFoundError: there is none."""
        self.number = number
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._held = 0
        self._starts: list[int] = []
        self._places: list[int] = []
        self.path = plain_path(folder, number)
        self.packed = False
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.path = packed_path(folder, number)
            self.packed = True
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.pread(self._fd, HEAD.size, 0)
            if head != HEAD.pack(MAGIC_ZST if self.packed else MAGIC, number):
                raise Damaged(f"{self.path}: no segment, or not number {number}")
            if self.packed:
                self._read_table()
        except BaseException:
            self.close()
            raise

    def _read_table(self) -> None:
        size = os.fstat(self._fd).st_size
        try:
            (place,) = struct.unpack("<Q", os.pread(self._fd, 8, size - 8))
            table = msgspec.msgpack.decode(os.pread(self._fd, size - 8 - place, place), type=list[tuple[int, int]])
        except (struct.error, OSError, OverflowError, msgspec.MsgspecError):
            raise Damaged(f"{self.path}: its end is missing") from None
        self._starts = [start for start, _ in table]
        self._places = [place for _, place in table] + [place]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes of the file as it is."""
        return os.fstat(self._fd).st_size

    def record(self, offset: int) -> bytes:
        """The payload at `offset`. :raises Damaged: it is not there or not whole."""
        if self.packed:
            start, frame = self._frame(offset)
            return self._checked(frame, offset - start, offset)
        head = os.pread(self._fd, FRAME.size + 4096, offset)
        if len(head) >= FRAME.size:
            length = FRAME.unpack_from(head)[0]
            if len(head) < FRAME.size + length <= MAX_RECORD:
                head += os.pread(self._fd, FRAME.size + length - len(head), offset + len(head))
        return self._checked(head, 0, offset)

    def _checked(self, data: bytes, at: int, offset: int) -> bytes:
        if len(data) >= at + FRAME.size:
            length, crc = FRAME.unpack_from(data, at)
            payload = data[at + FRAME.size : at + FRAME.size + length]
            if length and len(payload) == length and zlib.crc32(payload) == crc:  # zeros are no record
                return payload
        raise Damaged(f"{self.path}: the record at {offset} is damaged")

    def _frame(self, offset: int) -> tuple[int, bytes]:
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            raise Damaged(f"{self.path}: there is no record at {offset}")
        frame = self._frames.get(index)
        if frame is None:
            begin, end = self._places[index], self._places[index + 1]
            try:
                frame = zstandard.ZstdDecompressor().decompress(os.pread(self._fd, end - begin, begin), MAX_RECORD)
            except (zstandard.ZstdError, OSError, MemoryError) as error:
                raise Damaged(f"{self.path}: the block at {self._starts[index]} is damaged: {error}") from None
            self._frames[index] = frame
            self._held += len(frame)
            while self._held > FRAME_BYTES and len(self._frames) > 1:
                self._held -= len(self._frames.popitem(last=False)[1])
        else:
            self._frames.move_to_end(index)
        return self._starts[index], frame

    def records(
        self, start: int = HEAD.size, told: Callable[[Damaged], object] | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """(offset, payload) of what is whole, in order. :raises Damaged: at the first that is not.

        told: of one that is damaged while the next is whole; it is left out.
        """
        if self.packed:
            for index, begin in enumerate(self._starts):
                if index + 1 < len(self._starts) and self._starts[index + 1] <= start:
                    continue
                _, frame = self._frame(begin)
                at = 0
                while at < len(frame):
                    payload = self._checked(frame, at, begin + at)
                    if begin + at >= start:
                        yield begin + at, payload
                    at += FRAME.size + len(payload)
            return
        size = self.size
        while start < size:
            try:
                payload = self.record(start)
            except Damaged as error:
                following = self._after(start, size)
                if told is None or following is None:
                    raise
                told(error)
                start = following
                continue
            yield start, payload
            start += FRAME.size + len(payload)

    def _after(self, offset: int, size: int) -> int | None:
        """Where the record behind a damaged one begins, if its length can be believed: a whole one is there."""
        head = os.pread(self._fd, FRAME.size, offset)
        if len(head) < FRAME.size:
            return None
        following = offset + FRAME.size + int(FRAME.unpack(head)[0])
        if following >= size:
            return None
        try:
            self.record(following)
        except Damaged:
            return None
        return following


class Later(Exception):
    """There is something better to do now."""


def compress(folder: Path, number: int, between: Callable[[], object] = lambda: None) -> int:
    """Compress a sealed segment: a new file takes the old one's place. Returns its size. :raises Damaged, OSError.

    between: called after each `BLOCK`; what it raises ends the work, and the segment stays as it is.
    """
    size = repack(folder, number, lambda offset, payload: payload, between=between)
    plain_path(folder, number).unlink()
    return size


def repack(
    folder: Path, number: int, change: Callable[[int, bytes], bytes], level: int = LEVEL,
    between: Callable[[], object] = lambda: None,
) -> int:  # fmt: skip
    """Write a segment anew, compressed; `change` gets each record and returns one of the same size. Returns the file's
    size. :raises Damaged, OSError.
    """
    source = Segment(folder, number)
    target = packed_path(folder, number)
    made = target.with_suffix(".tmp")
    packer = zstandard.ZstdCompressor(level=level)
    table: list[tuple[int, int]] = []
    try:
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            give(fd, folder)
            out.write(HEAD.pack(MAGIC_ZST, number))
            block: list[bytes] = []
            begin, size = HEAD.size, 0
            for offset, payload in source.records():
                if size >= BLOCK:
                    table.append((begin, out.tell()))
                    out.write(packer.compress(b"".join(block)))
                    block, begin, size = [], offset, 0
                    between()
                block.append(framed(change(offset, payload)))
                size += len(block[-1])
            if block:
                table.append((begin, out.tell()))
                out.write(packer.compress(b"".join(block)))
            place = out.tell()
            out.write(msgspec.msgpack.encode(table) + struct.pack("<Q", place))
            out.flush()
            os.fsync(out.fileno())
        made.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            made.unlink()
        raise
    finally:
        source.close()
    return target.stat().st_size
