"""The index: what filters and lists need of each flow, in SQLite. It can be made anew from the segments at any time.

Texts that come again (hosts, clients, reasons ...) are rows of `name`, made by the writer of one segment for itself:
``id = segment << 20 | count``, so that several processes write without asking each other, and what a segment knows goes
with it. `LIMIT_NAMES` of them to a segment. `common` and `form` are numbered in the same way.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

FILE: Final = "index.db"
VERSION: Final = 3
SHIFT: Final = 20
LIMIT_NAMES: Final = 1 << 19

KINDS: Final = ("", "http", "tcp", "udp", "dns")
VERDICTS: Final = ("", "decrypt", "pass", "block")

# Bits of `flags`.
FAILED, ANSWERED, WEBSOCKET, REPLAYED_REQUEST, REPLAYED_RESPONSE = 1, 2, 4, 8, 16
MARKED, COMMENTED, NOTED, CUT, OPEN, LONG_PATH, IN_PARTS, BARE, ODD_PATH = 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192
KIND, VERDICT = 16, 20
"""Where in `flags` the numbers of these two begin."""

# Kinds of names.
CLIENT, DEVICE, SERVER, REASON, SITE, HOST, METHOD, TYPE, TLS, SNI, ERROR = range(1, 12)

COLUMNS: Final = (
    "common", "form", "flags", "status", "path", "cport", "off", "len", "t", "dur", "up", "down", "uid", "error",
)  # fmt: skip
OFF, T, DUR = (COLUMNS.index(name) for name in ("off", "t", "dur"))
COMMON: Final = ("client", "device", "reason", "tls", "sni", "server", "site", "host")
FORM: Final = ("method", "type", "qtype")
_VALUES: Final = f"({', '.join('?' * len(COLUMNS))})"
_NEXT: Final = "(SELECT 1 + max((SELECT n FROM gone), coalesce((SELECT max(n) FROM flow), 0)))"
INSERT: Final = f"INSERT INTO flow ({', '.join(COLUMNS)}) VALUES {_VALUES}"
INSERT_NEXT: Final = f"INSERT INTO flow (n, {', '.join(COLUMNS)}) VALUES ({_NEXT}, {_VALUES[1:]}"
"""A row with a number that no flow has had; further ones in the same transaction get one more each without it."""
TOGETHER: Final = 32
INSERT_TOGETHER: Final = INSERT + f", {_VALUES}" * (TOGETHER - 1)
INSERT_NEXT_TOGETHER: Final = INSERT_NEXT + f", (NULL, {_VALUES[1:]}" * (TOGETHER - 1)
"""So many rows in one go cost a sixth less than one by one."""
INSERT_NAME: Final = "INSERT OR REPLACE INTO name VALUES (?, ?, ?, ?)"
INSERT_COMMON: Final = f"INSERT OR REPLACE INTO common VALUES (?, {', '.join('?' * len(COMMON))})"
INSERT_FORM: Final = f"INSERT OR REPLACE INTO form VALUES (?, {', '.join('?' * len(FORM))})"
UPDATE: Final = f"UPDATE flow SET {', '.join(f'{name} = ?' for name in COLUMNS)} WHERE n = ?"

_SCHEMA: Final = f"""
CREATE TABLE segment (
    number INTEGER PRIMARY KEY, indexed INTEGER NOT NULL, bytes INTEGER NOT NULL, sealed INTEGER NOT NULL,
    flows INTEGER NOT NULL, first_n INTEGER, last_n INTEGER, begun REAL NOT NULL, last REAL NOT NULL,
    dropped INTEGER NOT NULL
);
CREATE TABLE name (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, text TEXT NOT NULL, alias TEXT);
CREATE TABLE common (
    id INTEGER PRIMARY KEY, client INTEGER, device INTEGER, reason INTEGER, tls INTEGER, sni INTEGER, server INTEGER,
    site INTEGER, host INTEGER
);
CREATE TABLE form (id INTEGER PRIMARY KEY, method INTEGER, type INTEGER, qtype INTEGER);
CREATE TABLE flow (
    n INTEGER PRIMARY KEY,
    flags INTEGER NOT NULL, status INTEGER, path TEXT, common INTEGER NOT NULL, form INTEGER NOT NULL, cport INTEGER,
    off INTEGER NOT NULL, len INTEGER NOT NULL, t REAL NOT NULL, dur REAL, up INTEGER, down INTEGER, error INTEGER,
    uid TEXT NOT NULL,
    kind INTEGER AS (flags >> {KIND} & 15), verdict INTEGER AS (flags >> {VERDICT} & 3),
    seg INTEGER AS (common >> {SHIFT})
);
CREATE TABLE part (seg INTEGER NOT NULL, off INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (seg, off))
    WITHOUT ROWID;
