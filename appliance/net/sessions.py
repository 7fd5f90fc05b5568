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

_TICKET = 0xAA  # [10] EXPLICIT, ssl/ssl_asn1.c


def resumable(session: bytes) -> bool:
    """Whether a session in OpenSSL's ASN.1 has a ticket, or the session id that TLS 1.2 may have in its place.

    SEQUENCE { structure version, protocol version, cipher suite, session id, master key, [n] ... }, all in DER.
    """
    tags: list[int] = []
    id_size = version = 0
    _, at, end = _header(session, 0)
    while at < end <= len(session):
        tag, start, at = _header(session, at)
        tags.append(tag)
        if len(tags) == 2:
            version = int.from_bytes(session[start:at])
        elif len(tags) == 4:
            id_size = at - start
    return _TICKET in tags or (version < 0x0304 and id_size > 0)


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the contents of the DER element at `at`."""
    size = data[at + 1]
    if size < 0x80:
        return data[at], at + 2, at + 2 + size
    octets = size & 0x7F
    start = at + 2 + octets
    return data[at], start, start + int.from_bytes(data[at + 2 : start])


class Kept(NamedTuple):
    """session: ASN.1. certificates: the peer's, leaf first. verified: monotonic seconds of the full handshake."""

    session: bytes
    certificates: Sequence[x509.Certificate]
    verified: float
    once: bool


BARREN_SECONDS = 60.0


class SessionCache:
    """A bounded LRU: the latest session for each key."""

    def __init__(self, size: int = 256, max_age: float = 600.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._max_age = max_age
        self._clock = clock
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._barren: OrderedDict[Hashable, float] = OrderedDict()

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

    def barren(self, key: Hashable) -> bool:
        """Whether the server gave no session to keep a short while ago: looking for one costs more than it is worth."""
        since = self._barren.get(key)
        return since is not None and self._clock() - since < BARREN_SECONDS

    def none_given(self, key: Hashable) -> None:
        """The server gave no session that could be resumed."""
        self._barren.pop(key, None)
        self._barren[key] = self._clock()
        if len(self._barren) > self._size:
            self._barren.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()
        self._barren.clear()
