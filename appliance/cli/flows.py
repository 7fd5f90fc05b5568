"""`lockgate flows`: questions to the flow store, while a gateway runs or not."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from appliance import flowfilter
from appliance.cli.run import load
from appliance.exceptions import OptionsError
from appliance.flowfilter import FlowFilter
from appliance.human import format_timestamp, pretty_duration, pretty_size
from appliance.log import escape
from appliance.options import Options
from appliance.store import index as ix
from appliance.store.folder import folder_of
from appliance.store.store import Row, Store, StoreError

COLUMNS: Final = ("n", "time", "client", "method", "url", "status", "size", "took", "verdict")
TAIL_SECONDS: Final = 0.25
MAX_CELL: Final = 200


def main(args: argparse.Namespace) -> int:
    """Run `lockgate flows ...`. 0: done; 1: nothing matched, or something could not be read. Raises LockgateError."""
    logging.basicConfig(format="lockgate: %(message)s", level=logging.WARNING)
    options = load(args.specs)
    return _COMMANDS[args.flows_command](args, options)


def filter_of(*words: str) -> FlowFilter | None:
    """Raises OptionsError."""
    text = " ".join(words)
    try:
        return flowfilter.parse(text) if text else None
    except ValueError as error:
        raise OptionsError(str(error)) from None


# -- list and tail


def _time(row: Row) -> str:
    return format_timestamp(row.begun)


def _status(row: Row) -> str:
    if row.error is not None:
        return "error" if row.status is None else f"{row.status} error"
    if row.going_on:
        return "open"
    if row.kind == "dns":
        from appliance.net.dns import response_codes

        return "" if row.status is None else response_codes.to_str(row.status)
    return "" if row.status is None else str(row.status)


def _size(row: Row) -> str:
    if row.up is None and row.down is None:
        return ""
    mark = "+" if row.cut else ""
    return pretty_size((row.up or 0) + (row.down or 0)) + mark


def _verdict(row: Row) -> str:
    return row.verdict if not row.bare else f"{row.verdict} ({row.reason})" if row.reason else row.verdict


CELLS: Final[dict[str, Callable[[Row], Any]]] = {
    "n": lambda row: row.n,
    "id": lambda row: row.id,
    "time": _time,
    "kind": lambda row: "websocket" if row.websocket else row.kind,
    "client": lambda row: row.client,
    "device": lambda row: row.device,
    "method": lambda row: row.method or ("" if row.kind == "http" else row.kind),
    "url": lambda row: row.url or row.server,
    "host": lambda row: row.host,
    "server": lambda row: row.server,
    "status": _status,
    "type": lambda row: row.type,
    "size": _size,
    "up": lambda row: row.up,
    "down": lambda row: row.down,
    "took": lambda row: "" if row.took is None else pretty_duration(row.took),
    "verdict": _verdict,
    "reason": lambda row: row.reason,
    "rule": lambda row: row.rule,
    "tls": lambda row: row.tls,
    "sni": lambda row: row.sni,
    "error": lambda row: row.error,
}
"""What `--columns` can name."""
_RIGHT: Final = frozenset({"n", "size", "up", "down", "took"})


def columns_of(text: str | None) -> tuple[str, ...]:
    """Raises OptionsError."""
    if not text:
        return COLUMNS
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in CELLS:
            raise OptionsError(f"no column {name!r}; there are {', '.join(CELLS)}")
    return names


def as_json(row: Row) -> str:
    made = {name: value for name, value in asdict(row).items() if name not in ("segment", "offset", "flags", "size")}
    made |= {"open": row.going_on, "cut": row.cut, "websocket": row.websocket}
    return json.dumps(made)


class Table:
    """Lines of a table as they come: the widths are those of the first rows, and grow no more."""

    FIRST = 40

    def __init__(self, columns: tuple[str, ...], as_lines_of_json: bool) -> None:
        self._columns = columns
        self._json = as_lines_of_json
        self._widths: list[int] | None = None
        self._first: list[list[str]] = []
        self.count = 0

    def add(self, row: Row) -> None:
        self.count += 1
        if self._json:
            print(as_json(row), flush=self.count % 100 == 1)
            return
        cells = [
            escape(str(CELLS[name](row) if CELLS[name](row) is not None else ""))[:MAX_CELL] for name in self._columns
        ]
        if self._widths is None:
            self._first.append(cells)
            if len(self._first) >= self.FIRST:
                self.show()
            return
        self._print(cells)

    def show(self) -> None:
        """What was held back to measure it."""
        if self._json:
            sys.stdout.flush()
            return
        if self._widths is None and self._first:
            rows = [list(self._columns), *self._first]
            self._widths = [min(60, max(len(row[at]) for row in rows)) for at in range(len(self._columns))]
            for row in rows:
                self._print(row)
            self._first = []
        sys.stdout.flush()

    def _print(self, cells: list[str]) -> None:
        assert self._widths is not None
        made = []
        for name, cell, width in zip(self._columns, cells, self._widths, strict=True):
            made.append(cell.rjust(width) if name in _RIGHT else cell.ljust(width))
        print("  ".join(made).rstrip())


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """Says on standard error, where that is a terminal, how far a long search has come."""
    began = last = time.monotonic()
    shown = False

    def tell(done: int, total: int) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if sys.stderr.isatty() and now - began > 1.0 and now - last > 0.2:
            last, shown = now, True
            print(f"\r\x1b[K{done} of {total} flows looked at", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _list(args: argparse.Namespace, options: Options) -> int:
    flt, columns = filter_of(*args.filter), columns_of(args.columns)
    table = Table(columns, args.json)
    with Store(folder_of(options)) as store, progress() as tell:
        for row in store.rows(
            flt, newest=not args.oldest, before=args.before, after=args.after, limit=args.limit or None, progress=tell
        ):
            table.add(row)
            last = row.n
        table.show()
        if not table.count:
            print("lockgate: no flow matches", file=sys.stderr)
            return 1
        if table.count == args.limit and not args.json:
            print(f"({table.count} shown; more: --{'after' if args.oldest else 'before'} {last})", file=sys.stderr)
        return 1 if store.unreadable else 0


def _tail(args: argparse.Namespace, options: Options) -> int:
    """The newest, then those that come; until Ctrl-C."""
    flt, columns = filter_of(*args.filter), columns_of(args.columns)
    table = Table(columns, args.json)
    folder = folder_of(options)
    with contextlib.ExitStack() as stack:
        index = _index(folder)
        store = stack.enter_context(Store(folder))
        last = store.last()  # what comes while it is looked for belongs to the next look
        newest = list(store.rows(flt, limit=args.limit, before=last + 1)) if args.limit else []
        for row in reversed(newest):
            table.add(row)
        table.show()
        if table._widths is None:
            table._widths = [len(name) for name in columns]
        while True:
            time.sleep(TAIL_SECONDS)
            if (now := _index(folder)) not in (index, None):  # it was damaged, and made anew: its numbers are others
                with contextlib.suppress(StoreError):
                    store = stack.enter_context(Store(folder))
                    index, last = now, store.last()
                    print("lockgate: the index was made anew; flows of that moment are left out", file=sys.stderr)
            upto = store.last()
            for row in store.rows(flt, newest=False, after=last, before=upto + 1):
                table.add(row)
            sys.stdout.flush()
            last = max(last, upto)


def _index(folder: Path) -> tuple[int, int] | None:
    """Which file is the index, None = there is none now."""
    try:
        found = (folder / ix.FILE).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _stats(args: argparse.Namespace, options: Options) -> int:
    with Store(folder_of(options)) as store:
        found = store.stats()
        found["top"] = {name: store.top(name, args.top) for name in ("client", "host", "server", "type", "reason")}
    if args.json:
        print(json.dumps(found))
        return 0
    span = ""
    if found["oldest"] is not None:
        span = f", {format_timestamp(found['oldest'])} to {format_timestamp(found['newest'])}"
    print(f"{found['folder']}: {found['flows'] or 'no'} flows{span}")
    print(f"  {pretty_size(found['segment_bytes'])} in {found['segments']} segments, "
          f"{pretty_size(found['index_bytes'])} index")  # fmt: skip
    if found["flows"]:
        print("  " + ", ".join(f"{count} {name}" for name, count in found["kinds"].items()))
        verdicts = [f"{count} {name}" for name, count in found["verdicts"].items()]
        print("  " + ", ".join([*verdicts, f"{found['failed']} failed"]))
    if found["dropped"]:
        print(f"  {found['dropped']} flows could not be recorded (disk full, or the index locked)")
    if found["set_aside"]:
        print(f"  set aside as damaged: {', '.join(found['set_aside'])}")
    for name, top in found["top"].items():
        if top:
            print(f"{name}:")
            for text, count, size in top:
                print(f"  {count:>9}  {pretty_size(size or 0):>5}  {escape(text)}")
    return 0


def _show(args: argparse.Namespace, options: Options) -> int:
    from appliance.cli.flows_show import show

    return show(args, options)


def _export(args: argparse.Namespace, options: Options) -> int:
    from appliance.cli.flows_export import export

    return export(args, options)


def _replay(args: argparse.Namespace, options: Options) -> int:
    from appliance.cli.flows_replay import replay

    return replay(args, options)


def _delete(args: argparse.Namespace, options: Options) -> int:
    from appliance.cli.flows_export import delete

    return delete(args, options)


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace, Options], int]]] = {
    "list": _list,
    "tail": _tail,
    "stats": _stats,
    "show": _show,
    "export": _export,
    "replay": _replay,
    "delete": _delete,
}
