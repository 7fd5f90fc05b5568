"""Handshake, cookies and sessions as functions. The lab tests run them against wireguard-go."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from modes.wireguard import noise
from modes.wireguard.cookie import Checker, Generator, hchacha20, xopen, xseal
from modes.wireguard.noise import Keys, PrivateKey, Rejected
from modes.wireguard.session import REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, WINDOW, Replayed, Session

STAMP = noise.tai64n(1_700_000_000_123_456_789)


def test_subkey_and_seal_of_the_xchacha_draft() -> None:
    """draft-irtf-cfrg-xchacha-03, §2.2.1 and appendix A.3.1."""
    key = bytes(range(32))
    found = hchacha20(key, bytes.fromhex("000000090000004a0000000031415927"))
    assert found.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    sealed = xseal(key, nonce, text, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert sealed[:16].hex() == "bd6d179d3e83d43b9576579493c0e939"
    assert sealed[-16:].hex() == "c0875924c1c7987947deafd8780acf49"
    assert xopen(key, nonce, sealed, bytes.fromhex("50515253c0c1c2c3c4c5c6c7")) == text
    with pytest.raises(InvalidTag):
        xopen(key, nonce, sealed, b"")


def test_initial_hashes() -> None:
    """As in the kernel's and wireguard-go's sources, where they are constants."""
    assert noise._CHAIN.hex() == "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"
    assert noise._START.hex() == "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"


def test_tai64n() -> None:
    assert noise.tai64n(0) == (2**62 + 10).to_bytes(8, "big") + bytes(4)
    assert noise.tai64n(1_000_000_000) > noise.tai64n(999_999_999)
    assert STAMP[8:] == (123_456_789 & ~0xFFFFFF).to_bytes(4, "big")


def handshake(psk: bytes = noise.NO_PSK, theirs: bytes | None = None) -> tuple[Keys, Keys]:
    client, server = PrivateKey(), PrivateKey()
    shared = client.exchange(server.public)
    first, state = noise.initiate(client, server.public, shared, b"CCCC", STAMP)
    initiation = noise.consume_initiation(server, first + bytes(32), {client.public: shared})
    assert (initiation.peer, initiation.timestamp, initiation.sender) == (client.public, STAMP, b"CCCC")
    second, ours = noise.respond(initiation, psk, b"SSSS")
    assert second[8:12] == b"CCCC"
    index, keys = noise.consume_response(client, state, psk if theirs is None else theirs, second + bytes(32))
    assert index == b"SSSS"
    return keys, ours


@pytest.mark.parametrize("psk", [noise.NO_PSK, b"p" * 32])
def test_handshake(psk: bytes) -> None:
    client, server = handshake(psk)
    assert (client.send, client.receive) == (server.receive, server.send)
    assert client.send != client.receive


def test_another_psk() -> None:
    with pytest.raises(Rejected):
        handshake(b"p" * 32, b"q" * 32)


@given(st.integers(0, 115), st.integers(1, 255))
def test_every_bit_of_an_initiation_counts(at: int, by: int) -> None:
    first = bytearray(FIRST)
    first[at] ^= by
    if 4 <= at < 8:
        assert noise.consume_initiation(SERVER, bytes(first), KNOWN).sender == first[4:8]
        return
    with pytest.raises(Rejected):
        noise.consume_initiation(SERVER, bytes(first), KNOWN)


SERVER, CLIENT = PrivateKey(), PrivateKey()
KNOWN = {CLIENT.public: CLIENT.exchange(SERVER.public)}
FIRST = noise.initiate(CLIENT, SERVER.public, KNOWN[CLIENT.public], b"CCCC", STAMP)[0] + bytes(32)


def test_unknown_peers_and_unusable_keys() -> None:
    stranger = PrivateKey()
    first, _ = noise.initiate(stranger, SERVER.public, stranger.exchange(SERVER.public), b"CCCC", STAMP)
    with pytest.raises(Rejected, match="unknown peer"):
        noise.consume_initiation(SERVER, first + bytes(32), KNOWN)
    with pytest.raises(Rejected, match="small order"):
        noise.consume_initiation(SERVER, FIRST[:8] + bytes(32) + FIRST[40:], KNOWN)
    with pytest.raises(Rejected):
        SERVER.exchange(b"\1" + bytes(31))
    with pytest.raises(Rejected):
        noise.consume_initiation(SERVER, FIRST[:-1], KNOWN)


def test_cookies() -> None:
    checker, generator = Checker(SERVER.public), Generator(SERVER.public)
    message = generator.add(FIRST[:-32], 100.0)
    assert checker.mac1(message) and not checker.mac1(b"\2" + message[1:])
    assert not checker.mac2(message, b"here", 100.0)
    reply = checker.reply(message, b"here", 100.0)
    assert len(reply) == 64 and reply[4:8] == message[4:8]
    with pytest.raises(Rejected):
        Generator(SERVER.public).consume(reply, 100.0)
    with pytest.raises(Rejected):
        generator.consume(reply[:-1] + bytes([reply[-1] ^ 1]), 100.0)
    generator.consume(reply, 100.0)
    again = generator.add(FIRST[:-32], 101.0)
    assert checker.mac2(again, b"here", 101.0)
    assert not checker.mac2(again, b"elsewhere", 101.0)
    assert not checker.mac2(again, b"here", 221.0)  # the secret is a new one by then
    assert generator.add(b"another" + FIRST[7:-32], 221.0)[-16:] == bytes(16)
    with pytest.raises(Rejected):
        generator.consume(reply, 222.0)  # not for that message


# -- sessions


def pair() -> tuple[Session, Session]:
    keys = Keys(b"s" * 32, b"r" * 32)
    return Session(keys, b"aaaa", b"bbbb", True, 0.0), Session(Keys(b"r" * 32, b"s" * 32), b"bbbb", b"aaaa", False, 0.0)


@given(st.binary(max_size=100))
def test_seal_and_open(packet: bytes) -> None:
    one, other = pair()
    datagram = one.seal(packet)
    assert datagram[:8] == b"\4\0\0\0bbbb" and len(datagram) % 16 == 0
    found = other.open(datagram)
    assert found[: len(packet)] == packet and not any(found[len(packet) :])
    with pytest.raises(Replayed):
        other.open(datagram)


@given(st.lists(st.integers(0, 3 * WINDOW) | st.integers(0, 20), max_size=60))
def test_window_against_a_model(counters: list[int]) -> None:
    one, other = pair()
    seen: set[int] = set()
    for counter in counters:
        one.sent = counter
        datagram = one.seal(b"x")
        if counter in seen or (seen and counter <= max(seen) - WINDOW):
            with pytest.raises(Replayed):
                other.open(datagram)
        else:
            other.open(datagram)
            seen.add(counter)


def test_a_forged_counter_moves_nothing() -> None:
    one, other = pair()
    first, second = one.seal(b"1"), one.seal(b"2")
    forged = first[:8] + (10**9).to_bytes(8, "little") + first[16:]
    with pytest.raises(Rejected, match="not authentic"):
        other.open(forged)
    with pytest.raises(Rejected, match="beyond"):
        other.open(first[:8] + REJECT_AFTER_MESSAGES.to_bytes(8, "little") + first[16:])
    assert other.open(second) and other.open(first)


def test_end_of_a_session() -> None:
    one, _ = pair()
    assert one.usable(REJECT_AFTER_TIME - 0.1) and not one.usable(REJECT_AFTER_TIME)
    one.sent = REJECT_AFTER_MESSAGES
    assert not one.usable(0.0)
