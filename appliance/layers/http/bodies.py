"""When a body is held for the hooks, and how it is changed when it streams."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from appliance.headers import Headers
from appliance.layers.http.h1_fields import Refused
from appliance.net.reasons import TimedOut

logger = logging.getLogger(__name__)

SILENCE = 1.0
"""Seconds after which a held body whose sender says nothing more is let go as a stream."""
_KINDS = ("text/event-stream", "application/grpc", "multipart/x-mixed-replace")


class Source(Protocol):
    """Either side's body."""

    async def chunk(self) -> bytes: ...
    def patience(self, seconds: float) -> None: ...
    @property
    def whole(self) -> bool: ...


class Held(NamedTuple):
    """What was read: `whole` = all of it; `over_limit` = more than may be; neither = the rest should stream."""

    data: bytes
    whole: bool
    over_limit: bool = False


def is_streaming_kind(headers: Headers) -> bool:
    """Bodies that never end, or whose parts are wanted one by one."""
    kind = headers.get("content-type")
    return kind is not None and kind.lower().startswith(_KINDS)


async def hold(source: Source, over: int | None, limit: int | None, silence: float = SILENCE) -> Held:
    """Read a body until it is whole, over `over` bytes (it streams then), over `limit`, or its sender falls silent.

    silence: that many seconds; 0 = it may.

    :raises Gone: truncated or lost.
    """
    data = await source.chunk()
    if source.whole:
        return Held(data, True, limit is not None and len(data) > limit)
    parts, size = [data], len(data)
    try:
        while True:
            if limit is not None and size > limit:
                return Held(b"".join(parts), False, True)
            if over is not None and size > over:
                return Held(b"".join(parts), False)
            source.patience(silence if size else 0.0)
            data = await source.chunk()
            if not data:
                return Held(b"".join(parts), True)
            parts.append(data)
            size += len(data)
            if source.whole:
                return Held(b"".join(parts), True, limit is not None and size > limit)
    except TimedOut as e:
        if e.reason.text != "silent":
            raise
        return Held(b"".join(parts), False)
    finally:
        source.patience(0.0)


def transformed(change: Any, data: bytes) -> Iterable[bytes]:
    """What a `stream` callable makes of one piece (b"" = the end); the piece itself without one.

    :raises Refused: it fails, or makes something else than bytes.
    """
    if change is None:
        return (data,) if data else ()
    try:
        made = change(data)
        pieces = (made,) if isinstance(made, bytes) else tuple(made)
    except Exception as e:
        logger.exception("an add-on's stream function failed")
        raise Refused(500, f"an add-on's stream function failed: {e!r}") from None
    for piece in pieces:
        if not isinstance(piece, bytes):
            raise Refused(500, f"an add-on's stream function made {type(made).__name__}, not bytes")
    return pieces
