"""Both legs' contexts, in memory and against `openssl s_client` / `s_server` and Python's ssl."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto

from appliance.connection import Server
from appliance.exceptions import OptionsError
from appliance.net import openssl, tls_errors
from appliance.net.sessions import SessionCache
from appliance.net.tls_context import TlsContexts, certificates, describe, verify_fault, verify_result
from appliance.tls import ClientHello

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Pair(NamedTuple):
    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def issue(
    name: str,
    issuer: Pair | None = None,
    *,
    sans: tuple[str, ...] = (),
    ca: bool = False,
    start: datetime.timedelta = -DAY,
    end: datetime.timedelta = 30 * DAY,
    key: Any = None,
) -> Pair:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + start)
        .not_valid_after(NOW + end)
        .add_extension(x509.BasicConstraints(ca, None), True)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(san) for san in sans]), False)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


class FakeLeaf(NamedTuple):
    certificate: crypto.X509
    key: crypto.PKey
    chain: tuple[crypto.X509, ...]


def leaf_of(pair: Pair, *chain: Pair) -> Any:
    return FakeLeaf(
        crypto.X509.from_cryptography(pair.certificate),
        crypto.PKey.from_cryptography_key(pair.key),
        tuple(crypto.X509.from_cryptography(c.certificate) for c in chain),
    )


CA = issue("Test CA", ca=True)
GOOD = issue("good.example", CA, sans=("good.example", "*.wild.example", "192.0.2.7", "2001:db8::7", "127.0.0.1"))


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "roots.pem"
    path.write_bytes(CA.pem)
    return path


@pytest.fixture
def options(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    monkeypatch.delenv("LOCKGATE_SSLKEYLOGFILE", raising=False)
    return SimpleNamespace(
        tls_version_client_min="TLS1_2",
        tls_version_client_max="UNBOUNDED",
        tls_version_server_min="TLS1_2",
        tls_version_server_max="UNBOUNDED",
        ciphers_client=None,
        ciphers_server=None,
        tls_ecdh_curve_client=None,
        tls_ecdh_curve_server=None,
        ssl_insecure=False,
        ssl_verify_upstream_trusted_ca=str(ca_file),
        ssl_verify_upstream_trusted_confdir=None,
        tls_keylog_file=None,
        upstream_cert=True,
        add_upstream_certs_to_client_chain=False,
        client_certs=None,
        request_client_cert=False,
    )


@pytest.fixture
def contexts(options: Any) -> TlsContexts:
    return TlsContexts(options)


def to(host: str = "good.example", port: int = 443) -> Server:
    return Server(address=(host, port))


def hello_for(name: str) -> ClientHello:
    encoded = name.encode()
    entry = b"\0" + len(encoded).to_bytes(2) + encoded
    extension = b"\0\0" + (len(entry) + 2).to_bytes(2) + len(entry).to_bytes(2) + entry
    return ClientHello(b"\x03\x03" + bytes(32) + b"\0\0\x02\x13\x01\x01\0" + len(extension).to_bytes(2) + extension)


class End:
    """One end over memory BIOs."""

    def __init__(self, conn: SSL.Connection) -> None:
        self.conn = conn
        self.ssl, self.into, self.out = openssl.handles(conn)
        self.room = bytearray(1 << 17)
        self.pointer = openssl.from_buffer(self.room)
        self.done = False
        self.errors: tuple[str, ...] | None = None

    def step(self) -> None:
        if self.done or self.errors is not None:
            return
        n = openssl.SSL_do_handshake(self.ssl)
        self.done = n == 1
        if not self.done and openssl.SSL_get_error(self.ssl, n) != openssl.ERROR_WANT_READ:
            self.errors = openssl.take_errors(self.ssl)

    def feed(self, other: End) -> bool:
        moved = False
        while (n := openssl.BIO_read(self.out, self.pointer, len(self.room))) > 0:
            openssl.BIO_write(other.into, bytes(self.room[:n]), n)
            moved = True
        return moved

    def read(self) -> bytes:
        got = b""
        while (n := openssl.SSL_read(self.ssl, self.pointer, len(self.room))) > 0:
            got += self.room[:n]
        if openssl.SSL_get_error(self.ssl, n) != openssl.ERROR_WANT_READ:
            self.errors = openssl.take_errors(self.ssl)
        return got


def shake(client: SSL.Connection, server: SSL.Connection) -> tuple[End, End]:
    c, s = End(client), End(server)
    moved = True
    while moved:
        c.step()
        moved = c.feed(s)
        s.step()
        moved = s.feed(c) or moved
    if c.done and s.done:
        openssl.SSL_write(s.ssl, b"hi", 2)
        s.feed(c)
        assert c.read() == b"hi"
    return c, s


def explain(end: End) -> tls_errors.TlsError:
    assert end.errors is not None
    return tls_errors.explain(end.errors, handshake=True, fault=verify_fault(end.conn))


# -- both ends ours


def test_handshake_between_our_own_ends(contexts: TlsContexts) -> None:
    offers = (b"h2", b"http/1.1")
    client, server = shake(
        contexts.connect(to(), sni="good.example", alpn_offers=offers),
        contexts.accept(leaf_of(GOOD), hello_for("good.example"), b"http/1.1"),
    )
    assert client.done and server.done
    assert verify_result(client.conn) is None
    model = to()
    describe(client.conn, model)
    assert (model.tls, model.tls_version, model.alpn) == (True, "TLSv1.3", b"http/1.1")
    assert model.cipher == "TLS_AES_128_GCM_SHA256"
    assert list(model.certificate_list) == [GOOD.certificate]
    assert model.timestamp_tls_setup is not None
    assert server.conn.get_servername() == b"good.example"
    assert client.conn.get_group_name() == "x25519"


@pytest.mark.parametrize(("alpn", "chosen"), [(b"h2", b"h2"), (b"http/1.0", b""), (b"", b""), (None, b"")])
def test_alpn(contexts: TlsContexts, alpn: bytes | None, chosen: bytes) -> None:
    client, _ = shake(
        contexts.connect(to(), sni="good.example", alpn_offers=(b"h2", b"http/1.1")),
        contexts.accept(leaf_of(GOOD), None, alpn),
    )
    assert client.done
    assert client.conn.get_alpn_proto_negotiated() == chosen


def test_one_context_for_all_leaves_of_a_chain(contexts: TlsContexts) -> None:
    other = issue("other.example", CA, sans=("other.example",), key=rsa.generate_private_key(65537, 2048))
    a = contexts.accept(leaf_of(GOOD))
    b = contexts.accept(leaf_of(other))
    assert a.get_context() is b.get_context()
    client, _ = shake(contexts.connect(to("other.example"), sni="other.example"), b)
    assert list(certificates(client.conn)) == [other.certificate]
    assert contexts.connect(to(), sni="a.b").get_context() is contexts.connect(to(), sni="c.d").get_context()
    insecure = contexts.connect(to(), sni="a.b", insecure=True)
    assert insecure.get_context() is not contexts.connect(to(), sni="a.b").get_context()


def test_the_chain_is_sent(contexts: TlsContexts) -> None:
    middle = issue("Middle CA", CA, ca=True)
    leaf = leaf_of(issue("good.example", middle, sans=("good.example",)), middle)
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf))
    assert client.done and len(certificates(client.conn)) == 2
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf._replace(chain=())))
    assert explain(client).kind == "verify"
    fault = verify_fault(client.conn)
    assert fault is not None and fault.kind == "unknown_issuer"


def test_a_key_of_another_certificate_is_refused(contexts: TlsContexts) -> None:
    with pytest.raises(ValueError, match="cannot be used"):
        contexts.accept(leaf_of(GOOD)._replace(key=leaf_of(CA).key))
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    assert client.done  # no stale entry was left in the error queue


# -- verification


FAULTY = {
    "expired": lambda: issue("good.example", CA, sans=("good.example",), start=-9 * DAY, end=-DAY),
    "not_yet_valid": lambda: issue("good.example", CA, sans=("good.example",), start=DAY),
    "name_mismatch": lambda: issue("good.example", CA, sans=("bad.example",)),
    "self_signed": lambda: issue("good.example", sans=("good.example",)),
    "unknown_issuer": lambda: issue("good.example", issue("Other CA", ca=True), sans=("good.example",)),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_bad_upstream_certificate(contexts: TlsContexts, kind: str) -> None:
    pair = FAULTY[kind]()
    client, server = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(pair)))
    assert not client.done
    fault = verify_fault(client.conn)
    assert fault is not None and fault.kind == kind
    error = explain(client)
    assert error.kind == "verify" and fault.text in error.text
    # To mirror it, it must be known although the handshake failed.
    assert list(certificates(client.conn)) == [pair.certificate]
    assert server.errors or (server.done and server.read() == b"" and server.errors)

    client, server = shake(contexts.connect(to(), sni="good.example", insecure=True), contexts.accept(leaf_of(pair)))
    assert client.done and server.done
    assert verify_fault(client.conn) == fault


def test_a_common_name_alone_does_not_count(contexts: TlsContexts) -> None:
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(issue("good.example", CA))))
    fault = verify_fault(client.conn)
    assert fault is not None and fault.kind == "name_mismatch"


@pytest.mark.parametrize(
    ("host", "sni", "fine"),
    [
        ("ignored.example", "good.example", True),
        ("good.example", None, True),
        ("bad.example", None, False),
        ("good.example", "bad.example", False),
        ("x", "GOOD.example.", True),
        ("x", "a.wild.example", True),
        ("x", "a.b.wild.example", False),
        ("x", "wild.example", False),
        ("192.0.2.7", None, True),
        ("192.0.2.8", None, False),
        ("2001:db8::7", None, True),
        ("x", "192.0.2.7", True),
        ("x", "192.0.2.8", False),
    ],
)
def test_which_name_is_checked(contexts: TlsContexts, host: str, sni: str | None, fine: bool) -> None:
    client, server = shake(contexts.connect(to(host), sni=sni), contexts.accept(leaf_of(GOOD)))
    assert client.done is fine
    sends = sni.lower().rstrip(".").encode() if sni and not sni[0].isdigit() else None
    assert server.conn.get_servername() == sends


def test_partial_wildcards_do_not_count(contexts: TlsContexts) -> None:
    pair = issue("x", CA, sans=("g*d.example",))
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(pair)))
    assert not client.done


def test_an_international_name(contexts: TlsContexts) -> None:
    pair = issue("x", CA, sans=("xn--bcher-kva.example",))
    client, server = shake(contexts.connect(to(), sni="Bücher.example"), contexts.accept(leaf_of(pair)))
    assert client.done and server.conn.get_servername() == b"xn--bcher-kva.example"


@pytest.mark.parametrize("name", ["", "a b", "a\0.good.example", "x" * 300])
def test_no_name_no_connection(contexts: TlsContexts, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        contexts.connect(to(name), sni=None)


# -- sessions


def session_run(contexts: TlsContexts, host: str, **more: Any) -> bool:
    """Whether a connection to `host` resumed."""
    leaf = leaf_of(issue(host, CA, sans=(host,)))
    sni = more.pop("sni", host)
    client, server = shake(
        contexts.connect(to("192.0.2.1"), sni=sni, **more), contexts.accept(leaf, hello_for(sni), b"h2")
    )
    assert client.done and server.done
    contexts.remember(client.conn)
    assert openssl.session_reused(client.conn) is openssl.session_reused(server.conn)
    return openssl.session_reused(client.conn)


@pytest.mark.parametrize("version", ["TLS1_2", "TLS1_3"])
def test_sessions_resume_for_the_same_server_only(options: Any, version: str) -> None:
    options.tls_version_client_max = version
    contexts = TlsContexts(options)
    assert [session_run(contexts, "a.example") for _ in range(3)] == [False, True, True]
    assert session_run(contexts, "b.example") is False
    assert session_run(contexts, "a.example", alpn_offers=(b"h2",)) is False
    assert session_run(contexts, "a.example", insecure=True) is False
    assert session_run(contexts, "a.example", insecure=True) is True
    assert session_run(contexts, "a.example") is True


@pytest.mark.parametrize("version", ["TLS1_2", "TLS1_3"])
def test_a_client_cannot_take_a_session_to_another_name(options: Any, version: str) -> None:
    """The side of our clients: OpenSSL alone would resume here, and the new name's certificate would never be seen."""
    options.tls_version_client_max = version
    contexts = TlsContexts(options)
    foreign = SSL.Context(SSL.TLS_CLIENT_METHOD)

    def run(name: str, session: bytes | None) -> End:
        conn = SSL.Connection(foreign)
        conn.set_tlsext_host_name(name.encode())
        conn.set_connect_state()
        if session:
            assert openssl.offer_session(conn, session)
        client, server = shake(conn, contexts.accept(leaf_of(GOOD), hello_for(name)))
        assert client.done and server.done
        return client

    session = openssl.dump_session(run("a.example", None).conn)
    assert openssl.session_reused(run("A.example", session).conn)
    session = openssl.dump_session(run("a.example", None).conn)
    assert not openssl.session_reused(run("b.example", session).conn)


