"""Bytes from stream to stream in user space, for those that have no bare socket below (TLS, or a tunnel's rest)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from appliance.net.reasons import Reason
from appliance.net.stream import Buffer, Stream

Tap = Callable[[Buffer], None]


async def pour(src: Stream, dst: Stream, limit: int | None = None, tap: Tap | None = None) -> int:
    """Move bytes until `limit` of them have gone, or to the end of `src`; returns how many. Does not pass the EOF on.

    What arrives at `src` is written to `dst` in the same callback: no task, no copy, no wake-up per chunk. `src` is
    paused while `dst` is above high water. `tap` sees each piece first.

    :raises Gone: either stream was lost.
    """
    moved = 0

    def sink(data: memoryview) -> bool:
        nonlocal moved
        if limit is not None and moved + len(data) >= limit:
            src.buf += data[limit - moved :]
            data = data[: limit - moved]
        moved += len(data)
        if tap is not None:
            tap(data)
        return dst.write(data) and dst.why is None and moved != limit

    def gone(reason: Reason) -> None:
        if dst.why is not None:  # an EOF from there is none of our business
            src.interrupt(dst.why)
        if earlier is not None:
            earlier(reason)

    if dst.why is not None:
        raise dst.why.error()
    earlier, dst.on_gone = dst.on_gone, gone
    try:
        while moved != limit and await src.push(sink):
            await dst.drain()
    finally:
        dst.on_gone = earlier
    if dst.why is not None:
        raise dst.why.error()
    return moved


async def both(a: Stream, b: Stream, counts: list[int], heard: Callable[[bool, Buffer], None] | None = None) -> None:
    """Relay both ways, half-closes included, until both are through; adds the bytes to counts (a to b, b to a).

    heard: told of each piece, and whether it came from `a`.

    One coroutine and no task: an idle connection is to cost little memory.

    :raises Gone: one of them was lost.
    """
    ways = _Way(a, b, 0, counts, heard), _Way(b, a, 1, counts, heard)
    loop = a.net.loop
    try:
        while not (ways[0].through and ways[1].through):
            turn = loop.create_future()
            for way in ways:
                way.go_on(turn)
            if not (ways[0].through and ways[1].through):
                await turn
    finally:
        for way in ways:
            way.leave()


class _Way:
    """One direction of `both`. through: the end of `src` has been passed on."""

    __slots__ = ("_counts", "_earlier", "_full", "_heard", "_index", "_turn", "dst", "src", "through")

    def __init__(
        self, src: Stream, dst: Stream, index: int, counts: list[int], heard: Callable[[bool, Buffer], None] | None
    ) -> None:
        self.src, self.dst, self.through = src, dst, False
        self._index, self._counts, self._heard = index, counts, heard
        self._turn: asyncio.Future[None] | None = None
        self._full: asyncio.Future[None] | None = None  # what was waited for the last time
        self._earlier, dst.on_gone = dst.on_gone, self._gone

    def go_on(self, turn: asyncio.Future[None]) -> None:
        """Let it run until there is something to do: then `turn` is resolved. :raises Gone: either stream was lost."""
        self._turn = turn
        while not self.through:
            if self.dst.why is not None:
                raise self.dst.why.error()
            if (full := self.dst.full()) is not None:
                if full is not self._full:
                    self._full = full
                    full.add_done_callback(self._wake)
                return
            ended = self.src.pushing(self._sink, turn)
            if ended is None:
                continue
            if ended:
                self.through = True
                self.dst.pass_end(self.src)
            return

    def _sink(self, data: memoryview) -> bool:
        self._counts[self._index] += len(data)
        if self._heard is not None:
            self._heard(self._index == 0, data)
        return self.dst.write(data) and self.dst.why is None

    def _wake(self, _: object) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def _gone(self, reason: Reason) -> None:
        self._wake(reason)
        if self._earlier is not None:
            self._earlier(reason)

    def leave(self) -> None:
        self.src.push_no_more()
        if self.dst.on_gone == self._gone:
            self.dst.on_gone = self._earlier
