"""Recording as the options say: a recorder and its upkeep, begun, changed and ended while the gateway runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.human import parse_age
from appliance.store.folder import folder_of
from appliance.store.recorder import Recorder
from appliance.store.upkeep import Upkeep
from appliance.store.writer import Status

if TYPE_CHECKING:
    from appliance.options import Options
    from appliance.worker import Worker

LARGEST_SEGMENT: Final = 64 << 20
SMALLEST_SEGMENT: Final = 1 << 20
LONGEST_SEGMENT: Final = 3600.0


class Service:
    """Sets `worker.recorder`, None while nothing is recorded."""

    def __init__(self, worker: Worker, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._options = options
        self._loop = loop
        self._upkeep: Upkeep | None = None
        self.recorder: Recorder | None = None

    def apply(self) -> None:
        """Do what the options say now. What cannot be done is told, and stops no traffic."""
        options = self._options
        folder: Path | None = folder_of(options) if options.store and options.server else None
        recorder = self.recorder
        if recorder is not None and recorder.folder != folder:
            self.close()
            recorder = None
        if folder is None:
            return
        if recorder is None:
            recorder = Recorder(folder, loop=self._loop)
        max_bytes, max_age = options.size("store_max_bytes"), parse_age(options.store_max_age)
        recorder.body_limit = options.size("store_body_limit") or 0
        recorder.messages_limit = options.size("store_messages_limit") or 0
        # Small enough that deleting one is no great loss, and that the budget is kept well.
        recorder.segment_bytes = max(SMALLEST_SEGMENT, min(LARGEST_SEGMENT, (max_bytes or 1 << 62) // 16))
        recorder.segment_seconds = min(LONGEST_SEGMENT, (max_age or LONGEST_SEGMENT * 8) / 8)
        if self.recorder is None:
            self.recorder = recorder
            recorder.start()
            self._upkeep = Upkeep(folder, max_bytes, max_age, lambda: recorder.flows)
            self._upkeep.start()
            recorder.sealed = self._upkeep.look
        elif self._upkeep is not None:
            self._upkeep.max_bytes, self._upkeep.max_age = max_bytes, max_age
        self._worker.recorder = recorder

    def status(self) -> Status | None:
        """None: nothing is recorded."""
        return self.recorder.status() if self.recorder is not None else None

    def close(self) -> None:
        """Write what waits, and end."""
        self._worker.recorder = None
        recorder, self.recorder = self.recorder, None
        upkeep, self._upkeep = self._upkeep, None
        if recorder is not None:
            recorder.close()
        if upkeep is not None:
            upkeep.stop()
