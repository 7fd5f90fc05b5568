"""UDP through the gateway under TPROXY: hooks, order, errors, kill, idle end."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.lab.gateway_proc import LOCKGATE, Gateway
from tests.lab.labkit import ECHO, Lab

ADDON = """
import logging

def say(what, flow):
    error = flow.error.msg if flow.error else "-"
    server = flow.server_conn
    logging.info("%s %s %s %s:%s %s", what, flow.client_conn.transport_protocol, server.transport_protocol,
                 *server.address[:2], error)

def udp_start(flow):
    say("start", flow)

def udp_message(flow):
    message = flow.messages[-1]
    if message.content == b"kill":
        flow.kill()
    elif message.content == b"drop":
        message.content = b""
    elif message.from_client:
        message.content = message.content.replace(b"client", b"gateway")

def udp_end(flow):
    say(f"end {len(flow.messages)}", flow)

def udp_error(flow):
    say(f"error {len(flow.messages)}", flow)

def server_connect(data):
    logging.info("server_connect %s", data.server.transport_protocol)

def server_connected(data):
    logging.info("server_connected %s", data.server.peername[0])

def server_disconnected(data):
    logging.info("server_disconnected %s", data.server.transport_protocol)
"""


@contextlib.contextmanager
def gateway(lab: Lab, addon: str | None = ADDON, **options: object) -> Iterator[Gateway]:
    settings = {"udp_timeout": 1, "termlog_verbosity": "debug", **options}
    with (
        lab.gateway_proc("-m", "transparent@8081", addon=addon, options=settings) as gateway,
        lab.redirect(8081, "tproxy", udp=True),
    ):
        yield gateway


def ask(sock: socket.socket, data: bytes) -> bytes:
    sock.send(data)
    return sock.recv(65535)


@pytest.mark.parametrize("family", [4, 6])
def test_echo_with_hooks_and_idle_end(lab: Lab, family: int) -> None:
    with gateway(lab) as gw, lab.client.udp("origin.test", ECHO, family=family) as udp:
        assert ask(udp, b"from client") == b"from gateway"  # it came from origin.test: the socket is connected to it
        assert ask(udp, b"") == b""
        udp.send(b"drop")
        assert ask(udp, b"x" * 20000) == b"x" * 20000
        found = gw.wait_output(r"end 7 udp udp (\S+):7000 -$")
        assert (":" in found[1]) == (family == 6)
        gw.wait_output("server_disconnected udp")
        order = re.findall("^.*?(start|server_connect|server_connected|end|server_disconnected) ", gw.output, re.M)
        assert order == ["start", "server_connect", "server_connected", "end", "server_disconnected"]


@pytest.mark.parametrize("family", [4, 6])
def test_refused_port_is_an_error_and_the_client_hears_of_it(lab: Lab, family: int) -> None:
    with gateway(lab) as gw, lab.client.udp("origin.test", 4444, family=family) as udp:
        udp.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):  # as without a gateway
            udp.recv(100)
        gw.wait_output(r"error 1 udp udp \S+:4444 the server cannot be reached: the port is unreachable")
        gw.wait_output("server_disconnected udp")
        assert "end" not in re.findall(r"^.*?(\w+) 1 udp", gw.output, re.M)


@pytest.mark.parametrize("family", [4, 6])
def test_kill_is_honoured(lab: Lab, family: int) -> None:
    with gateway(lab) as gw, lab.client.udp("origin.test", ECHO, family=family, timeout=0.5) as udp:
        assert ask(udp, b"hello") == b"hello"
        udp.send(b"kill")
        gw.wait_output(r"error 3 udp udp \S+:7000 Connection killed\.$")
        udp.send(b"still here?")
        with pytest.raises(TimeoutError):
            udp.recv(100)
        assert len(re.findall("start udp", gw.output)) == 1  # the same flow does not come back to life at once
        with lab.client.udp("origin.test", ECHO, family=family) as other:
            assert ask(other, b"another flow") == b"another flow"


def test_many_flows_at_once_keep_their_order_and_leave_nothing(lab: Lab) -> None:
    addon = """
