"""After a crash: what the index has not got of a segment is put into it, half a record at the end is cut off, and what
a power cut has taken of it leaves the index.

What is damaged is set aside, in the folder `damaged`, and told; the rest opens.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from appliance.flow import Flow
from appliance.store import index as ix
from appliance.store import rows, segment
from appliance.store.folder import give
from appliance.store.reading import Shelf
from appliance.store.segment import Damaged, Segment

logger = logging.getLogger(__name__)

DAMAGED: Final = "damaged"
LOCK: Final = "upkeep.lock"
STEP: Final = 500
"""Flows to a transaction."""


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Only one process at a time compresses, deletes and recovers: whether it is us. Raises OSError."""
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give(fd, folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def open_index(folder: Path, *, busy_ms: int = 0, sync: bool = False, ours: bool = False) -> ix.Index:
    """The index of a store; one that is damaged is set aside and a new one begun. Raises sqlite3.Error, OSError.

    ours: the caller holds `locked`.
    """
    path = folder / ix.FILE
    if path.exists():
        with contextlib.suppress(ix.Unusable):
            return ix.connect(path, busy_ms=busy_ms, sync=sync)
    with contextlib.nullcontext(True) if ours else locked(folder) as free:
        if not free:
            raise ix.Busy("another process is at work in the store")
        try:
            return _mine(path, busy_ms, sync)
        except ix.Unusable as error:
            _renounce(folder, error)
            return _mine(path, busy_ms, sync)


def renounce(folder: Path, db: ix.Index, error: sqlite3.Error) -> None:
    """Damage was found in an index that was open; if nobody was faster, it is set aside. Raises OSError."""
    with locked(folder) as ours:
        if ours and db.in_place():
            _renounce(folder, error)


def _renounce(folder: Path, error: Exception) -> None:
    logger.error("%s: the index: %s; it is set aside in %s, and made anew from the segments",
                 folder, error, folder / DAMAGED)  # fmt: skip
    set_aside(folder, ix.FILE, f"{ix.FILE}-wal", f"{ix.FILE}-shm")


def _mine(path: Path, busy_ms: int, sync: bool) -> ix.Index:
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        give(path, path.parent)
    return ix.connect(path, busy_ms=busy_ms, sync=sync)


def set_aside(folder: Path, *names: str) -> None:
    """Move files to where nobody reads them. Raises OSError."""
    aside = folder / DAMAGED
    aside.mkdir(mode=0o700, exist_ok=True)
    give(aside, folder)
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).rename(aside / f"{name}.{stamp}")


def recover(folder: Path, db: sqlite3.Connection) -> int:
    """Bring the index up to date with the segments whose writers are gone. Returns how many flows it put in.

    The caller holds `locked`. Raises sqlite3.Error, OSError.
    """
    with contextlib.closing(Talks(db)) as talks:
        return _recover(folder, db, talks)


def _recover(folder: Path, db: sqlite3.Connection, talks: Talks) -> int:
    known = {number for (number,) in db.execute("SELECT number FROM segment")}
    found = 0
    killed = alive = False
    there = segment.numbers(folder)
    for number in there:
        plain, packed = segment.plain_path(folder, number), segment.packed_path(folder, number)
        fd = segment.lock_abandoned(plain) if plain.exists() else None
        if fd is None and plain.exists():
            alive = True  # its writer
            continue
        try:
            indexed, size, sealed = db.execute(  # now that nobody writes to it
                "SELECT indexed, bytes, sealed FROM segment WHERE number = ?", (number,)
            ).fetchone() or (segment.HEAD.size, 0, 0)
            if sealed and _whole(folder, number, size):
                continue
            if fd is not None and packed.exists():  # killed while it was compressed, after the new one was whole
                plain.unlink()
            found += _index(folder, db, talks, number, indexed, fd)
            killed = True
        except Damaged as error:
            aside(folder, db, number, str(error))
        finally:
            if fd is not None:
                os.close(fd)
    for number in known - set(there):
        for _ in ix.forget(db, number):
            pass
    if killed and not alive:  # whoever wrote more of them, in segments that were whole, is gone too
        db.execute(f"UPDATE flow SET flags = flags & ~{ix.OPEN} WHERE flags & {ix.OPEN}")
    return found


def _whole(folder: Path, number: int, size: int) -> bool:
    """Whether a sealed segment is as long as it was. Raises Damaged: its beginning is missing, or the table at its end;
    FileNotFoundError: it is gone."""
    source = Segment(folder, number)
    try:
        return source.packed or source.size >= size
    finally:
        source.close()


def aside(folder: Path, db: sqlite3.Connection, number: int, why: str) -> None:
    """A segment that cannot be used: its file is set aside, its flows leave the index. Raises as `recover`."""
    logger.error("%s; the segment is set aside in %s, the rest of the store is not touched", why, folder / DAMAGED)
    set_aside(folder, segment.plain_path(folder, number).name, segment.packed_path(folder, number).name)
    for _ in ix.forget(db, number):
        pass


