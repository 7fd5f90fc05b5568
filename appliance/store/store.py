"""Questions to a store, from any process: while gateways write to it, or when none runs."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance import flowfilter
from appliance.exceptions import LockgateError
from appliance.flow import Flow
from appliance.flowfilter import FlowFilter, TFilter
from appliance.store import index as ix
from appliance.store.folder import closed
from appliance.store.query import Condition, Sql, Translator
from appliance.store.reading import Shelf
from appliance.store.segment import Damaged

logger = logging.getLogger(__name__)

CHUNK: Final = 50_000
"""Flows that one query looks at: between two, others see what was found, and the writer's log may be cut."""
PAGE: Final = 2_000
"""Rows of them that are in memory at a time."""
NAMES: Final = 20_000
"""Texts, and combinations of them, that are kept for the next page."""
_SELECT: Final = f"n, {', '.join(ix.COLUMNS)}"

Progress = Callable[[int, int], None]
"""Called with how many flows were looked at, and how many there are."""


class StoreError(LockgateError):
    """The store cannot be read or changed: why, and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the index knows of a flow. Times: seconds since the epoch, and seconds; sizes: bytes; None: unknown.

    n: its number. url: site and path; of DNS the name asked for; of a connection its server.
    """

    n: int
    id: str
    kind: str
    begun: float
    took: float | None
    client: str | None
    port: int | None
    device: str | None
    server: str | None
    verdict: str
    reason: str | None
    rule: str | None
    method: str | None
    url: str | None
    host: str | None
    status: int | None
    type: str | None
    request_type: str | None
    up: int | None
    down: int | None
    tls: str | None
    sni: str | None
    error: str | None
    flags: int
    segment: int
    offset: int
    size: int

    @property
    def going_on(self) -> bool:
        """A conversation that has not ended."""
        return bool(self.flags & ix.OPEN)

    @property
    def cut(self) -> bool:
        """Not all of its content is kept."""
        return bool(self.flags & ix.CUT)

    @property
    def bare(self) -> bool:
        """A connection that was passed or blocked: nothing of its content is known."""
        return bool(self.flags & ix.BARE)

    @property
    def websocket(self) -> bool:
        return bool(self.flags & ix.WEBSOCKET)


