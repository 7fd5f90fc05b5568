"""JA4 against the specification's own example, and its corner cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.connection import Client
from appliance.ja4 import fingerprint
from appliance.test import tflow
from appliance.tls import ClientHello
from tests.hellos import alpn, body, name, signatures, versions

SUITES = (
    0x1A1A, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8,
    0xC013, 0xC014, 0x009C, 0x009D, 0x002F, 0x0035,
)  # fmt: skip
SIGNATURES = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)


CHROME = body(
    SUITES, (0x2A2A, b""), name(), (0x17, b""), (0xFF01, b"\0"), (10, b""), (11, b""), (0x23, b""),
    alpn(b"h2", b"http/1.1"), (5, b""), signatures(*SIGNATURES), (0x12, b""), (0x33, b""), (0x2D, b""),
    versions(0x3A3A, 0x0304, 0x0303), (0x1B, b""), (0x4469, b""), (0x4A4A, b"\0"), (0x15, b""),
)  # fmt: skip


def test_the_published_example() -> None:
    hello = ClientHello(CHROME)
    assert hello.ja4 == fingerprint(hello) == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert fingerprint(hello, quic=True).startswith("q13d1516h2_")


@pytest.mark.parametrize(
    "hello, head",
    [
        (body((0x1301,)), "t12i010000_"),
        (body((0x1301,), version=0x0301), "t10i010000_"),
        (body((0x1301,), version=0x0300), "ts3i010000_"),
        (body((0x1301,), version=0x1234), "t00i010000_"),
        (body((0x1301,), versions(0x0304)), "t13i010100_"),
        (body((0x1301,), name()), "t12d010100_"),
        (body((0x1301,), alpn(b"http/1.1")), "t12i0101h1_"),
        (body((0x1301,), alpn(b"x")), "t12i0101xx_"),
        (body((0x1301,), alpn(b"\xab\xcd")), "t12i0101ad_"),
        (body((0x1301,), alpn(b"h\xab")), "t12i01016b_"),
        (body(tuple(range(120))), "t12i990000_"),
    ],
)
def test_the_first_part(hello: bytes, head: str) -> None:
    assert ClientHello(hello).ja4.startswith(head)


def test_dtls_and_nothing_to_hash() -> None:
    dtls = ClientHello(body((0x1301,), version=0xFEFD, cookie=b"\0"), dtls=True)
    assert dtls.ja4.startswith("dd2i010000_")
    assert ClientHello(body((0x0A0A,))).ja4 == "t12i000000_000000000000_000000000000"
    assert ClientHello(body((0x0A0A,), name(), alpn(b"h2"))).ja4.endswith("_000000000000_000000000000")
    # The last underscore stands for signature algorithms alone.
    assert len({ClientHello(body((1,), (5, b""), *more)).ja4 for more in ([], [signatures(0x0403)])}) == 2


@given(st.permutations(SUITES), st.permutations(SIGNATURES))
def test_the_order_counts_only_where_it_should(suites: list[int], algorithms: list[int]) -> None:
    usual = ClientHello(body(SUITES, name(), signatures(*SIGNATURES))).ja4
    other = ClientHello(body(tuple(suites), signatures(*algorithms), name())).ja4
    assert (usual == other) == (tuple(algorithms) == SIGNATURES)


@given(st.binary(min_size=35, max_size=200))
def test_whatever_is_a_hello_has_one(raw: bytes) -> None:
    try:
        hello = ClientHello(raw)
    except ValueError:
        return
    assert len(hello.ja4) == 36


def test_of_a_client() -> None:
    client = tflow.tclient_conn()
    assert client.ja4 is None
    client.hello = CHROME
    assert client.ja4 == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert client.ja4 is client.ja4
    client.hello = body((0x1301,))
    assert client.ja4.startswith("t12i0100")
    assert Client.from_state(client.get_state()).ja4 is None
