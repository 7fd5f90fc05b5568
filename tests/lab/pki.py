"""The lab's certificates: one root everybody is told to trust, a good leaf under it, and every kind of bad one."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


class Pair(NamedTuple):
    """A certificate file (leaf first, then what the server is to send along) and its key file, both PEM."""

    cert: Path
    key: Path


class Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


class Pki:
    """Made once a session (EC keys: a few milliseconds). `issue` makes more."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        directory.mkdir()
        self.directory = directory
        self._root = authority("lab root")
        self._intermediate = authority("lab intermediate", self._root)
        self.root = directory / "root.pem"
        self.root.write_bytes(self._root.pem)
        self.good = self.issue("good", names)
        self.chained = self.issue("chained", names, signer=self._intermediate, send=[self._intermediate])
        self.bad = {
            "expired": self.issue("expired", names, days=(-30, -1)),
            "future": self.issue("future", names, days=(1, 30)),
            "wrong-name": self.issue("wrong-name", ["elsewhere.test", "192.0.2.1"]),
            "self-signed": self.issue("self-signed", names, self_signed=True),
            "unknown-root": self.issue("unknown-root", names, signer=authority("a root nobody knows")),
            "incomplete": self.issue("incomplete", names, signer=self._intermediate),
        }

    def issue(
        self,
        file: str,
        names: Sequence[str],
        *,
        days: tuple[int, int] = (-1, 90),
        signer: Authority | None = None,
        send: Sequence[Authority] = (),
        self_signed: bool = False,
    ) -> Pair:
        """Make <file>.pem and <file>.key for these names and addresses; the first name is the subject.

        `days`: validity from today; `signer`: the lab's root by default; `send`: intermediates put into the file.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(names[0])
        above = signer or self._root
        issuer, signing = (subject, key) if self_signed else (above.certificate.subject, above.key)
        certificate = (
            _builder(subject, issuer, key, days)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
            .sign(signing, hashes.SHA256())
        )
        pair = Pair(self.directory / f"{file}.pem", self.directory / f"{file}.key")
        chain = certificate.public_bytes(serialization.Encoding.PEM) + b"".join(ca.pem for ca in send)
        pair.cert.write_bytes(chain)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


def authority(name: str, parent: Authority | None = None) -> Authority:
    """A root, or an intermediate under `parent`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    signer = parent.key if parent else key
    certificate = (
        _builder(subject, parent.certificate.subject if parent else subject, key, (-1, 90))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )  # fmt: skip
    return Authority(certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: tuple[int, int]
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
