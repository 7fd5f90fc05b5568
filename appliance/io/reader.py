"""Reading flow files, and HAR where a file begins like one."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from appliance.exceptions import FlowReadException
from appliance.flow import Flow
from appliance.home import expanded
from appliance.http import HTTPFlow
from appliance.io import tnetstring
from appliance.io.older import Upgrade, is_older
from appliance.io.version import as_ours, check
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow

NAMED: Final = 5
"""Flows that cannot be read and are described one by one; the rest is counted."""


class FlowReader:
    """Reads one file, a flow at a time. `faults` counts those that were left out."""

    def __init__(self, fo: IO[bytes]) -> None:
        self.fo = _Counting(fo)
        self.flows = 0
        self.faults = 0
        self._named: list[str] = []
        self._upgrade = Upgrade()

    def stream(self) -> Iterator[Flow]:
        """Every flow that is whole, in order; at the end raises FlowReadException if there were others, naming them."""
        start = self.fo.peek(4)
        if not start:
            return
        if start.removeprefix(codecs.BOM_UTF8)[:1] == b"{":
            from appliance.io.har_import import flows_of

            for exchange in flows_of(self.fo.rest()):
                self.flows += 1
                yield exchange
            return
        while True:
            at = self.fo.position
            try:
                state = tnetstring.load(self.fo)  # type: ignore[arg-type]
            except EOFError:
                break
            except tnetstring.Malformed as error:
                self._fault(at, error)
                continue
            except ValueError as error:
                self._fault(at, error)
                break  # where the next one begins cannot be known
            try:
                flow = flow_from(state, self._upgrade)
            except ValueError as error:
                self._fault(at, error)
                continue
            self.flows += 1
            yield flow
        if self.faults:
            more = f"; and {self.faults - NAMED} more" if self.faults > NAMED else ""
            raise FlowReadException(f"{'; '.join(self._named)}{more} ({self.flows} flows were read)")

    def _fault(self, at: int, error: ValueError) -> None:
        self.faults += 1
        if self.faults <= NAMED:
            self._named.append(f"flow {self.flows + self.faults} (at byte {at}): {error}")


def flow_from(state: Any, upgrade: Upgrade | None = None) -> Flow:
    """A flow of a state; `upgrade`: the file's own, for older states. Raises ValueError for what is none."""
    if not isinstance(state, dict):
        raise ValueError(f"no flow but {type(state).__name__}")
    try:
        if is_older(state.get("version", state.get(b"version"))):
            state = (upgrade or Upgrade())(state)
        check(state)
        as_ours(state)
        kind = flow_type(state.get("type"))
        backup, state["backup"] = state.get("backup"), None
        flow = kind.from_state(state)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"no {state.get('type')!r:.40} flow: {type(error).__name__} {error}") from None
    if isinstance(backup, dict):
        with contextlib.suppress(ValueError):  # a broken one is left out: what it backs up is here
            flow._backup = flow_from({**backup, "backup": None}).get_state()
    return flow


def flow_type(name: object) -> type[Flow]:
    """Raises ValueError for a name that is unknown."""
    for kind in (HTTPFlow, TCPFlow, UDPFlow):
        if kind.type == name:
            return kind
    if name == "dns":
        try:
            found: type[Flow] = importlib.import_module("appliance.dns").DNSFlow
            return found
        except (ImportError, AttributeError):
            raise ValueError("DNS flows cannot be read by this release") from None
    raise ValueError(f"flows of type {name!r:.40} are unknown")


def read_flows_from_paths(paths: Iterable[str | Path]) -> list[Flow]:
    """All flows of these files ("~" is expanded). Raises FlowReadException, which names the file."""
    flows: list[Flow] = []
    for path in paths:
        full = expanded(path)
        try:
            with full.open("rb") as file:
                flows.extend(FlowReader(file).stream())
        except OSError as error:
            raise FlowReadException(f"{full}: {error.strerror or error}") from None
        except FlowReadException as error:
            raise FlowReadException(f"{full}: {error}") from None
    return flows


class _Counting(io.RawIOBase):
    """Reads through, knows where it is, and can look ahead; `fo` may be a pipe."""

    def __init__(self, fo: IO[bytes]) -> None:
        self._fo = fo
        self._ahead = b""
        self.position = 0

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (piece := self._fo.read(size - len(self._ahead))):
            self._ahead += piece
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        if self._ahead:
            found, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            found = self._fo.read(size)
        self.position += len(found)
        return found

    def rest(self) -> bytes:
        return self._ahead + self._fo.read()
