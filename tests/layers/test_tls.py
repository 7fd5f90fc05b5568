"""TLS with the client, and what it mirrors of the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Any

import pytest
from cryptography import x509

from appliance.net.certs import LeafSpec
from tests.harness import ORIGIN, Events, Make, Peer, Rig, TestPki, answering, cpu, echo
from tests.layers.test_decide import hello

GET = b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n"
HANDSHAKE = [
    "client_connected",
    "tls_clienthello",
    "server_connect",
    "server_connected",
    "tls_start_server",
    "tls_established_server",
    "tls_start_client",
    "tls_established_client",
]


async def to_origin(rig: Rig, handle: Any = echo, tls: Any = True, **kw: Any) -> Peer:
    return await rig.connect(await rig.transparent(await rig.origin(handle, tls=tls, **kw)))


def shown(tls: ssl.SSLObject) -> x509.Certificate:
    der = tls.getpeercert(True)
    assert der
    return x509.load_der_x509_certificate(der)


def names(certificate: x509.Certificate) -> list[str]:
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in san]


async def ask(client: Peer) -> bytes:
    await client.say(GET)
    head = await client.head()
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head.split(b"\r\n")[0] + b" " + await client.exactly(length)


async def test_eager_looks_at_the_server_first(rigs: Make) -> None:
    events = Events()
    rig = await rigs(events)
    client = await to_origin(rig, answering(b"decrypted"))
    tls = await client.start_tls()
    assert events.names == HANDSHAKE
    assert await ask(client) == b"HTTP/1.1 200 OK decrypted"
    certificate = shown(tls)
    assert certificate.issuer == rig.worker.ca.certificate.subject
    assert {ORIGIN, "*.origin.test", "other.test", "127.0.0.1"} <= set(names(certificate)), "the server's own names"
    flow = events.of("response")[0]
    assert flow.client_conn.tls_established
    assert flow.client_conn.sni == ORIGIN
    assert flow.client_conn.tls_version == "TLSv1.3"
    assert flow.server_conn.sni == ORIGIN
    assert flow.client_conn.verdict.action == "decrypt"


async def test_lazy_dials_for_the_first_request(rigs: Make) -> None:
    events = Events()
    rig = await rigs(events, connection_strategy="lazy")
    client = await to_origin(rig, answering())
    tls = await client.start_tls()
    assert "server_connect" not in events.names
    assert set(names(shown(tls))) == {ORIGIN, "127.0.0.1"}, "only what the client asked for"
    await ask(client)
    assert events.names.index("tls_established_client") < events.names.index("server_connect")


@pytest.mark.parametrize("first", [True, False])
async def test_an_addon_decides_on_server_first(rigs: Make, first: bool) -> None:
    def hook(data: Any) -> None:
        data.establish_server_tls_first = first

    events = Events(*HANDSHAKE, tls_clienthello=hook)
    rig = await rigs(events, connection_strategy="lazy" if first else "eager")
    client = await to_origin(rig, answering())
    await client.start_tls()
    assert ("tls_established_server" in events.names) is first
    if first:
        assert events.names == HANDSHAKE


@pytest.mark.parametrize(
    ("server", "client", "agreed"),
    [
        (("http/1.1",), ("http/1.1",), "http/1.1"),
        (("http/1.1",), ("h2", "http/1.1"), "http/1.1"),
        ((), ("http/1.1",), None),
        (("mine",), ("mine", "http/1.1"), "mine"),
        (("http/1.1",), (), None),
    ],
)
async def test_alpn_mirrors_the_server(rigs: Make, server: Any, client: Any, agreed: str | None) -> None:
    rig = await rigs()
    peer = await to_origin(rig, answering(), alpn=server)
    tls = await peer.start_tls(alpn=client)
    assert tls.selected_alpn_protocol() == agreed


@pytest.mark.parametrize(("http2", "agreed"), [(True, "h2"), (False, "http/1.1")])
async def test_alpn_without_a_server_to_mirror(rigs: Make, http2: bool, agreed: str) -> None:
    rig = await rigs(connection_strategy="lazy", http2=http2)
    peer = await to_origin(rig, answering(), alpn=("http/1.1",))
    assert (await peer.start_tls(alpn=("h2", "http/1.1"))).selected_alpn_protocol() == agreed


async def test_an_addon_forces_the_alpn(rigs: Make) -> None:
    def hook(data: Any) -> None:
        data.context.client.alpn = b"mine"

    rig = await rigs(Events(tls_clienthello=hook))
    peer = await to_origin(rig, answering())
    assert (await peer.start_tls(alpn=("http/1.1", "mine"))).selected_alpn_protocol() == "mine"


async def test_an_address_without_sni(rigs: Make) -> None:
    events = Events()
    rig = await rigs(events)
    client = await to_origin(rig, answering())
    tls = await client.start_tls(None)
    assert "127.0.0.1" in names(shown(tls))
    await ask(client)
    assert events.of("tls_established_client")[0].conn.sni is None


async def test_ignore_connection_passes_byte_for_byte(rigs: Make) -> None:
    def hook(data: Any) -> None:
        data.ignore_connection = data.client_hello.sni == ORIGIN

    events = Events(tls_clienthello=hook)
    rig = await rigs(events)
    client = await to_origin(rig, answering(b"untouched"))
    tls = await client.start_tls()
    assert shown(tls).issuer != rig.worker.ca.certificate.subject, "the origin's own certificate"
    assert await ask(client) == b"HTTP/1.1 200 OK untouched"
    assert next(iter(rig.worker.handlers)).splice is not None
    assert rig.worker.totals.passed == 1
    verdict = next(iter(rig.worker.handlers)).client.verdict
    assert verdict is not None
    assert (verdict.action, verdict.at) == ("pass", "hook")


@pytest.mark.parametrize("sent", [hello(), hello() + b"\x14\x03\x03\x00\x01\x01"])
async def test_what_was_looked_at_is_passed_as_it_came(rigs: Make, sent: bytes) -> None:
    def hook(data: Any) -> None:
        data.ignore_connection = True

    rig = await rigs(Events(tls_clienthello=hook))
    client = await to_origin(rig, echo, tls=False)
    for at in range(0, len(sent), 50):
        await client.say(sent[at : at + 50])
        await asyncio.sleep(0)
    assert await client.exactly(len(sent)) == sent


async def test_an_addons_own_connection_is_used(rigs: Make) -> None:
    async def hook(data: Any) -> None:
        leaf = await rig.worker.minter.leaf(LeafSpec((ORIGIN, "custom.test"), "ec"))
        data.ssl_conn = rig.worker.tls.accept(leaf)

    rig = await rigs(Events(tls_start_client=hook))
    client = await to_origin(rig, answering())
    assert names(shown(await client.start_tls())) == [ORIGIN, "custom.test"]
    assert (await ask(client)).startswith(b"HTTP/1.1 200")


async def test_an_addons_nonsense_fails_that_handshake_only(rigs: Make) -> None:
    def hook(data: Any) -> None:
        data.ssl_conn = 42

    events = Events(*HANDSHAKE, "tls_failed_client", "client_disconnected", tls_start_client=hook)
    rig = await rigs(events)
    client = await to_origin(rig)
    with pytest.raises((ssl.SSLError, OSError)):
        await client.start_tls()
    await events.wait("client_disconnected")
    assert events.names[-2:] == ["tls_failed_client", "client_disconnected"]


@pytest.mark.parametrize("strategy", ["eager", "lazy"])
async def test_an_unreachable_server_is_told_over_tls(rigs: Make, strategy: str) -> None:
    events = Events()
    rig = await rigs(events, connection_strategy=strategy)
    client = await rig.connect(await rig.transparent(("127.0.0.1", 1)))
    await client.start_tls()
    answer = await ask(client)
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"Connection refused" in answer
    assert b"killed" not in answer
    assert events.names.count("server_connect") == events.names.count("server_connect_error")


@pytest.mark.parametrize("which", ["expired", "wrong-name", "self-signed", "unknown-root"])
async def test_a_bad_certificate_is_told_and_nothing_reaches_the_server(rigs: Make, pki: TestPki, which: str) -> None:
    asked: list[bytes] = []

    async def origin(peer: Peer) -> None:
        asked.append(await peer.head())

    rig = await rigs()
    client = await to_origin(rig, origin, tls=pki.bad[which])
    await client.start_tls()
    for _ in range(2):
        with contextlib.suppress(asyncio.IncompleteReadError):
            assert (await ask(client)).startswith(b"HTTP/1.1 502")
    assert not asked


async def test_upstream_cert_invalid_reset(rigs: Make, pki: TestPki) -> None:
    rig = await rigs(upstream_cert_invalid="reset")
    client = await to_origin(rig, echo, tls=pki.bad["expired"])
    with pytest.raises((ConnectionResetError, ssl.SSLError)):
        await client.start_tls()
    assert rig.worker.totals.blocked == 1


MIRRORED = {
    "expired": "certificate has expired",
    "future": "certificate is not yet valid",
    "wrong-name": "Hostname mismatch",
    "self-signed": "unable to get local issuer certificate",
    "unknown-root": "unable to get local issuer certificate",
    "incomplete": "unable to get local issuer certificate",
}


@pytest.mark.parametrize("which", MIRRORED)
async def test_upstream_cert_invalid_mirror(
    rigs: Make, pki: TestPki, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees the fault; when it goes on all the same, it gets the page, and the server nothing."""
    asked: list[bytes] = []

    async def origin(peer: Peer) -> None:
        asked.append(await peer.head())

    rig = await rigs(upstream_cert_invalid="mirror")
    address = await rig.transparent(await rig.origin(origin, tls=pki.bad[which]))
    client = await rig.connect(address)
    with caplog.at_level(logging.INFO), pytest.raises(ssl.SSLCertVerificationError, match=MIRRORED[which]):
        await client.start_tls()
    await rig.idle()
    assert "does not trust" not in caplog.text  # it is not our CA that it minds
    careless = await rig.connect(address)
    shows = shown(await careless.start_tls(verify=False))
    theirs = x509.load_pem_x509_certificates(pki.bad[which].cert.read_bytes())[0]
    assert shows.public_key() != theirs.public_key()
    for _ in range(2):
        assert (await ask(careless)).startswith(b"HTTP/1.1 502")
    assert not asked


