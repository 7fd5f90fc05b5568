"""appliance/cli/firstscreen.py."""

from __future__ import annotations

import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.cli.firstscreen import Listening, first_screen, own_address, totals_line

CA = Path("/home/me/my lab/lockgate-ca-cert.pem")


def screen(*listening: Listening, portal: str | None = "lockgate.internal", own: str = "") -> str:
    return first_screen(listening, CA, "AA:BB", portal=portal, own_address=own)


def test_the_curl_line_can_be_pasted() -> None:
    text = screen(Listening("regular", "127.0.0.1", 8080))
    line = next(line for line in text.splitlines() if "curl" in line)
    words = shlex.split(line[line.index("curl") :])
    assert words == ["curl", "-x", "http://127.0.0.1:8080", "--cacert", str(CA), "https://example.com/"]


def test_loopback_says_how_a_phone_could_be_attached() -> None:
    text = screen(Listening("regular", "127.0.0.1", 8080))
    assert "regular on 127.0.0.1:8080" in text and str(CA) in text and "AA:BB" in text
    assert "http://lockgate.internal" in text and "Ctrl-C" in text
    assert "lockgate run -m regular@8080" in text


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_every_address_is_shown_as_ones_that_can_be_typed(host: str) -> None:
    text = screen(Listening("regular@9000", host, 9000), own="192.168.1.1")
    assert "curl -x http://127.0.0.1:9000 " in text
    assert "HTTP proxy 192.168.1.1:9000" in text
    assert "THIS-MACHINE:9000" in screen(Listening("regular@9000", host, 9000))


def test_ipv6_is_bracketed() -> None:
    assert "curl -x http://[fd00::1]:8080 " in screen(Listening("regular", "fd00::1", 8080))


def test_transparent_alone_has_a_redirect_and_no_proxy() -> None:
    text = screen(Listening("transparent@8081", "", 8081))
    assert "transparent on *:8081" in text and "redirect to :8081" in text
    assert "curl" not in text and "http://lockgate.internal" in text


def test_without_the_portal_it_is_not_named() -> None:
    assert "lockgate.internal" not in screen(Listening("regular", "", 8080), portal=None)


@dataclass
class Counts:
    connections: int = 0
    flows: int = 0
    errors: int = 0
    passed: int = 0
    blocked: int = 0


def test_totals() -> None:
    assert totals_line(Counts(), 3.2) == "In 3 s: 0 connections, 0 flows."
    full = Counts(connections=1204, flows=1, errors=2, passed=3, blocked=1)
    assert totals_line(full, 3725) == "In 1 h 2 min: 1,204 connections (3 passed, 1 blocked), 1 flow, 2 errors."
    assert totals_line(Counts(connections=1), 61) == "In 1 min 1 s: 1 connection, 0 flows."


def test_own_address_is_one_that_we_can_bind_or_none() -> None:
    if address := own_address():
        with socket.create_server((address, 0)) as server:
            assert server.getsockname()[0] == address
    else:
        with pytest.raises(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))


def test_who_lays_the_redirect_is_said() -> None:
    bare, laid = Listening("transparent@8081", "0.0.0.0", 8081), Listening("transparent:lan0@8081", "0.0.0.0", 8081)
    assert "redirect to :8081" in screen(bare)
    assert "redirect to" not in screen(laid, Listening("dns", "0.0.0.0", 53))
    assert screen(laid, Listening("dns", "0.0.0.0", 53)).count("Redirect ") == 1
    assert "Redirect" not in screen(Listening("dns", "0.0.0.0", 53))
