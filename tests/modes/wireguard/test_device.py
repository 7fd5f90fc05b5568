"""The state machine: timers, rekeying, roaming, floods, bad input."""

from __future__ import annotations

import tracemalloc
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modes.wireguard.device import INITIATION_GAP, Device
from modes.wireguard.load import LOAD_PER_SECOND
from modes.wireguard.noise import PrivateKey
from modes.wireguard.peer import STAGED, PeerConfig
from modes.wireguard.session import Session
from tests.modes.wireguard.world import CLIENT_AT, DOWN, SERVER_AT, UNIX, UP, World, packet4


def test_first_packet_makes_the_session() -> None:
    world = World(psk=b"p" * 32)
    world.up()
    assert world.got["server"] == [UP]
    assert world.kinds() == [1, 2, 4]
    world.down()
    assert world.got["client"] == [DOWN]
    assert world.of_client.endpoint == CLIENT_AT and world.of_client.last_handshake == UNIX
    assert world.of_client.received == 32 + 32 and world.of_client.sent == 64


def test_packets_that_came_before_the_session_wait_for_it() -> None:
    world = World()
    for number in range(STAGED + 10):
        world.client.send(packet4("10.9.0.2", "198.51.100.7", bytes([number])), world.now)
    world.carry()
    assert [packet[20] for packet in world.got["server"]] == list(range(10, STAGED + 10))


def test_an_initiator_renews_after_two_minutes_and_loses_nothing() -> None:
    world = World()
    world.up()
    for _ in range(130):
        world.wait(1)
        world.up()
        world.down()
    assert world.kinds().count(1) == 2
    assert len(world.got["server"]) == 131 and len(world.got["client"]) == 130
    assert not world.client.counted and not world.server.counted


def test_a_responder_does_not_renew_by_time() -> None:
    world = World()
    world.up()
    world.wait(125)
    world.kinds()
    world.down()
    assert world.kinds() == [4]


def test_an_initiator_that_only_listens_renews_in_time() -> None:
    world = World()
    world.up()
    for _ in range(30):
        world.wait(5.6)
        world.down()
    assert world.kinds().count(1) == 2 and len(world.got["client"]) == 30


def test_a_session_ends_after_three_minutes_and_the_next_packet_makes_another() -> None:
    world = World()
    world.up()
    captured = world.client.peers[world.of_server.config.public].current
    assert captured is not None
    world.wait(181)
    assert world.of_server.current is None and world.of_client.current is None and not world.server._sessions
    world.down()  # the server knows where the client is, and begins
    assert world.got["client"] == [DOWN]
    assert world.server.receive(captured.seal(UP), CLIENT_AT, world.now) is None
    assert world.server.counted["an unknown session"] == 1


def test_passive_keepalive() -> None:
    world = World()
    world.up()
    world.kinds()
    world.wait(9.5)
    assert world.kinds() == []
    world.wait(1)
    assert world.kinds() == [5]  # the server has had data and nothing to say
    world.wait(100)
    assert world.kinds() == []  # and an empty message is not answered


def test_persistent_keepalive() -> None:
    world = World(keepalive=25)
    world.wait(1)
    assert world.kinds() == [1, 2, 5]  # begins by itself
    world.wait(100)
    assert world.kinds().count(5) == 4


def test_no_answer_to_data_begins_anew() -> None:
    world = World()
    world.up()
    world.kinds()
    world.keep = lambda data: False
    world.up()
    world.wait(14.5)
    assert 1 not in world.kinds()
    world.wait(1)
    assert world.kinds() == [1]
    world.wait(60)
    assert 10 <= world.kinds().count(1) <= 12  # every five seconds and a little
    world.wait(60)
    assert world.of_server.outstanding is None and not world.of_server.trying  # after 90 s it is given up
    world.keep = lambda data: True
    world.up()
    assert world.got["server"][-1] == UP


def test_a_lost_response_is_made_up_for() -> None:
    world = World()
    world.keep = lambda data: data[0] != 2
    world.up()
    assert world.got["server"] == []
    world.keep = lambda data: True
    world.wait(6)
    assert world.got["server"] == [UP]


def test_both_begin_at_once() -> None:
    world = World()
    world.up()
    world.wait(181)
    world.client.send(UP, world.now)
    world.server.send(DOWN, world.now)
    world.carry()
    world.wait(7)
    assert world.got["server"][-1] == UP and world.got["client"][-1] == DOWN


def test_replays_are_dropped_and_counted() -> None:
    world = World()
    world.up()
    captured, before = list(world.wire), world.of_client.received
    for data in captured:
        assert world.server.receive(data, ("203.0.113.66", 1), world.now + 1) is None
    assert world.server.counted["replayed"] == 2  # initiation and data; the response is nobody's
    assert world.server.counted["mac1"] == 1
    assert world.of_client.endpoint == CLIENT_AT and world.of_client.received == before


