"""Memory, in small: what a big body, many requests and many connections leave behind. The benchmark has it in large."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.lab.bytes_on_wire import get
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import wait_for
from tests.lab.witness import read_response, status

ADDON = "def request(flow): pass\ndef response(flow): pass\n"


@pytest.fixture(scope="module")
def gateway(lab: Lab) -> Iterator[Gateway]:
    """With hooks that want bodies, as most add-ons do."""
    with lab.gateway_proc("-m", "transparent@8081", addon=ADDON) as gateway, lab.redirect(8081):
        yield gateway


def test_a_gibibyte_passes_through(lab: Lab, gateway: Gateway) -> None:
    """Streamed, because it is over stream_large_bodies."""
    assert lab.curl("http://origin.test/10m", ca=gateway.ca, keep_body=False).size == 10 * 2**20
    before = gateway.rss_kb()
    reply = lab.curl("https://origin.test/1g", ca=gateway.ca, keep_body=False, timeout=40)
    assert reply.size == 2**30
    assert gateway.rss_kb() - before < 64 * 1024


def test_reader_that_stalls_stops_the_server(lab: Lab, gateway: Gateway) -> None:
    """Back-pressure: what the client does not read is not collected here."""
    before = gateway.rss_kb()
    with lab.connect(port=80) as sock:
        sock.sendall(get("/1g"))
        sock.recv(1000)
        wait_for(_steady(gateway), 10, "memory is steady")
        assert gateway.rss_kb() - before < 16 * 1024


def test_server_that_stalls_stops_the_client(lab: Lab, gateway: Gateway) -> None:
    before = gateway.rss_kb()
    with lab.connect(port=7002) as sock:
        sock.sendall(b"\0")
        sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):  # `silent` reads all, so this one is a plain upload
            for _ in range(200):
                sock.sendall(b"\0" * 65536)
        assert gateway.rss_kb() - before < 16 * 1024


def test_thousands_of_requests_leave_nothing(lab: Lab, gateway: Gateway) -> None:
    def ask(times: int) -> None:
        with lab.connect_tls(ca=gateway.ca, port=HTTPS) as tls:
            for n in range(times):
                tls.sendall(get(f"/bytes/{n % 10}"))
                assert status(read_response(tls)[0]) == 200

    ask(1000)
    before = gateway.rss_kb()
    ask(4000)
    assert gateway.rss_kb() - before < 1024


def test_connections_leave_nothing(lab: Lab, gateway: Gateway) -> None:
    """TLS, plain and raw, whole and broken off: files and memory come back."""

    def round_(times: int) -> None:
        for n in range(times):
            with lab.connect_tls(ca=gateway.ca, port=HTTPS) as tls:
                tls.sendall(get("/bytes/5"))
                tls.recv(1000)
            with lab.connect(port=HTTP) as sock:
                sock.sendall(get("/bytes/5") if n % 2 else b"GET /brok")
                if n % 2:
                    sock.recv(1000)
            with lab.connect(port=ECHO) as sock:
                sock.sendall(b"\0hello")
                sock.recv(10)
            with lab.connect(port=HTTPS) as sock:
                sock.sendall(b"\x16\x03\x01\x02\x00\x01")

    round_(100)
    wait_for(lambda: gateway.open_files() < 60, 5, "files come back")
    files, before = gateway.open_files(), gateway.rss_kb()
    round_(150)
    wait_for(lambda: gateway.open_files() <= files + 2, 5, "files come back")
    assert gateway.rss_kb() - before < 3 * 1024


def test_idle_connections_are_small(lab: Lab, gateway: Gateway) -> None:
    """Intercepted, kept alive, at rest: the goal is 80 kB each."""
    with contextlib.ExitStack() as stack:

        def open_(count: int) -> None:
            for _ in range(count):
                tls = stack.enter_context(lab.connect_tls(ca=gateway.ca, port=HTTPS))
                tls.sendall(get("/bytes/5"))
                assert status(read_response(tls)[0]) == 200

        open_(50)
        before = gateway.rss_kb()
        open_(200)
        assert (gateway.rss_kb() - before) / 200 < 100


def _steady(gateway: Gateway) -> object:
    seen: list[int] = []

    def steady() -> bool:
        seen.append(gateway.rss_kb())
        return len(seen) > 30 and seen[-1] - seen[-20] < 100

    return steady
