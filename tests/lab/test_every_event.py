"""Every event of this release is fired by a real gateway, with the argument that its table promises."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import Counter
from pathlib import Path

import pytest

from appliance.events import EVENTS
from tests.lab.labkit import BAD, ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import wait_for
from tests.lab.origin_dns import nameserver, wire
from tests.lab.witness import REGULAR, TRANSPARENT

CONNECTION, TLS = "ServerConnectionHookData", "TlsData"
ARGUMENTS = {
    "load": "Loader",
    "configure": "frozenset",
    "running": "",
    "done": "",
    "client_connected": "Client",
    "client_disconnected": "Client",
    **dict.fromkeys(("server_connect", "server_connected", "server_connect_error", "server_disconnected"), CONNECTION),
    **dict.fromkeys(("requestheaders", "request", "responseheaders", "response", "error"), "HTTPFlow"),
    **dict.fromkeys(("http_connect", "http_connected", "http_connect_error"), "HTTPFlow"),
    **dict.fromkeys(("tcp_start", "tcp_message", "tcp_end", "tcp_error"), "TCPFlow"),
    **dict.fromkeys(("udp_start", "udp_message", "udp_end", "udp_error"), "UDPFlow"),
    "tls_clienthello": "ClientHelloData",
    **dict.fromkeys(("tls_start_client", "tls_start_server", "tls_established_client"), TLS),
    **dict.fromkeys(("tls_established_server", "tls_failed_client", "tls_failed_server"), TLS),
    **dict.fromkeys(("websocket_start", "websocket_message", "websocket_end"), "HTTPFlow"),
    "next_layer": "NextLayer",
    **dict.fromkeys(("dns_request", "dns_response", "dns_error"), "DNSFlow"),
    "update": "list",
    "add_log": "LogEntry",
}
"""The events of issue 2, and their argument's class ("" = none)."""
CLOSED = 10
"""A port of the server where nobody listens."""
ADDON = """
import json

OUT = open({path!r}, "a", buffering=1)

def listener(name, takes):
    def note(*args):
        assert len(args) == takes
        about = args[0] if args else None
        OUT.write(json.dumps([name, type(about).__name__ if args else "", getattr(about, "id", "")]) + "\\n")
    return (lambda: note()) if not takes else (lambda argument: note(argument))

for name, takes in {events!r}.items():
    globals()[name] = listener(name, takes)
"""


def test_the_table_is_this_list() -> None:
    assert {name for name, event in EVENTS.items() if event.yet} == set(ARGUMENTS)


def http_and_tls(lab: Lab, proxy: str, ca: Path) -> None:
    assert lab.curl(f"http://origin.test:{HTTP}/x", proxy=proxy).status == 200
    assert lab.curl(f"https://origin.test:{HTTPS}/x", proxy=proxy, ca=ca).status == 200
    assert lab.curl(f"http://origin.test:{CLOSED}/x", proxy=proxy).status == 502
    assert lab.curl(f"https://origin.test:{CLOSED}/x", proxy=proxy, ca=ca).exit == 56  # of CONNECT
    assert lab.curl(f"https://origin.test:{BAD['expired']}/x", proxy=proxy, ca=ca).status == 502
    assert lab.curl(f"https://origin.test:{HTTPS}/x", proxy=proxy).exit == 60


def raw_tcp(lab: Lab) -> None:
    with lab.connect("origin.test", ECHO, family=4) as sock:
        sock.sendall(b"\0hello")
        assert sock.recv(6) == b"\0hello"
    with lab.connect("origin.test", CLOSED, family=4) as sock, contextlib.suppress(OSError):
        sock.sendall(b"\0hello")
        sock.recv(1)


def websocket(lab: Lab) -> None:
    """The origin echoes what it hears, masks included: for a server that is a fault."""
    with lab.connect("origin.test", HTTP, family=4) as sock:
        sock.sendall(
            b"GET /upgrade HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            b"\x81\x82\0\0\0\0hi"
        )
        heard = b""
        while piece := sock.recv(1000):
            heard += piece
        assert b"101 " in heard and heard.endswith(b"\x88\x02\x03\xf6"), heard


def udp(lab: Lab) -> None:
    for port in (ECHO, CLOSED):
        with lab.client.inside():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock, contextlib.suppress(OSError):
            sock.settimeout(2)
            sock.connect(("10.61.2.2", port))
            sock.send(b"hello")
            assert sock.recv(100) == b"hello"


def dns(lab: Lab) -> None:
    """At an address where somebody answers on port 53, and at one where nobody does."""
    with lab.client.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(5)
        for address, code in (("10.61.2.2", 0), ("10.61.2.3", 2)):
            sock.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0" + wire("www.lab.test") + b"\0\1\0\1", (address, 53))
            assert sock.recv(512)[3] & 15 == code


@pytest.fixture(scope="module")
def fired(lab: Lab) -> list[tuple[str, str, str]]:
    """(event, class of its argument, id of it) of everything, over one gateway's life."""
    log = lab.scratch / "every-event.jsonl"
    log.touch()
    addon = ADDON.format(path=str(log), events={name: len(EVENTS[name].args) for name in ARGUMENTS})

    def noted() -> list[tuple[str, str, str]]:
        whole = log.read_bytes().rpartition(b"\n")[0]
        return [tuple(json.loads(line)) for line in whole.splitlines()]

    modes = ("-m", f"regular@{REGULAR}", "-m", f"transparent@{TRANSPARENT}")
    with (
        lab.gateway_proc(*modes, addon=addon, options={"udp_timeout": 1}) as gateway,
        lab.redirect(TRANSPARENT, "tproxy", udp=True),
    ):
        http_and_tls(lab, gateway.proxy, gateway.ca)
        raw_tcp(lab)
        websocket(lab)
        udp(lab)
        with nameserver(lab):
            dns(lab)

        def over() -> bool:
            count = Counter(event for event, _, _ in noted())
            return count["client_connected"] == count["client_disconnected"] and count["udp_end"] > 0

        wait_for(over, 10, "every connection is over")
    assert "Traceback" not in gateway.output
    return noted()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_event(fired: list[tuple[str, str, str]], name: str) -> None:
    assert {kind for event, kind, _ in fired if event == name} == {ARGUMENTS[name]}


@pytest.mark.parametrize(
    ("begin", "one", "other"),
    [
        ("requestheaders", "response", "error"),
        ("http_connect", "http_connected", "http_connect_error"),
        ("tcp_start", "tcp_end", "tcp_error"),
        ("websocket_start", "websocket_end", ""),
        ("udp_start", "udp_end", "udp_error"),
        ("dns_request", "dns_response", "dns_error"),
        ("client_connected", "client_disconnected", ""),
    ],
)
def test_one_of_two_endings(fired: list[tuple[str, str, str]], begin: str, one: str, other: str) -> None:
    began = [about for event, _, about in fired if event == begin]
    ended = [about for event, _, about in fired if event in (one, other)]
    assert began
    assert sorted(began) == sorted(ended)


def test_servers_and_the_life_of_an_addon(fired: list[tuple[str, str, str]]) -> None:
    names = [event for event, _, _ in fired if event != "add_log"]
    count = Counter(names)
    assert count["server_connect"] == count["server_connected"] + count["server_connect_error"]
    assert count["server_connected"] == count["server_disconnected"]
    assert names[:3] == ["load", "configure", "running"]
    assert names[-1] == "done"
    assert count["load"] == count["running"] == count["done"] == 1