async def test_mirror_and_a_server_that_is_good(rigs: Make) -> None:
    rig = await rigs(upstream_cert_invalid="mirror")
    client = await to_origin(rig, answering(b"fine"))
    await client.start_tls()
    assert (await ask(client)).endswith(b"fine")


async def test_mirror_goes_before_a_certificate_of_ones_own(rigs: Make, pki: TestPki, tmp_path: Any) -> None:
    pair = pki.issue("own", [ORIGIN])
    both = tmp_path / "own.pem"
    both.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    both.chmod(0o600)
    rig = await rigs(upstream_cert_invalid="mirror", certs=[f"{ORIGIN}={both}"])
    bad, good = await to_origin(rig, echo, tls=pki.bad["expired"]), await to_origin(rig, echo)
    with pytest.raises(ssl.SSLCertVerificationError, match="has expired"):
        await bad.start_tls()
    assert shown(await good.start_tls()).issuer == x509.load_pem_x509_certificate(pki.root.read_bytes()).subject


@pytest.mark.parametrize(("name", "own"), [(ORIGIN, True), ("other.test", False)])
@pytest.mark.parametrize("strategy", ["eager", "lazy"])
async def test_certificate_of_ones_own_is_for_whom_was_asked(
    rigs: Make, pki: TestPki, tmp_path: Any, name: str, own: bool, strategy: str
) -> None:
    """Not for every name that the server's certificate has besides."""
    pair = pki.issue("own", [ORIGIN])
    both = tmp_path / "own.pem"
    both.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    both.chmod(0o600)
    rig = await rigs(certs=[f"{ORIGIN}={both}"], connection_strategy=strategy)
    client = await to_origin(rig, echo)
    shows = shown(await client.start_tls(name))
    assert (shows == x509.load_pem_x509_certificate(pair.cert.read_bytes())) is own


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_distrust_is_told_once_in_one_line(
    rigs: Make, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    events = Events("client_disconnected", "tls_failed_client")
    rig = await rigs(events)
    listener = await rig.transparent(await rig.origin(echo, tls=True))

    def visit() -> None:  # asyncio's own TLS sends no alert
        context = ssl.create_default_context()
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(listener) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_hostname=ORIGIN)

    await asyncio.to_thread(visit)
    await events.wait("client_disconnected")
    told = [r.getMessage() for r in caplog.records if "does not trust" in r.getMessage()]
    assert len(told) == 1
    assert "127.0.0.1" in told[0]
    assert ORIGIN in told[0]
    assert "http://lockgate.internal/" in told[0]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + bytes(200),
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        hello()[:5] + bytes(300),
    ],
)
async def test_no_client_hello(rigs: Make, garbage: bytes) -> None:
    events = Events()
    rig = await rigs(events)
    client = await to_origin(rig, echo)
    await client.say(garbage)
    await client.rest()
    await events.wait("client_disconnected")
    assert events.names == ["client_connected", "tls_failed_client", "client_disconnected"]
    assert events.of("tls_failed_client")[0].conn.error
    assert events.of("tls_failed_client")[0].conn.tls  # it was to be


