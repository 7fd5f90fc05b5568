"""`lockgate flows export` and `delete`: flows out of the store, into files that others read, or away."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import mimetypes
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final

from appliance import ctx
from appliance.cli.flows import filter_of, progress
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.headers import parse_content_type
from appliance.home import expanded
from appliance.http import HTTPFlow, Message
from appliance.log import escape
from appliance.options import Options
from appliance.store.folder import folder_of
from appliance.store.redact import SECRETS, Redactor
from appliance.store.segment import Damaged
from appliance.store.store import Row, Store, StoreError


def export(args: argparse.Namespace, options: Options) -> int:
    """0: done, 1: nothing matched, or something could not be read. Raises LockgateError."""
    flt = filter_of(*args.filter)
    ctx.options = options  # what some formats ask
    names = [*options.store_redact, *(SECRETS if args.redact else ())]
    redactor = Redactor(names) if names else None
    if flt is not None and args.number:
        raise OptionsError("say either a filter or --number")
    with Store(folder_of(options)) as store, progress() as tell:
        chosen = [store.row(n) for n in args.number or ()] or store.rows(flt, newest=False, progress=tell)

        raw = 0

        def flows() -> Iterator[tuple[int, Flow]]:
            nonlocal raw
            for row in chosen:
                try:
                    flow = store.load(row)
                except Damaged as error:
                    store.unreadable += 1
                    print(f"lockgate: flow {row.n}: {error}", file=sys.stderr)
                    continue
                if redactor is not None:
                    for what in redactor(flow):
                        print(f"lockgate: flow {row.n}: {escape(what)}", file=sys.stderr)
                    raw += bool(flow.type in ("tcp", "udp") and flow.messages)  # type: ignore[attr-defined]
                yield row.n, flow

        found = flows()
        first = next(found, None)
        if first is None:  # and what was in the file stays there
            print("lockgate: no flow matches", file=sys.stderr)
            return 1
        count = _FORMATS[args.format](itertools.chain([first], found), args)
        if not count:
            print(f"lockgate: nothing of what matches can be written as {args.format}", file=sys.stderr)
            return 1
        if raw and args.format in ("flows", "bodies", "pcapng"):
            print(f"lockgate: {_flows(raw)} of raw TCP or UDP: nothing but JSON is redacted in them", file=sys.stderr)
        if args.output not in (None, "-"):
            print(f"{_flows(count)} written to {args.output}", file=sys.stderr)
        return 1 if store.unreadable else 0


@contextlib.contextmanager
def _output(args: argparse.Namespace) -> Iterator[IO[bytes]]:
    """Standard output, or a file that only its owner may read: there are secrets in it. Raises OptionsError."""
    if args.output in (None, "-"):
        if sys.stdout.isatty() and args.format in ("flows", "pcapng", "raw"):  # what was captured may steer it
            raise OptionsError(f"{args.format} is not for a terminal: -o FILE says where to write it")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        fd = os.open(args.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            yield file
    except OSError as error:
        raise OptionsError(f"{args.output}: {error.strerror or error}") from None


Flows = Iterator[tuple[int, Flow]]


def _flow_file(flows: Flows, args: argparse.Namespace) -> int:
    from appliance.io import FlowWriter

    count = 0
    with _output(args) as file:
        writer = FlowWriter(file)
        for n, flow in flows:
            try:
                writer.add(flow)
            except (TypeError, ValueError, AttributeError) as error:  # what an add-on has put there
                print(f"lockgate: flow {n}: {type(error).__name__}: {escape(str(error))}", file=sys.stderr)
                continue
            count += 1
    return count


def _har(flows: Flows, args: argparse.Namespace) -> int:
    from appliance.io import har

    with _output(args) as file:
        count, faults = har.dump((flow for _, flow in flows), lambda text: file.write(text.encode()))
    for fault in faults:
        print(f"lockgate: {escape(fault)}", file=sys.stderr)
    return count


def _text(format: str) -> Callable[[Flows, argparse.Namespace], int]:
    def write(flows: Flows, args: argparse.Namespace) -> int:
        from appliance.addons.export import formats

        count, end = 0, b"" if format.startswith("raw") else b"\n"
        with _output(args) as file:
            for n, flow in flows:
                try:
                    made = formats[format](flow)
                    data = made if isinstance(made, bytes) else made.encode("utf-8", "surrogateescape")
                except CommandError as error:
                    print(f"lockgate: flow {n}: {escape(str(error))}", file=sys.stderr)
                    continue
                except Exception as error:  # what an add-on has put there
                    print(f"lockgate: flow {n}: {type(error).__name__}: {escape(str(error))}", file=sys.stderr)
                    continue
                file.write(data + end)
                count += 1
        return count

    return write


def _pcapng(flows: Flows, args: argparse.Namespace) -> int:
    from appliance.io import pcapng

    with _output(args) as file:
        count, faults = pcapng.write((flow for _, flow in flows), file)
    for fault in faults:
        print(f"lockgate: {escape(fault)}", file=sys.stderr)
    return count


# -- bodies, each in a file of its own


def _bodies(flows: Flows, args: argparse.Namespace) -> int:
    if args.output in (None, "-"):
        raise OptionsError("bodies are written to a folder: -o DIR")
    folder = expanded(args.output)
    count = 0
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for n, flow in flows:
            name = ""
            for name, data in _pieces(n, flow):
                fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                with open(fd, "wb") as file:
                    file.write(data)
            count += bool(name)
    except OSError as error:
        raise OptionsError(f"{error.filename or folder}: {error.strerror or error}") from None
    return count


def _pieces(n: int, flow: Flow) -> Iterator[tuple[str, bytes]]:
    """(file name, content). A name is made of the flow's number and its type: nothing of the traffic is in it."""
    said: list[Any] = []
    if isinstance(flow, HTTPFlow):
        for word, message in (("request", flow.request), ("response", flow.response)):
            if message is None:
                continue
            if message.raw_content:
                yield f"{n}-{word}{_ending(message)}", message.get_content(strict=False) or b""
            elif message.raw_content is None and message.tee is not None and message.tee.content:
                yield f"{n}-{word}-first-{len(message.tee.content)}-of-{message.tee.size}", message.tee.content
        said = flow.websocket.messages if flow.websocket is not None else []
    elif flow.type != "dns":
        said = flow.messages  # type: ignore[attr-defined]
    for word, ours in (("client", True), ("server", False)):
        if data := b"".join(message.content for message in said if message.from_client == ours):
            yield f"{n}-{word}.bin", data