import asyncio
async def udp_start(flow):
    await asyncio.sleep(0.2)  # all that the client sends meanwhile waits in the flow's inbox
async def udp_message(flow):
    await asyncio.sleep(0)
"""
    with gateway(lab, addon) as gw, contextlib.ExitStack() as stack:
        before = gw.open_files()
        names = [("origin.test", 4), ("alt.test", 4), ("origin.test", 6), ("alt.test", 6)] * 5
        socks = [stack.enter_context(lab.client.udp(name, ECHO, family=family)) for name, family in names]
        for i in range(10):  # few enough for the buffer of the origin, should it get no processor for a while
            for n, sock in enumerate(socks):
                sock.send(b"%d %d" % (n, i))
        for n, sock in enumerate(socks):
            assert [sock.recv(100) for _ in range(10)] == [b"%d %d" % (n, i) for i in range(10)]
        # A socket to each server for every flow, and one for each destination towards the clients.
        assert gw.open_files() == before + len(socks) + 4
        end = time.monotonic() + 5
        while gw.open_files() > before:
            assert time.monotonic() < end, "descriptors are left"
            time.sleep(0.05)


def test_passed_by_rule_without_hooks(lab: Lab) -> None:
    with gateway(lab, ignore_hosts="10.61.2.2:7000") as gw, lab.client.udp("origin.test", ECHO, family=4) as udp:
        assert ask(udp, b"from client") == b"from client"
        time.sleep(0.1)
        assert "start udp" not in gw.output
        with lab.client.udp("alt.test", ECHO, family=4) as other:
            assert ask(other, b"from client") == b"from gateway"


def test_nobody_listens_and_the_standard_event_loop(lab: Lab) -> None:
    with gateway(lab, None, uvloop=False), lab.client.udp("origin.test", ECHO, family=6) as udp:
        for i in range(50):
            assert ask(udp, b"%d" % i) == b"%d" % i


def test_sent_to_this_machine_itself(lab: Lab) -> None:
    with gateway(lab) as gw:
        for address in (lab.gateway.v4, lab.gateway.v6):
            unanswered(lab.client.udp(address, 8081, timeout=0.2))
        gw.wait_output("for this machine itself")
        assert "start udp" not in gw.output


def unanswered(udp: socket.socket) -> None:
    with udp:
        udp.send(b"hello?")
        with pytest.raises(TimeoutError):
            udp.recv(100)


def test_no_more_flows_than_there_is_room_for(lab: Lab) -> None:
    with gateway(lab, max_connections=3) as gw, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(lab.client.udp("origin.test", ECHO, timeout=0.3)) for _ in range(4)]
        for sock in socks[:3] * 2:  # flows of one datagram would give way
            assert ask(sock, b"one of three") == b"one of three"
        socks[3].send(b"the fourth")
        with pytest.raises(TimeoutError):
            socks[3].recv(100)
        assert ask(socks[0], b"still here") == b"still here"
        gw.wait_output("UDP flows are open, no more are taken")
        gw.wait_output("server_disconnected")
        assert ask(socks[3], b"now") == b"now"


def test_without_the_right_to_take_datagrams_there_is_tcp(lab: Lab) -> None:
    command = ("setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw", *LOCKGATE)
    options = {"termlog_verbosity": "debug"}
    with lab.gateway_proc("-m", "transparent@8081", command=command, options=options) as gw, lab.redirect(8081):
        gw.wait_output("TCP only, TPROXY of UDP needs CAP_NET_RAW")
        assert 8081 not in lab.gateway.listening("udp")
        with lab.client.connect("origin.test", ECHO) as tcp:
            tcp.sendall(b"hello")
            assert tcp.recv(100) == b"hello"


def test_silence_of_the_server_ends_the_flow(lab: Lab) -> None:
    """No answer, no refusal: the idle time ends it, as `udp_end`."""
    with gateway(lab) as gw, lab.client.udp("10.61.2.99", ECHO, timeout=0.2) as udp:
        udp.send(b"into the void")
        with pytest.raises(TimeoutError):
            udp.recv(100)
        gw.wait_output(r"end 1 udp udp 10\.61\.2\.99:7000 -$")
