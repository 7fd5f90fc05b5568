"""TLS sessions of upstream servers, to be resumed.

A resumed handshake checks no certificate again. So a session is only offered where the first handshake's verdict holds
(same address, name, ALPN and verification policy), its age counts from that first handshake, and the certificates seen
then are kept with it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from cryptography import x509


class Kept(NamedTuple):
    """session: ASN.1. certificates: the peer's, leaf first. verified: monotonic seconds of the full handshake."""

    session: bytes
    certificates: Sequence[x509.Certificate]
    verified: float
    once: bool


class SessionCache:
    """A bounded LRU: the latest session for each key."""

    def __init__(self, size: int = 256, max_age: float = 600.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._max_age = max_age
        self._clock = clock
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, key: Hashable) -> Kept | None:
        """The session to offer, None when there is none that is young enough.

        A TLS 1.3 session is given out once (RFC 8446 appendix C.4), so that nobody on the path can link connections.
        """
        kept = self._kept.pop(key, None)
        if kept is None or self._clock() - kept.verified > self._max_age:
            return None
        if not kept.once:
            self._kept[key] = kept
        return kept

    def put(
        self,
        key: Hashable,
        session: bytes,
        certificates: Sequence[x509.Certificate],
        *,
        once: bool,
        verified: float | None = None,
    ) -> None:
        """Keep the newest session for `key`. verified: of the session this one was resumed from; None = just now."""
        self._kept.pop(key, None)
        self._kept[key] = Kept(session, certificates, self._clock() if verified is None else verified, once)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()
