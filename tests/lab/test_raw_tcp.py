"""What is neither HTTP nor passed: servers that speak first, half-closes, other protocols, plain and inside TLS."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.bytes_on_wire import get, read_all
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import ECHO, ECHO_TLS, GREETER, HTTP, SILENT, Lab
from tests.lab.netns import BLACKHOLE_PORT, resolve
from tests.lab.origins import pattern
from tests.lab.recorder import Origins
from tests.lab.witness import Witness, both_modes, server, tunnel

Running = tuple[Gateway, Witness]
Connect = Callable[[int], socket.socket]
MESSAGES = """
import asyncio

class Shout:
    def tcp_message(self, flow):
        message = flow.messages[-1]
        if message.content.startswith(b"kill"):
            flow.kill()
        if not message.from_client:
            message.content = message.content.upper()

    async def tcp_start(self, flow):
        await asyncio.sleep(0)

addons = [Shout()]
"""


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[Running]:
    with both_modes(lab) as running:
        yield running


@pytest.fixture(params=["transparent", "tunnel"])
def to(lab: Lab, running: Running, request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Opens connections to a port of origin.test, by either mode."""
    running[1].forget()
    open_: list[socket.socket] = []

    def connect(port: int) -> socket.socket:
        open_.append(lab.connect(port=port) if request.param == "transparent" else tunnel(lab, "origin.test", port))
        return open_[-1]

    yield connect
    for sock in open_:
        sock.close()


def test_server_speaks_first(to: Connect, running: Running) -> None:
    began = time.monotonic()
    sock = to(GREETER)
    with sock, sock.makefile("rwb", buffering=0) as lines:
        assert lines.readline() == b"220 greeter.test ESMTP lab\r\n"
        assert time.monotonic() - began < 1
        lines.write(b"EHLO lab\r\n")
        assert lines.readline() == b"250 EHLO lab\r\n"
        lines.write(b"QUIT\r\n")
        assert lines.read() == b"221 bye\r\n"
    assert running[1].wait("tcp_end", "tcp_error")[0].event == "tcp_end"


def test_client_speaks_first_and_half_closes(to: Connect, running: Running) -> None:
    sock = to(ECHO)
    sock.sendall(b"\x00\x01binary")
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b"\x00\x01binary"
    assert [e.event for e in running[1].wait("tcp_end", "tcp_error")] == ["tcp_end"]


def test_half_closed_at_once(to: Connect) -> None:
    """The client says all, and that it is all, before anybody has looked."""
    sock = to(ECHO)
    sock.sendall(b"*3\r\n$3\r\nSET\r\n")
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b"*3\r\n$3\r\nSET\r\n"


def test_bulk_both_ways_at_once(to: Connect) -> None:
    sock, data = to(ECHO), pattern(8 * 2**20)

    def send() -> None:
        sock.sendall(b"\0" + data)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    assert read_all(sock) == b"\0" + data
    sender.join()


def test_not_http_inside_tls(lab: Lab, to: Connect, running: Running) -> None:
    with lab.connect_tls(ca=running[0].ca, over=to(ECHO_TLS)) as tls:
        for n in range(5):
            tls.sendall(b"\x00%d" % n)
            assert tls.recv(10) == b"\x00%d" % n
        plain = tls.unwrap()  # close_notify goes on as an end, and the server's comes back
        plain.close()
    running[1].wait("tcp_end", "tcp_error")
    assert [e.event for e in running[1].events("tcp_end", "tcp_error")] == ["tcp_end"]


def test_ssh_is_not_taken_for_http(to: Connect, running: Running) -> None:
    sock = to(ECHO)
    sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    assert sock.recv(100) == b"SSH-2.0-OpenSSH_9.2\r\n"


def test_both_silent(to: Connect, running: Running) -> None:
    """Nobody says anything for a while; then what the client says arrives."""
    sock = to(ECHO)
    time.sleep(0.6)
    sock.sendall(b"\x01late")
    assert sock.recv(10) == b"\x01late"
    sock = to(SILENT)
    time.sleep(0.3)
    sock.shutdown(socket.SHUT_WR)
    assert read_all(sock) == b""


def test_method_in_pieces(to: Connect, running: Running) -> None:
    """A word that may yet become a method is waited for, byte by byte, at no cost."""
    sock = to(ECHO)
    for byte in b"GET":
        sock.sendall(bytes([byte]))
        time.sleep(0.05)
    sock.sendall(b"\x00")
    assert sock.recv(10) == b"GET\x00"


def test_begun_word_and_a_server_that_ended(lab: Lab, running: Running) -> None:
    """Half a method, then silence, with a server that has closed: no spinning."""
    gateway = running[0]
    with server(lab, 8052, lambda sock: None), lab.connect(port=8052) as sock:
        time.sleep(0.05)
        sock.sendall(b"GE")
        before = gateway.cpu_seconds()
        time.sleep(1)
        assert gateway.cpu_seconds() - before < 0.05