def test_an_initiation_replayed_after_our_restart() -> None:
    world = World()
    kept: dict[bytes, bytes] = {}
    world.server._accepted = lambda peer: kept.update({peer.config.public: peer.stamp})
    world.up()
    again = Device(world.server.own, wall=lambda: world.wall, stamps=kept)
    again.add(world.of_client.config)
    again.receive(world.wire[0], CLIENT_AT, world.now)
    assert again.counted["replayed"] == 1 and not again.out
    world.server = again
    world.wait(181)
    world.up()
    assert world.got["server"][-1] == UP


def test_our_clock_going_back() -> None:
    world = World()
    world.up()
    world.wall -= 3600 * 10**9
    world.wait(181)
    world.up()
    assert len(world.got["server"]) == 2


def test_roaming_only_after_authentication() -> None:
    world = World()
    world.up()
    forged = world.wire[-1][:-1] + bytes([world.wire[-1][-1] ^ 1])
    world.server.receive(forged[:8] + (7).to_bytes(8, "little") + forged[16:], ("203.0.113.66", 1), world.now)
    assert world.of_client.endpoint == CLIENT_AT and world.server.counted["not authentic"] == 1
    world.client_at = ("2001:db8::9", 5, 0, 0)  # type: ignore[assignment]
    world.up()
    assert world.of_client.endpoint == world.client_at


@pytest.mark.parametrize(
    ("packet", "counted"),
    [
        (packet4("10.9.0.3", "198.51.100.7"), "not from its allowed IPs"),
        (b"\x60" + bytes(39), "not from its allowed IPs"),
        (b"\x45\0\0\x64" + bytes(16), "no IP packet"),
        (b"\x45\0\0\x10" + bytes(16), "no IP packet"),
        (b"\x60\0\0\0\xff\xff" + bytes(34), "no IP packet"),
        (b"\x45", "no IP packet"),
        (b"\x10" * 60, "no IP packet"),
    ],
)
def test_inner_packets_that_are_not_taken(packet: bytes, counted: str) -> None:
    world = World()
    world.up()
    session = world.of_server.current
    assert session is not None
    assert world.server.receive(session.seal(packet), CLIENT_AT, world.now) is None
    assert world.server.counted == {counted: 1}


def test_for_nobody() -> None:
    world = World()
    world.down(packet4("198.51.100.7", "10.9.0.77"))
    world.down(b"")
    world.down(b"\x45short")
    assert world.server.counted["for no peer"] == 3 and not world.wire


def test_removed_and_expired_peers_are_cut_at_once() -> None:
    world = World(expires=UNIX + 100)
    gone: list[str] = []
    world.server.expired = lambda peer: gone.append(peer.config.name)
    world.up()
    world.wait(101)
    assert gone == ["phone"] and not world.server.peers and not world.server._sessions
    world.up()
    assert len(world.got["server"]) == 1
    world = World()
    world.up()
    world.server.remove(world.of_client.config.public)
    world.server.remove(b"nobody")
    world.up()
    assert len(world.got["server"]) == 1 and world.server.routes.owner(bytes([10, 9, 0, 2])) is None
    world.server.add(world.of_client.config)
    replayed = world.wire[0]
    world.server.receive(replayed, CLIENT_AT, world.now)
    assert world.server.counted["replayed"] == 1  # it was forgotten in all but this


def test_allowed_ips_by_the_longest_prefix() -> None:
    device = Device(PrivateKey())
    wide = device.add(PeerConfig(PrivateKey().public, (ip_network("10.0.0.0/8"), ip_network("::/0"))))
    narrow = device.add(PeerConfig(PrivateKey().public, (ip_network("10.9.0.0/16"), ip_network("fd09::/64"))))
    assert device.routes.owner(bytes([10, 8, 0, 1])) is wide
    assert device.routes.owner(bytes([10, 9, 0, 1])) is narrow
    assert device.routes.owner(bytes([192, 0, 2, 1])) is None
    assert device.routes.owner(b"\xfd\x09" + bytes(14)) is narrow
    assert sorted(map(str, device.routes.networks(narrow))) == ["10.9.0.0/16", "fd09::/64"]
    device.remove(narrow.config.public)
    assert device.routes.owner(bytes([10, 9, 0, 1])) is wide


def test_a_flood_of_unknown_keys() -> None:
    """Who does not know our key costs a hash; who does is asked for a cookie soon; a peer still gets through."""
    world = World()
    stranger = Device(PrivateKey(), wall=lambda: world.wall)
    stranger.add(PeerConfig(world.server.own.public, (ip_network("0.0.0.0/0"),), endpoint=SERVER_AT))
    peer = next(iter(stranger.peers.values()))
    for number in range(LOAD_PER_SECOND * 3):
        peer.initiated = 0.0
        peer.outstanding = None
        stranger.send(UP, world.now)
        world.server.receive(stranger.out.pop()[0], ("203.0.113.1", number), world.now)
    assert world.server.counted["an unknown peer"] == LOAD_PER_SECOND
    assert world.server.counted["asked for a cookie"] == LOAD_PER_SECOND * 2
    world.server.out.clear()
    world.up()
    assert world.kinds() == [1, 3] and world.got["server"] == []
    world.now += 0.9  # the flood goes on
    for _ in range(LOAD_PER_SECOND + 1):
        world.server.receive(world.wire[0] if world.wire else b"\1\0\0\0" + bytes(144), CLIENT_AT, world.now)
    world.of_server.initiated = 0.0
    world.client._initiate(world.of_server, world.now)
    world.carry()
    assert world.got["server"] == [UP]


