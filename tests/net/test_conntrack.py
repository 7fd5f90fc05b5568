"""Questions to the kernel's connection tracking, and its answers. NAT itself: tests/lab/test_udp_redirect.py."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.net.conntrack import CannotAsk, Conntrack, Tuple, question, read


def answer(asked: bytes) -> bytes:
    """What the kernel would say if the direction asked for were the original one."""
    body = bytearray(asked)
    struct.pack_into("=H", body, 4, 1 << 8)
    struct.pack_into("=H", body, 22, 0x8001)  # CTA_TUPLE_ORIG
    return bytes(body)


@given(
    st.sampled_from([socket.IPPROTO_UDP, socket.IPPROTO_TCP]),
    st.one_of(
        st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
    ),
    st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
)
def test_what_is_asked_is_what_is_read(protocol: int, addresses: tuple[object, object], ports: tuple[int, int]) -> None:
    here, peer = (
        (socket.inet_ntop(f, socket.inet_pton(f, str(a))), p)
        for a, p in zip(addresses, ports, strict=True)
        for f in [socket.AF_INET6 if ":" in str(a) else socket.AF_INET]
    )
    assert read(answer(question(7, protocol, here, peer))) == Tuple(here, peer)


@given(st.binary(min_size=16, max_size=300), st.integers(0, 300))
def test_no_answer_upsets_the_reader(noise: bytes, at: int) -> None:
    good = answer(question(1, 17, ("192.0.2.1", 1), ("192.0.2.2", 2)))
    for data in (noise, good[:at] + noise, good[:20] + noise):
        if len(data) < 20:
            continue
        try:
            found = read(data)
        except OSError:
            continue
        assert found is None or isinstance(found, Tuple)


def test_no_entry_and_refusals() -> None:
    def refused(code: int) -> bytes:
        return struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -code) + bytes(16)

    assert read(refused(errno.ENOENT)) is None
    with pytest.raises(OSError, match="permitted"):
        read(refused(errno.EPERM))


def test_an_unknown_connection_is_told_at_once() -> None:
    try:
        asked = Conntrack()
    except CannotAsk as e:
        pytest.skip(str(e))
    try:
        for here, peer in ((("192.0.2.1", 9), ("192.0.2.2", 9)), (("2001:db8::1", 9), ("2001:db8::2", 9))):
            try:
                assert asked.original(socket.IPPROTO_UDP, here, peer) is None
            except CannotAsk as e:  # not as root, or no such module
                assert "CAP_NET_ADMIN" in str(e) or "nf_conntrack_netlink" in str(e)
        with pytest.raises(CannotAsk):
            asked.original(socket.IPPROTO_UDP, ("no literal", 9), ("192.0.2.2", 9))
    finally:
        asked.close()
        asked.close()
