"""appliance/tls.py: reading a ClientHello's body."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.tls import ClientHello, ClientHelloData, TlsData


def build(
    suites: tuple[int, ...] = (0x1301,),
    extensions: tuple[tuple[int, bytes], ...] = (),
    session_id: bytes = b"",
    version: int = 0x0303,
    cookie: bytes | None = None,
) -> bytes:
    """A hello's body; no extensions block at all when there are none."""
    block = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in extensions)
    return b"".join(
        [
            struct.pack(">H", version) + bytes(range(32)) + bytes([len(session_id)]) + session_id,
            b"" if cookie is None else bytes([len(cookie)]) + cookie,
            struct.pack(f">H{len(suites)}H", 2 * len(suites), *suites) + b"\x01\x00",
            struct.pack(">H", len(block)) + block if extensions else b"",
        ]
    )


def sni(name: bytes) -> tuple[int, bytes]:
    return 0, struct.pack(">HBH", len(name) + 3, 0, len(name)) + name


def numbers(kind: int, *values: int, prefix: str = "H") -> tuple[int, bytes]:
    return kind, struct.pack(f">{prefix}{len(values)}H", 2 * len(values), *values)


def versions(*values: int) -> tuple[int, bytes]:
    return numbers(43, *values, prefix="B")


def real_hello(name: str = "www.example.org", alpn: tuple[str, ...] = ("h2", "http/1.1")) -> bytes:
    """What this machine's OpenSSL sends, records and all."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def test_a_real_hello_is_read() -> None:
    wire = real_hello()
    hello = ClientHello(wire[9:])
    assert hello.sni == "www.example.org"
    assert hello.sni_fault is None
    assert hello.alpn_protocols == [b"h2", b"http/1.1"]
    assert 0x0304 in hello.supported_versions
    assert 0x1302 in hello.cipher_suites
    assert 0x0403 in hello.signature_algorithms
    assert 0x001D in hello.supported_groups
    assert hello.version == 0x0303
    assert hello.random == wire[11:43]
    assert len(hello.session_id) == 32
    assert dict(hello.extensions)[0].endswith(b"www.example.org")
    assert not hello.wants_rsa
    assert hello.raw_bytes(wrap_in_record=False) == wire[9:]
    # Ours says record version 03 01, as first hellos do; some clients write 03 03.
    assert hello.raw_bytes()[3:] == wire[3:]


def test_grease_and_order_are_kept() -> None:
    sent = ((0x1A1A, b""), sni(b"a.b"), versions(0x2A2A, 0x0304), (0x3A3A, b"\x00"))
    hello = ClientHello(build((0x0A0A, 0x1301), sent))
    assert hello.cipher_suites == [0x0A0A, 0x1301]
    assert hello.extensions == list(sent)
    assert hello.supported_versions == [0x2A2A, 0x0304]


def test_a_hello_without_extensions() -> None:
    hello = ClientHello(build((0x002F,), session_id=b"x" * 32, version=0x0301))
    assert (hello.sni, hello.sni_fault, hello.alpn_protocols, hello.extensions) == (None, None, [], [])
    assert (hello.session_id, hello.version, hello.supported_versions) == (b"x" * 32, 0x0301, [])
    assert hello.wants_rsa


@pytest.mark.parametrize(
    "name", [b"a", b"_dmarc.example.com", b"xn--bcher-kva.example", b"192.0.2.1", b"A" * 63 + b".example"]
)
def test_names_taken(name: bytes) -> None:
    hello = ClientHello(build(extensions=(sni(name),)))
    assert (hello.sni, hello.sni_fault) == (name.decode(), None)


@pytest.mark.parametrize(
    "data",
    [
        sni(b"")[1],
        sni(b"example.com.")[1],
        sni(b"exa mple.com")[1],
        sni(b"a..b")[1],
        sni(b".a")[1],
        sni(b"a\x00.example.com")[1],
        sni(b"a\nb")[1],
        sni(b"example.com\n")[1],
        sni("bücher.example".encode())[1],
        sni(b"::1")[1],
        sni(b"a" * 64 + b".example")[1],
        sni(b".".join([b"a" * 50] * 6))[1],
        b"",
        b"\x00",
        sni(b"a.example")[1] + b"\x00",
        sni(b"a.example")[1][:-1],
        b"\x00\x04\x01\x00\x01a",
        b"\x00\x08" + b"\x00\x00\x01a" * 2,
    ],
)
def test_names_not_taken_are_said(data: bytes) -> None:
    hello = ClientHello(build(extensions=((0, data),)))
    assert hello.sni is None
    assert hello.sni_fault


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x00\x03\x02h2\x00", b"\x00\x01\x00", b"\x00\x03\x03h2", b"\x00\x04\x02h2"]
)
def test_an_unreadable_alpn_counts_as_none(data: bytes) -> None:
    assert ClientHello(build(extensions=((16, data),))).alpn_protocols == []


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x03\x04\x03\x04", b"\x00\x04\x04\x03"])
def test_unreadable_lists_count_as_none(data: bytes) -> None:
    assert ClientHello(build(extensions=((13, data),))).signature_algorithms == []


@pytest.mark.parametrize(
    ("suites", "extensions", "rsa"),
    [
        ((0x1301,), (versions(0x0304), numbers(13, 0x0403)), False),
        ((0x1301,), (versions(0x0304), numbers(13, 0x0804)), True),
        ((0x1301,), (versions(0x0304), numbers(13, 0x0503)), True),  # P-384 only
        ((0xC02B,), (numbers(13, 0x0403), numbers(10, 0x0017)), False),
        ((0xC02B,), (numbers(13, 0x0403),), False),
        ((0xC02B,), (numbers(13, 0x0403), numbers(10, 0x001D)), True),
        ((0xC02F, 0x009C), (numbers(13, 0x0403, 0x0401),), True),  # no ECDSA suite
        ((0xC02B, 0xC02F), (numbers(13, 0x0401),), True),
        ((0xC02B, 0xC02F), (), True),
    ],
)
def test_which_leaf(suites: tuple[int, ...], extensions: tuple[tuple[int, bytes], ...], rsa: bool) -> None:
    assert ClientHello(build(suites, extensions)).wants_rsa is rsa


def test_every_cut_is_refused() -> None:
    body = build((0x1301, 0x1302), (sni(b"a.example"), versions(0x0304)), session_id=b"s" * 32)
    ends_without_extensions = len(build((0x1301, 0x1302), session_id=b"s" * 32))
    for n in range(len(body)):
        if n != ends_without_extensions:
            with pytest.raises(ValueError, match=r"cut|short|long|odd|wrong|no "):
                ClientHello(body[:n])
    with pytest.raises(ValueError, match="extensions is wrong"):
        ClientHello(body + b"\x00")


def test_other_malformed_hellos() -> None:
    with pytest.raises(ValueError, match="twice"):
        ClientHello(build(extensions=(sni(b"a"), sni(b"b"))))
    with pytest.raises(ValueError, match="session id"):
        ClientHello(build(session_id=b"x" * 33))
    with pytest.raises(ValueError, match="zero"):
        ClientHello(build(suites=()))
    with pytest.raises(ValueError, match="compression"):
        ClientHello(build()[:-2] + b"\x00")


def test_dtls_has_a_cookie() -> None:
    hello = ClientHello(build(extensions=(sni(b"a.example"),), version=0xFEFD, cookie=b"c" * 20), dtls=True)
    assert hello.sni == "a.example"
    with pytest.raises(NotImplementedError):
        hello.raw_bytes()
    assert hello.raw_bytes(wrap_in_record=False).startswith(b"\xfe\xfd")


@given(st.binary(max_size=300))
def test_random_bodies_raise_nothing_else(body: bytes) -> None:
    for dtls in (False, True):
        try:
            hello = ClientHello(body, dtls)
        except ValueError:
            continue
        read_all(hello)


@given(st.dictionaries(st.sampled_from([0, 10, 13, 16, 43]), st.binary(max_size=40)).map(lambda d: list(d.items())))
def test_random_extensions_raise_nothing(extensions: list[tuple[int, bytes]]) -> None:
    hello = ClientHello(build(extensions=tuple(extensions)))
    assert hello.extensions == extensions
    read_all(hello)


def read_all(hello: ClientHello) -> None:
    assert hello.sni is None or hello.sni.isascii()
    assert all(0 <= n <= 0xFFFF for n in [*hello.cipher_suites, *hello.signature_algorithms, *hello.supported_groups])
    assert all(hello.alpn_protocols) and hello.supported_versions is not None and hello.wants_rsa in (True, False)
    assert hello.sni_fault is None or hello.sni is None
    repr(hello)


def test_hook_arguments() -> None:
    hello = ClientHello(build())
    data = ClientHelloData("context", hello)
    assert (data.ignore_connection, data.establish_server_tls_first, data.client_hello) == (False, False, hello)
    tls = TlsData(None, "context")  # type: ignore[arg-type]
    assert (tls.ssl_conn, tls.is_dtls) == (None, False)