def test_a_resumed_connection_keeps_the_certificates_and_the_age(options: Any) -> None:
    clock = [1000.0]
    sessions = SessionCache(max_age=600, clock=lambda: clock[0])
    contexts = TlsContexts(options, sessions)
    leaf = leaf_of(GOOD)

    def run() -> SSL.Connection:
        client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf))
        contexts.remember(client.conn)
        contexts.remember(client.conn)
        return client.conn

    run()
    for clock[0] in (1300.0, 1590.0):
        conn = run()
        assert openssl.session_reused(conn)
        assert list(certificates(conn)) == [GOOD.certificate]
    clock[0] = 1601.0  # 10 s after the last resumption, over 10 minutes after the certificate was checked
    assert not openssl.session_reused(run())


def test_a_fault_is_known_after_resuming_too(contexts: TlsContexts) -> None:
    leaf = leaf_of(FAULTY["expired"]())
    for resumed in (False, True):
        client, _ = shake(contexts.connect(to(), sni="good.example", insecure=True), contexts.accept(leaf))
        contexts.remember(client.conn)
        assert openssl.session_reused(client.conn) is resumed
        assert verify_result(client.conn) == "has expired"


def test_foreign_connections_are_not_remembered(contexts: TlsContexts) -> None:
    conn = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    contexts.remember(conn)
    assert len(contexts.sessions) == 0


