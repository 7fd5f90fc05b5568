"""spoof_source_address: the server sees the client's own address, and the answers find the gateway's sockets."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest

from appliance.net.spoof import answers_rule
from tests.lab.gateway_proc import LOCKGATE, Gateway
from tests.lab.labkit import ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import resolve
from tests.lab.recorder import Origins
from tests.lab.witness import server

TABLE = """table inet lgspoof {{
    chain prerouting {{
        type filter hook prerouting priority mangle - 1
        {}
    }}
}}"""
ADDON = """
import logging

def server_connected(data):
    logging.info("from %s", data.server.sockname[0])

def udp_end(flow):
    logging.info("udp_end")

def udp_error(flow):
    logging.info("udp_error %s", flow.error)
"""


@pytest.fixture
def gateway(lab: Lab) -> Iterator[Gateway]:
    options = {"spoof_source_address": True, "udp_timeout": 1}
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(lab.gateway_proc("-m", "transparent@8081", addon=ADDON, options=options))
        stack.enter_context(lab.redirect(8081, "tproxy", udp=True))
        lab.gateway.run(["nft", "-f", "-"], input=TABLE.format(answers_rule("wan0", 1)), check=True)
        stack.callback(lab.gateway.run, ["nft", "delete", "table", "inet", "lgspoof"])
        yield gateway


@pytest.mark.parametrize("family", [4, 6])
def test_tcp(lab: Lab, origins: Origins, gateway: Gateway, family: int) -> None:
    client = lab.client.v4 if family == 4 else lab.client.v6
    for url in (f"http://origin.test:{HTTP}/", f"https://origin.test:{HTTPS}/bytes/100000"):
        reply = lab.curl(url, f"-{family}", ca=gateway.ca)
        assert reply.status == 200
    assert {record.peer[0] for record in (*origins.connections(HTTP), *origins.connections(HTTPS))} == {client}
    gateway.wait_output(f"from {re.escape(client)}")


@pytest.mark.parametrize("family", [4, 6])
def test_udp_and_refused_ports(lab: Lab, gateway: Gateway, family: int) -> None:
    with lab.server.inside():
        origin = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        origin.bind((resolve("origin.test", family), 0))
    port = origin.getsockname()[1]
    origin.settimeout(5)
    with origin, lab.client.udp("origin.test", port, family=family) as udp:
        for i in range(3):
            udp.send(b"%d" % i)
            data, peer = origin.recvfrom(100)
            assert (data, peer[0]) == (b"%d" % i, udp.getsockname()[0])
            assert peer[1] != udp.getsockname()[1]
            origin.sendto(b"answer", peer)
            assert udp.recv(100) == b"answer"
    with lab.client.udp("origin.test", 4444, family=family) as udp:  # ICMP finds the socket too
        udp.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            udp.recv(100)
    with contextlib.closing(lab.connect(port=4444, family=family)) as tcp, pytest.raises(ConnectionResetError):
        tcp.sendall(b"\x00\x01")
        tcp.recv(10)


def test_without_the_right_it_is_said(lab: Lab) -> None:
    command = ("setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw", *LOCKGATE)
    options = {"spoof_source_address": True}
    with lab.gateway_proc(command=command, options=options) as gateway:
        reply = lab.curl("http://origin.test:8000/", via=gateway)
        assert reply.status == 502
        assert b"CAP_NET_ADMIN" in reply.body
        assert b"spoof_source_address" in reply.body


def test_an_explicit_proxy_with_names(lab: Lab, gateway: Gateway) -> None:
    """The server's address of the client's own IP version is taken."""

    def say(sock: socket.socket) -> None:
        sock.recv(1000)
        body = sock.getpeername()[0].encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with (
        lab.gateway_proc("-m", "regular@8080", options={"spoof_source_address": True}) as proxy,
        server(lab, 8099, say),
    ):
        reply = lab.curl("http://origin.test:8099/", via=proxy)
        assert reply.body == b"::ffff:" + lab.client.v4.encode()
        reply = lab.curl("http://origin.test:8099/", proxy=proxy.proxy6)
        assert reply.body == lab.client.v6.encode()


def test_echo_is_reached_from_many_flows(lab: Lab, gateway: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(lab.client.udp("origin.test", ECHO)) for _ in range(20)]
        for i, sock in enumerate(socks):
            sock.send(b"%d" % i)
        for i, sock in enumerate(socks):
            assert sock.recv(10) == b"%d" % i
