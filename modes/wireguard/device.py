"""WireGuard as one state machine without I/O: datagrams and packets in, datagrams and packets out, time as an argument
(whitepaper §5 and §6). Names of timers are the whitepaper's.
"""

from __future__ import annotations

import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from modes.wireguard import noise
from modes.wireguard.cookie import COOKIE_REPLY_SIZE, Checker, Generator
from modes.wireguard.load import Load
from modes.wireguard.noise import Keys, PrivateKey, Rejected
from modes.wireguard.peer import Outstanding, Peer, PeerConfig
from modes.wireguard.routes import Routes
from modes.wireguard.session import REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, Replayed, Session

if TYPE_CHECKING:
    from appliance.connection import Address

REKEY_TIMEOUT, REKEY_ATTEMPT_TIME, KEEPALIVE_TIMEOUT = 5.0, 90.0, 10.0
JITTER = 0.333
NOT_ALLOWED = "not from its allowed IPs"
INITIATION_GAP = 0.02
"""A peer's initiations are taken at most this often (seconds) ..."""
UNCONFIRMED, UNCONFIRMED_GAP = 2, 1.0
"""... and at most this often once so many of them, one after the other, have led to no session."""
SMALLEST = 32
"""A transport message without anything in it."""


class Device:
    """One interface and its peers.

    out: datagrams to be sent, as (data, address); whoever calls takes them away. counted: what was dropped, and why.
    wall: Unix time in nanoseconds. accepted: called for each initiation that is taken, with its peer, before the answer
    is in `out`: `peer.stamp` must outlive us, or what was captured could be sent again after a restart. unallowed:
    called with a peer and the inner source that it has no right to.
    """

    def __init__(
        self,
        own: PrivateKey,
        *,
        wall: Callable[[], int] = time.time_ns,
        accepted: Callable[[Peer], object] = lambda peer: None,
        stamps: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.own = own
        self.out: list[tuple[bytes, Address]] = []
        self.counted: Counter[str] = Counter()
        self.peers: dict[bytes, Peer] = {}
        self.routes: Routes[Peer] = Routes()
        self.expired: Callable[[Peer], object] = lambda peer: None
        self.unallowed: Callable[[Peer, bytes], object] = lambda peer, inner: None
        self._wall = wall
        self._accepted = accepted
        self._stamps = dict(stamps or {})
        self._checker = Checker(own.public)
        self._load = Load()
        self._shared: dict[bytes, bytes] = {}
        self._sessions: dict[bytes, tuple[Peer, Session]] = {}
        self._waiting: dict[bytes, Peer] = {}  # by the index of their outstanding initiation
        self._last_stamp = b""

    # -- peers

    def add(self, config: PeerConfig) -> Peer:
        """A new peer, or what has changed of a known one; sessions stay. :raises Rejected: its key is unusable."""
        peer = self.peers.get(config.public)
        if peer is None:
            shared = self.own.exchange(config.public)
            peer = Peer(config, shared, Generator(config.public), config.endpoint)
            peer.stamp = self._stamps.get(config.public, b"")
            self.peers[config.public] = peer
            self._shared[config.public] = shared
        else:
            if peer.config.psk != config.psk:
                self._forget_sessions(peer)
            peer.config = config
            self.routes.remove(peer)
        for network in config.allowed:
            self.routes.add(network, peer)
        return peer

    def remove(self, public: bytes) -> None:
        """Cut at once: nothing of it is taken or sent any more. No error if there is none."""
        peer = self.peers.pop(public, None)
        if peer is not None:
            self._stamps[public] = peer.stamp
            del self._shared[public]
            self._forget_sessions(peer)
            self.routes.remove(peer)

    def begin(self, peer: Peer, now: float) -> None:
        """A handshake of our own, where it is known who may wait for one: after a restart, so that the peer need not
        find out by itself (15 s) that its session is nobody's any more.
        """
        self._initiate(peer, now)

    def _forget_sessions(self, peer: Peer) -> None:
        for session in (peer.current, peer.previous, peer.next):
            self._drop(session)
        peer.current = peer.previous = peer.next = None
        self._forget_handshake(peer)
        peer.staged.clear()

    def _forget_handshake(self, peer: Peer) -> None:
        if peer.outstanding is not None:
            self._waiting.pop(peer.outstanding.index, None)
            peer.outstanding = None

    # -- from the network

    def receive(self, data: bytes, source: Address, now: float) -> bytes | None:
        """A datagram. Returns the packet that was in it, if there was one and its sender may send from there."""
        try:
            if data[:4] == b"\4\0\0\0" and len(data) >= SMALLEST:
                return self._transport(data, source, now)
            self._handshake(data, source, now)
        except Replayed:
            self.counted["replayed"] += 1
        except Rejected as e:
            self.counted[str(e)] += 1
        return None

    def _transport(self, data: bytes, source: Address, now: float) -> bytes | None:
        entry = self._sessions.get(data[4:8])
        if entry is None:
            self.counted["an unknown session"] += 1
            return None
        peer, session = entry
        if now - session.began >= REJECT_AFTER_TIME:
            self.counted["an old session"] += 1
            return None
        packet = session.open(data)
        if session is peer.next:
            self._confirm(peer, session, now)
        if peer.endpoint != source:
            peer.endpoint = source
        peer.received += len(data)
        peer.awaiting = 0.0
        if session.initiator and not session.told and now - session.began >= _LATE:
            session.told = True
            self._initiate(peer, now)
        if not packet:
            return None
        if not peer.owing:
            peer.owing = now
        version = packet[0] >> 4
        if version == 4 and len(packet) >= 20:
            size, inner = packet[2] << 8 | packet[3], packet[12:16]
            fits = 20 <= size <= len(packet)
        elif version == 6 and len(packet) >= 40:
            size, inner = 40 + (packet[4] << 8 | packet[5]), packet[8:24]
            fits = size <= len(packet)
        else:
            fits = False
        if not fits:
            self.counted["no IP packet"] += 1
            return None
        if self.routes.owner(inner) is not peer:
            self.counted[NOT_ALLOWED] += 1
            self.unallowed(peer, inner)
            return None
        return packet[:size]

    def _handshake(self, data: bytes, source: Address, now: float) -> None:
        kind = data[0] if data[1:4] == b"\0\0\0" else 0
        if kind == noise.COOKIE_REPLY and len(data) == COOKIE_REPLY_SIZE:
            peer = self._waiting.get(data[4:8])
            if peer is None and (entry := self._sessions.get(data[4:8])) is not None and entry[1] is entry[0].next:
                peer = entry[0]  # who has begun is under load too, and wants one with our response
            if peer is not None:
                peer.generator.consume(data, now)
            return
        if (kind, len(data)) not in ((noise.INITIATION, noise.INITIATION_SIZE), (noise.RESPONSE, noise.RESPONSE_SIZE)):
            self.counted["malformed"] += 1
            return
        if not self._checker.mac1(data):
            self.counted["mac1"] += 1
            return
        if self._load.high(now):
            address = packed(source)
            if not self._checker.mac2(data, address, now):
                self.counted["asked for a cookie"] += 1
                self.out.append((self._checker.reply(data, address, now), source))
                return
            if not self._load.allows(address[:-2], now):
                self.counted["too many handshakes"] += 1
                return
        if kind == noise.INITIATION:
            self._take_initiation(data, source, now)
        else:
            self._take_response(data, source, now)

    def _take_initiation(self, data: bytes, source: Address, now: float) -> None:
        initiation = noise.consume_initiation(self.own, data, self._shared)
        peer = self.peers[initiation.peer]
        if initiation.timestamp <= peer.stamp:
            raise Replayed("an old initiation")
        gap = UNCONFIRMED_GAP if peer.unconfirmed >= UNCONFIRMED else INITIATION_GAP
        if peer.accepted and now - peer.accepted < gap:
            raise Rejected("too many initiations of one peer")
        if self._over(peer):
            raise Rejected("an expired peer")
        index = self._index()
        message, keys = noise.respond(initiation, peer.config.psk, index)
        peer.stamp, peer.accepted, peer.endpoint = initiation.timestamp, now, source
        peer.unconfirmed += 1
        self._accepted(peer)
        self._drop(peer.next)
        peer.next = self._session(peer, keys, index, initiation.sender, False, now)
        self.out.append((peer.generator.add(message, now), source))

    def _take_response(self, data: bytes, source: Address, now: float) -> None:
        peer = self._waiting.get(data[8:12])
        if peer is None or peer.outstanding is None:
            raise Rejected("a response nobody waits for")
        waiting = peer.outstanding
        remote, keys = noise.consume_response(self.own, waiting.state, peer.config.psk, data)
        self._forget_handshake(peer)
        peer.endpoint = source
        session = self._session(peer, keys, waiting.index, remote, True, now)
        if peer.next is not None:
            # Both have begun at once, and the peer may well send with the other one.
            self._drop(peer.current)
            peer.current, peer.next = peer.next, None
        if not self._confirm(peer, session, now):
            self._send(peer, b"", now)  # the peer may not use it before it has heard of us

    def _session(self, peer: Peer, keys: Keys, index: bytes, remote: bytes, initiator: bool, now: float) -> Session:
        session = Session(keys, index, remote, initiator, now)
        self._sessions[index] = (peer, session)
        return session

    def _drop(self, session: Session | None) -> None:
        if session is not None:
            self._sessions.pop(session.index, None)

    def _confirm(self, peer: Peer, session: Session, now: float) -> int:
        """Both sides have the keys: it is what we send with from now on. Returns how many packets had waited for it."""
        self._drop(peer.previous)
        peer.previous, peer.current = peer.current, session
        if session is peer.next:
            peer.next = None
        peer.trying = 0.0
        peer.unconfirmed = 0
        peer.last_handshake = self._wall() / 1e9
        self._forget_handshake(peer)
        staged = list(peer.staged)
        peer.staged.clear()
        for packet in staged:
            self._send(peer, packet, now)
        return len(staged)

    # -- to the network

    def send(self, packet: bytes, now: float) -> None:
        """A packet for whoever has its destination among its allowed IPs; dropped and counted if nobody has."""
        version = packet[0] >> 4 if packet else 0
        if version == 4 and len(packet) >= 20:
            peer = self.routes.owner(packet[16:20])
        elif version == 6 and len(packet) >= 40:
            peer = self.routes.owner(packet[24:40])
        else:
            peer = None
        if peer is None:
            self.counted["for no peer"] += 1
            return
        self._send(peer, packet, now)

    def _send(self, peer: Peer, packet: bytes, now: float) -> None:
        session, endpoint = peer.current, peer.endpoint
        if session is None or endpoint is None or not session.usable(now):
            if packet:
                peer.staged.append(packet)
            self._initiate(peer, now)
            return
        datagram = session.seal(packet)
        self.out.append((datagram, endpoint))
        peer.sent += len(datagram)
        peer.owing = 0.0
        peer.last_sent = now
        if packet and not peer.awaiting:
            peer.awaiting = now
        if not session.told and (
            (session.initiator and now - session.began >= REKEY_AFTER_TIME) or session.sent >= REKEY_AFTER_MESSAGES
        ):
            session.told = True
            self._initiate(peer, now)

    def _initiate(self, peer: Peer, now: float) -> None:
        """Begin a handshake, unless one was begun just now or nobody knows where the peer is."""
        if peer.endpoint is None or (peer.initiated and now - peer.initiated < REKEY_TIMEOUT) or self._over(peer):
            return
        self._forget_handshake(peer)
        index = self._index()
        message, state = noise.initiate(self.own, peer.config.public, peer.shared, index, self._stamp())
        peer.initiated = now
        peer.trying = peer.trying or now
        peer.outstanding = Outstanding(index, state, now + REKEY_TIMEOUT + random.random() * JITTER)
        self._waiting[index] = peer
        self.out.append((peer.generator.add(message, now), peer.endpoint))

    def _index(self) -> bytes:
        while (index := noise.new_index()) in self._sessions or index in self._waiting:
            pass
        return index

    def _stamp(self) -> bytes:
        """Later than the last one, even if the clock has gone back."""
        stamp = noise.tai64n(self._wall())
        if stamp <= self._last_stamp:
            stamp = (int.from_bytes(self._last_stamp, "big") + (1 << 24)).to_bytes(12, "big")
        self._last_stamp = stamp
        return stamp

    # -- time

    def tick(self, now: float) -> None:
        """What is due; to be called a few times a second."""
        for peer in list(self.peers.values()):
            if self._over(peer):
                self.remove(peer.config.public)
                self.expired(peer)
                continue
            for session in (peer.current, peer.previous, peer.next):
                if session is not None and now - session.began >= REJECT_AFTER_TIME:
                    self._sessions.pop(session.index, None)
                    if session is peer.current:
                        peer.current = None
                    elif session is peer.previous:
                        peer.previous = None
                    else:
                        peer.next = None
            if peer.outstanding is not None and now >= peer.outstanding.again:
                if now - peer.trying >= REKEY_ATTEMPT_TIME:
                    self._forget_handshake(peer)
                    peer.trying = 0.0
                    peer.staged.clear()
                    self.counted["no answer to a handshake"] += 1
                else:
                    self._initiate(peer, now)
            if peer.awaiting and now - peer.awaiting >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT:
                peer.awaiting = 0.0
                self._initiate(peer, now)
            if peer.owing and now - peer.owing >= KEEPALIVE_TIMEOUT:
                peer.owing = 0.0
                if peer.current is not None:
                    self._send(peer, b"", now)
            if peer.config.keepalive and peer.endpoint and now - peer.last_sent >= peer.config.keepalive:
                peer.last_sent = now
                self._send(peer, b"", now)

    def _over(self, peer: Peer) -> bool:
        return bool(peer.config.expires) and self._wall() / 1e9 >= peer.config.expires


_LATE = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT


def packed(source: Address) -> bytes:
    """An address and its port as bytes, as they go into a cookie."""
    host = source[0].partition("%")[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.inet_pton(family, host) + source[1].to_bytes(2, "big")
