"""When handshakes come faster than they are worth, and how many each source may have then."""

from __future__ import annotations

LOAD_PER_SECOND = 64
"""Handshake messages in a second above which cookies are asked for: each costs about 0.3 ms."""
LOADED_SECONDS = 1.0
PER_SECOND, BURST = 20.0, 5.0
"""For each address that has shown a cookie (of IPv6, for each /64)."""
MAX_SOURCES = 8192


class Load:
    """Counts handshake messages that had a valid mac1."""

    def __init__(self) -> None:
        self._since = 0.0
        self._count = 0
        self._until = 0.0
        self._buckets: dict[bytes, tuple[float, float]] = {}  # address: tokens, when

    def high(self, now: float) -> bool:
        """Called once a message: whether there are too many."""
        if now - self._since >= 1.0:
            self._since, self._count = now, 0
        self._count += 1
        if self._count > LOAD_PER_SECOND:
            self._until = now + LOADED_SECONDS
        return now < self._until

    def allows(self, address: bytes, now: float) -> bool:
        """Whether this source may have one more. address: 4 or 16 bytes."""
        key = address[:8] if len(address) == 16 else address
        tokens, when = self._buckets.pop(key, (BURST, now))
        tokens = min(BURST, tokens + (now - when) * PER_SECOND)
        if len(self._buckets) >= MAX_SOURCES:
            del self._buckets[next(iter(self._buckets))]
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens), now
        return allowed
