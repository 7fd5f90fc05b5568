"""What is passed and what is decrypted: by address, SNI, Host and add-on, in both modes."""

from __future__ import annotations

import socket

import pytest

from tests.lab.bytes_on_wire import get, read_all
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import ECHO, HTTP, HTTPS, Lab
from tests.lab.netns import NAMES
from tests.lab.origins import pattern
from tests.lab.recorder import Origins
from tests.lab.witness import Witness, issuer_of, read_response, status, subject_of, tunnel

V4, V6 = NAMES["origin.test"]


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_transparent_tproxy(lab: Lab, family: str) -> None:
    witness = Witness(lab)
    gateway = lab.gateway_proc("-m", "transparent@8091", addon=witness.addon)
    with gateway, lab.redirect(8091, "tproxy", only=[HTTP, HTTPS]):
        for url in (f"http://origin.test:{HTTP}", f"https://origin.test:{HTTPS}"):
            assert lab.curl(f"{url}/bytes/1000", family, ca=gateway.ca).size == 1000
    assert {e.path for e in witness.events("server_connected")} == {
        str((V4 if family == "-4" else V6, port)) for port in (HTTP, HTTPS)
    }


def seen(lab: Lab, gateway: Gateway, *, name: str, way: str) -> str:
    """Who signed what a client of `name` is shown: "gateway" or "origin"."""
    over = tunnel(lab, name, HTTPS, proxy=gateway.ports[0]) if way == "regular" else lab.connect(name, HTTPS)
    with lab.connect_tls(name, ca=False, over=over) as tls:
        der = tls.getpeercert(binary_form=True)
        tls.sendall(get("/x"))
        assert status(read_response(tls)[0]) == 200
    assert der
    signers = {subject_of(gateway.ca): "gateway", subject_of(lab.root): "origin"}
    return signers[issuer_of(der)]


WAYS = ("regular", "transparent")
RULES = {
    "all": (["--ignore-hosts", ".*"], {"origin.test": "origin", "www.origin.test": "origin", V4: "origin"}),
    "none": ([], {"origin.test": "gateway", V4: "gateway"}),
    "ignored by SNI": (
        ["--ignore-hosts", rf"^www\.origin\.test:{HTTPS}$"],
        {"www.origin.test": "origin", "origin.test": "gateway", V4: "gateway"},
    ),
    "ignored by address": (
        ["--ignore-hosts", rf"^{V4}:{HTTPS}$".replace(".", r"\.")],
        {V4: "origin", "v4.origin.test": "origin", "alt.test": "gateway", V6: "gateway"},
    ),
    "allowed by SNI": (
        ["--allow-hosts", r"^WWW\.origin\.test:"],
        {"www.origin.test": "gateway", "origin.test": "origin", V4: "origin"},
    ),
    "allowed by address": (["--allow-hosts", rf"^{V4}:"], {V4: "gateway", "v4.origin.test": "gateway", V6: "origin"}),
    "ignored and allowed": (
        ["--allow-hosts", r"origin\.test", "--ignore-hosts", r"^www\."],
        {"origin.test": "gateway", "www.origin.test": "origin", "alt.test": "origin"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("rules", RULES)
def test_rules(lab: Lab, rules: str) -> None:
    arguments, expected = RULES[rules]
    modes = ("-m", "regular@8090", "-m", "transparent@8091")
    with lab.gateway_proc(*modes, *arguments) as gateway, lab.redirect(8091):
        for way in WAYS:
            assert {name: seen(lab, gateway, name=name, way=way) for name in expected} == expected, way


def test_rules_by_host_of_plain_http(lab: Lab, origins: Origins) -> None:
    addon = "def requestheaders(flow):\n    flow.request.headers['x-seen'] = '1'\n"
    modes = ("-m", "regular@8090", "-m", "transparent@8091", "--ignore-hosts", r"^www\.origin\.test")
    with lab.gateway_proc(*modes, addon=addon) as gateway, lab.redirect(8091):
        for name, expected in (("www.origin.test", []), ("origin.test", ["1"])):
            for port in (f":{HTTP}", ""):
                with lab.connect(port=HTTP) as sock:
                    sock.sendall(get("/x").replace(b"Host: origin.test", f"Host: {name}{port}".encode()))
                    assert status(read_response(sock)[0]) == 200
                assert origins.requests(HTTP)[-1].values("x-seen") == expected, name
        gateway.wait_output("www.origin.test")


def test_passed_bytes_are_the_clients_own(lab: Lab, origins: Origins) -> None:
    """--ignore-hosts '.*': what reaches the origin is what was sent, to the byte, however odd."""
    odd = b"POST /x HTTP/1.1\r\nHOST:origin.test\r\ncontent-LENGTH: 3\r\nX:  two  spaces\r\n\r\nabc"
    with lab.gateway_proc("-m", "transparent@8091", "--ignore-hosts", ".*"), lab.redirect(8091):
        for port in (HTTP, HTTPS):
            with lab.connect(port=HTTP) if port == HTTP else lab.connect_tls() as sock:
                sock.sendall(odd)
                assert status(read_response(sock)[0]) == 200
            assert origins.received(port) == odd
        with lab.connect(port=ECHO) as sock:
            sock.sendall(b"\x16\x03\x01 no TLS after all")
            assert sock.recv(100) == b"\x16\x03\x01 no TLS after all"


def test_passed_whole(lab: Lab) -> None:
    """10 MB to the byte, in both modes; half-closes; and the connection is told of in one line."""
    modes = ("-m", "regular@8090", "-m", "transparent@8091", "--ignore-hosts", ".*")
    with lab.gateway_proc(*modes) as gateway, lab.redirect(8091):
        for through in ({"via": gateway, "ca": lab.root}, {}):
            for url in ("https://origin.test/10m", "http://origin.test/10m"):
                assert lab.curl(url, **through).body == pattern(10 * 2**20)
        for sock in (lab.connect(port=ECHO), tunnel(lab, "origin.test", ECHO, proxy=8090)):
            with sock:
                sock.sendall(b"\0" * 100_000)
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == b"\0" * 100_000
        gateway.wait_output(r"10\.61\.1\.2 pass origin\.test:443")
        gateway.wait_output(r"fd61:1::2 pass .*:443")


def test_addon_passes_at_the_hello(lab: Lab) -> None:
    addon = """
def tls_clienthello(data):
    data.ignore_connection = data.client_hello.sni == "www.origin.test"
"""
    modes = ("-m", "regular@8090", "-m", "transparent@8091")
    with lab.gateway_proc(*modes, addon=addon) as gateway, lab.redirect(8091):
        for way in WAYS:
            assert seen(lab, gateway, name="www.origin.test", way=way) == "origin"
            assert seen(lab, gateway, name="origin.test", way=way) == "gateway"


def test_lazy_strategy(lab: Lab, origins: Origins) -> None:
    """The server is dialled when there is something to send, not before."""
    modes = ("-m", "regular@8090", "-m", "transparent@8091", "--set", "connection_strategy=lazy")
    with lab.gateway_proc(*modes) as gateway, lab.redirect(8091):
        for over in (tunnel(lab, "origin.test", HTTPS, proxy=8090), lab.connect(port=HTTPS)):
            with lab.connect_tls(ca=gateway.ca, over=over) as tls:
                assert not origins.connections()
                tls.sendall(get("/x"))
                assert status(read_response(tls)[0]) == 200
            assert len(origins.connections(HTTPS)) == 1
            Origins(lab.control)  # forgets
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200
