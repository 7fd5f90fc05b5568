"""The page with the CA certificate, in every mode."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.lab.labkit import Lab
from tests.lab.recorder import Origins


def test_through_the_proxy(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc() as gw:
        certificate = x509.load_pem_x509_certificate(gw.ca.read_bytes())
        for host in ("lockgate.internal", "mitm.it", "LOCKGATE.Internal"):
            page = lab.curl(f"http://{host}/", via=gw)
            assert page.status == 200
            assert certificate.fingerprint(hashes.SHA256()).hex(":").upper() in page.body.decode()
        assert lab.curl("http://mitm.it/cert/pem", via=gw).body == certificate.public_bytes(Encoding.PEM)
        assert lab.curl("http://mitm.it/cert/cer", via=gw).body == certificate.public_bytes(Encoding.DER)
        output = gw.stop()
    assert not origins.connections()
    assert "error" not in output


def test_over_tls(lab: Lab) -> None:
    """A tunnel to the page has no server; it is shown on a leaf of our own."""
    with lab.gateway_proc() as gw:
        reply = lab.curl("https://lockgate.internal/cert/pem", via=gw)
        assert reply.status == 200
        assert b"BEGIN CERTIFICATE" in reply.body
        assert b"PRIVATE" not in reply.body
        assert "GET https://lockgate.internal/cert/pem 200" in gw.stop()


def test_transparent(lab: Lab, origins: Origins) -> None:
    """Whatever address the name leads to, the Host field counts."""
    to = ("lockgate.internal:80:10.61.2.2",)
    with lab.gateway_proc("-m", "transparent@8081") as gw, lab.redirect(8081):
        reply = lab.curl("http://lockgate.internal/", ca=gw.ca, resolve=to)
        assert reply.status == 200
        assert b"lockgate ca show" in reply.body


def test_switched_off(lab: Lab) -> None:
    with lab.gateway_proc(options={"onboarding": False}) as gw:
        assert lab.curl("http://lockgate.internal/", via=gw).status == 502


def test_own_name(lab: Lab) -> None:
    with lab.gateway_proc(options={"onboarding_host": "ca.lab.test"}) as gw:
        assert lab.curl("http://ca.lab.test/cert/pem", via=gw).status == 200
        assert lab.curl("http://lockgate.internal/cert/pem", via=gw).status == 502
