"""Requests that two readers could take in two ways: refused, and not a byte of them reaches an origin."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest

from tests.lab.bytes_on_wire import read_all
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import HTTP, HTTPS, Lab
from tests.lab.origins import raw_path
from tests.lab.recorder import Origins
from tests.lab.witness import Witness, both_modes, connect, status, tunnel

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: origin.test\r\n\r\n"


def fields(*lines: bytes, body: bytes = b"hello") -> bytes:
    """Host and these field lines, the empty line, a body and a request that may be hidden in it."""
    return b"".join(line + b"\r\n" for line in (b"Host: origin.test:%d", *lines)) + b"\r\n" + body + HIDDEN


def chunks(data: bytes) -> bytes:
    return fields(b"Transfer-Encoding: chunked", body=data)


# What follows "POST <target> HTTP/1.1\r\n".
SHAPES: dict[str, bytes] = {
    "length and chunked": fields(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunked and length": fields(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "two lengths": fields(b"Content-Length: 5", b"Content-Length: 6"),
    "two lengths in a list": fields(b"Content-Length: 5, 6"),
    "length +5": fields(b"Content-Length: +5"),
    "length -5": fields(b"Content-Length: -5"),
    "length 0x5": fields(b"Content-Length: 0x5"),
    "length 5 5": fields(b"Content-Length: 5 5"),
    "length 5_0": fields(b"Content-Length: 5_0"),
    "length with vertical tab": fields(b"Content-Length: \x0b5"),
    "length empty": fields(b"Content-Length:"),
    "length over 64 bits": fields(b"Content-Length: 18446744073709551621"),
    "bare LF after a field": fields(b"X: a\nContent-Length: 5"),
    "bare LF before the end": b"Host: origin.test:%d\r\nX: a\n\r\n" + HIDDEN,
    "only bare LF": b"Host: origin.test:%d\nContent-Length: 5\n\nhello" + HIDDEN,
    "bare CR in a value": fields(b"X: a\rContent-Length: 5"),
    "bare CR before a name": fields(b"\rContent-Length: 5"),
    "folded line": fields(b"X: a", b" Content-Length: 5"),
    "folded first line": b" X: a\r\n" + fields(b"Content-Length: 5"),
    "folded Transfer-Encoding": fields(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"),
    "space before the colon": fields(b"Content-Length : 5"),
    "tab before the colon": fields(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "space in a name": fields(b"Content Length: 5"),
    "no colon": fields(b"Content-Length 5"),
    "no name": fields(b": 5"),
    "NUL in a value": fields(b"X: a\0b"),
    "NUL in a name": fields(b"X\0: a"),
    "xchunked": fields(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked twice": fields(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "two Transfer-Encoding": fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "chunked not last": fields(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "gzip, chunked": fields(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "identity": fields(b"Transfer-Encoding: identity", b"Content-Length: 5"),
    "quoted chunked": fields(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "chunked with a parameter": fields(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"),
    "chunked after vertical tab": fields(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "Transfer-Encoding empty": fields(b"Transfer-Encoding:", b"Content-Length: 5"),
    "chunk size overflows": chunks(b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk size far too long": chunks(b"0" * 300 + b"5\r\nhello\r\n0\r\n\r\n"),
    "chunk size +5": chunks(b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk size -5": chunks(b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk size 0x5": chunks(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size empty": chunks(b"\r\nhello\r\n0\r\n\r\n"),
    "bare LF after a chunk size": chunks(b"5\nhello\r\n0\r\n\r\n"),
    "bare LF in a chunk extension": chunks(b"5;a\nhello\r\n0\r\n\r\n"),
    "bare CR in a chunk extension": chunks(b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "chunk longer than its size": chunks(b"3\r\nhello\r\n0\r\n\r\n"),
    "bare LF after a chunk": chunks(b"5\r\nhello\n0\r\n\r\n"),
    "bare LF after the last chunk": chunks(b"5\r\nhello\r\n0\n\r\n"),
    "space before the colon of a trailer": chunks(b"5\r\nhello\r\n0\r\nX : y\r\n\r\n"),
    "two Host": b"Host: elsewhere.test\r\n" + fields(b"Content-Length: 5"),
    "no Host": b"X: %d\r\nContent-Length: 5\r\n\r\nhello" + HIDDEN,
    "Host with a space": b"Host: origin.test elsewhere.test\r\nX: %d\r\nContent-Length: 5\r\n\r\nhello" + HIDDEN,
}  # fmt: skip
# Whole request lines, with Host and a length behind them.
LINES: dict[str, bytes] = {
    "HTTP/1.0 with chunked": b"POST %b HTTP/1.0\r\nTransfer-Encoding: chunked",
    "two spaces": b"POST  %b HTTP/1.1",
    "tab": b"POST\t%b HTTP/1.1",
    "space in the target": b"POST %b /x HTTP/1.1",
    "space at the end": b"POST %b HTTP/1.1 ",
    "NUL in the target": b"POST %b\0 HTTP/1.1",
    "bare CR in the target": b"POST %b\r HTTP/1.1",
    "bare LF after the line": b"POST %b HTTP/1.1\nX: a",
    "version 1.1x": b"POST %b HTTP/1.1x",
    "version 11.1": b"POST %b HTTP/11.1",
    "version in lower case": b"POST %b http/1.1",
    "no version": b"POST %b",
    "colon in the method": b"PO:ST %b HTTP/1.1",
}
NOT_HTTP = frozenset({"tab", "colon in the method"})
"""So unlike HTTP that behind a transparent port, or in a tunnel, they are raw TCP: nobody reads them as HTTP."""
WAYS = ("regular", "regular-tls", "transparent", "transparent-tls")
REFUSED = {400, 501, 505}


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[tuple[Gateway, Witness]]:
    with both_modes(lab) as running:
        yield running


def way(lab: Lab, gateway: Gateway, name: str) -> tuple[socket.socket, int, bytes]:
    """A connection on which HTTP to an origin is spoken, the origin's port, and the target to name in requests."""
    if name == "regular":
        return connect(lab), HTTP, b"http://origin.test:%d/seen" % HTTP
    if name == "transparent":
        return lab.connect(port=HTTP), HTTP, b"/seen"
    over = tunnel(lab, "origin.test", HTTPS) if name == "regular-tls" else lab.connect(port=HTTPS)
    return lab.connect_tls(ca=gateway.ca, over=over), HTTPS, b"/seen"


