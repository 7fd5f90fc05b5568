"""The lab's origins and certificates, asked directly through the routing gateway."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time

import pytest
from cryptography import x509

from tests.lab import clients, labkit
from tests.lab.bytes_on_wire import ask, get, read_all
from tests.lab.labkit import BAD, ECHO, ECHO_TLS, GREETER, HTTP, HTTPS, Lab
from tests.lab.nginx import PATTERNED, SPARSE
from tests.lab.origins import pattern, raw_path
from tests.lab.recorder import Origins

# -- nginx


@pytest.mark.parametrize("flag", ["-4", "-6"])
def test_nginx(routed: Lab, flag: str) -> None:
    for name, size in PATTERNED.items():
        assert routed.curl(f"http://origin.test/{name}", flag).body == pattern(size)
    assert routed.curl("https://origin.test/", flag).http == "1.1"
    assert routed.curl("https://origin.test:8443/1k", flag).http == "2"
    assert routed.curl("https://10.61.2.3/1k" if flag == "-4" else "https://[fd61:2::3]/1k").status == 200
    assert routed.curl("http://origin.test/1g", flag, "-I").header("content-length") == str(SPARSE["1g"])


# -- the Python origins


def test_origin_records_every_byte(routed: Lab, origins: Origins) -> None:
    request = get("/a?b=%20", "X-Twice: 1", "x-twice:2 ", "Transfer-Encoding: chunked", method="PUT")
    body = b"5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n"
    second = get("/", "Connection: close")
    answer = ask(routed, request + body + second)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    [record] = origins.ended(HTTP)
    everything = request + body + second
    assert (bytes(record.raw), record.total, record.ended) == (everything, len(everything), "closed")
    assert (record.tls, record.refused, record.peer[0]) == (None, None, routed.client.v4)
    seen = record.requests[0]
    assert (seen.method, seen.target, seen.length, seen.chunked, seen.complete) == ("PUT", "/a?b=%20", 6, True, True)
    assert seen.values("x-twice") == ["1", "2"] and seen.fields[2][0] == "x-twice"
    assert seen.trailers == [("X-T", "1")] and seen.sha256 == hashlib.sha256(b"hello!").hexdigest()
    assert [s.target for s in origins.requests()] == ["/a?b=%20", "/"]


def test_origin_forgets_between_tests(routed: Lab, origins: Origins) -> None:
    assert origins.connections() == [] and origins.received() == b""
    with routed.connect_tls(alpn=["http/1.1"]) as sock:
        sock.sendall(get("/x"))
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        [record] = origins.connections()
        assert record.ended is None and record.tls
        assert (record.tls["sni"], record.tls["alpn"], record.port) == ("origin.test", "http/1.1", HTTPS)
    assert origins.ended()[0].ended == "eof"


AMBIGUOUS = {
    "both framings": get("/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "two lengths": get("/", "Content-Length: 0", "Content-Length: 0"),
    "length with a sign": get("/", "Content-Length: +5") + b"hello",
    "length list": get("/", "Content-Length: 0, 0"),
    "bare LF": get("/").replace(b"\r\n", b"\n"),
    "one bare LF": get("/", "A: 1\nB: 2"),
    "bare CR": get("/", "A: 1\rB: 2"),
    "folded": get("/", "A: 1", " 2"),
    "space before colon": get("/", "A : 1"),
    "NUL": get("/", "A: \0"),
    "other coding": get("/", "Transfer-Encoding: xchunked"),
    "coding list": get("/", "Transfer-Encoding: gzip, chunked"),
    "coding in 1.0": get("/", "Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "chunk size overflow": get("/", "Transfer-Encoding: chunked") + b"10000000000000000\r\n",
    "chunk size prefix": get("/", "Transfer-Encoding: chunked") + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk too long": get("/", "Transfer-Encoding: chunked") + b"4\r\nhello\r\n0\r\n\r\n",
    "framing trailer": get("/", "Transfer-Encoding: chunked") + b"0\r\nContent-Length: 3\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": get("/", "Host: b"),
    "empty line first": b"\r\n" + get("/"),
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
}


@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_origin_refuses_what_is_ambiguous(routed: Lab, origins: Origins, request_: bytes) -> None:
    answer = ask(routed, request_ + get("/smuggled"))
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1
    [record] = origins.ended()
    assert record.refused and all(seen.target != "/smuggled" for seen in record.requests)


def test_origin_that_is_left_in_the_middle(routed: Lab, origins: Origins) -> None:
    with routed.connect(port=HTTP) as sock:
        sock.sendall(get("/", "Content-Length: 10") + b"half")
    [record] = origins.ended()
    assert (record.ended, record.refused, record.requests[0].complete) == ("eof", None, False)


def test_events_come_one_by_one(routed: Lab) -> None:
    with routed.connect(port=HTTP) as sock:
        start = time.monotonic()
        sock.sendall(get("/sse?n=3&ms=200", "Connection: close"))
        data = b""
        while b"data: 0" not in data:
            data += sock.recv(1000)
        assert time.monotonic() - start < 0.15 and b"text/event-stream" in data and b"data: 1" not in data
        data += read_all(sock)
        assert time.monotonic() - start > 0.38 and data.count(b"data: ") == 3 and data.endswith(b"0\r\n\r\n")


def test_early_answers(routed: Lab, origins: Origins) -> None:
    with routed.connect(port=HTTP) as sock:
        sock.sendall(get("/early/413", "Content-Length: 1000000", method="POST") + b"x" * 100)
        answer = read_all(sock)
        sock.sendall(b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in answer
    [seen] = origins.requests()
    assert not seen.complete
    answer = ask(routed, get("/early/hints", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: ") and b"HTTP/1.1 200 OK" in answer


def test_continue(routed: Lab) -> None:
    with routed.connect(port=HTTP) as sock:
        sock.sendall(get("/echo", "Content-Length: 2", "Expect: 100-continue", "Connection: close", method="POST"))
        assert sock.recv(1000) == b"HTTP/1.1 100 Lab\r\n\r\n"
        sock.sendall(b"ok")
        assert read_all(sock).endswith(b"\r\n\r\nok")


def test_truncated(routed: Lab) -> None:
    def cut(how: str) -> bytes:
        return ask(routed, get(f"/truncate/{how}"))

    assert b"Content-Length: 100000" in cut("length") and cut("length").endswith(pattern(1000))
    assert cut("chunked").endswith(b"1000\r\nhalf a chu")
    assert cut("head") == b"HTTP/1.1 200 OK\r\nContent-Ty"
    assert cut("none") == b""
    with routed.connect(port=HTTP) as sock, pytest.raises(ConnectionResetError):
        sock.sendall(get("/truncate/reset"))
        while sock.recv(65536):
            pass


def test_bodies(routed: Lab) -> None:
    def fetch(path: str, *arguments: str) -> clients.Reply:
        return routed.curl(f"https://origin.test:{HTTPS}{path}", *arguments)

    assert fetch("/bytes/100001").body == pattern(100001)
    chunked = fetch("/bytes/100001?chunked=777")
    assert chunked.body == pattern(100001) and chunked.header("transfer-encoding") == "chunked"
    assert (fetch("/gzip").header("content-encoding"), fetch("/gzip", "--compressed").body) == ("gzip", pattern(4096))
    assert fetch("/eof?n=5000").body == pattern(5000)
    assert fetch("/eof?version=1.0").heads[0].line.startswith("HTTP/1.0 200")
    assert (fetch("/status/204").status, fetch("/status/204").header("content-length")) == (204, None)
    assert fetch("/status/302").header("location") == "/"
    assert fetch("/bytes/9", "-I").header("content-length") == "9"
    assert fetch("/echo", "-d", "abc").body == b"abc"
    slow = fetch("/slow?head=100&gap=30&n=5")
    assert slow.body == pattern(5) and slow.seconds > 0.2
    assert fetch(raw_path(b"HTTP/1.1 299 Odd\r\nContent-Length: 1\r\n\r\n?")).status == 299


def test_upgrade_becomes_an_echo(routed: Lab) -> None:
    with routed.connect(port=HTTP) as sock:
        sock.sendall(get("/upgrade?greet=hi", "Connection: upgrade", "Upgrade: lab") + b"early")
        data = b""
        while not data.endswith(b"hiearly"):
            data += sock.recv(1000)
        assert data.startswith(b"HTTP/1.1 101 Switching Protocols\r\n") and b"Upgrade: lab\r\n" in data
        sock.sendall(b"more")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"more"
    assert b"HTTP/1.1 426 " in ask(routed, get("/upgrade", "Connection: close"))


def test_raw_origins(routed: Lab) -> None:
    with routed.connect(port=ECHO) as sock:
        sock.sendall(pattern(300_000))
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == pattern(300_000)
    with routed.connect_tls(port=ECHO_TLS) as tls:
        tls.sendall(b"secret")
        assert tls.recv(100) == b"secret"
    with routed.connect(port=GREETER) as sock:
        assert sock.recv(100) == b"220 greeter.test ESMTP lab\r\n"
        sock.sendall(b"NOOP\r\nQUIT\r\n")
        assert read_all(sock) == b"250 NOOP\r\n221 bye\r\n"
    for name, family in (("origin.test", 4), ("origin.test", 6), ("alt.test", 4), ("alt.test", 6)):
        with routed.client.udp(name, ECHO, family=family) as udp:
            udp.send(b"datagram")
            assert udp.recv(100) == b"datagram"


def test_an_origin_of_ones_own(routed: Lab) -> None:
    pair = routed.pki.issue("own", ["bad.test"], signer=None)
    with routed.origin("http", 9443, pair):
        assert routed.curl("https://bad.test:9443/").status == 200
    with pytest.raises(ConnectionRefusedError):
        routed.connect(port=9443)


# -- certificates

FAULTS = {"expired": "expired", "future": "not yet valid", "wrong-name": "match", "self-signed": "self-signed",
          "unknown-root": "unable to get", "incomplete": "unable to get"}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_certificates(routed: Lab, origins: Origins, fault: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=FAULTS[fault]):
        routed.connect_tls(port=BAD[fault])
    with routed.connect_tls(port=BAD[fault], ca=False) as sock:
        sock.sendall(get("/"))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert [seen.target for seen in origins.requests(BAD[fault])] == ["/"]


def test_good_certificates(routed: Lab) -> None:
    for name in ("origin.test", "www.origin.test", "xn--mnchen-3ya.test", "10.61.2.2", "fd61:2::2"):
        routed.connect_tls(name).close()
    with routed.connect_tls(port=labkit.CHAINED) as sock:
        leaf = x509.load_der_x509_certificate(sock.getpeercert(True) or b"")
    assert leaf.issuer.rfc4514_string() == "CN=lab intermediate"
