"""Reading segments: open files, connections and certificates that are asked for again, flows put together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from appliance.connection import Connection
from appliance.flow import Flow
from appliance.store import records
from appliance.store.segment import Damaged, Segment

OPEN_SEGMENTS: Final = 16
CONNECTIONS: Final = 4096


class Shelf:
    """The segments of one store, a bounded number of them open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[int, Segment] = OrderedDict()
        self._connections: OrderedDict[tuple[int, int], Connection] = OrderedDict()
        self._certificates: OrderedDict[tuple[int, int], x509.Certificate] = OrderedDict()

    def close(self) -> None:
        for segment in self._open.values():
            segment.close()
        self._open.clear()

    def segment(self, number: int) -> Segment:
        """Raises OSError, Damaged."""
        found = self._open.get(number)
        if found is None:
            found = self._open[number] = Segment(self.folder, number)
            if len(self._open) > OPEN_SEGMENTS:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(number)
        return found

    def drop(self, number: int) -> None:
        """It is not what it was."""
        if (segment := self._open.pop(number, None)) is not None:
            segment.close()

    def record(self, number: int, offset: int) -> Any:
        """:raises Damaged: it is not there, or not to be read."""
        try:
            return records.decode(self.segment(number).record(offset))
        except OSError as error:
            raise Damaged(f"segment {number}: {error.strerror}") from None
        except ValueError as error:
            raise Damaged(f"{self.segment(number).path}: the record at {offset} is damaged: {error}") from None

    def flow(self, number: int, offset: int, parts: Iterable[tuple[int, int]] = ()) -> Flow:
        """The flow whose record is there, and of a conversation the messages in `parts`.

        :raises Damaged: it cannot be read.
        """
        return self.made(self.record(number, offset), number, offset, parts)

    def made(self, record: Any, number: int, offset: int, parts: Iterable[tuple[int, int]] = ()) -> Flow:
        """The same of a record that was read already."""
        try:
            flow = records.flow_of(record, _In(self, number))
        except Damaged:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise Damaged(f"segment {number}: the record at {offset} is no flow: {error!r}") from None
        lost = 0
        for segment, place in parts:
            try:
                part = self.record(segment, place)
                if part[0] == "m":
                    records.add_messages(flow, part[2])
            except (Damaged, ValueError, TypeError, IndexError):
                lost += 1
        if lost:
            flow.metadata["store"] = f"{lost} groups of messages are gone"
        return flow

    def connection(self, kind: type[Connection], number: int, offset: int) -> Any:
        found = self._connections.get((number, offset))
        if found is None or not isinstance(found, kind):
            state = self.record(number, offset)[1]
            found = records.connection_of(kind, state, lambda place: self.certificate(number, place))
            self._connections[number, offset] = found
            if len(self._connections) > CONNECTIONS:
                self._connections.popitem(last=False)
        return found

    def certificate(self, number: int, offset: int) -> x509.Certificate:
        found = self._certificates.get((number, offset))
        if found is None:
            found = self._certificates[number, offset] = x509.load_der_x509_certificate(self.record(number, offset)[1])
            if len(self._certificates) > CONNECTIONS:
                self._certificates.popitem(last=False)
        return found


class _In(records.Reader):
    """Reads what one segment's records name."""

    def __init__(self, shelf: Shelf, number: int) -> None:
        self._shelf = shelf
        self._number = number

    def certificate(self, offset: int) -> x509.Certificate:
        return self._shelf.certificate(self._number, offset)

    def connection(self, kind: type[Connection], place: int | records.State) -> Any:
        if isinstance(place, int):
            return self._shelf.connection(kind, self._number, place)
        return records.connection_of(kind, place, self.certificate)

    def piece(self, segment: int, offset: int) -> bytes | None:
        try:
            found = self._shelf.record(segment, offset)[1]
        except Damaged:
            return None
        return found if isinstance(found, bytes) else None
