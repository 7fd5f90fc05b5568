"""What is known of one peer: who it is, its sessions, and when what was last heard of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from modes.wireguard.cookie import Generator
from modes.wireguard.noise import NO_PSK, State

if TYPE_CHECKING:
    from appliance.connection import Address
    from modes.wireguard.routes import Network
    from modes.wireguard.session import Session

STAGED = 128
"""Packets that wait for a session; the oldest gives way."""


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """As the configuration has it. expires: Unix time, 0 = never. keepalive: seconds, 0 = none."""

    public: bytes
    allowed: tuple[Network, ...] = ()
    psk: bytes = NO_PSK
    name: str = ""
    label: str = ""
    endpoint: Address | None = None
    keepalive: float = 0.0
    expires: float = 0.0


class Tallied(Protocol):
    """What the mode, and whoever asks for statistics, sees of a peer, whoever does the work. Bytes are of datagrams."""

    config: PeerConfig
    endpoint: Address | None
    stamp: bytes
    last_handshake: float
    received: int
    sent: int


@dataclass(slots=True)
class Outstanding:
    """An initiation of ours that has no answer yet."""

    index: bytes
    state: State
    again: float  # when it is sent anew


@dataclass(slots=True, eq=False)
class Peer:
    """Times are of the device's clock, 0 = never or nothing to wait for.

    current: what we send with. previous: what may still come in. next: made by a response of ours, and not used by the
    peer yet. awaiting: since when we have sent data and heard nothing. owing: since when we have had data and said
    nothing. trying: since when a handshake is tried. stamp: TAI64N of the newest initiation taken. unconfirmed:
    initiations taken since a session was last confirmed.
    """

    config: PeerConfig
    shared: bytes
    generator: Generator
    endpoint: Address | None
    current: Session | None = None
    previous: Session | None = None
    next: Session | None = None
    outstanding: Outstanding | None = None
    staged: deque[bytes] = field(default_factory=lambda: deque(maxlen=STAGED))
    stamp: bytes = b""
    accepted: float = 0.0
    unconfirmed: int = 0
    initiated: float = 0.0
    trying: float = 0.0
    awaiting: float = 0.0
    owing: float = 0.0
    last_sent: float = 0.0
    last_handshake: float = 0.0  # Unix time
    received: int = 0  # bytes, as datagrams
    sent: int = 0
