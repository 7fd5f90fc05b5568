"""Writing flow files: one state after the other, in the format that mitmproxy 11 opens."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from appliance.io.tnetstring import dumps
from appliance.log import RateLimited

if TYPE_CHECKING:
    from appliance.flow import Flow
    from appliance.flowfilter import TFilter

_told = RateLimited(logging.getLogger(__name__), per_minute=1)


class FlowWriter:
    """Appends flows to a file that is open for writing bytes."""

    def __init__(self, fo: IO[bytes]) -> None:
        self.fo = fo

    def add(self, flow: Flow) -> None:
        """Write `flow` at once, whole or not at all. Raises OSError; TypeError and ValueError for an odd state."""
        self.fo.write(packed(flow))


class FilteredFlowWriter(FlowWriter):
    """Writes only what the filter matches; None: everything."""

    def __init__(self, fo: IO[bytes], flt: TFilter | None) -> None:
        super().__init__(fo)
        self.flt = flt

    def add(self, flow: Flow) -> None:
        if self.flt is None or self.flt(flow):
            super().add(flow)


def private(path: Path, append: bool = False) -> IO[bytes]:
    """Open a file to write to. A new one is its owner's alone: what was captured has secrets in it. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    return open(os.open(path, flags, 0o600), "ab" if append else "wb")


def packed(flow: Flow) -> bytes:
    """The bytes of one flow. Metadata that is no plain value is left out, and that is told in the log."""
    state = flow.get_state()
    try:
        return dumps(state)
    except (TypeError, ValueError):
        left = {key: value for key, value in state["metadata"].items() if _plain(key) and _plain(value)}
        odd = sorted(map(str, state["metadata"].keys() - left.keys()))
        if not odd:
            raise
        state["metadata"] = left
        if state["backup"]:
            state["backup"] = {**state["backup"], "metadata": left}
        _told.log(logging.WARNING, tuple(odd),
                  "metadata %s is not saved with flows: only plain values can be (text, bytes, numbers, lists, dicts)",
                  ", ".join(odd))  # fmt: skip
        return dumps(state)


def _plain(value: object) -> bool:
    try:
        dumps(value)
    except (TypeError, ValueError):
        return False
    return True
