"""A transport without a socket: pairs of streams in memory, for tests and for what has no connection of its own."""

from __future__ import annotations

from appliance.net.reasons import CLOSED, Reason
from appliance.net.transport import HIGH_WATER, Above, Buffer


class MemoryTransport:
    """One end of an in-memory pair, for tests and for streams that have no socket. Delivery is immediate."""

    def __init__(self, above: Above) -> None:
        self.above = above
        self.peer: MemoryTransport | None = None
        self.inbox = bytearray()
        self.eof = False
        self.reading = False
        self.closed = False

    def _deliver(self) -> None:
        if self.reading and self.inbox:
            data, self.inbox = self.inbox, bytearray()
            self.above.received(memoryview(data))
        if self.reading and self.eof and not self.inbox:
            self.reading = False
            self.above.ended()
        if self.peer is not None and not self.inbox:
            self.peer.above.drained()

    def write(self, data: Buffer) -> bool:
        if self.peer is not None and not (self.closed or self.peer.closed):
            self.peer.inbox += data
            self.peer._deliver()
        return self.room()

    def room(self) -> bool:
        return self.peer is None or self.peer.closed or len(self.peer.inbox) < HIGH_WATER

    @property
    def free(self) -> bool:
        return self.peer is None or not self.peer.inbox

    def write_eof(self) -> None:
        if self.peer is not None and not self.peer.eof:
            self.peer.eof = True
            self.peer._deliver()

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        if not self.closed:
            self.reading = True
            self._deliver()

    def look(self) -> None:
        pass

    def close(self, linger: bool = False) -> None:
        if not self.closed:
            self.write_eof()
            self.closed = True
            self.reading = False
            self.inbox.clear()
            if self.peer is not None:
                self.peer.above.drained()

    def abort(self, why: Reason = CLOSED) -> None:
        if not self.closed:
            self.closed = True
            self.reading = False
            if self.peer is not None and not self.peer.closed:
                self.peer.closed = True
                self.peer.above.lost(Reason("reset", "connection reset by peer"))
