"""Subscriptions: what flows and the log give to those who asked for it. While nobody has, nothing listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from appliance.control.protocol import dump
from appliance.control.summary import connection, summary
from appliance.log import RateLimited, level_name, text_of

if TYPE_CHECKING:
    from appliance.connection import Client
    from appliance.flow import Flow
    from appliance.flowfilter import FlowFilter

BATCH_SECONDS = 0.05
"""Events wait so long for others, to go in one write; changes to one flow are one event."""
MOST_WAITING = 2000
"""Events in one batch of one subscriber; further ones are dropped and counted."""
MOST_UNREAD = 1 << 20
"""Bytes that a subscriber may leave unread; until it has read them its events are dropped and counted."""
KINDS = ("begin", "update", "end", "connection")
MAX_LOG_TEXT = 8000


_odd = RateLimited(logging.getLogger(__name__), 2)


class Subscription:
    """One stream of events to one client. Takes what happened, makes lines of it a little later, never waits."""

    event = ""

    def __init__(self, number: int, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.dropped = 0  # not told yet
        self.lost = 0  # in all
        self.waiting: list[Any] = []
        self._transport = transport
        self._loop = loop
        self._flushing: asyncio.TimerHandle | None = None

    def take(self, what: Any) -> bool:
        """One more thing to tell. False: there is no room for it, and it was counted."""
        if len(self.waiting) < MOST_WAITING and self._transport.get_write_buffer_size() < MOST_UNREAD:
            self.waiting.append(what)
            self.soon()
            return True
        self.drop(1)
        return False

    def drop(self, count: int) -> None:
        self.dropped += count
        self.lost += count

    def soon(self) -> None:
        """There is something to flush."""
        if self._flushing is None:
            self._flushing = self._loop.call_later(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what waits, and before it how much was dropped earlier."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._transport.is_closing():
            return
        waiting, self.waiting = self.waiting, []
        left = MOST_UNREAD - self._transport.get_write_buffer_size()
        lines = []
        if self.dropped and left > 0:
            lines.append(dump({"event": "dropped", "subscription": self.number, "count": self.dropped}))
            self.dropped = 0
        for number, what in enumerate(waiting):
            if left <= 0:
                self.drop(len(waiting) - number)
                break
            try:
                data = self.describe(what)
                line = None if data is None else dump({"event": self.event, "subscription": self.number, **data})
            except Exception as error:  # an add-on may have put anything into a flow
                self.drop(1)
                _odd.log(logging.ERROR, type(error).__name__, "control socket: an event cannot be told: %r", error)
                continue
            if line is not None:
                lines.append(line)
                left -= len(line)
        if lines:
            self._transport.write(b"".join(lines))

    def describe(self, what: Any) -> dict[str, Any] | None:
        """Its part of an event. None: not yet, it was taken once more."""
        raise NotImplementedError

    def end(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self.waiting.clear()


# -- flows


class FlowSubscription(Subscription):
    event = "flow"

    def __init__(
        self,
        number: int,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        flt: FlowFilter | None,
        kinds: frozenset[str],
    ) -> None:
        super().__init__(number, transport, loop)
        self.flt = flt
        self.kinds = kinds
        self.bodies = flt is not None and not flt.heads
        self._changed: set[int] = set()  # flows of this batch, by id(), that need no second `update`

    def note(self, kind: str, flow: Flow) -> None:
        if kind not in self.kinds or (kind == "update" and id(flow) in self._changed):
            return
        if self.flt is not None and not self.flt(flow):
            return
        if self.take((kind, flow)):
            self._changed.add(id(flow))  # its own as long as the flow is held, which is until the flush

    def flush(self) -> None:
        self._changed.clear()
        super().flush()

    def note_connection(self, client: Client) -> None:
        if "connection" in self.kinds:
            self.take(("connection", client))

    def describe(self, what: tuple[str, Any]) -> dict[str, Any] | None:
        kind, one = what
        if kind == "connection":
            return {"kind": kind, "connection": connection(one)}
        if kind == "end" and one.intercepted and one.live:  # it may still be edited
            self.take(what)
            return None
        return {"kind": kind, "flow": summary(one)}


# -- the log


class LogSubscription(Subscription):
    event = "log"

    def __init__(self, number: int, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, level: int) -> None:
        super().__init__(number, transport, loop)
        self.level = level

    def describe(self, what: dict[str, Any]) -> dict[str, Any] | None:
        return what


class LogFeed(logging.Handler):
    """Installed while somebody has subscribed. Records of other threads come over by the loop, a bounded number."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.subscriptions: list[LogSubscription] = []
        self._loop = loop
        self._queue: deque[tuple[int, dict[str, Any]]] = deque()
        self._left_out = 0
        self._scheduled = False

    def add(self, subscription: LogSubscription) -> None:
        if not self.subscriptions:
            logging.getLogger().addHandler(self)
        self.subscriptions.append(subscription)

    def remove(self, subscription: LogSubscription) -> None:
        subscription.end()
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
            if not self.subscriptions:
                logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:  # called with the handler's lock held
        if len(self._queue) >= MOST_WAITING:
            self._left_out += 1
            return
        text = text_of(record)
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        if len(text) > MAX_LOG_TEXT:
            text = text[:MAX_LOG_TEXT] + "…"
        entry = {"time": record.created, "level": level_name(record.levelno), "text": text}
        self._queue.append((record.levelno, entry))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._hand_over)
            except RuntimeError:  # the loop was closed meanwhile
                self._queue.clear()

    def _hand_over(self) -> None:
        self._scheduled = False
        left_out, self._left_out = self._left_out, 0
        for one in self.subscriptions:
            one.drop(left_out)
        while self._queue:
            level, entry = self._queue.popleft()
            for one in self.subscriptions:
                if level >= one.level:
                    one.take(entry)