@pytest.mark.parametrize("how", ["eof", "reset", "silence"])
async def test_half_a_hello(rigs: Make, how: str) -> None:
    events = Events()
    rig = await rigs(events)
    rig.worker.settings.handshake_timeout = 0.2
    client = await to_origin(rig, echo)
    await client.say(hello()[:100])
    await events.wait("client_connected")
    if how == "eof":
        client.eof()
    elif how == "reset":
        client.reset()
    await events.wait("client_disconnected")
    assert events.names == ["client_connected", "tls_failed_client", "client_disconnected"]


async def test_a_client_that_leaves_while_the_server_is_dialled(rigs: Make) -> None:
    async def slow(data: Any) -> None:
        await asyncio.sleep(0.1)

    events = Events(server_connect=slow)
    rig = await rigs(events)
    client = await to_origin(rig, echo)
    client.write(hello(ORIGIN))
    await events.wait("client_connected")
    await asyncio.sleep(0.02)
    client.reset()
    await events.wait("client_disconnected", seconds=2)
    assert "tls_failed_client" in events.names


async def test_a_hello_a_byte_at_a_time(rigs: Make) -> None:
    rig = await rigs()
    client = await to_origin(rig, answering(b"slow but sure"))
    reader, writer = client.reader, client.writer
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cadata=rig.worker.ca.pem.decode())
    tls = context.wrap_bio(into, out, server_hostname=ORIGIN)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            for byte in out.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            into.write(await asyncio.wait_for(reader.read(65536), 5))
    tls.write(GET)
    writer.write(out.read())
    got = b""
    while b"slow but sure" not in got:
        try:
            got += tls.read(65536)
        except ssl.SSLWantReadError:
            into.write(await asyncio.wait_for(reader.read(65536), 5))