def _ending(message: Message) -> str:
    kind = parse_content_type(message.headers.get("content-type", ""))
    return (mimetypes.guess_extension(f"{kind[0]}/{kind[1]}") if kind else None) or ".bin"


_FORMATS: Final[dict[str, Callable[[Flows, argparse.Namespace], int]]] = {
    "flows": _flow_file,
    "har": _har,
    "curl": _text("curl"),
    "httpie": _text("httpie"),
    "python": _text("python"),
    "raw": _text("raw"),
    "bodies": _bodies,
    "pcapng": _pcapng,
}


# -- away


def delete(args: argparse.Namespace, options: Options) -> int:
    """0: done; 1: nothing matched, or something of them is left. Raises LockgateError."""
    from appliance.store.deletion import delete as delete_rows

    flt = filter_of(*args.filter)
    if (flt is None) != bool(args.number):
        raise OptionsError("say which flows: a filter (~all is every one), or --number N")
    with Store(folder_of(options)) as store:
        chosen = [store.row(n) for n in args.number or ()] or store.rows(flt)
        numbers = array("q", (row.n for row in chosen))  # they may be millions
        if not numbers:
            print("lockgate: no flow matches", file=sys.stderr)
            return 1
        if not args.yes:
            if not sys.stdin.isatty():
                raise StoreError(f"{_flows(len(numbers))} would be deleted; --yes does so without asking")
            if not _agreed(f"Delete {_flows(len(numbers))} from {store.folder}? [y/N] "):
                return 1
        done = delete_rows(store.folder, _still(store, numbers))
    print(f"{_flows(done.whole)} deleted")
    if done.left:
        print(
            f"lockgate: {_flows(done.left)} more can no longer be listed, but what is damaged of them could not be "
            "overwritten",
            file=sys.stderr,
        )
    if done.open:
        print(f"lockgate: {_flows(done.open)} not over yet: left, to be deleted when they are", file=sys.stderr)
    return 1 if done.left or done.open else 0


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _still(store: Store, numbers: Iterable[int]) -> Iterator[Row]:
    """Those that are there yet: the budget may have been faster."""
    for number in numbers:
        with contextlib.suppress(StoreError):
            yield store.row(number)


def _flows(count: int) -> str:
    return f"{count} flow{'s' if count != 1 else ''}"
