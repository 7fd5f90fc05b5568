"""The surface of appliance/net/openssl.py: straight to OpenSSL, and over pyOpenSSL's methods when names are missing."""

from __future__ import annotations

import datetime
import importlib.util
import socket
from types import ModuleType
from typing import Any

import OpenSSL._util
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from appliance.net import openssl


class Without:
    """OpenSSL's functions, some of them gone."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __getattr__(self, name: str) -> Any:
        if name in self.names:
            raise AttributeError(name)
        return getattr(openssl.lib, name)


def load_without(monkeypatch: pytest.MonkeyPatch, *names: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("openssl_without", str(openssl.__file__))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(OpenSSL._util, "lib", Without(*names))
        spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["fast", "methods"])
def surface(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return openssl if request.param == "fast" else load_without(monkeypatch, "SSL_read")


@pytest.fixture(scope="module")
def server_context() -> SSL.Context:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(builder.sign(key, hashes.SHA256()))
    context.use_privatekey(key)
    return context


class Pair:
    """A client and a server joined by their BIOs."""

    def __init__(self, o: Any, server_context: SSL.Context) -> None:
        self.o = o
        self.server = SSL.Connection(server_context)
        self.server.set_accept_state()
        self.client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
        self.client.set_connect_state()
        self.s, self.c = o.handles(self.server), o.handles(self.client)
        self.room = bytearray(1 << 17)
        self.pointer = o.from_buffer(self.room)

    def move(self, source: Any, target: Any) -> int:
        total = 0
        while (n := self.o.BIO_read(source[2], self.pointer, len(self.room))) > 0:
            total += n
            # In two parts, the second by pointer arithmetic, as a stream does with slices.
            data = self.o.from_buffer(bytes(self.room[:n]))
            first = self.o.BIO_write(target[1], data, n // 2)
            assert first + self.o.BIO_write(target[1], data + n // 2, n - n // 2) == n
        return total

    def shake(self) -> None:
        for _ in range(3):
            self.o.SSL_do_handshake(self.c[0])
            self.move(self.c, self.s)
            self.o.SSL_do_handshake(self.s[0])
            self.move(self.s, self.c)
        assert self.o.SSL_do_handshake(self.c[0]) == self.o.SSL_do_handshake(self.s[0]) == 1

    def read(self, end: Any) -> tuple[bytes, int]:
        got = b""
        while (n := self.o.SSL_read(end[0], self.pointer, len(self.room))) > 0:
            got += self.room[:n]
        return got, self.o.SSL_get_error(end[0], n)


def test_available() -> None:
    assert openssl.available and openssl.resumption and openssl.scopes


def test_data_both_ways(surface: Any, server_context: SSL.Context) -> None:
    pair = Pair(surface, server_context)
    pair.shake()
    for size in (1, 1300, 16384, 16385, 65536):
        data = bytes(i % 251 for i in range(size))
        for source, target in ((pair.c, pair.s), (pair.s, pair.c)):
            pointer, sent = surface.from_buffer(data), 0
            while sent < size:
                n = surface.SSL_write(source[0], pointer + sent, size - sent)
                assert n > 0
                sent += n
            assert surface.BIO_get_mem_data(source[2], openssl.NULL) > 0
            assert pair.move(source, target) > size
            assert pair.read(target) == (data, surface.ERROR_WANT_READ)
    assert surface.SSL_write(pair.c[0], b"bytes", 5) == 5
    pair.move(pair.c, pair.s)
    assert pair.read(pair.s)[0] == b"bytes"


def test_the_fast_way_writes_a_slice_in_one_call(server_context: SSL.Context) -> None:
    pair = Pair(openssl, server_context)
    pair.shake()
    assert openssl.SSL_write(pair.c[0], bytes(65536), 65536) == 65536
    assert openssl.BIO_get_mem_data(pair.c[2], openssl.NULL) > 65536
    assert openssl.SSL_pending(pair.c[0]) == 0


def test_close_notify(surface: Any, server_context: SSL.Context) -> None:
    pair = Pair(surface, server_context)
    pair.shake()
    pair.read(pair.c)
    assert surface.SSL_shutdown(pair.s[0]) == 0
    pair.move(pair.s, pair.c)
    assert pair.read(pair.c) == (b"", surface.ERROR_ZERO_RETURN)


def test_a_cut_is_told_from_an_end(surface: Any, server_context: SSL.Context) -> None:
    pair = Pair(surface, server_context)
    pair.shake()
    surface.BIO_eof(pair.c[1])
    assert pair.read(pair.c) == (b"", surface.ERROR_SSL)
    assert surface.take_errors(pair.c[0]) == ("unexpected eof while reading",)
    assert surface.take_errors(pair.c[0]) == ()


def test_an_error_does_not_reach_the_next_connection(surface: Any, server_context: SSL.Context) -> None:
    bad, good = Pair(surface, server_context), Pair(surface, server_context)
    good.shake()
    surface.BIO_write(bad.s[1], b"GET / HTTP/1.1\r\n\r\n", 18)
    n = surface.SSL_do_handshake(bad.s[0])
    assert surface.SSL_get_error(bad.s[0], n) == surface.ERROR_SSL
    assert surface.take_errors(bad.s[0]) == ("http request",)
    assert good.read(good.s) == (b"", surface.ERROR_WANT_READ)


def test_a_connection_over_a_socket_is_refused(surface: Any) -> None:
    left, right = socket.socketpair()
    with left, right:
        conn = SSL.Connection(SSL.Context(SSL.TLS_METHOD), left)
        with pytest.raises(ValueError, match="over a socket"):
            surface.handles(conn)
    with pytest.raises(TypeError, match="not str"):
        surface.handles("conn")


def test_the_fallback_is_taken_for_any_missing_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_write", "BIO_get_mem_data", "ERR_reason_error_string"):
        assert load_without(monkeypatch, name).available is False
    assert load_without(monkeypatch, "i2d_SSL_SESSION").resumption is False
    assert load_without(monkeypatch).available is True


def test_without_name_checks_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImportError, match="X509_VERIFY_PARAM_set1_host"):
        load_without(monkeypatch, "X509_VERIFY_PARAM_set1_host")


def test_a_broken_session_is_not_offered() -> None:
    conn = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    assert openssl.offer_session(conn, b"rubbish") is False
    assert openssl.dump_session(conn) is None


def test_names_and_addresses_openssl_does_not_take() -> None:
    conn = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    for name in (b"", b"a\0b"):
        with pytest.raises(ValueError, match="name"):
            openssl.expect_name(conn, name)
    with pytest.raises(ValueError, match="address"):
        openssl.expect_ip(conn, b"123")
