"""`lockgate convert IN OUT`: flow files, HAR and pcapng into each other; TLS secrets into a capture."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from appliance import flowfilter
from appliance.cli.main import FULL
from appliance.exceptions import CommandError, FlowReadException
from appliance.flow import Flow
from appliance.home import expanded
from appliance.io import FlowReader, FlowWriter, pcapng
from appliance.io.pcapng.merge import NoCapture, is_capture
from appliance.io.writer import private
from appliance.log import escape

NAMED = 5
"""Faults that are told."""
_SUFFIXES = {".har": "har", ".zhar": "har", ".pcapng": "pcapng", ".pcap": "pcapng", ".ntar": "pcapng"}


def main(source: str, target: str, kind: str | None, text: str, keylog: str | None) -> int:
    """0: all is written. 1: some of it could not be read. Raises CommandError where nothing can be done."""
    kind = kind or _SUFFIXES.get(Path(target).suffix.lower(), "flows")
    if text:
        try:
            flt: flowfilter.TFilter | None = flowfilter.parse(text)
        except ValueError as error:
            raise CommandError(str(error)) from None
    else:
        flt = None
    with ExitStack() as stack:
        try:
            opened: IO[bytes] = sys.stdin.buffer if source == "-" else stack.enter_context(open(source, "rb"))
            if source != "-" and target != "-" and os.path.exists(target) and os.path.samefile(source, target):
                raise CommandError(f"{target} is what is to be read; name another file to write")
            start = opened.peek(4)[:4] if hasattr(opened, "peek") else b""
            if is_capture(start):
                blocks = _capture(opened, source, kind, keylog, flt)
                out = _target(target, stack)
                return _capture_out(blocks, out, source)
            if keylog is not None:
                raise CommandError(f"{source} is no capture (pcap, pcapng), so there is nothing that TLS secrets open")
            out = _target(target, stack)
            return _flows_out(opened, out, kind, flt, source, packed=target.endswith(".zhar"))
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno in FULL:  # not of what is read
                raise
            raise CommandError(f"{error.filename or source}: {error.strerror or error}") from None


def _target(target: str, stack: ExitStack) -> IO[bytes]:
    return sys.stdout.buffer if target == "-" else stack.enter_context(private(Path(target)))


def _capture(
    opened: IO[bytes], source: str, kind: str, keylog: str | None, flt: flowfilter.TFilter | None
) -> Iterator[bytes]:
    if keylog is None or kind != "pcapng" or flt is not None:
        raise CommandError(f"{source} is a capture of packets: give --secrets KEYLOG, and a .pcapng to write to")
    path = expanded(keylog)
    with path.open("rb") as file:  # now, and not after the target was made
        if not any(len(line.split()) == 3 and not line.startswith(b"#") for line in file):
            raise CommandError(f"{keylog} has no line of a TLS key log (tls_keylog_file, SSLKEYLOGFILE)")

    def lines() -> Iterable[bytes]:
        with path.open("rb") as file:
            yield from file

    return pcapng.with_secrets(opened, lines)


def _capture_out(blocks: Iterator[bytes], out: IO[bytes], source: str) -> int:
    try:
        for block in blocks:
            out.write(block)
    except NoCapture as error:
        print(f"lockgate: {source}: {error}; what came before is written", file=sys.stderr)
        return 1
    return 0


def _flows_out(
    opened: IO[bytes], out: IO[bytes], kind: str, flt: flowfilter.TFilter | None, source: str, packed: bool
) -> int:
    broken: list[str] = []

    def flows() -> Iterator[Flow]:
        try:
            for flow in FlowReader(opened).stream():
                if flt is None or flt(flow):
                    yield flow
        except FlowReadException as error:
            broken.append(str(error))

    if kind == "pcapng":
        broken += pcapng.write(flows(), out)[1]
    elif kind == "har":
        broken += _as_har(flows(), out, packed)
    else:
        _as_flows(flows(), out)
    out.flush()
    for text in broken[:NAMED]:
        print(f"lockgate: {source}: {escape(text)}", file=sys.stderr)
    return int(bool(broken))


def _as_flows(flows: Iterable[Flow], out: IO[bytes]) -> None:
    writer = FlowWriter(out)
    for flow in flows:
        writer.add(flow)


def _as_har(flows: Iterable[Flow], out: IO[bytes], packed: bool) -> list[str]:
    """What could not be written."""
    from appliance.addons.savehar import Sink
    from appliance.io.har import dump

    sink = Sink(out, packed)
    _, faults = dump(flows, sink.write)
    sink.end()
    return faults
