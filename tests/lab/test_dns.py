"""DNS through the gateway with the real dig: under TPROXY and in the `dns` mode, over UDP and TCP, v4 and v6."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.lab import origin_dns
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import Lab
from tests.lab.origin_dns import wire

ADDON = """
import logging
from appliance import dns

def dns_request(flow):
    name = flow.request.question.name
    if name == "local.lab.test":
        flow.response = flow.request.succeed([dns.ResourceRecord.A(name, "192.0.2.77")])
    elif name == "kill.lab.test":
        flow.kill()

def dns_response(flow):
    for record in flow.response.answers:
        if record.type == dns.types.A and flow.request.question.name == "www.lab.test":
            record.ipv4_address = "192.0.2.99"
        if record.type == dns.types.HTTPS:
            record.https_ech = None

def dns_error(flow):
    logging.info("dns_error %s: %s", flow.request.question.name, flow.error)
"""


@pytest.fixture(scope="module")
def nameserver(lab: Lab) -> Iterator[Lab]:
    with origin_dns.nameserver(lab):
        yield lab


@contextlib.contextmanager
def tproxy(lab: Lab, addon: str | None = ADDON) -> Iterator[Gateway]:
    with lab.gateway_proc("-m", "transparent@8081", addon=addon) as gw, lab.redirect(8081, "tproxy", udp=True):
        yield gw


@contextlib.contextmanager
def server(lab: Lab, addon: str | None = ADDON, **options: object) -> Iterator[Gateway]:
    settings = {"dns_name_servers": "10.61.2.2", **options}
    with lab.gateway_proc("-m", "dns@53", addon=addon, options=settings, ports=[53]) as gw:
        yield gw


def dig(lab: Lab, *words: str) -> str:
    return lab.client.run(["dig", "+tries=1", "+time=8", *words], timeout=20, check=False).stdout


@pytest.mark.parametrize("how", ["tproxy", "dns"])
@pytest.mark.parametrize("family", [4, 6])
def test_dig(nameserver: Lab, how: str, family: int) -> None:
    lab = nameserver
    if how == "tproxy":
        at = "@10.61.2.2" if family == 4 else "@fd61:2::2"
    else:
        at = "@10.61.1.1" if family == 4 else "@fd61:1::1"
    with (tproxy if how == "tproxy" else server)(lab) as gw:
        assert dig(lab, at, "+short", "www.lab.test") == "192.0.2.99\n"  # changed
        assert dig(lab, at, "+short", "+noedns", "www.lab.test") == "192.0.2.99\n"
        assert dig(lab, at, "+short", "+tcp", "www.lab.test") == "192.0.2.99\n"
        assert dig(lab, at, "+short", "www.lab.test", "AAAA") == "fd61:2::2\n"
        assert dig(lab, at, "+short", "www.lab.test", "TYPE65") in (
            '1 . alpn="h2"\n',  # without the h3 of the origin: a device shall not go by QUIC
            "\\# 10 00010000010003026832\n",
        )
        assert dig(lab, at, "+short", "-x", "10.61.2.9") == "www.lab.test.\n"
        assert dig(lab, at, "+short", "alias.lab.test") == "www.lab.test.\n10.61.2.2\n"
        assert dig(lab, at, "+short", "local.lab.test") == "192.0.2.77\n"  # answered here
        assert "status: NXDOMAIN" in dig(lab, at, "nothing.lab.test")
        assert "status: SERVFAIL" in dig(lab, at, "kill.lab.test")
        gw.wait_output(r"dns_error kill\.lab\.test: Connection killed")
        whole = dig(lab, at, "+dnssec", "+bufsize=4096", "www.lab.test", "AAAA")
        assert "EDNS: version: 0, flags: do; udp: 4096" in whole  # the origin repeats it
        cut = dig(lab, at, "+ignore", "big.lab.test", "TXT")
        assert " tc " in cut.split("flags:")[1].split(";")[0] + " "
        assert len(dig(lab, at, "+short", "big.lab.test", "TXT")) > 3000  # dig has asked again by TCP
        assert dig(lab, at, "+short", "twice.lab.test") == "10.0.0.1\n"  # the forged ones were dropped
        found = gw.wait_output(r"^10\.61\.1\.2 dns A www\.lab\.test NOERROR 192\.0\.2\.99|^fd61\S+ dns A www\.lab")
        assert found
        gw.wait_output(r"dns A kill\.lab\.test error: Connection killed\. .*decrypt \(DNS")


@pytest.mark.parametrize("how", ["tproxy", "dns"])
def test_many_clients_with_equal_ids(nameserver: Lab, how: str) -> None:
    lab = nameserver
    to = ("10.61.2.2" if how == "tproxy" else "10.61.1.1", 53)
    with (tproxy if how == "tproxy" else server)(lab, None), contextlib.ExitStack() as stack:
        socks = []
        for _ in range(50):
            with lab.client.inside():
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.settimeout(5)
            sock.connect(to)
            socks.append(sock)
        for n, sock in enumerate(socks):
            for i in range(4):
                sock.send(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + wire(f"echo-{n * 4 + i}.lab.test") + b"\0\1\0\1")
        for n, sock in enumerate(socks):
            answers = [sock.recv(4096) for _ in range(4)]
            assert {data[:2] for data in answers} == {b"\x12\x34"}
            assert {int.from_bytes(data[-3:], "big") for data in answers} == set(range(n * 4, n * 4 + 4))
            for data in answers:
                assert wire(f"echo-{int.from_bytes(data[-3:], 'big')}.lab.test") in data


@pytest.mark.parametrize("how", ["tproxy", "dns"])
def test_silent_server_is_servfail_in_time(nameserver: Lab, how: str) -> None:
    lab = nameserver
    with (tproxy if how == "tproxy" else server)(lab) as gw:
        began = time.monotonic()
        at = "@10.61.2.2" if how == "tproxy" else "@10.61.1.1"
        assert "status: SERVFAIL" in dig(lab, at, "silent.lab.test")
        assert time.monotonic() - began < 7
        gw.wait_output(r"dns_error silent\.lab\.test: 10\.61\.2\.2:53 did not answer")


def test_malformed_queries_harm_nobody(nameserver: Lab) -> None:
    lab = nameserver
    with server(lab) as gw, lab.client.udp("10.61.1.1", 53, family=4) as udp:
        bad = b"\xab\xcd\1\0\0\1\0\0\0\0\0\0\x3fshort"
        for data in (b"", b"x", bytes(11), b"\xff" * 12, bad):
            udp.send(data)
        assert udp.recv(512) == b"\xab\xcd\x81\x81" + bytes(8)  # FORMERR, to the one with an id
        udp.send(b"\0\1\1\0\0\1\0\0\0\0\0\0" + wire("echo-1.lab.test") + b"\0\1\0\1")
        assert udp.recv(512)[:2] == b"\0\1"
        gw.wait_output("a malformed DNS query")


def test_what_is_not_dns_on_port_53_is_relayed(lab: Lab) -> None:
    addon = "import logging\ndef udp_start(flow):\n    logging.info('raw udp')\n"
    with tproxy(lab, addon) as gw, lab.client.udp("10.61.2.3", 53, family=4, timeout=1) as udp:
        udp.send(b"not DNS at all")
        with contextlib.suppress(OSError):
            udp.recv(100)
        gw.wait_output("raw udp")


def test_refused_and_no_name_server_and_ourselves(lab: Lab) -> None:
    with server(lab, dns_name_servers="10.61.2.3") as gw:
        assert "status: SERVFAIL" in dig(lab, "@10.61.1.1", "www.lab.test")
        gw.wait_output(r"dns_error www\.lab\.test: 10\.61\.2\.3:53: the port is unreachable")
    with server(lab, dns_name_servers="10.61.1.1") as gw:
        assert "status: SERVFAIL" in dig(lab, "@10.61.1.1", "www.lab.test")
        gw.wait_output(r"dns_error www\.lab\.test: 10\.61\.1\.1 port 53 is this gateway itself")


def test_hosts_file(nameserver: Lab) -> None:
    lab = nameserver
    with server(lab):
        assert dig(lab, "@10.61.1.1", "+short", "v4.origin.test") == "10.61.2.2\n"
        assert dig(lab, "@10.61.1.1", "+short", "v6.origin.test", "AAAA") == "fd61:2::2\n"
        assert "status: NOERROR" in dig(lab, "@10.61.1.1", "v4.origin.test", "AAAA")
    with server(lab, dns_use_hosts_file="false"):
        assert "status: NXDOMAIN" in dig(lab, "@10.61.1.1", "v4.origin.test")


def test_ports_are_shared_and_unpredictable(nameserver: Lab) -> None:
    lab = nameserver
    log = lab.scratch / "dns-origin.log"
    before = len(log.read_text().splitlines())
    with server(lab, None) as gw:
        files = gw.open_files()
        for n in range(60):
            with lab.client.udp("10.61.1.1", 53, family=4) as udp:
                udp.send(b"\0\7\1\0\0\1\0\0\0\0\0\0" + wire(f"echo-{n}.lab.test") + b"\0\1\0\1")
                assert udp.recv(512)[:2] == b"\0\7"
        assert gw.open_files() <= files + 8
    asked = [line.split() for line in log.read_text().splitlines()[before:]]
    asked = [words for words in asked if re.fullmatch(r"echo-\d+\.lab\.test", words[3])]
    assert len({words[1] for words in asked}) == 8
    assert len({words[2] for words in asked}) > 50  # ids of our own
