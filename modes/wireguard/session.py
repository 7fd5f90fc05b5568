"""One session: a pair of keys with their counters, and the window that keeps datagrams from being taken twice
(whitepaper §5.4.6, RFC 6479).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from modes.wireguard.noise import Keys, Rejected

WINDOW = 2048
"""Datagrams that may be overtaken by later ones."""
HEADER, TAG = 16, 16
REKEY_AFTER_TIME, REJECT_AFTER_TIME = 120.0, 180.0
REKEY_AFTER_MESSAGES, REJECT_AFTER_MESSAGES = 1 << 60, (1 << 64) - (1 << 13) - 1
_SEEN = (1 << WINDOW) - 1
_NONCE = b"\0\0\0\0"


class Replayed(Rejected):
    """A datagram that was here before, or is too late to tell."""


class Session:
    """index, remote: ours and theirs, as on the wire. began: when its handshake was done."""

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_header",
        "_map",
        "_newest",
        "began",
        "index",
        "initiator",
        "remote",
        "sent",
        "told",
    )

    def __init__(self, keys: Keys, index: bytes, remote: bytes, initiator: bool, now: float) -> None:
        self.index = index
        self.remote = remote
        self.initiator = initiator
        self.began = now
        self.sent = 0
        self.told = False  # whether a handshake was begun because this one is nearly over
        self._encrypt = ChaCha20Poly1305(keys.send).encrypt
        self._decrypt = ChaCha20Poly1305(keys.receive).decrypt
        self._header = b"\4\0\0\0" + remote
        self._newest = -1
        self._map = 0  # bit n: the datagram `newest - n` was here

    def usable(self, now: float) -> bool:
        """Whether anything may still be sent or received with it."""
        return now - self.began < REJECT_AFTER_TIME and self.sent < REJECT_AFTER_MESSAGES

    def seal(self, packet: bytes) -> bytes:
        """The datagram for a packet, which is padded to 16 bytes (never beyond what is usable: see `usable`)."""
        counter = self.sent.to_bytes(8, "little")
        self.sent += 1
        if rest := len(packet) & 15:
            packet += bytes(16 - rest)
        return self._header + counter + self._encrypt(_NONCE + counter, packet, None)

    def open(self, datagram: bytes) -> bytes:
        """The padded packet in it. :raises Replayed: it was here. :raises Rejected: it is not authentic."""
        nonce = datagram[8:16]
        counter = int.from_bytes(nonce, "little")
        behind = self._newest - counter
        if behind >= 0 and (behind >= WINDOW or self._map >> behind & 1):
            raise Replayed("a replayed datagram")
        if counter >= REJECT_AFTER_MESSAGES:
            raise Rejected("a counter beyond the last")
        try:
            packet = self._decrypt(_NONCE + nonce, datagram[16:], None)
        except InvalidTag:
            raise Rejected("not authentic") from None
        if behind >= 0:
            self._map |= 1 << behind
        else:
            self._map = (self._map << -behind | 1) & _SEEN if behind > -WINDOW else 1
            self._newest = counter
        return packet