def test_initiations_that_lead_to_nothing_are_taken_once_a_second() -> None:
    world = World()
    world.keep = lambda data: data[0] == 1  # no response arrives
    taken: list[float] = []
    world.server._accepted = lambda peer: taken.append(world.now)
    for _ in range(100):
        world.of_server.initiated = 0.0
        world.wall += 40_000_000
        world.client._initiate(world.of_server, world.now)
        world.carry()
        world.now += 0.04
    assert 4 <= len(taken) <= 6 and taken[1] - taken[0] < 0.1
    world.keep = lambda data: True
    world.wait(8)
    world.up()
    assert world.got["server"] and world.of_client.unconfirmed == 0


def test_both_sides_under_load() -> None:
    """The initiator asks for a cookie too, with our response (whitepaper §5.4.7), and has it the second time."""
    world = World()
    world.client._load.high = world.server._load.high = lambda now: True  # type: ignore[method-assign]
    world.up()
    for _ in range(3):
        if not world.got["server"]:
            world.wait(6)
    assert world.got["server"] == [UP]
    assert world.client.counted == world.server.counted == {"asked for a cookie": 1}


def test_a_cookie_for_a_session_that_is_in_use_is_ignored() -> None:
    world = World()
    world.up()
    session = world.of_client.current
    assert session is not None
    world.server.receive(b"\3\0\0\0" + session.index + bytes(56), CLIENT_AT, world.now)
    assert not world.server.counted and not world.server.out


def test_one_peers_own_flood() -> None:
    world = World()
    for _ in range(20):
        world.of_server.initiated = 0.0
        world.wall += 20_000_000
        world.client._initiate(world.of_server, world.now)
        world.carry()
        world.now += INITIATION_GAP / 4
    assert world.server.counted["too many initiations of one peer"] >= 12
    assert len(world.server._sessions) <= 3


@given(st.binary(max_size=200) | st.builds(lambda kind, rest: bytes([kind, 0, 0, 0]) + rest, st.integers(0, 5),
                                           st.binary(max_size=160)))  # fmt: skip
def test_any_bytes(data: bytes) -> None:
    assert WORLD.server.receive(data, CLIENT_AT, WORLD.now) is None
    assert WORLD.client.receive(data, SERVER_AT, WORLD.now) is None
    assert not WORLD.server.out and not WORLD.client.out


WORLD = World()
WORLD.up()


class Everything(RuleBasedStateMachine):
    """Any order of traffic, waits, losses, replays, mutations and moves. Afterwards both still get through."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(keepalive=25)

    @rule(down=st.booleans(), loss=st.integers(0, 3))
    def talk(self, down: bool, loss: int) -> None:
        count = iter(range(1, 1000))
        self.world.keep = lambda data: loss == 0 or next(count) % (loss + 1) != 0
        (self.world.down if down else self.world.up)()
        self.world.keep = lambda data: True

    @rule(seconds=st.sampled_from([0.3, 4, 11, 16, 70, 125, 181, 600]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds, step=max(0.25, seconds / 40))

    @rule(which=st.integers(0, 10**6), at=st.integers(0, 200), by=st.integers(0, 255), server=st.booleans())
    def replay(self, which: int, at: int, by: int, server: bool) -> None:
        wire = self.world.wire
        if wire:
            data = bytearray(wire[which % len(wire)])
            data[at % len(data)] ^= by
            device = self.world.server if server else self.world.client
            assert device.receive(bytes(data), ("203.0.113.66", 6), self.world.now) is None
            device.out = [(sent, to) for sent, to in device.out if to != ("203.0.113.66", 6)]
            self.world.carry()

    @rule(port=st.integers(1, 65535))
    def roam(self, port: int) -> None:
        self.world.client_at = ("192.0.2.9", port)

    @rule(seconds=st.integers(-5000, 5000))
    def clock(self, seconds: int) -> None:
        self.world.wall += seconds * 10**9

    @invariant()
    def bounded(self) -> None:
        for device in (self.world.client, self.world.server):
            assert len(device._sessions) <= 3 and len(device._waiting) <= 1
        del self.world.wire[:-200]

    def teardown(self) -> None:
        world = self.world
        world.client_at = ("192.0.2.9", 9)
        world.wait(200, step=1)
        got = [len(packets) for packets in world.got.values()]
        world.up()
        world.down()
        world.wait(12)
        assert len(world.got["server"]) > got[1] and len(world.got["client"]) > got[0]


TestEverything = Everything.TestCase
TestEverything.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_memory_of_many_handshakes_is_flat() -> None:
    world = World()
    tracemalloc.start()
    for number in range(60):
        if number == 20:
            before = tracemalloc.get_traced_memory()[0]
        world.wait(181, step=20)
        world.up()
        world.wire.clear()
        world.got["server"].clear()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 20_000
    assert isinstance(world.of_client.current, Session)