def refused(lab: Lab, origins: Origins, running: tuple[Gateway, Witness], name: str, request: bytes) -> None:
    gateway, witness = running
    witness.forget()
    sock, port, target = way(lab, gateway, name)
    with sock:
        head, rest = request.split(b"\r\n", 1)
        port_field = b"Host: origin.test:%d" % port
        sock.sendall(head.replace(b"%b", target) + b"\r\n" + rest.replace(b"Host: origin.test:%d", port_field))
        with contextlib.suppress(OSError):  # it may have been closed on us by now
            sock.shutdown(socket.SHUT_WR) if name in ("regular", "transparent") else None
        answer = read_all(sock)
    assert status(answer) in REFUSED, answer
    assert len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", answer)) == 1, answer
    assert origins.received(port) == b""
    assert witness.endings() == ["error"], witness.events()


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_ambiguous_message_is_refused(
    lab: Lab, origins: Origins, running: tuple[Gateway, Witness], shape: str, name: str
) -> None:
    refused(lab, origins, running, name, b"POST %b HTTP/1.1\r\n" + SHAPES[shape])


@pytest.mark.parametrize(
    ("line", "name"), [(line, name) for line in LINES for name in WAYS if line not in NOT_HTTP or name == "regular"]
)
def test_ambiguous_request_line_is_refused(
    lab: Lab, origins: Origins, running: tuple[Gateway, Witness], line: str, name: str
) -> None:
    refused(lab, origins, running, name, LINES[line] + b"\r\n" + fields(b"Content-Length: 5"))


def test_refused_request_after_a_good_one(lab: Lab, origins: Origins, running: tuple[Gateway, Witness]) -> None:
    """On one connection: the first is served, the second refused, the third never read."""
    for name in WAYS:
        sock, port, target = way(lab, running[0], name)
        good = b"GET %b HTTP/1.1\r\nHost: origin.test:%d\r\n\r\n" % (target, port)
        with sock:
            sock.sendall(good + good.replace(b"\r\n\r\n", b"\r\nContent-Length: +5\r\n\r\n") + good)
            answer = read_all(sock)
        assert answer.count(b"HTTP/1.1 200 ") == 1
        assert answer.count(b"HTTP/1.1 400 ") == 1
        assert answer.count(b"HTTP/1.1 ") == 2


def test_honest_requests_pass(lab: Lab, origins: Origins, running: tuple[Gateway, Witness]) -> None:
    """The guard does not refuse what is only unusual, and what it sends on is beyond doubt for the strict origin."""
    honest = {
        "chunk extension": chunks(b"5;a=b\r\nhello\r\n0\r\n\r\n"),
        "chunk size in capitals with zeros": chunks(b"00A\r\nhellohello\r\n0\r\n\r\n"),
        "trailer": chunks(b"5\r\nhello\r\n0\r\nX-T: y\r\n\r\n"),
        "Chunked in capitals": fields(b"Transfer-Encoding: Chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        "tab and spaces around a value": fields(b"Content-Length: \t 5 \t"),
        "empty value": fields(b"X:", b"Content-Length: 5"),
        "bytes over 127": fields(b"X: \xe4\xf6", b"Content-Length: 5"),
    }
    for name in WAYS:
        for what, shape in honest.items():
            sock, port, target = way(lab, running[0], name)
            with sock:
                sock.sendall(
                    b"POST %b HTTP/1.1\r\n" % target + shape.replace(b"%d", b"%d" % port, 1).removesuffix(HIDDEN)
                )
                assert status(sock.recv(65536)) == 200, (name, what)
    assert not [record.refused for record in origins.connections() if record.refused]


HEAD = b"HTTP/1.1 200 OK\r\n"
BAD_RESPONSES = {
    "length and chunked": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length +5": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bare CR": HEAD + b"X: a\rContent-Length: 5\r\n\r\nhello",
    "NUL": HEAD + b"X: a\0\r\nContent-Length: 5\r\n\r\nhello",
    "space before the colon": HEAD + b"Content-Length : 5\r\n\r\nhello",
    "folded": HEAD + b"X: a\r\n b\r\nContent-Length : 5\r\n\r\nhello",
    "chunk overflow": HEAD + b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "version": b"HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status": b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
}  # fmt: skip


@pytest.mark.parametrize("shape", BAD_RESPONSES)
def test_ambiguous_response_is_not_passed_on(
    lab: Lab, origins: Origins, running: tuple[Gateway, Witness], shape: str
) -> None:
    gateway, witness = running
    witness.forget()
    path = raw_path(BAD_RESPONSES[shape])
    for url in (f"http://origin.test:{HTTP}{path}", f"https://origin.test:{HTTPS}{path}"):
        reply = lab.curl(url, via=gateway)
        assert reply.status == 502, reply
        assert b"lockgate" in reply.body
        assert b"hello" not in reply.body
    assert witness.endings() == ["error", "error"]