@pytest.mark.parametrize("how", ["silence", "eof"])
async def test_fifty_halves_of_a_hello_cost_nothing(rigs: Make, how: str) -> None:
    rig = await rigs(ignore_hosts=["nothing"])
    listener = await rig.transparent(await rig.origin(echo))
    clients = [await rig.connect(listener) for _ in range(50)]
    for client in clients:
        await client.say(hello()[:150])
        if how == "eof":
            client.eof()
    await asyncio.sleep(0.2)
    with cpu() as used:
        await asyncio.sleep(1.0)
        assert used() < 0.02, f"{used():.3f} s of processor time in one second"


async def test_silent_inside_tls_waits_for_the_client(rigs: Make) -> None:
    """A browser opens connections ahead of need."""
    rig = await rigs(server_greeting_wait_ms=20)
    client = await to_origin(rig, answering(b"at last"))
    await client.start_tls()
    await asyncio.sleep(0.2)
    assert await ask(client) == b"HTTP/1.1 200 OK at last"


@pytest.mark.parametrize("strategy", ["eager", "lazy"])
async def test_a_server_that_speaks_first_inside_tls(rigs: Make, strategy: str) -> None:
    async def banner(peer: Peer) -> None:
        await peer.say(b"* OK ready\r\n")
        await peer.rest()

    rig = await rigs(server_greeting_wait_ms=20, connection_strategy=strategy)
    client = await to_origin(rig, banner)
    await client.start_tls()
    assert await client.until(b"\n") == b"* OK ready\r\n"


async def test_inside_connect(rigs: Make) -> None:
    events = Events()
    rig = await rigs(events)
    origin = await rig.origin(answering(b"tunnelled"), tls=True)
    client = await rig.tunnel(await rig.regular(), f"{ORIGIN}:{origin[1]}")
    await client.start_tls()
    assert await ask(client) == b"HTTP/1.1 200 OK tunnelled"
    connect = ["http_connect", "server_connect", "server_connected", "http_connected"]
    assert events.names[:9] == ["client_connected", *connect, "tls_clienthello", *HANDSHAKE[4:7]]


async def test_a_secure_web_proxy(rigs: Make) -> None:
    """TLS to the proxy, then CONNECT, then TLS to the server inside."""
    rig = await rigs()
    origin = await rig.origin(answering(b"deep inside"), tls=True)
    client = await rig.connect(await rig.regular())
    await client.start_tls("127.0.0.1")
    to = f"{ORIGIN}:{origin[1]}"
    await client.say(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n".encode())
    assert b" 200 " in await client.head()
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cadata=rig.worker.ca.pem.decode())
    tls = context.wrap_bio(into, out, server_hostname=ORIGIN)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            await client.say(out.read())
            into.write(await client.some())
    tls.write(GET)
    await client.say(out.read())
    got = b""
    while b"deep inside" not in got:
        try:
            got += tls.read(65536)
        except ssl.SSLWantReadError:
            into.write(await client.some())


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("tickets", [True, False])
async def test_the_next_connection_to_a_server_resumes(rigs: Make, version: str, tickets: bool) -> None:
    """Seen at the server; without tickets TLS 1.2 has session ids, and TLS 1.3 nothing."""
    rig = await rigs()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(rig.pki.good.cert, rig.pki.good.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    resumed: list[bool] = []

    async def handle(peer: Peer) -> None:
        resumed.append(peer.writer.get_extra_info("ssl_object").session_reused)
        await answering()(peer)

    origin = await rig.transparent(await rig.origin(handle, tls=context))
    shown_to_client = set()
    for _ in range(3):
        client = await rig.connect(origin)
        shown_to_client.add(frozenset(names(shown(await client.start_tls()))))
        await ask(client)
        await client.close()
        await rig.idle()
    assert resumed == [False, tickets or version == "1.2", tickets or version == "1.2"]
    assert len(shown_to_client) == 1, "the names mirrored are the first handshake's"
