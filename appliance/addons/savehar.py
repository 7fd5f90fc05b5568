"""Writes HTTP flows as HAR 1.2: as they end (option `hardump`) and on demand (command `save.har`)."""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from appliance import ctx
from appliance.addonmanager import Loader
from appliance.addons.save import open_target
from appliance.addons.switch import Switch
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.http import HTTPFlow
from appliance.io.har import HEAD, TAIL, HarWriter, dump
from appliance.log import RateLimited

logger = logging.getLogger(__name__)
NAMED = 5
"""Flows that cannot be written and are named."""
PACKED = ".zhar"
"""Files with this ending are deflated."""


class SaveHar(Switch):
    """On while the option `hardump` names a file; ``-`` is standard output."""

    name = "savehar"

    def load(self, loader: Loader) -> None:
        loader.add_command("save.har", self.export_har)

    def configure(self, updated: frozenset[str]) -> None:
        if "hardump" in updated:
            path = ctx.options.hardump
            self.use(HarStream(path) if path else None)

    def export_har(self, flows: Sequence[Flow], path: str) -> None:
        """Export HTTP flows to a HAR (HTTP Archive) file; deflated if its name ends in .zhar."""
        try:
            with open_target(path, append=False) as file:
                sink = Sink(file, packed=path.endswith(PACKED))
                count, faults = dump(flows, sink.write)
                sink.end()
        except (OSError, OptionsError) as error:
            raise CommandError(f"cannot save the HAR: {error}") from None
        logger.info("%d of %d flows saved to %s", count, len(flows), path)
        for fault in faults[:NAMED]:
            logger.error("save.har: %s", fault)


class Sink:
    """ASCII into a file, deflated or not."""

    def __init__(self, file: IO[bytes], packed: bool) -> None:
        self.file = file
        self._packer = zlib.compressobj(9) if packed else None

    def write(self, text: str) -> None:
        data = text.encode("ascii")
        self.file.write(self._packer.compress(data) if self._packer else data)

    def end(self) -> None:
        if self._packer:
            self.file.write(self._packer.flush())
        self.file.flush()


class HarStream:
    """Nothing is kept in memory. A plain file is a valid HAR after each entry; a deflated one, and standard output,
    once the gateway has ended.
    """

    name = "savehar stream"

    def __init__(self, path: str, stdout: IO[bytes] | None = None) -> None:
        """Raises OptionsError when the file cannot be opened."""
        self._path = path
        self._har = HarWriter()
        self._told = RateLimited(logger, per_minute=1)
        self.count = self.lost = 0
        try:
            file = (stdout or sys.stdout.buffer) if path == "-" else open_target(path, append=False)
            self._sink = Sink(file, packed=path.endswith(PACKED))
            self._sink.write(HEAD)
        except (OSError, OptionsError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise OptionsError(f"hardump: {path}: {reason}") from None
        self._rewinds = not path.endswith(PACKED) and path != "-" and file.seekable() and Path(path).is_file()
        self._end = len(HEAD)

    def response(self, flow: HTTPFlow) -> None:
        if flow.websocket is None:
            self._add(flow)

    def error(self, flow: HTTPFlow) -> None:
        self._add(flow)

    def websocket_end(self, flow: HTTPFlow) -> None:
        self._add(flow)

    def request(self, flow: HTTPFlow) -> None:
        """So that its body is there."""

    def _add(self, flow: HTTPFlow) -> None:
        try:
            text = (",\n" if self.count else "\n") + self._har.text(flow)
            if self._rewinds:
                self._sink.file.seek(self._end)
                self._sink.write(text + "\n" + TAIL)
                self._sink.file.flush()
                self._end += len(text)
            else:
                self._sink.write(text)
            self.count += 1
        except Exception as error:  # the disk, or what an add-on has put into the flow
            self.lost += 1
            self._told.log(logging.ERROR, str(error), "hardump: %d flows could not be written to %s: %s",
                           self.lost, self._path, error)  # fmt: skip

    def done(self) -> None:
        try:
            if self._rewinds:
                self._sink.file.seek(self._end)
                self._sink.file.truncate()
            self._sink.write("\n" + TAIL)
            self._sink.end()
            if self._path != "-":
                self._sink.file.close()
        except (OSError, ValueError) as error:
            logger.error("hardump: %s: the end could not be written: %s", self._path, error)
