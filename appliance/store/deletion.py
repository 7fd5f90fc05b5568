"""Deleting single flows: their rows, and what their records hold.

A record stays where it is, for others are found by where they are, but nothing is left in it. Connections and
certificates that other flows may share are not touched; they go with their segment. What is so damaged that nobody can
say where it ends, or a compressed block of which nothing can be unpacked, stays, and is told.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import struct
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import zstandard

from appliance.store import index as ix
from appliance.store import records, recovery, segment
from appliance.store.folder import give
from appliance.store.segment import Damaged, Segment
from appliance.store.store import Row, StoreError

logger = logging.getLogger(__name__)

STEP: Final = 200


class Deleted(NamedTuple):
    """Flows. left: not in `whole`; gone from the index, but not all of what is damaged of them could be overwritten.
    open: conversations that go on, of which nothing was deleted: what is still said in them would come after it.
    """

    whole: int
    left: int
    open: int


def delete(folder: Path, rows: Iterable[Row]) -> Deleted:
    """Delete these flows. What could not be overwritten is logged. :raises StoreError: it cannot be done (now)."""
    try:
        with (
            recovery.locked(folder, wait=True),
            contextlib.closing(recovery.open_index(folder, busy_ms=5000, ours=True)) as db,
        ):
            count = left = open = 0
            written = _is_written(folder)
            for batch in _batches(rows):
                over = [row for row in batch if not (written and row.going_on)]
                open += len(batch) - len(over)
                gone, stayed = _delete(folder, db, over)
                count, left = count + gone - stayed, left + stayed
            return Deleted(count, left, open)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{folder}: flows cannot be deleted: {error}") from None


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    at = iter(rows)
    while batch := list(itertools.islice(at, STEP)):
        yield batch


def _is_written(folder: Path) -> bool:
    """Whether a gateway is at work. Where none is, nothing goes on, whatever the index says."""
    for number in segment.numbers(folder):
        with contextlib.suppress(FileNotFoundError):
            if (fd := segment.lock_abandoned(segment.plain_path(folder, number))) is None:
                return True
            os.close(fd)
    return False


def _delete(folder: Path, db: sqlite3.Connection, rows: list[Row]) -> tuple[int, int]:
    """Rows that are gone, and of how many of them something is left."""
    places: dict[int, dict[int, int]] = {}  # by segment: offset -> flow
    left: set[int] = set()
    for row in rows:
        found, all = _places(folder, db, row)
        for number, offset in found:
            places.setdefault(number, {})[offset] = row.n
        if not all:
            left.add(row.n)
    # First what was in them, then that they were there: killed in between, it can be done again.
    for number, offsets in sorted(places.items()):
        with contextlib.suppress(FileNotFoundError):
            left.update(offsets[offset] for offset in blank(folder, number, offsets.keys()))
    marks = [(row.n,) for row in rows]
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany("DELETE FROM part WHERE n = ?", marks)
        count = db.executemany("DELETE FROM flow WHERE n = ?", marks).rowcount
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    return count, min(len(left), count)


def _places(folder: Path, db: sqlite3.Connection, row: Row) -> tuple[list[tuple[int, int]], bool]:
    """Of all records that are this flow's alone; whether these are all."""
    found = [(row.segment, row.offset)]
    if row.flags & ix.IN_PARTS:
        found += db.execute("SELECT seg, off FROM part WHERE n = ?", (row.n,)).fetchall()
    try:
        with contextlib.closing(Segment(folder, row.segment)) as source:
            record = records.decode(source.record(row.offset))
        return found + records.pieces(record), True
    except FileNotFoundError:
        return found, True
    except (Damaged, ValueError, TypeError, IndexError) as error:
        # Bodies that are not in the record itself lie in records that only it names.
        if row.kind != "http" or not (row.cut or (row.up or 0) + (row.down or 0) > row.size):
            return found, True
        logger.warning("flow %d: where its bodies are cannot be told, and they stay: %s", row.n, error)
        return found, False


