"""However an exchange ends, either `response` or `error` fires, once; and every connection that began has ended."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.bytes_on_wire import get
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import BAD, HTTP, HTTPS, Lab
from tests.lab.witness import Witness, both_modes, read_head, read_response, status, tunnel

Running = tuple[Gateway, Witness]
Act = Callable[[socket.socket], None]


def answered(request: bytes, *expected: int) -> Act:
    def act(sock: socket.socket) -> None:
        sock.sendall(request)
        for code in expected:
            assert status(read_response(sock)[0]) == code

    return act


def left(request: bytes, *, after: int = 0) -> Act:
    """Reset, `after`: once some of the answer has come."""

    def act(sock: socket.socket) -> None:
        sock.sendall(request)
        if after:
            assert sock.recv(after)
        time.sleep(0.1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    return act


def uploading(sock: socket.socket) -> None:
    """A body that streams, both ways at work at once (in one thread: Python's TLS sockets are not safe in two)."""
    sock.sendall(get("/echo", "Content-Length: 1000000", method="POST"))
    sock.setblocking(False)
    left, answer, echoed = memoryview(bytes(1_000_000)), b"", 0
    busy = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    while echoed < 1_000_000:
        ready = select.select([sock], [sock] if left else [], [], 10)
        assert ready[0] or ready[1], f"{len(left)} bytes are left to send, {echoed} have come back"
        with contextlib.suppress(*busy):
            left = left[sock.send(left[:65536]) :] if left else left
        with contextlib.suppress(*busy):
            while data := sock.recv(65536):
                answer = answer or data
                echoed += data.count(b"\0")
            pytest.fail(f"the end after {echoed} bytes")
    assert status(answer) == 200
    sock.setblocking(True)


def half_closed(sock: socket.socket) -> None:
    sock.sendall(get("/bytes/5", "Connection: close"))
    if type(sock) is socket.socket:
        sock.shutdown(socket.SHUT_WR)
    assert status(read_response(sock)[0]) == 200


def upgraded(sock: socket.socket) -> None:
    sock.sendall(get("/upgrade", "Connection: upgrade", "Upgrade: lab-echo"))
    assert status(read_head(sock)) == 101
    sock.sendall(b"hello")
    assert sock.recv(5) == b"hello"


def nothing(sock: socket.socket) -> None:
    """A connection without a request has no flow."""


SLOW = get("/slow?head=-1")
ENDINGS: dict[str, tuple[Act, list[str]]] = {
    "nothing": (nothing, []),
    "plain": (answered(get("/bytes/5"), 200), ["response"]),
    "three": (answered(get("/bytes/5") * 3, 200, 200, 200), ["response"] * 3),
    "HEAD": (answered(get("/bytes/0", method="HEAD"), 200), ["response"]),
    "no body": (answered(get("/status/204"), 204), ["response"]),
    "over stream_large_bodies": (answered(get("/bytes/3000000"), 200), ["response"]),
    "upload": (uploading, ["response"]),
    "half-closed": (half_closed, ["response"]),
    "upgrade": (upgraded, ["response"]),
    "early answer": (answered(get("/early/413", "Content-Length: 9", method="POST") + b"x" * 9, 413), ["response"]),
    "no answer": (answered(get("/truncate/none"), 502), ["error"]),
    "half a head": (answered(get("/truncate/head"), 502), ["error"]),
    "half a body": (answered(get("/truncate/length"), 502), ["error"]),
    "half a chunk": (answered(get("/truncate/chunked"), 502), ["error"]),
    "reset": (answered(get("/truncate/reset"), 502), ["error"]),
    "bad request": (answered(get("/x", "Content-Length: +1"), 400), ["error"]),
    "good, then bad": (answered(get("/bytes/1") + b"\0\r\n\r\n", 200, 400), ["response", "error"]),
    "client left while the server thinks": (left(SLOW), ["error"]),
    "client left in its body": (left(get("/echo", "Content-Length: 9", method="POST") + b"x"), ["error"]),
    "client left in the response": (left(get("/slow?head=0&n=2000000&gap=1"), after=100), ["error"]),
    "client left after the response": (left(get("/bytes/5"), after=1000), ["response"]),
}
WAYS = ("transparent", "transparent-tls", "regular-tls")


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[Running]:
    with both_modes(lab, "--set", "connect_timeout=1") as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_response_or_error(lab: Lab, running: Running, ending: str, way: str) -> None:
    gateway, witness = running
    witness.forget()
    act, expected = ENDINGS[ending]
    port = HTTPS if way.endswith("tls") else HTTP
    over = tunnel(lab, "origin.test", port) if way.startswith("regular") else lab.connect(port=port)
    over.settimeout(10)
    with lab.connect_tls(ca=gateway.ca, over=over) if port == HTTPS else over as sock:
        act(sock)
    assert witness.endings() == expected, witness.events()
    witness.wait("server_disconnected", count=len(witness.events("server_connected")))
    assert len(witness.events("server_disconnected")) == len(witness.events("server_connected"))
    for event in witness.events("error"):
        assert event.error


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://no-such-name.test/x", 502),
        (f"http://origin.test:{7999}/x", 502),
        ("http://v4.origin.test:9/x", 502),
        (f"https://origin.test:{BAD['expired']}/x", 502),
        (f"https://origin.test:{HTTPS}/x", 200),
    ],
)
def test_unreachable(lab: Lab, running: Running, url: str, code: int) -> None:
    running[1].forget()
    assert lab.curl(url, via=running[0]).status == code
    assert running[1].endings() == ["response" if code == 200 else "error"]
    made = len(running[1].events("server_connect"))
    assert made == len(running[1].events("server_connected", "server_connect_error"))


KILLS = ("requestheaders", "request", "responseheaders", "response")


@pytest.mark.parametrize("where", KILLS)
def test_killed(lab: Lab, where: str) -> None:
    """In `response` the response has been: no error follows. Before it, there is one."""
    witness = Witness(lab)
    killer = lab.scratch / f"killer-{where}.py"
    killer.write_text(f"def {where}(flow): flow.kill()\n")
    with lab.gateway_proc("-p", "8090", "-s", str(killer), addon=witness.addon) as gateway:
        for url in (f"http://origin.test:{HTTP}/x", f"https://origin.test:{HTTPS}/x"):
            witness.forget()
            assert lab.curl(url, via=gateway).exit in (52, 56)
            assert witness.endings() == (["response"] if where == "response" else ["error"])
    assert "Traceback" not in gateway.output
