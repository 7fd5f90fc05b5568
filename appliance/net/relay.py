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

    :raises Gone: one of them was lost.
    """

    async def way(src: Stream, dst: Stream, index: int) -> None:
        def tap(data: Buffer) -> None:
            counts[index] += len(data)
            if heard is not None:
                heard(index == 0, data)

        await pour(src, dst, tap=tap)
        dst.pass_end(src)

    ways = [asyncio.ensure_future(way(a, b, 0)), asyncio.ensure_future(way(b, a, 1))]
    try:
        await asyncio.gather(*ways)
    finally:
        for task in ways:
            task.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
