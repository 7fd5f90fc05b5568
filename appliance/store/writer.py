"""One segment file and its rows in the index, written in batches from the event loop. What is written: `recorder.py`.

A batch is one write to the segment, after 64 flows or 50 ms, so that a kill -9 loses at most what ended in the last
50 ms; the index follows after two batches, or a little later. Nothing here waits: what cannot be written
(disk full, index locked) is kept up to `queue_bytes`, then dropped, counted and told. Never raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance.log import RateLimited
from appliance.store import index as ix
from appliance.store import records, rows, segment

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.store.tee import Talk

logger = logging.getLogger(__name__)

BATCH: Final = 64
"""Flows that are encoded and written in one go. One at a time costs half as much again; many more leave the processor's
cache while they wait, and hold up the loop until it shows in the slowest answers."""
COMMIT_ROWS: Final = 2 * BATCH
"""So many of their rows go into the index in one transaction, which has a price of its own; more of them would show."""
FLUSH_SECONDS: Final = 0.05
FLUSH_BYTES: Final = 1 << 20
"""A smaller batch is written when it has waited so long or has so many bytes."""
COMMIT_SECONDS: Final = 0.2
"""Fewer follow so late; what the index lacks is found in the segment."""
MOST_ROWS: Final = 256
"""Rows of one transaction, when many have waited: what holds the loop up must be short."""
RETRY_SECONDS: Final = 0.25
GLANCE_SECONDS: Final = 60.0
"""It is looked at least so often whether a segment is old: what that is may be changed while the gateway runs."""
PATIENCE: Final = 1.0
"""Seconds for which the index may be locked by somebody else before it is a fault."""
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
ROW_COST: Final = 640
PART_COST: Final = 128
NAME_COST: Final = 256
TALK_COST: Final = 4096
"""Bytes of memory that a row is reckoned at while it waits, messages of a conversation, a name, and the conversation
that a row belongs to: it is not let go of before its row is written."""


@dataclass(frozen=True, slots=True)
class Status:
    """How recording goes. fault: why nothing can be written now, "" = all is well. Counts are of this process.

    waiting: bytes in memory that are to be written. longest: seconds that one batch has held the loop at most.
    """

    folder: str
    fault: str
    flows: int
    bytes: int
    dropped: int
    waiting: int
    longest: float


class Writer(ABC):
    """One writer of one store.

    folder: where it is. segment_bytes, segment_seconds: when a segment is cut. queue_bytes: memory for what waits.
    loop: None in tests and tools, who call `flush` themselves. sealed: called when a segment has become full or old.
    """

    def __init__(
        self,
        folder: Path,
        *,
        loop: asyncio.AbstractEventLoop | None,
        segment_bytes: int,
        segment_seconds: float,
        queue_bytes: int,
    ) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.segment_seconds = segment_seconds
        self.queue_bytes = queue_bytes
        self.flows = self.dropped = self.bytes = 0
        self.fault = ""
        self.longest = 0.0
        self.sealed: Callable[[], object] = lambda: None
        self._loop = loop
        self._timer: asyncio.Handle | None = None
        self._hurried = False  # it is not waited for
        self._told = RateLimited(logger, per_minute=1)
        self._odd = RateLimited(logger, per_minute=1)
        self._closed = False
        self._db: ix.Index | None = None
        self._file: tuple[int, int] | None = None  # the index that has the rows so far
        self._oldest = 0  # the first segment it has rows of
        self._fd = -1
        self._reopen = self._committed = self._busy_since = 0.0
        self._tried_dropped = 0  # of `dropped`, how many the index knows of
        self._told_dropped = 0
        self._talks: list[Talk] = []  # in which something was said since the last flush
        self._fresh()

    @abstractmethod
    def _encode(self) -> None:
        """What has ended becomes records and rows."""

    def _fresh(self) -> None:
        """State of a segment that is not there yet. Its first records lie at the offsets that they are given now."""
        self.number = 0
        self._written = self._end = segment.HEAD.size
        self._parts: list[bytes] = []  # what is to be written, from `_written` to `_end`: frames and payloads in turn
        self._ended: list[Flow] = []  # flows that are to become records
        self._heavy = 0  # bytes of their bodies
        self._names = rows.Names(0)
        self._batch = ix.Batch()
        self._held = 0  # bytes that all in it is reckoned at, but for its `rows`
        self._gathered = 0  # flows since the last flush
        self._begun = time.time()
        self._since = time.monotonic()

    def start(self) -> None:
        """Open the store. Where that cannot be it is told, tried again, and flows are dropped and counted meanwhile."""
        self._ready()

    def _ready(self) -> bool:
        """Whether there is a segment to write to; tried anew after a while."""
        if self._fd >= 0:
            return True
        if self._closed or time.monotonic() < self._reopen:
            return False
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self.folder, 0o700)
            self.number, self._fd = segment.create(self.folder, self._highest())
        except (OSError, sqlite3.Error) as error:
            self._reopen = time.monotonic() + RETRY_SECONDS
            self._failed(error)
            return False
        self._names = rows.Names(self.number)
        if self._loop is not None:
            self._loop.call_later(min(GLANCE_SECONDS, self.segment_seconds), self._look, self.number)
        return True

    def _age(self) -> float:
        """Seconds since this segment was begun."""
        return time.monotonic() - self._since

    def _look(self, number: int) -> None:
        """A segment is cut when it is old, also where nothing comes any more: only then can it become too old."""
        if number == self.number and self._fd >= 0 and self._loop is not None:
            if self._age() >= self.segment_seconds:
                self.flush()
            if number == self.number:
                left = min(GLANCE_SECONDS, self.segment_seconds - self._age())
                self._loop.call_later(max(1.0, left), self._look, number)

    def _highest(self) -> int:
        """The highest number of a segment that the index knows; 0 where it cannot be asked."""
        try:
            found = self._index().execute("SELECT max(number) FROM segment").fetchone()[0]
            return int(found or 0)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or ix.is_damage(error):
                return 0
            raise

    def _index(self) -> ix.Index:
        """Raises sqlite3.Error, OSError."""
        db = self._db
        if db is None or not db.in_place():
            from appliance.store.recovery import open_index

            self._db = open_index(self.folder)
            if db is not None:  # only now, or the new file could get the old one's number
                db.close()
            return self._db
        return db

    # -- the queue

    def _put(self, record: Any) -> tuple[int, int]:
        """Queue a record: its offset, and the bytes of its payload."""
        offset, payload = self._end, records.encode(record)
        self._parts += segment.frame(len(payload), zlib.crc32(payload)), payload
        self._end += segment.FRAME.size + len(payload)
        if self._timer is None:
            self._arm(FLUSH_SECONDS)
        elif self._end - self._written >= FLUSH_BYTES:
            self._soon()
        return offset, len(payload)

    def _no_room(self, lost: int = 1) -> bool:
        """Whether a flow has to be dropped; it is counted then."""
        if self._waiting() < self.queue_bytes and (self._fd >= 0 or self._ready()):
            return False
        self.dropped += lost
        self._tell()
        if self._timer is None:
            self._arm(RETRY_SECONDS)
        return True

    def _waiting(self) -> int:
        """Bytes in memory that are to be written."""
        rows = len(self._batch.rows) + len(self._ended)
        return self._end - self._written + self._heavy + self._held + rows * ROW_COST

    def _arm(self, seconds: float) -> None:
        if self._loop is not None and not self._closed:
            self._timer = self._loop.call_later(seconds, self.flush)

    def _soon(self) -> None:
        if self._loop is None:
            self.flush()
        elif self._timer is not None and not self._hurried and not self._closed and not self.fault:
            self._hurried = True
            self._timer.cancel()
            self._timer = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits, as far as that can be done now."""
        began = time.perf_counter()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hurried = False
        self._gathered = 0
        talks, self._talks = self._talks, []
        for talk in talks:
            talk.flush()
        if not self._ready():
            self._arm(RETRY_SECONDS)
            return
        self._encode()
        try:
            if parts := self._parts:
                segment.write(self._fd, parts, self._written)
                self.bytes += self._end - self._written
                self._written = self._end
                self._parts = []
            self._held += self._names.hand_over(self._batch) * NAME_COST
            now = time.monotonic()
            if len(self._batch) and (
                self._loop is None or now - self._committed >= COMMIT_SECONDS or len(self._batch.rows) >= COMMIT_ROWS
            ):
                self._commit()
                self._committed = now
            old = self._age() >= self.segment_seconds
            if full := self._written >= self.segment_bytes or old or len(self._names) >= ix.LIMIT_NAMES:
                self._roll()
        except (OSError, sqlite3.Error) as error:
            self._failed(error)
            self._arm(RETRY_SECONDS)
            return
        self._busy_since = 0.0
        if self.fault and self._fd >= 0:
            self._recovered()
        if not full and len(self._batch) and self._timer is None:
            self._arm(FLUSH_SECONDS)
        self.longest = max(self.longest, time.perf_counter() - began)

    def sync(self) -> None:
        """The same, the index included."""
        self._committed = 0.0
        self.flush()

    def _commit(self, sealed: bool = False) -> bool:
        """Raises sqlite3.Error, OSError; then the batch is still there.

        False: the index is another, which knows nothing of this segment. It is left to `recovery`, another is begun.
        """
        db = self._index()
        if self._file is not None and self._file != db.file:
            self._file, self._oldest = db.file, self.number + 1
            self._leave()
            return False
        dropped = self.dropped
        batch, rest = (self._batch, None) if sealed else self._batch.split(MOST_ROWS)
        indexed = self._written if rest is None else rest.rows[0][ix.OFF]
        refused = batch.commit(db, self.number, indexed, self._written, self._begun, time.time(),
                               dropped=dropped - self._tried_dropped, sealed=sealed)  # fmt: skip
        self._file = db.file
        self._tried_dropped = dropped
        self._batch = rest or ix.Batch()
        self._held = 0
        if refused:
            self.flows -= refused
            self.dropped += refused
            self._tried_dropped += refused
            self._odd.log(logging.ERROR, "refused", "%d flows could not be recorded: the index does not take them",
                          refused)  # fmt: skip
        return True

    def _roll(self) -> None:
        """Seal this segment; the next record opens another. Raises sqlite3.Error, OSError."""
        if self._written == segment.HEAD.size:
            self._since = time.monotonic()
        elif self._commit(sealed=True):
            self._leave()
            self.sealed()

    def _leave(self) -> None:
        """This segment is no longer ours."""
        os.close(self._fd)
        self._fd = -1
        self._fresh()
        self._ready()

    # -- what goes wrong

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _BUSY:
            self._busy_since = self._busy_since or now
            if now - self._busy_since < PATIENCE:
                return  # another gateway, or upkeep: it will not be long
        if isinstance(error, OSError):
            why = error.strerror or str(error)
        else:
            why = f"the index: {error}"
            if isinstance(error, sqlite3.Error) and self._db is not None and ix.is_damage(error):
                from appliance.store.recovery import renounce

                with contextlib.suppress(OSError):
                    renounce(self.folder, self._db, error)
                self._db.close()
                self._db = None
        if not self.fault:
            self._told_dropped = self.dropped
        self.fault = why
        self._tell()

    def _tell(self) -> None:
        lost = self.dropped - self._told_dropped
        self._told.log(
            logging.WARNING,
            self.fault,
            "flows cannot be recorded in %s: %s; traffic goes on, %s (options store_dir, store_max_bytes; store=false)",
            self.folder,
            self.fault or "they come faster than they can be written",
            f"{lost} flows are lost so far" if lost else f"up to {self.queue_bytes >> 20} MiB wait in memory",
        )

    def _recovered(self) -> None:
        lost = self.dropped - self._told_dropped
        logger.warning("flows are recorded again; %s", f"{lost} were lost meanwhile" if lost else "none was lost")
        self.fault = ""

    def status(self) -> Status:
        return Status(str(self.folder), self.fault, self.flows, self.bytes, self.dropped, self._waiting(), self.longest)

    def close(self) -> None:
        """Write what waits and seal the segment. What cannot be written now is lost, and that is told."""
        self.sync()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.dropped += self._batch.cut(self.number, self._written) + len(self._ended)
        if self._fd >= 0:
            if self._written == segment.HEAD.size:
                segment.plain_path(self.folder, self.number).unlink(missing_ok=True)
            else:
                try:
                    self._commit(sealed=True)
                except (OSError, sqlite3.Error) as error:
                    logger.warning("%s: the index could not be brought up to date: %s", self.folder, error)
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        if self._db is not None:
            self._db.close()
            self._db = None
        if self.dropped:
            logger.warning("%d flows could not be recorded", self.dropped)