def blank(folder: Path, number: int, offsets: Collection[int]) -> set[int]:
    """Overwrite records; those that could not be. One that is compressed is written anew with its block. Raises
    OSError.
    """
    left: dict[int, Damaged] = {}
    try:
        source = Segment(folder, number)
    except Damaged as error:
        left = dict.fromkeys(offsets, error)
    else:
        try:
            left = _blank_packed(folder, source, offsets) if source.packed else _blank_plain(source, offsets)
        finally:
            source.close()
    for why in sorted({str(error) for error in left.values()}):
        logger.warning("%s, and could not be overwritten; it goes with its segment", why)
    return set(left)


def _blank_plain(source: Segment, offsets: Iterable[int]) -> dict[int, Damaged]:
    left = {}
    fd = os.open(source.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in offsets:
            try:
                size = len(source.record(offset))
            except Damaged as error:
                if (believed := _believed(source, offset)) is None:
                    left[offset] = error
                    continue
                size = believed
            os.pwrite(fd, segment.framed(_empty(size)), offset)
    finally:
        os.close(fd)
    return left


def _believed(source: Segment, offset: int) -> int | None:
    """The size of a damaged record, if another begins behind it, or the file ends there."""
    head = os.pread(source._fd, segment.FRAME.size, offset)
    if len(head) < segment.FRAME.size:
        return None
    size = int(segment.FRAME.unpack(head)[0])
    whole = offset + segment.FRAME.size + size == source.size or source._after(offset, source.size) is not None
    return size if size and whole else None


def _blank_packed(folder: Path, source: Segment, offsets: Iterable[int]) -> dict[int, Damaged]:
    """Blocks that hold none of them are taken over as they are, whatever is in them."""
    left: dict[int, Damaged] = {}
    blocks: dict[int, list[int]] = {}
    for offset in offsets:
        index = bisect_right(source._starts, offset) - 1
        if index < 0:
            left[offset] = Damaged(f"{source.path}: there is no record at {offset}")
        else:
            blocks.setdefault(index, []).append(offset)
    made = source.path.with_suffix(".tmp")
    table: list[tuple[int, int]] = []
    try:
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as out:
            give(fd, folder)
            out.write(segment.HEAD.pack(segment.MAGIC_ZST, source.number))
            for index, start in enumerate(source._starts):
                table.append((start, out.tell()))
                begin, end = source._places[index], source._places[index + 1]
                changed = _blanked(source, start, blocks[index], left) if index in blocks else None
                out.write(os.pread(source._fd, end - begin, begin) if changed is None else changed)
            place = out.tell()
            out.write(msgspec.msgpack.encode(table) + struct.pack("<Q", place))
            out.flush()
            os.fsync(out.fileno())
        made.replace(source.path)
    except BaseException:
        with contextlib.suppress(OSError):
            made.unlink()
        raise
    return left


def _blanked(source: Segment, start: int, offsets: Iterable[int], left: dict[int, Damaged]) -> bytes | None:
    """A block without these records, compressed; None: it stays as it is. What could not be blanked goes to `left`."""
    try:
        found = source._frame(start)[1]
    except Damaged as error:
        left.update(dict.fromkeys(offsets, error))
        return None
    block = bytearray(found)
    for offset in offsets:
        at = offset - start
        try:
            size = len(source._checked(found, at, offset))
        except Damaged as error:
            size = int(segment.FRAME.unpack_from(found, at)[0]) if at <= len(found) - segment.FRAME.size else 0
            end = at + segment.FRAME.size + size
            if not size or not (end == len(found) or _whole(source, found, end)):
                left[offset] = error
                continue
        block[at : at + segment.FRAME.size + size] = segment.framed(_empty(size))
    return zstandard.ZstdCompressor(level=segment.LEVEL).compress(bytes(block))


def _whole(source: Segment, block: bytes, at: int) -> bool:
    try:
        source._checked(block, at, at)
    except Damaged:
        return False
    return True


def _empty(size: int) -> bytes:
    """A record of that size that says nothing: an array that begins with nil."""
    if size <= 16:
        return bytes([0x90 | max(size - 1, 0)]) + b"\xc0" * (size - 1)
    return b"\x92\xc0\xc6" + struct.pack(">I", size - 7) + bytes(size - 7)