# -- options


def test_reload_takes_new_options_and_forgets_sessions(options: Any, contexts: TlsContexts) -> None:
    before = contexts.connect(to(), sni="good.example").get_context()
    contexts.reload()
    assert contexts.connect(to(), sni="good.example").get_context() is before
    session_run(contexts, "a.example")
    options.tls_version_server_max = "TLS1_2"
    contexts.reload()
    assert len(contexts.sessions) == 0
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    assert client.conn.get_protocol_version_name() == "TLSv1.2"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ciphers_client", "NOSUCH", "ciphers_client"),
        ("ciphers_server", "NOSUCH", "ciphers_server"),
        ("tls_ecdh_curve_server", "P-1", "tls_ecdh_curve_server"),
        ("tls_ecdh_curve_client", "P-1", "tls_ecdh_curve_client"),
        ("ssl_verify_upstream_trusted_ca", "no/such/file", "trusted_ca"),
        ("tls_keylog_file", "no/such/folder/file", "tls_keylog_file"),
    ],
)
def test_a_bad_option_changes_nothing(options: Any, contexts: TlsContexts, name: str, value: str, says: str) -> None:
    good = getattr(options, name)
    setattr(options, name, value)
    with pytest.raises(OptionsError, match=says):
        contexts.reload()
    setattr(options, name, good)
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    assert client.done


