"""The two macs of handshake messages, and cookies: under load a sender must show that it has the address it writes from
(whitepaper §5.3, §5.4.4, §5.4.7).
"""

from __future__ import annotations

import hmac
import os
import struct
from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from modes.wireguard.noise import Rejected, hashed

COOKIE_REPLY_SIZE = 64
COOKIE_SECONDS = 120
"""How long a secret, and a cookie made of it, is used."""
_EMPTY = bytes(16)


def mac(key: bytes, *parts: bytes) -> bytes:
    return blake2s(b"".join(parts), digest_size=16, key=key).digest()


class Checker:
    """The receiving side. Tells apart what is not for us, what is, and what also has a cookie of ours."""

    def __init__(self, public: bytes) -> None:
        self._mac1 = hashed(b"mac1----", public)
        self._sealing = hashed(b"cookie--", public)
        self._secret = os.urandom(32)
        self._until = 0.0

    def mac1(self, message: bytes) -> bool:
        """Whether its sender knows our public key."""
        return hmac.compare_digest(mac(self._mac1, message[:-32]), message[-32:-16])

    def mac2(self, message: bytes, source: bytes, now: float) -> bool:
        """Whether it has the cookie for `source` (address and port)."""
        if message[-16:] == _EMPTY:
            return False
        return hmac.compare_digest(mac(self._cookie(source, now), message[:-16]), message[-16:])

    def reply(self, message: bytes, source: bytes, now: float) -> bytes:
        """A cookie for the sender of `message`, sealed so that only who knows that message can read it."""
        nonce = os.urandom(24)
        sealed = xseal(self._sealing, nonce, self._cookie(source, now), message[-32:-16])
        return b"\3\0\0\0" + message[4:8] + nonce + sealed

    def _cookie(self, source: bytes, now: float) -> bytes:
        if now >= self._until:
            self._secret, self._until = os.urandom(32), now + COOKIE_SECONDS
        return mac(self._secret, source)


class Generator:
    """The sending side, towards one peer."""

    def __init__(self, peer: bytes) -> None:
        self._mac1 = hashed(b"mac1----", peer)
        self._sealing = hashed(b"cookie--", peer)
        self._cookie = b""
        self._until = 0.0
        self._last = b""  # mac1 of the last message: a cookie is sealed to it

    def add(self, message: bytes, now: float) -> bytes:
        """The message with its macs."""
        self._last = mac(self._mac1, message)
        message += self._last
        return message + (mac(self._cookie, message) if self._cookie and now < self._until else _EMPTY)

    def consume(self, reply: bytes, now: float) -> None:
        """:raises Rejected: it is no answer to our last message."""
        if not self._last:
            raise Rejected("a cookie nobody asked for")
        try:
            self._cookie = xopen(self._sealing, reply[8:32], reply[32:64], self._last)
        except InvalidTag:
            raise Rejected("the cookie is not authentic") from None
        self._until = now + COOKIE_SECONDS
        self._last = b""


# -- XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha §2), which `cryptography` has not


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """A subkey. nonce: 16 bytes. ChaCha20's block is the permuted state plus the state; that sum is taken back."""
    block = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    start = struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<4I", nonce)
    ends = [(word - was) & 0xFFFFFFFF for word, was in zip(words[:4] + words[12:], start, strict=True)]
    return struct.pack("<8I", *ends)


def xseal(key: bytes, nonce: bytes, data: bytes, beside: bytes) -> bytes:
    """nonce: 24 bytes."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], data, beside)


def xopen(key: bytes, nonce: bytes, sealed: bytes, beside: bytes) -> bytes:
    """:raises InvalidTag: it is not authentic."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], sealed, beside)
