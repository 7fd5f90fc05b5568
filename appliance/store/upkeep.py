"""What the event loop must not wait for: checkpoints, recovery, compression, the budget. A thread.

Not one of low priority: on a busy machine it would be taken off the processor while it holds the interpreter's lock,
and the loop would wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from appliance.log import RateLimited
from appliance.store import index as ix
from appliance.store import recovery, segment
from appliance.store.segment import Damaged

logger = logging.getLogger(__name__)

TICK: Final = 5.0
OFTEN: Final = 1.0
"""Seconds from one look to the next, and the least, when segments become full or too old faster than that."""
CHECKPOINT_BYTES: Final = 48 << 20
"""Bytes of SQLite's log from which on it is worked into the index and begun anew: that of about 100,000 flows. It takes
some dozen milliseconds. Where the loop has no other processor these are seen by all who wait for an answer then: after
each second, as it was, by one request in a hundred."""
CHECKPOINT_SECONDS: Final = 60.0
LITTLE: Final = 4 << 20
"""After so long a smaller log, too, but none below these bytes."""
QUIET: Final = 200
"""Flows a second below which a sealed segment is compressed; when more come meanwhile it is left for later."""
GLANCE: Final = 0.05
"""Seconds after which it is looked whether more come."""


def delete(folder: Path, db: sqlite3.Connection, number: int) -> None:
    """A segment and all that the index knows of it. Raises sqlite3.Error, OSError."""
    for _ in ix.forget(db, number):
        time.sleep(0.001)  # the writer's turn
    for path in (segment.plain_path(folder, number), segment.packed_path(folder, number)):
        path.unlink(missing_ok=True)


def index_bytes(folder: Path) -> int:
    total = 0
    for end in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            total += (folder / f"{ix.FILE}{end}").stat().st_size
    return total


def keep_budget(
    folder: Path, db: sqlite3.Connection, max_bytes: int | None, max_age: float | None, now: float | None = None
) -> list[int]:
    """Delete the oldest segments until the rest fits. The numbers of those that went. Raises sqlite3.Error, OSError.

    What is being written is never deleted, so the budget is kept to about two segments for each gateway. Space in the
    index is used again, not given back, so what it holds free does not count.
    """
    now = time.time() if now is None else now
    rows = db.execute("SELECT number, bytes, last, sealed FROM segment ORDER BY number").fetchall()
    pages, free, page = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    in_index = (pages - free) * page
    segments = sum(row[1] for row in rows)
    gone = []
    for number, size, last, sealed in rows:
        over = max_bytes is not None and segments + in_index > max_bytes
        old = max_age is not None and last < now - max_age
        if not sealed or not (over or old):
            continue
        delete(folder, db, number)
        in_index -= in_index * size // max(segments, 1)
        segments -= size
        gone.append(number)
    return gone


def compress_one(folder: Path, db: sqlite3.Connection, between: Callable[[], object] = lambda: None) -> int | None:
    """Compress the oldest sealed segment that is not: its number. Raises sqlite3.Error, OSError.

    between: see `segment.compress`.
    """
    for (number,) in db.execute("SELECT number FROM segment WHERE sealed = 1 ORDER BY number").fetchall():
        if not segment.plain_path(folder, number).exists():
            continue
        try:
            size = segment.compress(folder, number, between)
        except Damaged as error:  # what is whole in it can be read as it is
            logger.warning("%s; its segment is not compressed", error)
            db.execute("UPDATE segment SET sealed = 2 WHERE number = ?", (number,))
            return int(number)
        db.execute("UPDATE segment SET bytes = ?, sealed = 2 WHERE number = ?", (size, number))
        return int(number)
    return None


class Disk:
    """What of the segments has reached the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}

    def sync(self) -> None:
        """Wait until all that is in the segments now has. Raises OSError."""
        sizes: dict[str, int] = {}
        for path in self._folder.glob("*.seg"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                size = sizes[path.name] = os.fstat(fd).st_size
                if size != self._sizes.get(path.name):
                    os.fdatasync(fd)
            finally:
                os.close(fd)
        self._sizes = sizes


class Upkeep(threading.Thread):
    """Runs until `stop`. flows: how many have been recorded so far."""

    def __init__(
        self, folder: Path, max_bytes: int | None, max_age: float | None, flows: Callable[[], int] = lambda: 0
    ) -> None:
        super().__init__(name="lockgate store", daemon=True)
        self.folder = folder
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.deleted = 0
        self._flows = flows
        self._counted = 0
        self._looked = self._worked = time.monotonic()
        self._recovered: tuple[int, int] | None = None  # the index that was brought up to date
        self._stop_now = threading.Event()
        self._now = threading.Event()
        self._disk = Disk(folder)
        self._told = RateLimited(logger, per_minute=1)

    def look(self) -> None:
        """A segment is full, so it may be that another has to go."""
        self._now.set()

    def stop(self) -> None:
        self._stop_now.set()
        self._now.set()
        if self.ident is not None:
            self.join(10.0)

    def run(self) -> None:
        db: ix.Index | None = None
        first = True
        while True:
            if not first and not self._stop_now.wait(OFTEN):
                self._now.wait(min(TICK, (self.max_age or TICK * 8) / 8) - OFTEN)
            self._now.clear()
            first, last = False, self._stop_now.is_set()
            try:
                old = db
                if (db is None or not db.in_place()) and self.folder.exists():
                    db = recovery.open_index(self.folder, busy_ms=200, sync=True)
                    if old is not None:  # only now, or the new file could get the old one's number
                        old.close()
                if db is not None:
                    self._tick(db, last)
            except (OSError, sqlite3.Error, ix.Unusable) as error:
                if not last:
                    self._told.log(logging.INFO, str(error), "%s: upkeep has to wait: %s", self.folder, error)
                if db is not None and isinstance(error, sqlite3.Error) and ix.is_damage(error):
                    with contextlib.suppress(OSError):
                        recovery.renounce(self.folder, db, error)
                if db is not None and (not isinstance(error, sqlite3.Error) or ix.is_damage(error)):
                    db.close()
                    db = None
            except Exception:
                logger.exception("%s: fault in the upkeep of the flow store", self.folder)
            if last:
                if db is not None:
                    db.close()
                return

    def _tick(self, db: ix.Index, last: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            log = (self.folder / f"{ix.FILE}-wal").stat().st_size
            if last or log > self._enough() or (log > LITTLE and time.monotonic() - self._worked > CHECKPOINT_SECONDS):
                self._worked = time.monotonic()
                self._disk.sync()  # first: after a power cut the index must not know of what is not there
                # A writer that never rests would never let the log begin anew. So it is kept out for what is left after
                # two times, some milliseconds, in which its rows wait in memory. A file left as long as it was would be
                # taken for a full one at each look from then on.
                for how in ("PASSIVE",) if last else ("PASSIVE", "PASSIVE", "TRUNCATE"):
                    db.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
        if last:
            return
        with recovery.locked(self.folder) as ours:
            if not ours:
                return
            if self._recovered != db.file:
                count = recovery.recover(self.folder, db)
                self._recovered = db.file
                if count:
                    logger.info("%s: %d flows of an earlier run were put into the index", self.folder, count)
            if gone := keep_budget(self.folder, db, self.max_bytes, self.max_age):
                self.deleted += len(gone)
                logger.debug("%s: %d segments deleted for the budget", self.folder, len(gone))
            now, flows = time.monotonic(), self._flows()
            few = flows - self._counted < QUIET * (now - self._looked)
            self._looked, self._counted = now, flows
            if few:
                with contextlib.suppress(segment.Later):
                    compress_one(self.folder, db, self._while_quiet())

    def _enough(self) -> int:
        """`CHECKPOINT_BYTES`; less, where little may be kept."""
        return min(CHECKPOINT_BYTES, max(LITTLE, (self.max_bytes or CHECKPOINT_BYTES * 16) // 16))

    def _while_quiet(self) -> Callable[[], None]:
        """Ends what it is called by, with `segment.Later`, when traffic comes or the gateway ends."""
        looked, counted = time.monotonic(), self._flows()

        def between() -> None:
            nonlocal looked, counted
            now = time.monotonic()
            if self._stop_now.is_set():
                raise segment.Later
            if (passed := now - looked) >= GLANCE:
                flows = self._flows()
                if flows - counted > QUIET * passed:
                    raise segment.Later
                looked, counted = now, flows

        return between
