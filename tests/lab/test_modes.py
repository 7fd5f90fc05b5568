"""Both modes, both families: how a client and its destination come together."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from tests.lab.bytes_on_wire import get, read_all
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import HTTP, HTTPS, Lab
from tests.lab.netns import NAMES
from tests.lab.recorder import Origins
from tests.lab.witness import TRANSPARENT, Witness, both_modes, read_response, status

V4, V6 = NAMES["origin.test"]


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[tuple[Gateway, Witness]]:
    with both_modes(lab) as running:
        yield running


@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize("url", [f"http://origin.test:{HTTP}", f"https://origin.test:{HTTPS}", "https://origin.test"])
def test_transparent_redirect(lab: Lab, running: tuple[Gateway, Witness], url: str, family: str) -> None:
    reply = lab.curl(f"{url}/bytes/1", family, ca=running[0].ca)
    assert reply.status in (200, 404)  # nginx has no such file
    assert reply.remote == (V4 if family == "-4" else V6)


@pytest.mark.parametrize("proxy", ["proxy", "proxy6"])
@pytest.mark.parametrize("name", ["v4.origin.test", "v6.origin.test", V4, f"[{V6}]"])
def test_regular(lab: Lab, running: tuple[Gateway, Witness], proxy: str, name: str) -> None:
    """The client's family and the server's have nothing to do with each other; literals need no SNI."""
    gateway = running[0]
    through = getattr(gateway, proxy)
    for url in (f"http://{name}:{HTTP}", f"https://{name}:{HTTPS}"):
        reply = lab.curl(f"{url}/bytes/1000", proxy=through, ca=gateway.ca)
        assert (reply.status, reply.size) == (200, 1000), reply


def test_international_name(lab: Lab, running: tuple[Gateway, Witness], origins: Origins) -> None:
    reply = lab.curl(f"https://xn--mnchen-3ya.test:{HTTPS}/x", via=running[0])
    assert reply.status == 200
    (record,) = origins.connections(HTTPS)
    assert record.tls
    assert record.tls["sni"] == "xn--mnchen-3ya.test"


def test_server_connection_mirrors_the_client(lab: Lab, running: tuple[Gateway, Witness], origins: Origins) -> None:
    """SNI and ALPN go on as the client sent them; no SNI for an address."""
    gateway = running[0]
    with lab.connect_tls("www.origin.test", HTTPS, ca=gateway.ca, alpn=["h2", "http/1.1"]) as tls:
        assert tls.selected_alpn_protocol() == "http/1.1"
        tls.sendall(get("/x"))
        assert status(read_response(tls)[0]) == 200
    with lab.connect_tls(V4, HTTPS, ca=gateway.ca) as tls:
        tls.sendall(get("/x"))
        assert status(read_response(tls)[0]) == 200
    first, second = origins.connections(HTTPS)
    assert first.tls
    assert second.tls
    assert (first.tls["sni"], first.tls["alpn"]) == ("www.origin.test", "http/1.1")
    assert second.tls["sni"] in (None, "")


def test_keep_alive_and_pipelining(lab: Lab, running: tuple[Gateway, Witness], origins: Origins) -> None:
    with lab.connect(port=HTTP) as sock:
        sock.sendall(b"".join(get(f"/bytes/{n}") for n in range(1, 21)))
        for n in range(1, 21):
            head, body = read_response(sock)
            assert (status(head), len(body)) == (200, n)
    assert len(origins.connections(HTTP)) == 1


def test_lying_host_chooses_nothing(lab: Lab, running: tuple[Gateway, Witness], origins: Origins) -> None:
    """Behind a transparent port the original destination counts."""
    with lab.connect(port=HTTP) as sock:
        sock.sendall(b"GET /x HTTP/1.1\r\nHost: gateway.test:8080\r\n\r\n")
        assert status(read_response(sock)[0]) == 200
    assert origins.requests(HTTP)[0].values("host") == ["gateway.test:8080"]


def test_secure_web_proxy(lab: Lab, running: tuple[Gateway, Witness]) -> None:
    """The proxy itself spoken to in TLS."""
    gateway = running[0]
    for url in (f"http://origin.test:{HTTP}/bytes/10", f"https://origin.test:{HTTPS}/bytes/10"):
        reply = lab.curl(url, proxy="https://gateway.test:8080", ca=gateway.ca)
        assert (reply.status, reply.size) == (200, 10), reply


def test_transparent_port_itself_has_no_destination(lab: Lab, running: tuple[Gateway, Witness]) -> None:
    for family in (4, 6):
        with lab.connect("gateway.test", TRANSPARENT, family=family) as sock:
            sock.sendall(get("/x"))
            assert read_all(sock) == b""
    running[0].wait_output("redirect its traffic here")


def test_no_sni(lab: Lab, running: tuple[Gateway, Witness]) -> None:
    """The leaf is for the address then, and for what the server's own certificate names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(running[0].ca)
    context.check_hostname = False
    with context.wrap_socket(lab.connect(V4, HTTPS)) as tls:
        certificate = tls.getpeercert()
        assert certificate
        assert ("IP Address", V4) in certificate["subjectAltName"]
        assert ("DNS", "origin.test") in certificate["subjectAltName"]
