"""UDP under REDIRECT: connection tracking tells where a datagram was going, and NAT takes the answer back."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.lab import netns
from tests.lab.gateway_proc import LOCKGATE, Gateway
from tests.lab.labkit import ECHO, Lab
from tests.lab.test_udp import ADDON, ask, unanswered


@contextlib.contextmanager
def gateway(lab: Lab, *, command: Sequence[str] = LOCKGATE, **options: object) -> Iterator[Gateway]:
    settings = {"store": False, "udp_timeout": 1, "termlog_verbosity": "debug", **options}
    with (
        lab.gateway_proc("-m", "transparent@8081", addon=ADDON, options=settings, command=command) as gateway,
        lab.redirect(8081, "redirect", udp=True),
    ):
        yield gateway


@pytest.mark.parametrize("family", [4, 6])
def test_echo_with_hooks_and_idle_end(lab: Lab, family: int) -> None:
    with gateway(lab) as gw, lab.client.udp("origin.test", ECHO, family=family) as udp:
        before = gw.open_files()
        for _ in range(3):
            assert ask(udp, b"from client") == b"from gateway"  # the socket is connected to origin.test
        assert ask(udp, b"") == b""
        assert ask(udp, b"x" * 20000) == b"x" * 20000
        assert gw.open_files() == before + 2  # the server's, and connection tracking's
        found = gw.wait_output(r"end 10 udp udp (\S+):7000 -$")
        assert (":" in found[1]) == (family == 6)
        gw.wait_output("server_disconnected udp")
        assert gw.output.count("start udp") == 1


@pytest.mark.parametrize("family", [4, 6])
def test_one_client_port_and_two_destinations(lab: Lab, family: int) -> None:
    with gateway(lab, udp_timeout=30) as gw:
        places = [(netns.resolve(name, family), ECHO) for name in ("origin.test", "alt.test")]
        with lab.client.inside():
            udp = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        with udp:
            udp.settimeout(5)
            for i in range(5):
                for place in places:
                    udp.sendto(b"%d" % i, place)
                    data, answered_by = udp.recvfrom(100)
                    assert (data, answered_by[:2]) == (b"%d" % i, place)
            port = udp.getsockname()[1]
        clients = re.findall(r"start udp udp (\S+):7000", gw.output)
        assert sorted(clients) == sorted(place[0] for place in places)
        assert port


@pytest.mark.parametrize("family", [4, 6])
def test_refused_port_is_an_error_and_the_client_hears_of_it(lab: Lab, family: int) -> None:
    with gateway(lab) as gw, lab.client.udp("origin.test", 4444, family=family) as udp:
        udp.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            udp.recv(100)
        gw.wait_output(r"error 1 udp udp \S+:4444 the server cannot be reached: the port is unreachable")


def test_a_port_that_means_another_flow_by_now(lab: Lab) -> None:
    """The entry is gone from connection tracking; the same client port then goes elsewhere."""
    with gateway(lab, udp_timeout=30) as gw, lab.client.udp("origin.test", ECHO, family=4) as udp:
        assert ask(udp, b"first") == b"first"
        time.sleep(5.2)  # modes.udp.ASK_AGAIN_SECONDS
        lab.gateway.run(["conntrack", "-F"], check=True)
        udp.connect(("10.61.2.3", ECHO))
        assert ask(udp, b"second") == b"second"
        gw.wait_output(r"start udp udp 10\.61\.2\.3:7000")
        gw.wait_output(r"end 2 udp udp 10\.61\.2\.2:7000")


def test_sent_to_this_machine_itself(lab: Lab) -> None:
    with gateway(lab) as gw:
        for address in (lab.gateway.v4, lab.gateway.v6):
            unanswered(lab.client.udp(address, 8081, timeout=0.2))
        gw.wait_output("for this machine itself")
        assert "start udp" not in gw.output


def test_when_connection_tracking_cannot_be_asked_it_is_said_once(lab: Lab) -> None:
    command = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *LOCKGATE)
    with gateway(lab, command=command) as gw:
        for _ in range(3):
            unanswered(lab.client.udp("origin.test", ECHO, timeout=0.2))
        gw.wait_output("UDP under REDIRECT is not intercepted: .* CAP_NET_ADMIN")
        assert "start udp" not in gw.output
        with lab.client.connect("origin.test", ECHO) as tcp:
            tcp.sendall(b"hello")
            assert tcp.recv(100) == b"hello"
