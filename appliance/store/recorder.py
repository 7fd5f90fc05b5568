"""Writes flows into the store, from the event loop: encoded when they end, written in batches.

A batch is one write to the segment, after 50 ms or 128 flows, so that a kill -9 loses at most what ended in the last
50 ms; the index follows with each full batch, or a little later. Nothing here waits: what cannot be written (disk full,
index locked) is kept up to `queue_bytes`, then dropped, counted and told. Never raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.flow import Error, Flow
from appliance.http import HTTPFlow
from appliance.log import RateLimited
from appliance.store import index as ix
from appliance.store import plain, records, rows, segment
from appliance.store.records import State
from appliance.store.tee import Talk, Tee
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow

if TYPE_CHECKING:
    from appliance.connection import Client, Server

logger = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.05
BATCH: Final = 128
FLUSH_BYTES: Final = 1 << 20
"""A batch is written at the latest when it has waited so long, has so many flows, or so many bytes."""
TOGETHER: Final = 48
"""Flows that are encoded in a row: one at a time costs half as much again, and more at a time leave the processor's
cache and wake the garbage collector while they wait."""
COMMIT_SECONDS: Final = 0.2
"""So late the index follows when batches are not full: a transaction has a price of its own, and what it lacks is
found again in the segment."""
BURST: Final = 1024
"""Flows that may end in one turn of the loop; then they are written without waiting for the next."""
MOST_ROWS: Final = 1024
"""Rows of one transaction, when many have waited: what holds the loop up must be short."""
RETRY_SECONDS: Final = 0.25
PATIENCE: Final = 1.0
"""Seconds for which the index may be locked by somebody else before it is a fault."""
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
ROW_COST: Final = 640
PART_COST: Final = 128
NAME_COST: Final = 256
TALK_COST: Final = 4096
"""Bytes of memory that a row is reckoned at while it waits, messages of a conversation, a name, and the conversation
that a row belongs to: it is not let go of before its row is written."""
CERTIFICATES: Final = 512
"""Certificates of a segment that are remembered; others are written again."""


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


class Recorder:
    """One writer of one store.

    folder: where it is. body_limit: bytes of a body that are kept. messages_limit: bytes of the messages of one
    conversation. segment_bytes, segment_seconds: when a segment is cut. queue_bytes: memory for what waits. loop: None
    in tests and tools, who call `flush` themselves.
    """

    def __init__(
        self,
        folder: Path,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        body_limit: int = 8 << 20,
        messages_limit: int = 64 << 20,
        segment_bytes: int = 64 << 20,
        segment_seconds: float = 3600.0,
        queue_bytes: int = 32 << 20,
    ) -> None:
        self.folder = folder
        self.body_limit = body_limit
        self.messages_limit = messages_limit
        self.segment_bytes = segment_bytes
        self.segment_seconds = segment_seconds
        self.queue_bytes = queue_bytes
        self.flows = self.dropped = self.bytes = 0
        self.fault = ""
        self.longest = 0.0
        self._loop = loop
        self._timer: asyncio.Handle | None = None
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
        self._fresh()

    def _fresh(self) -> None:
        """State of a segment that is not there yet. Its first records lie at the offsets that they are given now."""
        self.number = 0
        self._epoch = object()  # what connections carry when their records are in this segment
        self._written = self._end = segment.HEAD.size
        self._buffer = bytearray()  # records that are to be written
        self._ended: list[Flow] = []  # flows that are to become records
        self._heavy = 0  # bytes of their bodies
        self._names = rows.Names(0)
        self._certificates: dict[bytes, int] = {}
        self._batch = ix.Batch()
        self._held = 0  # bytes that all in it is reckoned at, but for its `rows`
        self._gathered = 0  # flows since the last flush
        self._talks: list[Talk] = []
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
            self._loop.call_later(self.segment_seconds, self._look, self.number)
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
                self._loop.call_later(max(1.0, self.segment_seconds - self._age()), self._look, number)

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

    # -- what is recorded

    def end(self, flow: Flow) -> None:
        """A flow that is over (HTTP, DNS)."""
        if self._no_room():
            return
        ended = self._ended
        ended.append(flow)
        content = getattr(getattr(flow, "response", None), "raw_content", None)
        if content is not None:
            self._heavy += len(content)
        self._gathered += 1
        if self._timer is None:
            self._arm(FLUSH_SECONDS)
        if self._gathered >= BATCH or self._heavy >= FLUSH_BYTES:
            if self._gathered >= BURST:
                self.flush()
                return
            self._soon()
        if len(self._ended) >= TOGETHER:
            self._encode()

    def _encode(self) -> None:
        """What has ended becomes records and rows."""
        ended, self._ended = self._ended, []
        self._heavy = 0
        for flow in ended:
            try:
                client, server = flow.client_conn, flow.server_conn
                if flow.type == "dns":  # ends that no other flow has
                    self._alone(flow)
                    continue
                known = client._recorded
                if known is None or known[0] is not self._epoch or known[1] is not client.verdict or known[2] != client.timestamp_tls_setup:  # fmt: skip # noqa: E501
                    known = self._client(client)
                there = server._recorded
                if there is None or there[0] is not self._epoch or there[1] is not server.peername or there[2] != server.timestamp_tls_setup:  # fmt: skip # noqa: E501
                    there = self._server(server)
                if type(flow) is HTTPFlow:
                    made = plain.made(flow, known[3], there[3], self.body_limit, (self.number, self._end), known[4],
                                      there[4], self._names)  # fmt: skip
                    if made is not None:
                        self._frame(made[0])
                        self._batch.rows.append(made[1])
                        self.flows += 1
                        continue
                spoken = flow.websocket if isinstance(flow, HTTPFlow) else None
                said = None if spoken is None else records.messages(spoken.messages)
                self._write(flow, known[3], there[3], known[4], there[4], messages=said)
            except Exception as error:
                self._broken(error, flow)

    def _alone(
        self, flow: Flow, count: tuple[int, int, float] | None = None, bits: int = 0, messages: list[Any] | None = None
    ) -> None:
        """A flow whose connections stand in its own record."""
        client, server = flow.client_conn, flow.server_conn
        facts, of_client = rows.client_facts(client, self._names), records.connection(client, self._certificate)
        name, of_server = rows.server_name(server, self._names), records.connection(server, self._certificate)
        self._write(flow, of_client, of_server, facts, name, count, bits, messages)

    def connection(self, client: Client, server: Server, moved: tuple[int, int]) -> None:
        """A connection that was passed or blocked, or came to nothing: it has no flow. moved: bytes up and down."""
        try:
            if self._no_room():
                return
            self._encode()  # first what ended before
            kind: type[TCPFlow] | type[UDPFlow] = UDPFlow if client.transport_protocol == "udp" else TCPFlow
            flow = kind(client, server)
            flow.timestamp_created = client.timestamp_start or flow.timestamp_created
            flow.moved = moved
            if client.error:
                flow.error = Error(client.error, client.timestamp_end)
            self._alone(flow, (*moved, client.timestamp_end or time.time()), ix.BARE)
        except Exception as error:
            self._broken(error, client)

    def tee(self) -> Tee:
        """For a body that streams: call it with each piece, and set it as the message's `tee`."""
        return Tee(self, self.body_limit)

    def talk(self, flow: Flow, limit: int | None = None) -> Talk:
        """A conversation begins. It is in the index with its first messages, or with its end.

        limit: bytes of messages that are kept, unless it is what all are limited to.
        """
        return Talk(self, flow, self.messages_limit if limit is None else limit)

    def piece(self, data: bytes) -> tuple[int, int] | None:
        """Keep a piece of a body: (segment, offset), None = there is no room."""
        if not self._ready() or len(self._buffer) + len(data) > self.queue_bytes:
            return None
        return self.number, self._put(("b", data))[0]

    def talking(self, talk: Talk) -> None:
        """Something was said in it since the last batch."""
        self._talks.append(talk)
        if self._timer is None:
            self._arm(FLUSH_SECONDS)

    def said(self, talk: Talk) -> None:
        """Write the new messages of a conversation that goes on."""
        messages = talk.take()
        try:
            if self._no_room(0):
                self.dropped += len(messages)
                return
            if talk.segment != self.number:
                self._head(talk, ix.OPEN)
            offset, _ = self._put(("m", talk.flow.id, messages))
            self._batch.parts.append((self.number, offset, talk))
            self._held += PART_COST
        except Exception as error:
            self._broken(error, talk.flow)

    def over(self, talk: Talk) -> None:
        """The conversation has ended; its flow says how."""
        try:
            if talk.segment:
                talk.flush()
                if not self._no_room():
                    self._head(talk, 0)
                return
            messages = talk.take()
            if self._no_room():
                return
            self._encode()
            up, down = getattr(talk.flow, "moved", None) or (talk.up, talk.down)
            self._alone(talk.flow, (up, down, time.time()), ix.CUT if talk.cut else 0, messages)
        except Exception as error:
            self._broken(error, talk.flow)

    def _head(self, talk: Talk, bits: int) -> None:
        """What is known of a conversation now, into the present segment and its row."""
        self._encode()
        flow = talk.flow
        facts = rows.client_facts(flow.client_conn, self._names)
        name = rows.server_name(flow.server_conn, self._names)
        of_client = records.connection(flow.client_conn, self._certificate)
        of_server = records.connection(flow.server_conn, self._certificate)
        count = (*(getattr(flow, "moved", None) or (talk.up, talk.down)), time.time())
        bits |= talk.bits
        offset, size = self._put(records.flow(flow, of_client, of_server, self.body_limit, None, count, bits))
        row = rows.row(flow, self.number, offset, size + talk.kept, facts, name, self._names, count, bits,
                       self.body_limit)  # fmt: skip
        if talk.segment >= max(self._oldest, 1):
            self._batch.parts.append((talk.segment, talk.offset, talk))  # what was said of it before is still its own
            self._batch.changed.append((talk, row))
            self._held += PART_COST
        else:
            self._batch.opened.append((talk, row))
            self.flows += 1
        self._held += ROW_COST + TALK_COST
        talk.segment, talk.offset = self.number, offset

    def _write(
        self, flow: Flow, client: int | State, server: int | State, facts: tuple[Any, ...], name: int | None,
        count: tuple[int, int, float] | None = None, bits: int = 0, messages: list[Any] | None = None,
    ) -> None:  # fmt: skip
        offset, size = self._put(records.flow(flow, client, server, self.body_limit, messages, count, bits))
        self._batch.rows.append(
            rows.row(flow, self.number, offset, size, facts, name, self._names, count, bits, self.body_limit)
        )
        self.flows += 1

    def _client(self, client: Client) -> Any:
        offset, _ = self._put(("c", records.connection(client, self._certificate)))
        facts = rows.client_facts(client, self._names)
        known = client._recorded = self._epoch, client.verdict, client.timestamp_tls_setup, offset, facts
        return known

    def _server(self, server: Server) -> Any:
        offset, _ = self._put(("c", records.connection(server, self._certificate)))
        name = rows.server_name(server, self._names)
        known = server._recorded = self._epoch, server.peername, server.timestamp_tls_setup, offset, name
        return known

    def _certificate(self, cert: x509.Certificate) -> int:
        der = cert.public_bytes(Encoding.DER)
        offset = self._certificates.get(der)
        if offset is None:
            if len(self._certificates) >= CERTIFICATES:
                self._certificates.clear()
            offset, _ = self._put(("x", der))
            self._certificates[der] = offset
        return offset

    # -- the queue

    def _put(self, record: Any) -> tuple[int, int]:
        """Queue a record: its offset, and the bytes of its payload."""
        offset, payload = self._end, records.encode(record)
        self._frame(payload)
        if self._timer is None:
            self._arm(FLUSH_SECONDS)
        elif len(self._buffer) >= FLUSH_BYTES:
            self._soon()
        return offset, len(payload)

    def _frame(self, payload: bytes) -> None:
        length = len(payload)
        self._buffer += segment.FRAME.pack(length, zlib.crc32(payload))
        self._buffer += payload
        self._end += segment.FRAME.size + length

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
        return len(self._buffer) + self._heavy + self._held + (len(self._batch.rows) + len(self._ended)) * ROW_COST

    def _arm(self, seconds: float) -> None:
        if self._loop is not None and not self._closed:
            self._timer = self._loop.call_later(seconds, self.flush)

    def _soon(self) -> None:
        if self._loop is None:
            self.flush()
        elif isinstance(self._timer, asyncio.TimerHandle) and not self._closed and not self.fault:
            self._timer.cancel()
            self._timer = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what waits, as far as that can be done now."""
        began = time.perf_counter()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._gathered = 0
        talks, self._talks = self._talks, []
        for talk in talks:
            talk.flush()
        if not self._ready():
            self._arm(RETRY_SECONDS)
            return
        self._encode()
        try:
            if self._buffer:
                segment.write(self._fd, self._buffer, self._written)
                self.bytes += self._end - self._written
                self._written = self._end
                self._buffer = bytearray()
            if self._names.fresh:
                self._batch.names += self._names.fresh
                self._held += len(self._names.fresh) * NAME_COST
                self._names.fresh = []
            now = time.monotonic()
            if len(self._batch) and (
                self._loop is None or now - self._committed >= COMMIT_SECONDS or len(self._batch.rows) >= BATCH
            ):
                self._commit()
                self._committed = now
        except (OSError, sqlite3.Error) as error:
            self._failed(error)
            self._arm(RETRY_SECONDS)
            return
        self._busy_since = 0.0
        if self.fault:
            self._recovered()
        old = self._age() >= self.segment_seconds
        if self._written >= self.segment_bytes or old or len(self._names) >= ix.LIMIT_NAMES:
            self._roll()
        elif len(self._batch) and self._timer is None:
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
        indexed = self._written if rest is None else rest.rows[0][1]
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
        """Seal this segment; the next record opens another."""
        if self._written == segment.HEAD.size:
            self._since = time.monotonic()
            return
        try:
            if self._commit(sealed=True):
                self._leave()
        except (OSError, sqlite3.Error) as error:
            self._failed(error)

    def _leave(self) -> None:
        """This segment is no longer ours."""
        os.close(self._fd)
        self._fd = -1
        talks = self._talks
        self._fresh()
        self._talks = talks
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

    def _broken(self, error: Exception, what: object) -> None:
        self.dropped += 1
        self._odd.log(
            logging.ERROR,
            type(error).__name__,
            "%r could not be recorded: %r",
            what,
            error,
            exc_info=(type(error), error, error.__traceback__),
        )

    def status(self) -> Status:
        return Status(str(self.folder), self.fault, self.flows, self.bytes, self.dropped, self._waiting(), self.longest)

    def close(self) -> None:
        """Write what waits and seal the segment. What cannot be written now is lost, and that is told."""
        self.sync()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.dropped += len(self._batch.rows) + len(self._ended)
        if self._fd >= 0:
            if self._written == segment.HEAD.size:
                segment.plain_path(self.folder, self.number).unlink(missing_ok=True)
            elif not self._buffer:
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


Make = Callable[[], Recorder]
