"""Deleting single flows: their rows, and what their records hold.

A record stays where it is, for others are found by where they are, but nothing is left in it. Connections and
certificates that other flows may share are not touched; they go with their segment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from appliance.store import index as ix
from appliance.store import records, recovery, segment
from appliance.store.segment import Damaged, Segment
from appliance.store.store import Row, StoreError

logger = logging.getLogger(__name__)

STEP: Final = 200


def delete(folder: Path, rows: Iterable[Row]) -> int:
    """Delete these flows; how many. :raises StoreError: it cannot be done (now)."""
    try:
        with (
            recovery.locked(folder, wait=True),
            contextlib.closing(recovery.open_index(folder, busy_ms=5000, ours=True)) as db,
        ):
            count = 0
            batch: list[Row] = []
            for row in rows:
                batch.append(row)
                if len(batch) >= STEP:
                    count += _delete(folder, db, batch)
                    batch = []
            return count + _delete(folder, db, batch)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{folder}: flows cannot be deleted: {error}") from None


def _delete(folder: Path, db: sqlite3.Connection, rows: list[Row]) -> int:
    places: dict[int, set[int]] = {}
    for row in rows:
        for number, offset in _places(folder, db, row):
            places.setdefault(number, set()).add(offset)
    # First what was in them, then that they were there: killed in between, it can be done again.
    for number, offsets in sorted(places.items()):
        with contextlib.suppress(FileNotFoundError):
            blank(folder, number, offsets)
    marks = [(row.n,) for row in rows]
    db.execute("BEGIN IMMEDIATE")
    try:
        db.executemany("DELETE FROM part WHERE n = ?", marks)
        count = db.executemany("DELETE FROM flow WHERE n = ?", marks).rowcount
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    return count


def _places(folder: Path, db: sqlite3.Connection, row: Row) -> list[tuple[int, int]]:
    """Of all records that are this flow's alone."""
    found = [(row.segment, row.offset)]
    if row.flags & ix.IN_PARTS:
        found += db.execute("SELECT seg, off FROM part WHERE n = ?", (row.n,)).fetchall()
    try:
        record = records.decode(Segment(folder, row.segment).record(row.offset))
        return found + records.pieces(record)
    except (Damaged, FileNotFoundError):
        return found  # nobody can read it
    except (ValueError, TypeError, IndexError) as error:
        logger.warning("flow %d: what belongs to its record cannot be told, and stays: %r", row.n, error)
        return found


def blank(folder: Path, number: int, offsets: set[int]) -> None:
    """Overwrite records. One that is compressed is written anew with its segment. Raises OSError."""
    plain = segment.plain_path(folder, number)
    if plain.exists():
        source = Segment(folder, number)
        fd = os.open(plain, os.O_RDWR | os.O_CLOEXEC)
        try:
            for offset in offsets:
                with contextlib.suppress(Damaged):
                    empty = _empty(len(source.record(offset)))
                    os.pwrite(fd, segment.FRAME.pack(len(empty), zlib.crc32(empty)) + empty, offset)
        finally:
            os.close(fd)
            source.close()
        return
    with contextlib.suppress(Damaged):
        segment.repack(folder, number, lambda offset, payload: _empty(len(payload)) if offset in offsets else payload)


def _empty(size: int) -> bytes:
    """A record of that size that says nothing: an array that begins with nil."""
    if size <= 16:
        return bytes([0x90 | max(size - 1, 0)]) + b"\xc0" * (size - 1)
    return b"\x92\xc0\xc6" + struct.pack(">I", size - 7) + bytes(size - 7)