class Store:
    """One store, open for reading. Close it, or use it as a context."""

    def __init__(self, folder: Path, *, recover: bool = True) -> None:
        """recover: bring the index up to date with what a killed gateway has left, where we may.

        :raises StoreError: there is no store, or it cannot be read.
        """
        self.folder = folder
        if (why := closed(folder)) is not None:
            raise StoreError(why)
        if recover:
            self._recover()
        try:
            self._db = ix.read_only(folder / ix.FILE)
        except ix.Unusable as error:
            raise StoreError(f"{error}; `lockgate run` makes it anew") from None
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{folder / ix.FILE}: {error}") from None
        self._shelf = Shelf(folder)
        self._names: dict[int, tuple[str | None, str | None]] = {}
        self._common: dict[int, Sequence[int | None]] = {}
        self._forms: dict[int, Sequence[int | None]] = {}
        self.unreadable = 0

    def _recover(self) -> None:
        from appliance.store import recovery

        try:
            with recovery.locked(self.folder) as ours:
                if ours:
                    with contextlib.closing(recovery.open_index(self.folder, busy_ms=500, ours=True)) as db:
                        recovery.recover(self.folder, db)
        except (OSError, sqlite3.Error) as error:
            logger.debug("%s: not recovered: %s", self.folder, error)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        self._shelf.close()

    # -- rows

    def rows(
        self,
        filter: str | TFilter | None = None,
        *,
        newest: bool = True,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Row]:
        """Rows that match, by number; newest first, or oldest first. before, after: numbers, for the next page.

        What the index cannot tell is read from the segments, flow by flow. :raises ValueError: no filter. :raises
        StoreError: the index cannot be read.
        """
        for row, _ in self._matching(filter, newest, before, after, limit, progress):
            yield row

    def flows(
        self,
        filter: str | TFilter | None = None,
        *,
        newest: bool = False,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Flow]:
        """The same as flows, oldest first unless `newest`. Those that cannot be read are told, counted in `unreadable`,
        and left out.
        """
        for row, flow in self._matching(filter, newest, before, after, limit, progress):
            if flow is None:
                try:
                    flow = self.load(row)
                except Damaged as error:
                    self._tell(row, error)
                    continue
            yield flow

    def _matching(
        self,
        filter: str | TFilter | None,
        newest: bool,
        before: int | None,
        after: int | None,
        limit: int | None,
        progress: Progress | None,
    ) -> Iterator[tuple[Row, Flow | None]]:
        flt = flowfilter.parse(filter) if isinstance(filter, str) else filter
        condition = self._condition(flt)
        where = condition.may
        first, last = self._ask("SELECT (SELECT min(n) FROM flow), (SELECT max(n) FROM flow)")[0]
        if first is None or limit == 0:
            return
        low = first if after is None else max(first, after + 1)
        high = last if before is None else min(last, before - 1)
        total, found = high - low + 1, 0
        sql = f"SELECT {_SELECT} FROM flow WHERE n BETWEEN ? AND ? AND {where.text} ORDER BY n {'DESC' if newest else ''} LIMIT ?"  # noqa: E501
        for start, end in _chunks(low, high, newest):
            while start <= end:
                most = PAGE if limit is None or not condition.exact else min(PAGE, limit - found)
                page = self._ask(sql, (start, end, *where.params, most))
                for row in self._rows(page, progress, low, high, newest):
                    flow = None
                    if flt is not None and not condition.exact:
                        try:
                            flow = self.load(row)
                        except Damaged as error:
                            self._tell(row, error)
                            continue
                        if not flt(flow):
                            continue
                    yield row, flow
                    found += 1
                    if limit is not None and found >= limit:
                        return
                if len(page) < most:
                    break
                start, end = (start, page[-1][0] - 1) if newest else (page[-1][0] + 1, end)
            if progress is not None:
                progress(high - start + 1 if newest else end - low + 1, total)

    def _rows(
        self, found: Sequence[Any], progress: Progress | None, low: int, high: int, newest: bool
    ) -> Iterator[Row]:
        for at in range(0, len(found), 500):
            part = found[at : at + 500]
            if progress is not None and at:
                n = part[0][0]
                progress(high - n + 1 if newest else n - low + 1, high - low + 1)
            self._fetch_names(part)
            for values in part:
                yield self._row(values)

    def may_match(self, flt: TFilter | None) -> bool:
        """Whether there is a flow that could match, as far as the index can tell. Raises StoreError."""
        may = self._condition(flt).may
        return bool(self._ask(f"SELECT EXISTS (SELECT 1 FROM flow WHERE {may.text})", may.params)[0][0])

    def _condition(self, flt: TFilter | None) -> Condition:
        if flt is None:
            return Condition(Sql("1"), Sql("1"))
        if not isinstance(flt, FlowFilter):
            return Condition(Sql("1"), Sql("0"))
        try:
            return Translator(self._db).condition(flt.tree)
        except sqlite3.Error as error:
            raise StoreError(f"{self.folder}: {error}") from None

    def _ask(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(sql, params).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.folder / ix.FILE}: {error}") from None

    def _fetch_names(self, rows: Sequence[Any]) -> None:
        if len(self._names) + len(self._common) + len(self._forms) > NAMES:
            for memo in (self._names, self._common, self._forms):
                memo.clear()
        named = {values[_ERROR] for values in rows}
        for at, table, columns, known in (
            (1, "common", ix.COMMON, self._common), (2, "form", ix.FORM, self._forms)
        ):  # fmt: skip
            ids = {values[at] for values in rows}
            if wanted := ids - known.keys():
                for id, *texts in self._ask(
                    f"SELECT id, {', '.join(columns)} FROM {table} WHERE id IN (SELECT value FROM json_each(?))",
                    (msgspec.json.encode(sorted(wanted)).decode(),),
                ):
                    known[id] = texts
            named.update(text for id in ids for text in known.get(id, ()))
        if wanted := named - self._names.keys() - {None}:
            for id, text, alias in self._ask(
                "SELECT id, text, alias FROM name WHERE id IN (SELECT value FROM json_each(?))",
                (msgspec.json.encode(sorted(wanted)).decode(),),
            ):
                self._names[id] = text, alias

    def _row(self, values: Sequence[Any]) -> Row:
        n, common, form, flags, status, path, port, offset, size, begun, took, up, down, id, error = values
        nothing = None, None
        client, device, (reason, rule), tls, sni, server, (before, pretty), host, method, type, qtype = [
            nothing if name is None else self._names.get(name, nothing)
            for name in (*self._common.get(common, _NO_COMMON), *self._forms.get(form, _NO_FORM))
        ]  # fmt: skip
        kind = ix.KINDS[flags >> ix.KIND & 15]
        url = (before or "") + (path or "") if kind == "http" else path if kind == "dns" else server[0]
        return Row(
            n, id, kind, begun, took, client[0], port, device[0], server[0], ix.VERDICTS[flags >> ix.VERDICT & 3],
            reason, rule, method[0], url, pretty or host[0], status, type[0], qtype[0], up, down, tls[0], sni[0],
            None if error is None else self._names.get(error, nothing)[0], flags, common >> ix.SHIFT, offset, size,
        )  # fmt: skip

    # -- flows

    def row(self, reference: str | int) -> Row:
        """By number, or by the beginning of an id (six digits at least). :raises StoreError: none, or several."""
        text = str(reference)
        if text.isdecimal() and len(text) < 19:
            found = self._ask(f"SELECT {_SELECT} FROM flow WHERE n = ?", (int(text),))
            if found:
                self._fetch_names(found)
                return self._row(found[0])
        return self.by_id(text)

    def by_id(self, text: str) -> Row:
        """By the beginning of its id. Of several with one id (it was replayed), the newest.

        :raises StoreError: there is none, or several ids begin so.
        """
        found = []
        if len(text) >= 6:
            ids = self._ask("SELECT DISTINCT uid FROM flow WHERE substr(uid, 1, ?) = ? LIMIT 2",
                            (len(text), text.lower()))  # fmt: skip
            if len(ids) > 1:
                raise StoreError(f"{text}: several flows have an id that begins so")
            if ids:
                found = self._ask(f"SELECT {_SELECT} FROM flow WHERE uid = ? ORDER BY n DESC LIMIT 1", ids[0])
        if not found:
            raise StoreError(f"{text}: no such flow (a number or an id from `lockgate flows list`)")
        self._fetch_names(found)
        return self._row(found[0])

    def load(self, row: Row) -> Flow:
        """The flow itself. :raises Damaged: it cannot be read."""
        parts = (
            self._ask("SELECT seg, off FROM part WHERE n = ? ORDER BY seg, off", (row.n,))
            if row.flags & ix.IN_PARTS
            else ()
        )
        try:
            return self._shelf.flow(row.segment, row.offset, parts)
        except Damaged:
            # It may have been compressed, or gone on in another segment, since we looked.
            self._shelf.drop(row.segment)
            now = self._ask("SELECT seg, off FROM flow WHERE n = ?", (row.n,))
            if not now:
                raise Damaged(f"flow {row.n} has been deleted meanwhile") from None
            return self._shelf.flow(now[0][0], now[0][1], parts)

    def _tell(self, row: Row, error: Damaged) -> None:
        self.unreadable += 1
        logger.warning("flow %d cannot be read: %s", row.n, error)

    def last(self) -> int:
        """The number of the newest flow, 0 = there is none."""
        return int(self._ask("SELECT max(n) FROM flow")[0][0] or 0)

    # -- in numbers

    def stats(self) -> dict[str, Any]:
        """What there is, in plain values."""
        (count, first, last), *_ = self._ask("SELECT count(*), min(t), max(t) FROM flow")
        (segments, size, dropped), *_ = self._ask("SELECT count(*), sum(bytes), sum(dropped) FROM segment")
        index = sum(path.stat().st_size for end in ("", "-wal") if (path := self.folder / f"{ix.FILE}{end}").exists())
        damaged = self.folder / "damaged"
        return {
            "folder": str(self.folder),
            "flows": count,
            "kinds": {ix.KINDS[kind]: n for kind, n in self._ask("SELECT kind, count(*) FROM flow GROUP BY kind")},
            "verdicts": {
                ix.VERDICTS[verdict] or "none": n
                for verdict, n in self._ask("SELECT verdict, count(*) FROM flow GROUP BY verdict")
            },
            "failed": self._ask(f"SELECT count(*) FROM flow WHERE flags & {ix.FAILED}")[0][0],
            "oldest": first,
            "newest": last,
            "segments": segments,
            "segment_bytes": size or 0,
            "index_bytes": index,
            "dropped": dropped or 0,
            "set_aside": sorted(path.name for path in damaged.iterdir()) if damaged.is_dir() else [],
            "at": time.time(),
        }

    def top(self, column: str, count: int = 10) -> list[tuple[str, int, int]]:
        """The commonest of `client`, `host`, `server`, `type`, `reason`: text, flows, bytes. KeyError for another."""
        kind = {"client": ix.CLIENT, "host": ix.HOST, "server": ix.SERVER, "type": ix.TYPE, "reason": ix.REASON}[column]
        table = "form" if column in ix.FORM else "common"
        return self._ask(
            f"SELECT text, sum(flows), sum(size) FROM (SELECT {table} AS shared, count(*) AS flows, "
            f"sum(coalesce(up, 0) + coalesce(down, 0)) AS size FROM flow GROUP BY {table}) "
            f"JOIN {table} ON {table}.id = shared JOIN name ON name.id = {table}.{column} "
            "WHERE name.kind = ? GROUP BY text ORDER BY 2 DESC LIMIT ?",
            (kind, count),
        )


_ERROR: Final = 1 + ix.COLUMNS.index("error")
_NO_COMMON: Final = (None,) * len(ix.COMMON)
_NO_FORM: Final = (None,) * len(ix.FORM)


def _chunks(low: int, high: int, newest: bool) -> Iterator[tuple[int, int]]:
    if newest:
        while high >= low:
            yield max(low, high - CHUNK + 1), high
            high -= CHUNK
    else:
        while low <= high:
            yield low, min(high, low + CHUNK - 1)
            low += CHUNK
