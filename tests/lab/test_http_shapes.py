"""HTTP/1 in all its shapes, end to end: 1xx, trailers, upgrades, early answers, lengths and endings of bodies."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import time
from collections.abc import Iterator

import pytest

from tests.lab.bytes_on_wire import get, read_all
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import HTTP, HTTPS, Lab
from tests.lab.origins import pattern, raw_path
from tests.lab.recorder import Origins
from tests.lab.witness import (
    MODES,
    REGULAR,
    TRANSPARENT,
    Witness,
    both_modes,
    read_head,
    read_response,
    server,
    status,
    tunnel,
)

Running = tuple[Gateway, Witness]
WAYS = ("regular", "regular-tls", "transparent", "transparent-tls")


@pytest.fixture(scope="module", params=["hooks", "no hooks"])
def running(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Running]:
    """With hooks that want bodies, and with none at all (bodies then take another way through the gateway)."""
    if request.param == "hooks":
        with both_modes(lab) as running:
            yield running
        return
    with lab.gateway_proc(*MODES) as gateway, lab.redirect(TRANSPARENT):
        yield gateway, Witness(lab)
    assert "Traceback" not in gateway.output, gateway.output


def way(lab: Lab, gateway: Gateway, name: str) -> socket.socket:
    """A connection on which requests in origin form reach the `http` origin."""
    port = HTTPS if name.endswith("tls") else HTTP
    over = tunnel(lab, "origin.test", port) if name.startswith("regular") else lab.connect(port=port)
    over.settimeout(10)
    return lab.connect_tls(ca=gateway.ca, over=over) if port == HTTPS else over


@pytest.fixture(params=WAYS)
def sock(lab: Lab, running: Running, request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with way(lab, running[0], request.param) as sock:
        yield sock


def rest_of(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(min(65536, size - len(data)))):
        data += more
    return data


# -- responses that are not one head and one body


def test_early_hints(sock: socket.socket) -> None:
    sock.sendall(get("/early/hints"))
    first = read_head(sock)
    assert status(first) == 103
    assert b"\r\nLink: </style.css>; rel=preload\r\n" in first
    assert status(read_response(sock)[0]) == 200


def test_expect_continue(sock: socket.socket) -> None:
    """The client waits for 100 before it sends the body, and gets one 100, not two."""
    sock.sendall(get("/echo", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert status(read_head(sock)) == 100
    sock.sendall(b"hello")
    head, body = read_response(sock)
    assert (status(head), body) == (200, b"hello")


def test_expect_continue_refused_at_once(sock: socket.socket, running: Running) -> None:
    """Without a hook that wants the body it is the server who decides, and the body need never be sent."""
    sock.sendall(get("/early/413", "Content-Length: 500000", "Expect: 100-continue", method="POST"))
    head = read_head(sock)
    if status(head) == 100:
        sock.sendall(b"x" * 500000)
        head = read_head(sock)
    assert status(head) == 413


def test_trailers_both_ways(origins: Origins, sock: socket.socket) -> None:
    sock.sendall(
        get("/trailers", "Transfer-Encoding: chunked", "Trailer: X-Sum", "TE: trailers", method="POST")
        + b"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n"
    )
    head = read_head(sock)
    assert re.search(rb"(?i)\r\ntransfer-encoding: chunked\r\n", head)
    assert re.search(rb"(?i)\r\ntrailer: X-Checksum, X-Count\r\n", head)
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(65536)
    assert b"\r\nX-Checksum: abc123\r\nX-Count: " in data
    assert origins.requests()[0].trailers == [("X-Sum", "42")]


def test_upgrade(sock: socket.socket) -> None:
    """Raw bytes both ways after 101, those that came in one segment with it too, and the half-close."""
    sock.sendall(get("/upgrade?greet=hello", "Connection: Upgrade", "Upgrade: lab-echo"))
    head = read_head(sock)
    assert status(head) == 101
    assert re.search(rb"(?i)\r\nupgrade: lab-echo\r\n", head)
    assert rest_of(sock, 5) == b"hello"
    sock.sendall(b"\x00\xff" * 1000)
    assert rest_of(sock, 2000) == b"\x00\xff" * 1000


def test_upgrade_declined(sock: socket.socket) -> None:
    sock.sendall(get("/bytes/5", "Connection: Upgrade", "Upgrade: lab-echo"))
    assert status(read_response(sock)[0]) == 200
    sock.sendall(get("/bytes/6"))
    assert read_response(sock)[1] == pattern(6)


def test_early_413_while_the_body_is_sent(sock: socket.socket, running: Running) -> None:
    """The answer is not lost although the server never reads what the client is still sending."""
    sock.sendall(get("/early/413", "Content-Length: 3000000", method="POST"))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
        for _ in range(30):
            sock.sendall(b"x" * 100_000)
    assert status(read_all(sock)) == 413


def test_event_stream(sock: socket.socket) -> None:
    began = time.monotonic()
    sock.sendall(get("/sse?n=2&ms=300"))
    assert status(read_head(sock)) == 200
    assert b"data: 0\n\n" in sock.recv(100)
    assert time.monotonic() - began < 0.1


# -- bodies


def test_sizes_to_the_byte(sock: socket.socket) -> None:
    for size in (0, 1, 1000, 65535, 65536, 65537, 300_000):
        sock.sendall(get(f"/bytes/{size}"))
        assert read_response(sock)[1] == pattern(size)


def test_10_megabytes_both_ways(lab: Lab, running: Running, origins: Origins) -> None:
    data = pattern(10 * 2**20)
    digest = hashlib.sha256(data).hexdigest()
    file = lab.scratch / "10m"
    file.write_bytes(data)
    gateway = running[0]
    for url in (f"http://origin.test:{HTTP}", f"https://origin.test:{HTTPS}"):
        reply = lab.curl(f"{url}/bytes/{len(data)}", via=gateway)
        assert hashlib.sha256(reply.body).hexdigest() == digest
        reply = lab.curl(f"{url}/bytes/{len(data)}?chunked=70000", via=gateway)
        assert hashlib.sha256(reply.body).hexdigest() == digest
        for how in ("X: y", "Transfer-Encoding: chunked"):
            reply = lab.curl(f"{url}/up", "-H", how, "-H", "Expect:", "--data-binary", f"@{file}", via=gateway)
            assert reply.status == 200
            assert (reply.json()["length"], reply.json()["sha256"]) == (len(data), digest)
    assert lab.curl("https://origin.test/10m", ca=gateway.ca).body == data


def test_chunked_body_keeps_the_connection(sock: socket.socket) -> None:
    sock.sendall(get("/bytes/100000?chunked=1000"))
    assert status(read_head(sock)) == 200
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n") and not re.fullmatch(rb"[0-9]+", data):
        data += sock.recv(65536)
        if len(data) == 100_000:  # held for a hook, it may come with a length instead
            break
    sock.sendall(get("/bytes/7"))
    assert read_response(sock)[1] == pattern(7)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_body_until_the_end(sock: socket.socket, version: str) -> None:
    sock.sendall(get(f"/eof?n=100000&version={version}"))
    head = read_head(sock)
    assert status(head) == 200
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)\r\n", head)
    if length:
        assert rest_of(sock, int(length[1])) == pattern(100000)
    elif b"chunked" in head.lower():
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += sock.recv(65536)
        assert len(data) > 100000
    else:
        assert read_all(sock) == pattern(100000)


def test_client_of_http_1_0(sock: socket.socket) -> None:
    """It gets no chunks and no 1xx; the connection ends, unless it asks for keep-alive."""
    sock.sendall(b"GET /bytes/3000?chunked=1000 HTTP/1.0\r\nHost: origin.test\r\n\r\n")
    answer = read_all(sock)
    assert status(answer) == 200
    assert b"chunked" not in answer.lower()
    assert answer.endswith(b"\r\n\r\n" + pattern(3000))


def test_bodiless(sock: socket.socket) -> None:
    """HEAD, 204, 304: no body although there are fields that speak of one; the next response is in its place."""
    sock.sendall(get("/bytes/100", method="HEAD") + get("/status/204") + get("/status/304") + get("/bytes/9"))
    head = read_head(sock)
    assert status(head) == 200
    assert b"\r\nContent-Length: 100\r\n" in head
    assert status(read_head(sock)) == 204
    assert status(read_head(sock)) == 304
    assert read_response(sock)[1] == pattern(9)


def test_head_of_a_chunked_and_of_an_endless_body(sock: socket.socket) -> None:
    sock.sendall(get(raw_path(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), method="HEAD"))
    assert status(read_head(sock)) == 200
    sock.sendall(get("/eof", method="HEAD"))
    assert status(read_head(sock)) == 200


def test_many_on_one_connection(lab: Lab, running: Running, origins: Origins) -> None:
    """Bodies of all kinds one after the other: nothing is left over for the next."""
    sock = way(lab, running[0], "transparent-tls")
    with sock:
        for n in range(30):
            chunked = b"3\r\nabc\r\n0\r\n\r\n"
            if n % 3 == 0:
                sock.sendall(get("/echo", "Transfer-Encoding: chunked", method="POST") + chunked)
                expected = b"abc"
            elif n % 3 == 1:
                sock.sendall(get("/echo", "Content-Length: 4", method="PUT") + b"four")
                expected = b"four"
            else:
                sock.sendall(b"\r\n" + get(f"/bytes/{n}"))
                expected = pattern(n)
            assert read_response(sock)[1] == expected
    assert len(origins.connections(HTTPS)) == 1
    assert not [record.refused for record in origins.connections() if record.refused]


def test_server_that_closes_idle_connections(lab: Lab, running: Running) -> None:
    """A connection that the server has ended meanwhile is not reused; a POST is not sent twice."""
    bodies: list[bytes] = []

    def once(sock: socket.socket) -> None:
        bodies.append(read_head(sock))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # and closes without having said so

    with server(lab, 8051, once), lab.connect("gateway.test", REGULAR) as sock:
        for method in ("GET", "POST", "GET", "POST"):
            head = get("http://origin.test:8051/", "Content-Length: 0", method=method)
            sock.sendall(head.replace(b"Host: origin.test", b"Host: origin.test:8051"))
            assert read_response(sock)[1] == b"ok"
            time.sleep(0.05)
    assert [body.split(b" ")[0] for body in bodies] == [b"GET", b"POST", b"GET", b"POST"]


def test_head_fields_arrive_as_sent(lab: Lab, running: Running, origins: Origins) -> None:
    """Order, case and repetition are kept; fields of the hop are not passed on."""
    with way(lab, running[0], "transparent") as sock:
        sock.sendall(
            get(
                "/x",
                "x-ONE: 1",
                "Cookie: a=b",
                "x-one: 2",
                "Cookie: c=d",
                "Connection: close, X-Hop",
                "X-Hop: 1",
                "Proxy-Connection: keep-alive",
                "Keep-Alive: 5",
                "X-Last: ä",
            )
        )
        assert status(read_response(sock)[0]) == 200
    (seen,) = origins.requests(HTTP)
    names = [name for name, _ in seen.fields]
    ours = [name for name in names if name.lower() in ("x-one", "cookie", "x-last")]
    assert ours == ["x-ONE", "Cookie", "x-one", "Cookie", "X-Last"]
    assert not {"x-hop", "proxy-connection", "keep-alive"} & {name.lower() for name in names}
