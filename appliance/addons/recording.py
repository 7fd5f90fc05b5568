"""Flow files as the source of a replay: looked at when they are named, read a flow at a time when it is their turn."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from appliance.exceptions import FlowReadException
from appliance.flow import Flow
from appliance.io import FlowReader


class Recording:
    """Flows of one file. Any iterator of flows does as well (`flows`): a query of a store, say."""

    def __init__(self, path: str, flows: Iterator[Flow] | None = None) -> None:
        """Raises FlowReadException: it cannot be opened, or is no flow file by its first bytes."""
        self.path = path
        self._file: IO[bytes] | None = None
        if flows is not None:
            self._flows = flows
            return
        try:
            self._file = Path(path).expanduser().open("rb")
            start = self._file.read(4)
            self._file.seek(0)
        except OSError as error:
            self.close()
            raise FlowReadException(f"{path}: {error.strerror or error}") from None
        if start and not (start[:1].isdigit() or start.removeprefix(codecs.BOM_UTF8)[:1] in (b"{", b"")):
            self.close()
            raise FlowReadException(f"{path}: neither a flow file nor a HAR")
        self._flows = FlowReader(self._file).stream()

    def __iter__(self) -> Iterator[Flow]:
        """The flows that are left. Raises FlowReadException, which names the file."""
        try:
            yield from self._flows
        except FlowReadException as error:
            raise FlowReadException(f"{self.path}: {error}") from None
        except (OSError, ValueError) as error:
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
        except (OSError, ValueError) as error:
            raise FlowReadException(f"{self.path}: cannot be read: {error}") from None
        if flow is None:
            self.close()
        return flow

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
