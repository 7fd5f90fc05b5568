"""What is replayed: a flow file, or flows of the store (``store:FILTER``). Looked at when it is named, read a flow at a
time when it is its turn.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Final

from appliance import ctx, flowfilter
from appliance.exceptions import FlowReadException, LockgateError
from appliance.flow import Flow
from appliance.home import expanded
from appliance.ids import new_id
from appliance.io import FlowReader

if TYPE_CHECKING:
    from appliance.store.store import Store

STORE: Final = "store:"
"""How flows of the store are named; a file of such a name is ``./store:...``."""


class Recording:
    """Flows of one file, or of the store. Any iterator of flows does as well (`flows`)."""

    def __init__(self, path: str, flows: Iterator[Flow] | None = None) -> None:
        """Raises FlowReadException: it cannot be opened, is no flow file by its first bytes, or nothing in the store
        matches.
        """
        self.path = path
        self._file: IO[bytes] | Store | None = None
        if flows is not None:
            self._flows = flows
            return
        if path.startswith(STORE):
            self._flows = self._stored(path.removeprefix(STORE).strip())
            return
        try:
            self._file = expanded(path).open("rb")
            start = self._file.read(4)
            self._file.seek(0)
        except OSError as error:
            self.close()
            raise FlowReadException(f"{path}: {error.strerror or error}") from None
        if start and not (start[:1].isdigit() or start.removeprefix(codecs.BOM_UTF8)[:1] in (b"{", b"")):
            self.close()
            raise FlowReadException(f"{path}: neither a flow file nor a HAR")
        self._flows = FlowReader(self._file).stream()

    def _stored(self, text: str) -> Iterator[Flow]:
        from appliance.store.folder import folder_of
        from appliance.store.store import Store

        if not text:
            raise FlowReadException(f"{STORE} says not which flows: {STORE}FILTER, or {STORE}~all for every one")
        try:
            flowfilter.parse(text)  # by itself first, or it would be told of what is put around it here
            flt = flowfilter.parse(f"~http & ({text})")
            self._file = store = Store(folder_of(ctx.options))
            if not store.may_match(flt):
                raise FlowReadException(f"no HTTP flow in {store.folder} matches")
        except (LockgateError, ValueError) as error:
            self.close()
            raise FlowReadException(f"{self.path}: {error}") from None
        return _copies(store, flt)

    def __iter__(self) -> Iterator[Flow]:
        """The flows that are left. Raises FlowReadException, which names the file."""
        try:
            yield from self._flows
        except FlowReadException as error:
            raise FlowReadException(f"{self.path}: {error}") from None
        except (OSError, ValueError, LockgateError) as error:
            raise FlowReadException(f"{self.path}: cannot be read: {error}") from None
        finally:
            self.close()

    async def next(self) -> Flow | None:
        """The next one, read in a thread; None: that was all. Raises FlowReadException likewise."""
        return await asyncio.to_thread(self._next)

    def _next(self) -> Flow | None:
        try:
            flow = next(self._flows, None)
        except FlowReadException as error:
            raise FlowReadException(f"{self.path}: {error}") from None
        except (OSError, ValueError, LockgateError) as error:
            raise FlowReadException(f"{self.path}: cannot be read: {error}") from None
        if flow is None:
            self.close()
        return flow

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _copies(store: Store, flt: flowfilter.FlowFilter) -> Iterator[Flow]:
    """Oldest first, of those that were there at the first. Raises FlowReadException where there is none: the index
    alone could not tell.
    """
    none = True
    for flow in store.flows(flt):
        none = False
        yield as_copy(flow)
    if none:
        raise FlowReadException(f"no HTTP flow in {store.folder} matches")


def as_copy(flow: Flow) -> Flow:
    """A flow of the store that is to go once more: what comes of it is recorded beside it, under an id of its own."""
    flow.id = new_id()
    return flow
