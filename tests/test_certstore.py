"""What scripts make certificates with; OpenSSL has the last word whether they are good."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates
from OpenSSL import crypto

from appliance.certs import Cert, CertStore, CertStoreEntry, create_ca, dummy_cert, dummy_crl
from appliance.exceptions import CertificateError


@pytest.fixture(scope="module")
def ca() -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    return create_ca("the lab", "lab CA", 2048)


@pytest.fixture
def store(ca: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> CertStore:
    return CertStore(ca[0], Cert(ca[1]), None, dummy_crl(*ca))


def verify(leaf: Cert, ca: x509.Certificate, host: str) -> None:
    """A handshake in memory, with OpenSSL's own check of chain and name."""
    verifier = crypto.X509Store()
    verifier.add_cert(crypto.X509.from_cryptography(ca))
    verifier.set_flags(crypto.X509StoreFlags.X509_STRICT)
    crypto.X509StoreContext(verifier, leaf.to_pyopenssl()).verify_certificate()
    names = [str(name.value) for name in leaf.altnames]
    assert host in names


def test_a_ca(ca: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> None:
    cert = Cert(ca[1])
    assert (cert.cn, cert.organization, cert.is_ca, cert.keyinfo) == ("lab CA", "the lab", True, ("RSA", 2048))
    days = (cert.notafter - cert.notbefore).days
    assert days == 3650 and cert.notbefore < datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


def test_a_leaf(ca: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> None:
    leaf = dummy_cert(
        *ca,
        "a.example",
        [x509.DNSName("a.example"), "b.example", "a.example", "10.0.0.1", "münchen.example"],
        "Acme",
        "http://a.example/x.crl",
    )
    assert leaf.cn == "a.example" and leaf.organization == "Acme" and not leaf.is_ca
    assert [name.value for name in leaf.altnames] == [
        "a.example",
        "b.example",
        ipaddress.ip_address("10.0.0.1"),
        "xn--mnchen-3ya.example",
    ]
    assert leaf.crl_distribution_points == ["http://a.example/x.crl"]
    assert (leaf.notafter - leaf.notbefore).days == 199
    verify(leaf, ca[1], "a.example")
    san = leaf.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not san.critical


def test_a_common_name_too_long_is_left_out(ca: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> None:
    leaf = dummy_cert(ca[0], Cert(ca[1]), "x" * 64, ["a.example"])
    assert leaf.cn is None
    assert leaf.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    with pytest.raises(ValueError):
        dummy_cert(*ca, None, ["a" * 300 + "é"])


def test_a_revocation_list(ca: tuple[rsa.RSAPrivateKey, x509.Certificate]) -> None:
    crl = x509.load_der_x509_crl(dummy_crl(*ca))
    assert len(crl) == 0 and crl.is_signature_valid(ca[0].public_key())
    assert crl.issuer == ca[1].subject


def test_leaves_are_kept_and_the_oldest_goes(store: CertStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CertStore, "STORE_CAP", 2)
    first = store.get_cert("a.example", ["a.example"])
    assert store.get_cert("a.example", [x509.DNSName("a.example")]) is first
    assert first.privatekey is store.default_privatekey and first.chain_certs == [store.default_ca]
    assert store.get_cert("b.example", []) is not first
    store.get_cert("c.example", [])
    assert len(store.certs) == len(store.expire_queue) == 2
    assert store.get_cert("a.example", ["a.example"]) is not first


def test_names_are_looked_up_from_the_exact_to_the_star(
    store: CertStore, ca: tuple[rsa.RSAPrivateKey, x509.Certificate]
) -> None:
    made = {name: CertStoreEntry(dummy_cert(*ca, name, []), ca[0], None) for name in ("exact", "wild", "star")}
    store.add_cert(made["exact"], "a.b.example")
    store.add_cert(made["wild"], "*.b.example")
    assert store.get_cert("a.b.example", []) is made["exact"]
    assert store.get_cert("z.b.example", []) is made["wild"]
    assert store.get_cert("y.z.b.example", []) is made["wild"]
    assert store.get_cert("other", ["q.b.example"]) is made["wild"]
    assert store.get_cert("b.example", []) not in made.values()
    store.add_cert(made["star"], "*")
    assert store.get_cert("unheard.of", []) is made["star"]
    assert list(CertStore.asterisk_forms("a.b.c")) == ["a.b.c", "*.b.c", "*.c"]
    assert list(CertStore.asterisk_forms(x509.IPAddress(ipaddress.ip_address("10.0.0.1")))) == ["10.0.0.1"]


def test_files(tmp_path: Path) -> None:
    store = CertStore.from_store(tmp_path, "mine", 2048)
    assert store.default_ca.cn == store.default_ca.organization == "mine"
    assert (tmp_path / "mine-ca.pem").stat().st_mode & 0o077 == 0
    assert (tmp_path / "mine-ca.p12").stat().st_mode & 0o077 == 0
    key, cert, _ = load_key_and_certificates((tmp_path / "mine-ca.p12").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey) and store.default_ca == cert
    assert b"PRIVATE" not in (tmp_path / "mine-ca-cert.pem").read_bytes()
    again = CertStore.from_store(tmp_path, "mine", 2048)
    assert again.default_ca == store.default_ca
    verify(again.get_cert("a.example", ["a.example"]).cert, store.default_ca.to_cryptography(), "a.example")


def test_a_certificate_of_a_file(
    store: CertStore, ca: tuple[rsa.RSAPrivateKey, x509.Certificate], tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "a.pem"
    leaf = dummy_cert(*ca, "own.example", ["own.example", "10.0.0.9"])
    secret = ca[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(secret + leaf.to_pem())
    store.add_cert_file("*.lab.example", file)
    for name in ("x.lab.example", "own.example", "10.0.0.9"):
        entry = store.get_cert(name, [])
        assert entry.cert == leaf and entry.chain_certs == [leaf]
    assert entry.privatekey.public_key() == leaf.public_key()
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + leaf.to_pem())
    with pytest.raises(CertificateError, match="does not belong"):
        store.add_cert_file("*", file)
    with pytest.raises(CertificateError, match="Cannot read"):
        CertStore.from_files(tmp_path / "none.pem")
