"""Protocols in which the server greets: the client hears it at once, and STARTTLS after it goes through untouched."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from appliance.layers.decide import SERVER_FIRST
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import Lab
from tests.lab.witness import server

BANNERS = {
    21: b"220 ftp.test ready\r\n",
    22: b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    25: b"220 mail.test ESMTP\r\n",
    110: b"+OK POP3 ready\r\n",
    143: b"* OK IMAP4rev1 ready\r\n",
    587: b"220 submission.test ESMTP\r\n",
    3306: b"\x4a\x00\x00\x00\x0a8.0.36\x00",
    5900: b"RFB 003.008\n",
    6667: b":irc.test NOTICE AUTH :*** Looking up your hostname\r\n",
}


@pytest.fixture(scope="module")
def gateway(lab: Lab) -> Iterator[Gateway]:
    # Whoever were made to wait for a silent client would be seen to: five seconds are more than a test takes.
    with (
        lab.gateway_proc("-m", "transparent@8081", options={"server_greeting_wait_ms": 5000}) as gateway,
        lab.redirect(8081),
    ):
        yield gateway


@pytest.mark.parametrize("port", sorted(BANNERS))
def test_the_greeting_comes_at_once(lab: Lab, gateway: Gateway, port: int) -> None:
    def greet(sock: socket.socket) -> None:
        sock.sendall(BANNERS[port])
        sock.sendall(sock.recv(100).upper())

    assert port in SERVER_FIRST
    times = []
    with server(lab, port, greet):
        for family in (4, 6, 4, 6):
            began = time.monotonic()
            with lab.connect(port=port, family=family) as sock:
                assert sock.recv(100) == BANNERS[port]
                times.append(time.monotonic() - began)
                sock.sendall(b"answer")
                assert sock.recv(100) == b"ANSWER"
    assert min(times) < 0.1
    assert max(times) < 3


def test_a_client_that_speaks_first_there_is_still_heard(lab: Lab, gateway: Gateway) -> None:
    """HTTP on port 22: the decision is not taken by the port."""

    def answer(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with server(lab, 22, answer):
        reply = lab.curl("http://origin.test:22/")
    assert (reply.status, reply.body) == (200, b"ok")
    gateway.wait_output(r"GET http://\S+:22/ 200")


def test_refused(lab: Lab, gateway: Gateway) -> None:
    with pytest.raises(ConnectionResetError), contextlib.closing(lab.connect(port=25)) as sock:
        sock.recv(10)


def test_starttls_goes_through(lab: Lab, gateway: Gateway) -> None:
    pair = lab.pki.good
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)

    def smtp(sock: socket.socket) -> None:
        sock.sendall(BANNERS[587])
        assert re.match(b"EHLO", sock.recv(100))
        sock.sendall(b"250-submission.test\r\n250 STARTTLS\r\n")
        assert sock.recv(100) == b"STARTTLS\r\n"
        sock.sendall(b"220 go ahead\r\n")
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(b"250 " + tls.recv(100))

    with server(lab, 587, smtp), lab.connect(port=587) as sock:
        assert sock.recv(100) == BANNERS[587]
        sock.sendall(b"EHLO lab\r\n")
        assert b"STARTTLS" in sock.recv(100)
        sock.sendall(b"STARTTLS\r\n")
        assert sock.recv(100) == b"220 go ahead\r\n"
        with lab.connect_tls(over=sock) as tls:  # the origin's own certificate
            tls.sendall(b"EHLO inside\r\n")
            assert tls.recv(100) == b"250 EHLO inside\r\n"
