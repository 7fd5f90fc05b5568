"""Writes flows to a file as they end (option `save_stream_file`, `-w`), and on demand (command `save.file`)."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Sequence
from typing import IO, Any, Final

from appliance import ctx
from appliance.addonmanager import Loader
from appliance.addons.filters import option_filter
from appliance.addons.switch import Switch
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.flowfilter import TFilter
from appliance.home import expanded
from appliance.http import HTTPFlow
from appliance.io import FlowWriter
from appliance.io.writer import packed, private
from appliance.log import RateLimited
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow

logger = logging.getLogger(__name__)

LARGEST: Final = 8 << 20
MOST: Final = 5000
"""Bytes and number of messages of one TCP, UDP or WebSocket flow that wait in memory for its end; beyond, they are
written in parts. Less than the flow itself keeps (layers/kept.py), so that none is lost.
"""


class Save(Switch):
    """On while the option `save_stream_file` names a file: ``+`` in front of it appends, %Y and the like rotate."""

    name = "save"

    def load(self, loader: Loader) -> None:
        loader.add_command("save.file", self.save)

    def configure(self, updated: frozenset[str]) -> None:
        if "save_stream_file" in updated:
            path, flt = ctx.options.save_stream_file, option_filter("save_stream_filter")
            self.use(Recording(path, flt) if path else None)
        elif "save_stream_filter" in updated:
            flt = option_filter("save_stream_filter")
            for recording in self.addons:
                assert isinstance(recording, Recording)
                recording.flt = flt

    def save(self, flows: Sequence[Flow], path: str) -> None:
        """Save flows to a file. If the path starts with a +, flows are appended to the file, otherwise it is
        overwritten.
        """
        try:
            with open_target(path) as file:
                writer = FlowWriter(file)
                for flow in flows:
                    writer.add(flow)
        except (OSError, OptionsError) as error:
            raise CommandError(f"cannot save flows: {error}") from None
        logger.info("%d flows saved to %s", len(flows), path.removeprefix("+"))


def open_target(path: str, append: bool = True) -> IO[bytes]:
    """Open for writing; folders on the way are made. A new file is its owner's alone: there are secrets in it. Raises
    OSError; OptionsError for what would stall us.
    """
    append = append and path.startswith("+")
    full = expanded(path.removeprefix("+"))
    if full.exists() and stat.S_ISFIFO(full.stat().st_mode):
        raise OptionsError(f"{full} is a pipe: it would hold up everything when its reader is slow; name a file")
    full.parent.mkdir(parents=True, exist_ok=True)
    return private(full, append)


class Recording:
    """A flow is written when it has ended, and is in the file then; those that never do, at shutdown.

    A long TCP, UDP or WebSocket conversation is written in parts: flows of their own, whose metadata names the one they
    are of.
    A write that fails (a full disk) is told and counted and stops no traffic; the file keeps no half a flow, and the
    next one is tried again.
    """

    name = "save stream"

    def __init__(self, path: str, flt: TFilter | None) -> None:
        """Raises OptionsError when the file cannot be opened."""
        self.flt = flt
        self.lost = 0
        self._pattern = path
        self._path = ""
        self._file: IO[bytes] | None = None
        self._active: dict[int, Flow] = {}
        self._sizes: dict[int, int] = {}  # of messages, by id() of an active flow
        self._told = RateLimited(logger, per_minute=1)
        try:
            self._rotate()
        except OSError as error:
            raise OptionsError(f"save_stream_file: {error.filename or path}: {error.strerror or error}") from None
        except OptionsError as error:
            raise OptionsError(f"save_stream_file: {error}") from None

    def _rotate(self) -> IO[bytes]:
        path = time.strftime(self._pattern) if "%" in self._pattern else self._pattern
        if self._file is None or path != self._path:
            opened = open_target(path)
            self._close()
            self._file, self._path = opened, path
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._lose(error)
            self._file = None

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self._told.log(logging.ERROR, reason, "save_stream_file: %d flows could not be written to %s: %s",
                       self.lost, self._path, reason)  # fmt: skip

    def _write(self, flow: Flow) -> None:
        self._active.pop(id(flow), None)
        self._sizes.pop(id(flow), None)
        self._put(flow)

    def _put(self, flow: Flow) -> None:
        try:
            if self.flt is not None and not self.flt(flow):
                return
            data = packed(flow)
            file = self._rotate()
            begin = file.seek(0, os.SEEK_END) if file.seekable() else None
            try:
                file.write(data)
                file.flush()
            except OSError:
                self._undo(begin)
                raise
        except (OSError, OptionsError, TypeError, ValueError) as error:
            self._lose(error)

    def _undo(self, begin: int | None) -> None:
        """Away with what was written of a flow. The buffer would write it once more, so the file is opened anew."""
        file, self._file = self._file, None
        assert file is not None
        raw = getattr(file, "raw", None)
        try:
            if begin is not None:
                os.ftruncate(file.fileno(), begin)
        except OSError:
            pass
        if raw is not None:
            raw.close()
        try:
            self._file = private(expanded(self._path.removeprefix("+")), append=True)
        except OSError:
            return

    def _begin(self, flow: Flow) -> None:
        self._active[id(flow)] = flow

    def _bound(self, flow: Flow, messages: list[Any]) -> None:
        """The last of `messages` is new."""
        size = self._sizes.get(id(flow), 0) + len(messages[-1].content)
        if size > LARGEST or len(messages) > MOST:
            last = messages.pop()  # still on its way, and may be changed
            part = flow.copy()
            part.metadata["part_of"] = flow.id
            flow.metadata["parts_before"] = flow.metadata.get("parts_before", 0) + 1
            messages[:] = [last]
            self._put(part)
            size = len(last.content)
        self._sizes[id(flow)] = size

    # -- what there is to be written

    def request(self, flow: HTTPFlow) -> None:
        self._begin(flow)

    def response(self, flow: HTTPFlow) -> None:
        if flow.websocket is None:  # else the messages come first
            self._write(flow)

    def error(self, flow: HTTPFlow) -> None:
        self._write(flow)

    def websocket_start(self, flow: HTTPFlow) -> None:
        self._begin(flow)

    def websocket_message(self, flow: HTTPFlow) -> None:
        assert flow.websocket is not None
        self._bound(flow, flow.websocket.messages)

    def websocket_end(self, flow: HTTPFlow) -> None:
        self._write(flow)

    def tcp_start(self, flow: Flow) -> None:
        self._begin(flow)

    def tcp_message(self, flow: TCPFlow) -> None:
        """Messages are there only if somebody listens to them."""
        self._bound(flow, flow.messages)

    def tcp_end(self, flow: Flow) -> None:
        self._write(flow)

    def tcp_error(self, flow: Flow) -> None:
        self._write(flow)

    def udp_start(self, flow: Flow) -> None:
        self._begin(flow)

    def udp_message(self, flow: UDPFlow) -> None:
        self._bound(flow, flow.messages)

    def udp_end(self, flow: Flow) -> None:
        self._write(flow)

    def udp_error(self, flow: Flow) -> None:
        self._write(flow)

    def dns_request(self, flow: Flow) -> None:
        self._begin(flow)

    def dns_response(self, flow: Flow) -> None:
        self._write(flow)

    def dns_error(self, flow: Flow) -> None:
        self._write(flow)

    def done(self) -> None:
        for flow in list(self._active.values()):
            self._write(flow)
        self._close()
        if self.lost:
            logger.error("save_stream_file: %d flows in all could not be written", self.lost)