def test_server_refuses(lab: Lab, running: Running, to: Connect) -> None:
    """Nobody listens: the transparent client sees its connection end, and it is said why."""
    try:
        sock = to(7999)
        sock.sendall(b"\0hello")
        assert read_all(sock) == b""
    except AssertionError as refused:
        assert "502" in str(refused)  # of CONNECT
    running[0].wait_output(r"7999.*[Cc]onnection refused|[Cc]onnection refused.*7999|Connect call failed")


def test_unreachable_server_times_out(lab: Lab) -> None:
    witness = Witness(lab)
    modes = ("-m", "regular@8090", "-m", "transparent@8091", "--set", "connect_timeout=1")
    with lab.gateway_proc(*modes, addon=witness.addon) as gateway, lab.redirect(8091, only=[BLACKHOLE_PORT]):
        began = time.monotonic()
        reply = lab.curl(f"http://v4.origin.test:{BLACKHOLE_PORT}/", via=gateway)
        assert reply.status == 502
        assert b"no connection within 1 s" in reply.body
        with lab.connect(port=BLACKHOLE_PORT) as sock:
            sock.sendall(b"\0hello")
            assert read_all(sock) == b""
        assert 2 <= time.monotonic() - began < 4
    assert [e.event for e in witness.events("error", "tcp_error")] == ["error", "tcp_error"]


def test_hooks_see_change_and_kill(lab: Lab) -> None:
    modes = ("-m", "regular@8090", "-m", "transparent@8091")
    with lab.gateway_proc(*modes, addon=MESSAGES) as gateway, lab.redirect(8091, only=[ECHO, ECHO_TLS]):
        for wrap in (False, True):
            sock: socket.socket = lab.connect(port=ECHO_TLS if wrap else ECHO)
            with lab.connect_tls(ca=gateway.ca, over=sock) if wrap else sock as sock:
                sock.sendall(b"\0hello")
                assert sock.recv(10) == b"\0HELLO"
                sock.sendall(b"kill")
                assert read_all(sock) == b""
        with lab.connect(port=ECHO) as sock:
            sock.sendall(b"\0half-closed")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"\0HALF-CLOSED"
    assert "Traceback" not in gateway.output


def test_idle_timeout(lab: Lab) -> None:
    gateway = lab.gateway_proc("-m", "transparent@8091", "--set", "tcp_timeout=1")
    with gateway, lab.redirect(8091, only=[ECHO]), lab.connect(port=ECHO) as sock:
        for _ in range(5):  # not while something moves
            sock.sendall(b"\0")
            assert sock.recv(1) == b"\0"
            time.sleep(0.3)
        began = time.monotonic()
        assert read_all(sock) == b""
        assert 0.5 < time.monotonic() - began < 3


def test_rawtcp_off(lab: Lab) -> None:
    with lab.gateway_proc("-m", "transparent@8091", "--no-rawtcp") as gateway, lab.redirect(8091, only=[ECHO]):
        with lab.connect(port=ECHO) as sock:
            sock.sendall(b"\0hello")
            assert read_all(sock) == b""
        gateway.wait_output("rawtcp is off")


def test_one_line_each_on_the_terminal(lab: Lab, origins: Origins) -> None:
    """Also without add-ons, where the kernel carries the bytes."""
    with lab.gateway_proc("-m", "transparent@8091") as gateway, lab.redirect(8091, only=[ECHO]):
        with lab.connect(port=ECHO) as sock:
            sock.sendall(b"\0hello")
            sock.recv(10)
        gateway.wait_output(rf"10\.61\.1\.2 .*:{ECHO}")
    assert re.search("1 connection, 1 flow", gateway.output)


@pytest.mark.parametrize("family", [4, 6])
def test_one_client_port_and_many_destinations(lab: Lab, running: Running, family: int) -> None:
    """NAT makes them differ again; the kernel must not give the second one's SYN to the first one's socket."""
    with contextlib.ExitStack() as stack:
        socks: list[socket.socket] = []
        for name, port in (("origin.test", ECHO), ("alt.test", ECHO), ("origin.test", SILENT), ("alt.test", HTTP)):
            with lab.client.inside():
                sock = stack.enter_context(socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET))
            sock.settimeout(5)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", socks[0].getsockname()[1] if socks else 0))
            sock.connect((resolve(name, family), port))
            socks.append(sock)
        for i, sock in enumerate(socks[:2]):
            sock.sendall(b"\x00%d" % i)
        for i, sock in enumerate(socks[:2]):
            assert sock.recv(10) == b"\x00%d" % i
        socks[3].sendall(get("/bytes/5"))
        assert socks[3].recv(1000).startswith(b"HTTP/1.1 200")