def _index(folder: Path, db: sqlite3.Connection, talks: Talks, number: int, indexed: int, fd: int | None) -> int:
    """Index what is missing, seal. fd: of the plain file, locked; None: it is compressed. Raises Damaged."""
    source = Segment(folder, number)
    try:
        work = Reindex(folder, db, talks, number)
        if fd is not None:
            indexed = work.back(source, indexed)
            if source.size == segment.HEAD.size:
                source.path.unlink()
                return 0
        end = indexed

        def tell(error: Damaged) -> None:
            logger.warning("%s; it is left out", error)

        try:
            for offset, payload in source.records(indexed, tell):
                try:
                    work.take(offset, payload)
                except Damaged as error:
                    tell(error)
                end = offset + segment.FRAME.size + len(payload)
        except Damaged as error:
            if fd is None:
                raise
            logger.warning("%s; %d bytes at its end, of flows that were being written, are cut off",
                           error, source.size - end)  # fmt: skip
            os.ftruncate(fd, end)
        work.finish(end, source.size if fd is None else end)
        return work.count
    finally:
        source.close()


class Talks:
    """Conversations that the index has, by their flow's id, which it has no index for: all of them are looked at once,
    when the first is asked for. On disk if they are many."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._there = False

    def find(self, id: str) -> tuple[int, int, int] | None:
        """Its number, and the segment and offset of its head. Raises sqlite3.Error, ValueError."""
        if not self._there:
            self._there = True
            for statement in (
                "CREATE TEMP TABLE talk (uid TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID",
                f"CREATE TEMP TRIGGER opened AFTER INSERT ON main.flow WHEN NEW.flags & {ix.IN_PARTS} "
                "BEGIN INSERT OR REPLACE INTO talk VALUES (NEW.uid, NEW.n); END",
                f"INSERT OR REPLACE INTO talk SELECT uid, n FROM flow WHERE flags & {ix.IN_PARTS}",
            ):
                self._db.execute(statement)
        found: tuple[int, int, int] | None = self._db.execute(
            "SELECT n, seg, off FROM talk JOIN flow USING (n) WHERE talk.uid = ?", (id,)
        ).fetchone()
        return found

    def close(self) -> None:
        if self._there:
            self._db.execute("DROP TRIGGER IF EXISTS temp.opened")
            self._db.execute("DROP TABLE IF EXISTS temp.talk")


class Reindex:
    """Rows for the records of one segment, as its writer would have made them."""

    def __init__(self, folder: Path, db: sqlite3.Connection, talks: Talks, number: int) -> None:
        self.count = 0
        self._db = db
        self._talks = talks
        self._number = number
        self._shelf = Shelf(folder)
        self._names = self._known(number)
        self._batch = ix.Batch()
        self._open: dict[str, _Open | None] = {}
        self._last = 0.0
        self._begun = 0.0

    def _known(self, number: int) -> rows.Names:
        """What the index has of a segment's names."""
        names = rows.Names(number)
        within = number << ix.SHIFT, (number + 1 << ix.SHIFT) - 1
        for name in self._db.execute("SELECT id, kind, text, alias FROM name WHERE id BETWEEN ? AND ?", within):
            names.known(*name)
        for table, columns, of in (("common", ix.COMMON, names.common), ("form", ix.FORM, names.forms)):
            for one in self._db.execute(
                f"SELECT id, {', '.join(columns)} FROM {table} WHERE id BETWEEN ? AND ?", within
            ):
                of.known(*one)
        return names

    def back(self, source: Segment, indexed: int) -> int:
        """After a power cut the index may know more than has reached the file: from where on it has to go on.

        What lies behind the last record that is whole leaves the index. Raises sqlite3.Error.
        """
        first, last = self._db.execute(
            "SELECT coalesce(min(first_n), 0), coalesce(max(last_n), -1) FROM segment WHERE number = ?", (self._number,)
        ).fetchone()
        within = {"seg": self._number, "first": first, "last": last}
        known = self._db.execute(
            "SELECT off FROM flow WHERE n BETWEEN :first AND :last AND seg = :seg "
            "UNION SELECT off FROM part WHERE seg = :seg ORDER BY off DESC", within
        ).fetchall()  # fmt: skip
        end = segment.HEAD.size
        for (offset,) in known:
            with contextlib.suppress(Damaged):
                end = offset + segment.FRAME.size + len(source.record(offset))
                break
        if source.size >= indexed and (not known or end > known[0][0]):
            return indexed
        lost = [
            (n,) for n, flags in self._db.execute(
                "SELECT n, flags FROM flow WHERE n BETWEEN :first AND :last AND seg = :seg AND off >= :end",
                within | {"end": end},
            ).fetchall() if not (flags & ix.IN_PARTS and self._head_before(n, end))
        ]  # fmt: skip
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("DELETE FROM flow WHERE n = ?", lost)
            self._db.executemany("DELETE FROM part WHERE n = ?", lost)
            self._db.execute("DELETE FROM part WHERE seg = ? AND off >= ?", (self._number, end))
            self._db.execute("UPDATE segment SET flows = flows - ?, dropped = dropped + ? WHERE number = ?",
                             (len(lost), len(lost), self._number))  # fmt: skip
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        logger.warning("%s ends before what the index knows of it, as after a power cut: %d flows are lost",
                       source.path, len(lost))  # fmt: skip
        self._commit(end, end, sealed=False)
        return end

    def _head_before(self, n: int, end: int) -> bool:
        """A conversation's head lies behind `end`: the one before becomes its row. False: there is none."""
        for number, offset in self._db.execute(
            "SELECT seg, off FROM part WHERE n = ? AND NOT (seg = ? AND off >= ?) ORDER BY seg DESC, off DESC",
            (n, self._number, end),
        ).fetchall():
            with contextlib.suppress(Damaged, OSError):
                record = self._shelf.record(number, offset)
                if record[0] == "f":
                    size = len(self._shelf.segment(number).record(offset))
                    names = self._known(number)
                    flow, row = self._row(number, offset, record, size, names)
                    names.hand_over(self._batch)
                    talk = self._open[flow.id] = _Open()
                    talk.n, talk.segment, talk.offset = n, number, offset
                    self._batch.changed.append((talk, row))
                    return True
        return False

    def take(self, offset: int, payload: bytes) -> None:
        """One record. Raises Damaged, sqlite3.Error."""
        from appliance.store import records

        try:
            record = records.decode(payload)
            kind = record[0]
            if kind == "m":
                if (talk := self._talk(record[1])) is not None:
                    self._batch.parts.append((self._number, offset, talk))
            elif kind == "f":
                self._flow(offset, record, len(payload))
        except (ValueError, TypeError, IndexError) as error:
            raise Damaged(f"{self._shelf.segment(self._number).path}: the record at {offset}: {error}") from None
        if len(self._batch) >= STEP:
            end = offset + segment.FRAME.size + len(payload)
            self._commit(end, end, sealed=False)

    def _row(
        self, number: int, offset: int, record: Any, size: int, names: rows.Names
    ) -> tuple[Flow, list[Any]]:  # fmt: skip
        flow = self._shelf.made(record, number, offset)
        extra = record[7]
        facts = rows.client_facts(flow.client_conn, names)
        name = rows.server_name(flow.server_conn, names)
        count = tuple(extra["count"]) if "count" in extra else None
        bits = extra.get("bits", 0) & ~ix.OPEN
        try:
            return flow, rows.row(flow, offset, size, facts, name, names, count, bits)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise Damaged(f"segment {number}: the record at {offset} makes no row: {error!r}") from None

    def _flow(self, offset: int, record: Any, size: int) -> None:
        flow, row = self._row(self._number, offset, record, size, self._names)
        begun = row[ix.T]
        if begun is not None and math.isfinite(over := begun + (row[ix.DUR] or 0.0)):
            self._last = max(self._last, over)
            self._begun = min(self._begun or begun, begun)
        if not record[7].get("bits", 0) & ix.IN_PARTS:
            self._batch.rows.append(row)
        elif (talk := self._talk(flow.id)) is not None:
            if (talk.segment, talk.offset) > (self._number, offset):  # it went on before this segment was indexed
                self._batch.parts.append((self._number, offset, talk))
                return
            if talk.segment:
                self._batch.parts.append((talk.segment, talk.offset, talk))
            talk.segment, talk.offset = self._number, offset
            self._batch.changed.append((talk, row))
            return
        else:
            talk = self._open[flow.id] = _Open()
            talk.segment, talk.offset = self._number, offset
            self._batch.opened.append((talk, row))
        self.count += 1

    def _talk(self, id: str) -> _Open | None:
        """A conversation whose head was seen; in this segment, or in an earlier one."""
        if id not in self._open:
            found = self._talks.find(id)
            talk = None
            if found is not None:
                talk = _Open()
                talk.n, talk.segment, talk.offset = found
            self._open[id] = talk
        return self._open[id]

    def _commit(self, indexed: int, size: int, sealed: bool) -> None:
        self._names.hand_over(self._batch)
        now = min(self._last or math.inf, time.time())  # one in the future would keep the segment for ever
        refused = self._batch.commit(self._db, self._number, indexed, size, self._begun or now, now, sealed=sealed)
        self._batch = ix.Batch()
        if refused:
            self.count -= refused
            logger.warning("%s: %d flows are left out: the index does not take them",
                           self._shelf.segment(self._number).path, refused)  # fmt: skip

    def finish(self, indexed: int, size: int) -> None:
        self._db.execute(
            f"UPDATE flow SET flags = flags & ~{ix.OPEN} WHERE seg = ? AND flags & {ix.OPEN} AND n >= "
            "coalesce((SELECT first_n FROM segment WHERE number = ?), 0)", (self._number, self._number)
        )  # fmt: skip
        self._commit(indexed, size, sealed=True)
        self._shelf.close()


class _Open:
    """A conversation of which more may come."""

    n = segment = offset = 0
