"""WireGuard's handshake, Noise_IKpsk2, as pure functions over bytes (whitepaper §5.4).

    initiation  type 1   sender | ephemeral | {static} | {timestamp} | mac1 | mac2      148 bytes
    response    type 2   sender | receiver | ephemeral | {} | mac1 | mac2                92 bytes

The last two fields are put on and checked by cookie.py. Integers are little-endian; an index is 4 bytes as they stand.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

INITIATION, RESPONSE, COOKIE_REPLY, TRANSPORT = 1, 2, 3, 4
INITIATION_SIZE, RESPONSE_SIZE = 148, 92
_MACS = 32
_CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_ZERO_NONCE = bytes(12)
NO_PSK = bytes(32)


class Rejected(Exception):
    """A message is not authentic, or not for us. The text says in what, for counters and tests."""


def hashed(*parts: bytes) -> bytes:
    return blake2s(b"".join(parts)).digest()


def kdf(key: bytes, data: bytes, count: int) -> list[bytes]:
    """`count` keys of 32 bytes (HKDF over HMAC-BLAKE2s)."""
    secret = hmac.new(key, data, blake2s).digest()
    found, last = [], b""
    for number in range(1, count + 1):
        last = hmac.new(secret, last + bytes((number,)), blake2s).digest()
        found.append(last)
    return found


_CHAIN = hashed(_CONSTRUCTION)
_START = hashed(_CHAIN, _IDENTIFIER)


class PrivateKey:
    """A Curve25519 key pair. public: 32 bytes."""

    __slots__ = ("_key", "public")

    def __init__(self, data: bytes | None = None) -> None:
        """data: 32 bytes; a new key without. :raises ValueError: not 32 bytes."""
        self._key = X25519PrivateKey.generate() if data is None else X25519PrivateKey.from_private_bytes(data)
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def data(self) -> bytes:
        return self._key.private_bytes_raw()

    def exchange(self, public: bytes) -> bytes:
        """:raises Rejected: a point of small order, of which the secret is known to everybody."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise Rejected("a public key of small order") from None


@dataclass(frozen=True, slots=True)
class Keys:
    """Of one session, as seen from this side."""

    send: bytes
    receive: bytes


@dataclass(frozen=True, slots=True)
class State:
    """Between the two messages: hash and chaining key, and whose ephemeral key is known."""

    hash: bytes
    chain: bytes
    ephemeral: bytes  # of the initiator: private on its side, public on the other


@dataclass(frozen=True, slots=True)
class Initiation:
    """An authentic first message. sender: its index. timestamp: TAI64N, comparable as bytes."""

    peer: bytes
    timestamp: bytes
    sender: bytes
    state: State


def initiate(
    own: PrivateKey, peer: bytes, shared: bytes, sender: bytes, timestamp: bytes, ephemeral: PrivateKey | None = None
) -> tuple[bytes, State]:
    """The first message, without its macs, and what is to be kept for the answer. shared: own.exchange(peer).

    :raises Rejected: the peer's key is unusable.
    """
    ephemeral = ephemeral or PrivateKey()
    transcript = hashed(hashed(_START, peer), ephemeral.public)
    (chain,) = kdf(_CHAIN, ephemeral.public, 1)
    chain, key = kdf(chain, ephemeral.exchange(peer), 2)
    static = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, own.public, transcript)
    transcript = hashed(transcript, static)
    chain, key = kdf(chain, shared, 2)
    stamp = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, timestamp, transcript)
    message = b"\1\0\0\0" + sender + ephemeral.public + static + stamp
    return message, State(hashed(transcript, stamp), chain, ephemeral.data)


def consume_initiation(own: PrivateKey, message: bytes, shared: dict[bytes, bytes] | None = None) -> Initiation:
    """What a first message says. shared: own.exchange(peer) of the peers there are; others are refused, before the
    second exchange of keys is paid for.

    :raises Rejected: it is not authentic.
    """
    if len(message) != INITIATION_SIZE or message[:4] != b"\1\0\0\0":
        raise Rejected("not an initiation")
    sender, ephemeral, static, stamp = message[4:8], message[8:40], message[40:88], message[88:116]
    transcript = hashed(hashed(_START, own.public), ephemeral)
    (chain,) = kdf(_CHAIN, ephemeral, 1)
    chain, key = kdf(chain, own.exchange(ephemeral), 2)
    peer = _open(key, static, transcript, "the static key")
    transcript = hashed(transcript, static)
    if shared is None:
        secret = own.exchange(peer)
    elif (known := shared.get(peer)) is not None:
        secret = known
    else:
        raise Rejected("an unknown peer")
    chain, key = kdf(chain, secret, 2)
    timestamp = _open(key, stamp, transcript, "the timestamp")
    return Initiation(peer, timestamp, sender, State(hashed(transcript, stamp), chain, ephemeral))


def respond(
    initiation: Initiation, psk: bytes, sender: bytes, ephemeral: PrivateKey | None = None
) -> tuple[bytes, Keys]:
    """The second message, without its macs, and the session's keys. :raises Rejected: a key is unusable."""
    ephemeral = ephemeral or PrivateKey()
    state = initiation.state
    (chain,) = kdf(state.chain, ephemeral.public, 1)
    transcript = hashed(state.hash, ephemeral.public)
    (chain,) = kdf(chain, ephemeral.exchange(state.ephemeral), 1)
    (chain,) = kdf(chain, ephemeral.exchange(initiation.peer), 1)
    chain, mixed, key = kdf(chain, psk, 3)
    transcript = hashed(transcript, mixed)
    empty = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, b"", transcript)
    receive, send = kdf(chain, b"", 2)
    return b"\2\0\0\0" + sender + initiation.sender + ephemeral.public + empty, Keys(send, receive)


def consume_response(own: PrivateKey, state: State, psk: bytes, message: bytes) -> tuple[bytes, Keys]:
    """The peer's index and the session's keys. :raises Rejected: it is not authentic."""
    if len(message) != RESPONSE_SIZE or message[:4] != b"\2\0\0\0":
        raise Rejected("not a response")
    sender, ephemeral, empty = message[4:8], message[12:44], message[44:60]
    mine = PrivateKey(state.ephemeral)
    (chain,) = kdf(state.chain, ephemeral, 1)
    transcript = hashed(state.hash, ephemeral)
    (chain,) = kdf(chain, mine.exchange(ephemeral), 1)
    (chain,) = kdf(chain, own.exchange(ephemeral), 1)
    chain, mixed, key = kdf(chain, psk, 3)
    _open(key, empty, hashed(transcript, mixed), "the response")
    send, receive = kdf(chain, b"", 2)
    return sender, Keys(send, receive)


def _open(key: bytes, sealed: bytes, transcript: bytes, what: str) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, sealed, transcript)
    except InvalidTag:
        raise Rejected(f"{what} is not authentic") from None


_TAI_BASE = (1 << 62) + 10  # TAI is 10 s ahead of Unix time at its start


def tai64n(nanoseconds: int) -> bytes:
    """Of Unix time. Whitened to 2^24 ns (17 ms), as the kernel does: the clock's low bits are nobody's business."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return (_TAI_BASE + seconds).to_bytes(8, "big") + (rest & ~0xFFFFFF).to_bytes(4, "big")


def new_index() -> bytes:
    return os.urandom(4)