CREATE INDEX part_n ON part (n);
CREATE TABLE gone (n INTEGER NOT NULL);
INSERT INTO gone VALUES (0)
"""
_DELETED: Final = """
CREATE TRIGGER deleted BEFORE DELETE ON flow WHEN OLD.n > (SELECT n FROM gone) AND OLD.n = (SELECT max(n) FROM flow)
    BEGIN UPDATE gone SET n = OLD.n; END
"""
"""`segment.indexed`: up to where its records are in `flow`; `bytes`: of its file; `dropped`: flows lost while it was
written. `common`, `form`: what many flows of a segment share of their ends, and of their messages, each combination
once: a flow's own row is half as long, and half as dear, so. `flow`: what is searched for comes first, so that a scan
need not read further; `len`: bytes of the record. `part`: messages of a conversation. `gone`: the highest number that a
deleted flow has had: none is given twice (AUTOINCREMENT would say so too, at a sixth of the price of a row)."""


class Unusable(Exception):
    """The index is damaged, or of an older version: it has to be made anew."""


class Newer(sqlite3.DatabaseError):
    """The index is of a newer release, and so may be the segments: nothing here is touched."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it is of a newer lockgate (version {version}, this one knows {VERSION})")


class Busy(sqlite3.OperationalError):
    """As when SQLite finds it locked: another process is making it anew."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


class Index(sqlite3.Connection):
    """An open index. file: what the system knows its file by. It may be set aside by others while it is open."""

    path: Path
    file: tuple[int, int]

    def in_place(self) -> bool:
        """Whether it still is the index of its store."""
        try:
            return _file(self.path) == self.file
        except OSError:
            return False


def _file(path: Path) -> tuple[int, int]:
    info = os.stat(path)
    return info.st_dev, info.st_ino


def connect(path: Path, *, busy_ms: int = 0, sync: bool = False) -> Index:
    """An open index; made if there is none. Raises sqlite3.OperationalError (locked, full, ...), Unusable.

    sync: wait for the disk where SQLite asks to. The writer in the event loop never does; the checkpoints of `upkeep`
    do, and whatever a power cut leaves is made anew from the segments.
    """
    db = sqlite3.connect(path, timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False, factory=Index)
    try:
        db.path, db.file = path, _file(path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'NORMAL' if sync else 'OFF'}")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("PRAGMA journal_size_limit = 16777216")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _make(db)
        else:
            _known(path, version)
    except Newer:
        db.close()
        raise
    except sqlite3.DatabaseError as error:
        db.close()
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF not in _DAMAGE:
            raise
        raise Unusable(f"{path}: {error}") from None
    except BaseException:
        db.close()
        raise
    return db


def _known(path: Path, version: int) -> None:
    if version > VERSION:
        raise Newer(version)
    if version < VERSION:
        raise Unusable(f"{path} is an index of version {version}, this release has {VERSION}")


_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


_REFUSED: Final = (
    sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, OverflowError,
    TypeError, ValueError,
)  # fmt: skip
"""What is raised for a value that cannot be in a row: a number of 65 bits, no time."""


def is_damage(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _make(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]  # somebody may have been faster
        if version == 0:
            for statement in (*_SCHEMA.split(";"), _DELETED, f"PRAGMA user_version = {VERSION}"):
                db.execute(statement)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def read_only(path: Path, *, busy_ms: int = 2000) -> sqlite3.Connection:
    """For questions. Raises sqlite3.OperationalError where there is none, Newer, Unusable."""
    # Even to read it SQLite makes files beside it, unless it is told that nobody writes.
    still = not os.access(path.parent, os.W_OK) and not path.with_name(f"{FILE}-wal").exists()
    db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro{'&immutable=1' if still else ''}", uri=True,
                         timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False)  # fmt: skip
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        db.close()
        if is_damage(error):
            raise Unusable(f"{path}: {error}") from None
        raise
    try:
        _known(path, version)
    except BaseException:
        db.close()
        raise
    db.execute("PRAGMA query_only = ON")
    db.execute("PRAGMA mmap_size = 4294967296")  # a scan is a fifth faster so
    return db


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


class Talking(Protocol):
    """A conversation that goes on: its number is known once its row is in the index."""

    n: int


class Batch:
    """What one transaction brings into the index. Kept and tried again while the index is locked."""

    __slots__ = ("changed", "common", "forms", "names", "opened", "parts", "refused", "rows")

    def __init__(self) -> None:
        self.refused = 0  # flows that were left out of it
        self.names: list[tuple[int, int, str, str | None]] = []
        self.common: list[Sequence[Any]] = []
        self.forms: list[Sequence[Any]] = []
        self.rows: list[Sequence[Any]] = []
        self.opened: list[tuple[Talking, Sequence[Any]]] = []
        self.parts: list[tuple[int, int, Talking]] = []
        self.changed: list[tuple[Talking, Sequence[Any]]] = []

    def __len__(self) -> int:
        shared = len(self.names) + len(self.common) + len(self.forms)
        return shared + len(self.rows) + len(self.opened) + len(self.parts) + len(self.changed)

    def split(self, most: int) -> tuple[Batch, Batch | None]:
        """Two to be inserted one after the other, when there are more than `most` rows and nothing but rows."""
        if len(self.rows) <= most or self.opened or self.parts or self.changed:
            return self, None
        first, rest = Batch(), Batch()
        first.names, first.common, first.forms = self.names, self.common, self.forms
        first.rows, rest.rows = self.rows[:most], self.rows[most:]
        return first, rest

    def cut(self, number: int, end: int) -> int:
        """Leave out what lies behind `end` in segment `number`: how many flows. The rest can be committed."""
        flows = len(self.rows) + len(self.opened)
        self.rows = [row for row in self.rows if row[OFF] < end]
        self.opened = [one for one in self.opened if one[1][OFF] < end]
        self.changed = [one for one in self.changed if one[1][OFF] < end]
        self.parts = [one for one in self.parts if one[0] != number or one[1] < end]
        return flows - len(self.rows) - len(self.opened)

    def commit(
        self, db: sqlite3.Connection, number: int, indexed: int, size: int, begun: float, last: float,
        *, dropped: int = 0, sealed: bool = False,
    ) -> int:  # fmt: skip
        """All of it, and `note_segment`, in one transaction. Returns how many flows SQLite refused: they are left out,
        and counted as dropped. Raises sqlite3.Error, then nothing has been done.
        """
        while True:
            db.execute("BEGIN IMMEDIATE")
            try:
                between = self._insert(db)
                note_segment(db, number, indexed, size, len(self.rows) + len(self.opened), begun, last,
                             between=between, dropped=dropped + self.refused, sealed=sealed)  # fmt: skip
                db.execute("COMMIT")
                return self.refused
            except BaseException as error:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                before = len(self)
                if isinstance(error, _REFUSED):
                    self.refused += self._sift()
                if len(self) == before:
                    raise

    def _sift(self) -> int:
        """Leave out what an empty index refuses too: how many flows."""
        db = sqlite3.connect(":memory:", isolation_level=None)
        try:
            _make(db)

            def takes(statement: str, values: Sequence[Any]) -> bool:
                try:
                    db.execute(statement, values)
                except _REFUSED:
                    return False
                return True

            flows = len(self.rows) + len(self.opened)
            self.names = [name for name in self.names if takes(INSERT_NAME, name)]
            self.common = [one for one in self.common if takes(INSERT_COMMON, one)]
            self.forms = [one for one in self.forms if takes(INSERT_FORM, one)]
            self.rows = [row for row in self.rows if takes(INSERT, row)]
            for talk, _ in self.opened:
                talk.n = 0  # no flow has it: what is said of one that is refused goes nowhere
            self.opened = [(talk, row) for talk, row in self.opened if takes(INSERT, row)]
            self.changed = [(talk, row) for talk, row in self.changed if takes(INSERT, row)]
            return flows - len(self.rows) - len(self.opened)
        finally:
            db.close()

    def _insert(self, db: sqlite3.Connection) -> tuple[int, int] | None:
        """Within a transaction. Returns the lowest and the highest number of the flows whose rows it has written."""
        first = last = 0
        if self.names:
            db.executemany(INSERT_NAME, self.names)
        if self.common:
            db.executemany(INSERT_COMMON, self.common)
        if self.forms:
            db.executemany(INSERT_FORM, self.forms)
        if self.rows:
            first, last = _insert_rows(db, self.rows)
        for talk, row in self.opened:
            last = talk.n = db.execute(INSERT_NEXT, row).lastrowid or 0
            first = first or last
        if self.parts:
            db.executemany("INSERT OR IGNORE INTO part VALUES (?, ?, ?)",
                           [(segment, offset, talk.n) for segment, offset, talk in self.parts])  # fmt: skip
        if self.changed:
            db.executemany(UPDATE, [(*row, talk.n) for talk, row in self.changed])
            written = [talk.n for talk, _ in self.changed if talk.n]  # from earlier segments, it may be
            if written:
                return min(first or written[0], *written), max(last, *written)
        return (first, last) if last else None


def _insert_rows(db: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> tuple[int, int]:
    """At least one, within a transaction. Returns their lowest and highest number, which have no gap between them."""
    at = TOGETHER if len(rows) >= TOGETHER else 1
    how = INSERT_NEXT_TOGETHER if at == TOGETHER else INSERT_NEXT
    first = (db.execute(how, tuple(chain.from_iterable(rows[:at]))).lastrowid or 0) - at + 1
    while at + TOGETHER <= len(rows):
        db.execute(INSERT_TOGETHER, tuple(chain.from_iterable(rows[at : at + TOGETHER])))
        at += TOGETHER
    db.executemany(INSERT, rows[at:])
    return first, first + len(rows) - 1


def note_segment(
    db: sqlite3.Connection, number: int, indexed: int, size: int, flows: int, begun: float, last: float,
    *, between: tuple[int, int] | None = None, dropped: int = 0, sealed: bool = False,
) -> None:  # fmt: skip
    """What is known of a segment now; `flows` and `dropped` are added, `between` widens its range of numbers."""
    first_n, last_n = between or (None, None)
    db.execute(
        "INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
        "indexed = excluded.indexed, bytes = excluded.bytes, sealed = max(sealed, excluded.sealed), "
        "flows = flows + excluded.flows, "
        "first_n = coalesce(min(first_n, excluded.first_n), first_n, excluded.first_n), "
        "last_n = coalesce(max(last_n, excluded.last_n), last_n, excluded.last_n), last = max(last, excluded.last), "
        "dropped = dropped + excluded.dropped",
        (number, indexed, size, sealed, flows, first_n, last_n, begun, last, dropped),
    )


def forget(db: sqlite3.Connection, number: int, step: int = 500) -> Iterable[int]:
    """Take a segment out of the index, in transactions short enough for others to write in between; yields after each.

    The last one takes the segment's own row. Raises sqlite3.OperationalError.
    """
    found = db.execute("SELECT first_n, last_n FROM segment WHERE number = ?", (number,)).fetchone()
    if found is not None and found[0] is not None:
        for start in range(found[0], found[1] + 1, step):
            end = min(start + step - 1, found[1])
            db.execute("DELETE FROM flow WHERE n BETWEEN ? AND ? AND seg = ?", (start, end, number))
            yield end
    db.execute("BEGIN IMMEDIATE")
    try:
        low = number << SHIFT
        for table in ("name", "common", "form"):
            db.execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", (low, low + (1 << SHIFT) - 1))
        db.execute("DELETE FROM part WHERE seg = ?", (number,))
        db.execute("DELETE FROM segment WHERE number = ?", (number,))
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    yield 0
