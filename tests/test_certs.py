from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance.certs import Cert
from appliance.connection import Server

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)


def make(*extensions: x509.ExtensionType, ends: datetime.datetime = NOW + DAY) -> x509.Certificate:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "a.test"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lab")]
    )
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    builder = x509.CertificateBuilder(issuer, subject, KEY.public_key(), 77, NOW - 2 * DAY, ends)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


FULL = make(
    x509.SubjectAlternativeName([x509.DNSName("a.test"), x509.IPAddress(ipaddress.ip_address("fd00::1"))]),
    x509.BasicConstraints(ca=True, path_length=None),
    x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier("http://a.test/crl")], None, None, None)]
    ),
)


def test_what_it_says() -> None:
    cert = Cert(FULL)
    assert cert.subject == [("CN", "a.test"), ("O", "Lab")] and cert.issuer == [("CN", "root")]
    assert (cert.cn, cert.organization, cert.serial, cert.is_ca) == ("a.test", "Lab", 77, True)
    assert [str(name.value) for name in cert.altnames] == ["a.test", "fd00::1"]
    assert cert.crl_distribution_points == ["http://a.test/crl"]
    assert cert.keyinfo == ("EC (secp256r1)", 256)
    assert cert.notbefore == NOW - 2 * DAY and cert.notafter == NOW + DAY and not cert.has_expired()
    assert cert.fingerprint() == FULL.fingerprint(hashes.SHA256())
    assert "a.test" in repr(cert) and cert.public_key() == KEY.public_key()
    assert cert.version is x509.Version.v3  # asked of the object below


def test_forms() -> None:
    cert = Cert(FULL)
    assert Cert.from_pem(cert.to_pem()) == cert == FULL and hash(cert) == hash(FULL)
    assert Cert.from_pyopenssl(cert.to_pyopenssl()) == cert
    assert Cert.from_state(cert.get_state()) == cert and cert.to_cryptography() is FULL
    other = Cert(make())
    assert other != cert and other != 3
    other.set_state(cert.get_state())
    assert other == cert
    with pytest.raises(ValueError):
        Cert.from_pem(b"nothing")
    with pytest.raises(TypeError):
        Cert("pem")  # type: ignore[arg-type]


def test_a_bare_one() -> None:
    cert = Cert(make(ends=NOW - DAY))
    assert list(cert.altnames) == [] and not cert.is_ca and cert.crl_distribution_points == [] and cert.has_expired()


def test_connections_hold_them() -> None:
    server = Server(address=None, certificate_list=[FULL])
    assert isinstance(server.cert, Cert) and server.certificate_list == (Cert(FULL),)
    assert server.certificate_list is server.certificate_list and list(server.chain) == [FULL]
    again = Server.from_state(server.get_state())
    assert again.cert == FULL
    again.certificate_list = [Cert(make())]
    assert again.cert != FULL