def test_versions_in_common(options: Any) -> None:
    options.tls_version_client_max = "TLS1_2"
    options.tls_version_server_min = "TLS1_3"
    contexts = TlsContexts(options)
    client, server = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    assert explain(client).kind == "version"
    assert explain(server).kind == "version"


def test_old_versions_can_be_allowed(options: Any) -> None:
    options.tls_version_client_min = options.tls_version_server_min = "TLS1"
    options.tls_version_server_max = "TLS1_1"
    contexts = TlsContexts(options)
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    if client.errors and "no protocols available" in " ".join(client.errors):
        pytest.skip("this OpenSSL has no TLS 1.1")
    assert client.conn.get_protocol_version_name() == "TLSv1.1"


def test_nothing_in_common(options: Any) -> None:
    options.tls_version_client_max = options.tls_version_server_max = "TLS1_2"
    options.ciphers_client, options.ciphers_server = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
    contexts = TlsContexts(options)
    client, server = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    assert explain(server).kind == "no_shared_cipher"
    assert explain(client).kind == "handshake_failure"


@pytest.mark.parametrize("how", ["option", "LOCKGATE_SSLKEYLOGFILE", "SSLKEYLOGFILE"])
def test_key_log(options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = tmp_path / "keys.log"
    path.write_bytes(b"# kept\n")
    path.unlink() if how == "option" else path.chmod(0o600)
    if how == "option":
        options.tls_keylog_file = str(path)
    else:
        monkeypatch.setenv(how, str(path))
    contexts = TlsContexts(options)
    client, _ = shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    assert client.done
    contexts.close()
    shake(contexts.connect(to(), sni="good.example"), contexts.accept(leaf_of(GOOD)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_bytes().splitlines()
    if how != "option":
        assert lines.pop(0) == b"# kept"
    labels = {line.split()[0] for line in lines}
    assert {b"CLIENT_HANDSHAKE_TRAFFIC_SECRET", b"SERVER_TRAFFIC_SECRET_0"} <= labels
    assert all(len(line.split()) == 3 for line in lines)
    assert len({line.split()[1] for line in lines}) == 1  # nothing of the second, after close()


# -- against others


@contextlib.contextmanager
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)
        yield sock


def drive(conn: SSL.Connection, sock: socket.socket, talk: bytes = b"") -> tuple[End, bytes]:
    """Handshake and read to the end over a blocking socket; `talk` is said first."""
    end, got = End(conn), b""
    said = False
    while True:
        end.step()
        if end.done and not said:
            openssl.SSL_write(end.ssl, talk, len(talk)) if talk else None
            said = True
        if end.done:
            got += end.read()
        while (n := openssl.BIO_read(end.out, end.pointer, len(end.room))) > 0:
            sock.sendall(end.room[:n])
        if end.errors is not None:
            return end, got
        data = sock.recv(65536)
        if not data:
            return end, got
        openssl.BIO_write(end.into, data, len(data))


def test_pythons_ssl_as_client(contexts: TlsContexts, ca_file: Path) -> None:
    with listener() as sock:
        result: list[Any] = []

        def client() -> None:
            context = ssl.create_default_context(cafile=str(ca_file))
            context.set_alpn_protocols(["http/1.1"])
            with (
                socket.create_connection(sock.getsockname(), 10) as raw,
                context.wrap_socket(raw, server_hostname="good.example") as tls,
            ):
                tls.sendall(b"question")
                result.extend([tls.recv(100), tls.version(), tls.selected_alpn_protocol()])

        thread = threading.Thread(target=client)
        thread.start()
        peer, _ = sock.accept()
        with peer:
            _, got = drive(contexts.accept(leaf_of(GOOD), None, b"http/1.1"), peer, b"answer")
        thread.join(10)
    assert got == b"question"
    assert result == [b"answer", "TLSv1.3", "http/1.1"]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_as_client_refusing_our_ca(contexts: TlsContexts, tmp_path: Path, version: str) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(issue("Other CA", ca=True).pem)
    with listener() as sock:
        host = f"127.0.0.1:{sock.getsockname()[1]}"
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", host, version, "-CAfile", str(other), "-verify_return_error"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ):
            peer, _ = sock.accept()
            with peer:
                end, _ = drive(contexts.accept(leaf_of(GOOD)), peer)
    error = tls_errors.explain(end.errors or (), handshake=not end.done)
    assert error.kind == "unknown_ca" and error.distrust
    assert not end.done


@pytest.mark.parametrize("good", [True, False])
def test_openssl_as_server(contexts: TlsContexts, tmp_path: Path, good: bool) -> None:
    pair = GOOD if good else FAULTY["unknown_issuer"]()
    (tmp_path / "cert.pem").write_bytes(pair.pem)
    (tmp_path / "key.pem").write_bytes(pair.key_pem)
    with listener() as free:
        port = free.getsockname()[1]
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", "cert.pem", "-key", "key.pem", "-www"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            while b"ACCEPT" not in process.stdout.readline():
                pass
            reused = []
            for _ in range(2 if good else 1):
                conn = contexts.connect(to("127.0.0.1", port), sni="good.example")
                with socket.create_connection(("127.0.0.1", port), 10) as sock:
                    end, got = drive(conn, sock, b"GET / HTTP/1.0\r\n\r\n")
                contexts.remember(conn)
                reused.append(openssl.session_reused(conn))
                assert (b"HTTP/1.0 200" in got) is good
        finally:
            process.terminate()
    if good:
        assert reused == [False, True]
    else:
        assert explain(end).kind == "verify"
        assert verify_result(conn) is not None


@pytest.mark.parametrize(
    ("sent", "kind"), [(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "not_tls"), (b"SSH-2.0-OpenSSH_9\r\n", "not_tls")]
)
def test_a_peer_that_speaks_no_tls(contexts: TlsContexts, sent: bytes, kind: str) -> None:
    for conn in (contexts.accept(leaf_of(GOOD)), contexts.connect(to(), sni="good.example")):
        end = End(conn)
        end.step()
        openssl.BIO_write(end.into, sent, len(sent))
        end.step()
        assert explain(end).kind == kind


def test_an_end_of_file_in_the_handshake(contexts: TlsContexts) -> None:
    end = End(contexts.accept(leaf_of(GOOD)))
    openssl.BIO_eof(end.into)
    end.step()
    assert explain(end).kind == "eof"
