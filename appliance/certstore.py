"""Certificates for scripts that make their own: a CA, leaves, and a store of both in files.

The gateway's own are in `appliance.net`, and its CA's key is reached by nobody. Here all leaves have the CA's key pair,
as such scripts expect.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.certs import Cert
from appliance.exceptions import CertificateError
from appliance.net import ca_store, pem

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=199)  # from notBefore; browsers refuse 200
CRL_LIFETIME = timedelta(days=7)
_SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def create_ca(organization: str, cn: str, key_size: int) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A new CA of ten years, with an RSA key of `key_size` bits."""
    key = rsa.generate_private_key(65537, key_size)
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, cn), x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)]
    )
    builder = (
        _builder(name, name, key.public_key(), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_SERVER_AUTH, critical=False)
        .add_extension(ca_store.key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def dummy_cert(
    privkey: PrivateKey,
    cacert: x509.Certificate | Cert,
    commonname: str | None,
    sans: Iterable[x509.GeneralName | str],
    organization: str | None = None,
    crl_url: str | None = None,
) -> Cert:
    """A leaf for these names, signed by `privkey`, with the public key of `cacert`. Texts are names or addresses.

    A common name of 64 characters or more is left out (X.520). Raises ValueError.
    """
    ca = _certificate(cacert)
    attributes = []
    if commonname is not None and len(commonname) < 64:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, commonname))
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    subject = x509.Name(attributes)
    has_cn = bool(subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    builder = (
        _builder(ca.subject, subject, ca.public_key(), LEAF_LIFETIME)
        .add_extension(_SERVER_AUTH, critical=False)
        .add_extension(x509.SubjectAlternativeName(_general_names(sans)), critical=not has_cn)
        .add_extension(_authority(ca), critical=False)
    )
    if crl_url:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return Cert(builder.sign(privkey, hashes.SHA256()))


def dummy_crl(privkey: PrivateKey, cacert: x509.Certificate | Cert) -> bytes:
    """An empty revocation list in DER, good for a week."""
    ca = _certificate(cacert)
    start = _start()
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.subject).last_update(start)
    builder = builder.next_update(start + ca_store.BACKDATED + CRL_LIFETIME)
    return builder.sign(privkey, hashes.SHA256()).public_bytes(Encoding.DER)


def _builder(issuer: x509.Name, subject: x509.Name, key: Any, life: timedelta) -> x509.CertificateBuilder:
    start = _start()
    builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(start).not_valid_after(start + life)


def _start() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - ca_store.BACKDATED


def _certificate(cert: x509.Certificate | Cert) -> x509.Certificate:
    return cert if isinstance(cert, x509.Certificate) else cert.to_cryptography()


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        identifier = x509.SubjectKeyIdentifier.from_public_key(ca.public_key())
    return x509.AuthorityKeyIdentifier(identifier.digest, None, None)


def _general_names(names: Iterable[x509.GeneralName | str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        one = name if isinstance(name, x509.GeneralName) else _general_name(name)
        if one not in found:
            found.append(one)
    return found


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode() if not name.isascii() else name)


@dataclass(frozen=True)
class CertStoreEntry:
    """A certificate with its key, and the chain that goes with it."""

    cert: Cert
    privatekey: PrivateKey
    chain_file: Path | None
    chain_certs: list[Cert] = field(default_factory=list)


class CertStore:
    """Leaves of one CA, made when asked for and kept (the `STORE_CAP` newest), and certificates from files."""

    STORE_CAP = 100

    def __init__(
        self,
        default_privatekey: PrivateKey,
        default_ca: Cert,
        default_chain_file: Path | None,
        default_crl: bytes,
        dhparams: Any = None,
    ) -> None:
        self.default_privatekey = default_privatekey
        self.default_ca = default_ca
        self.default_chain_file = default_chain_file
        self.default_chain_certs = _chain(default_chain_file) if default_chain_file else [default_ca]
        self.default_crl = default_crl
        self.dhparams = dhparams  # OpenSSL chooses by itself: kept as it was given
        self.certs: dict[str | tuple[str | None, tuple[x509.GeneralName, ...]], CertStoreEntry] = {}
        self.expire_queue: list[CertStoreEntry] = []

    # -- files

    @classmethod
    def from_store(cls, path: Path | str, basename: str, key_size: int, passphrase: bytes | str | None = None) -> Self:
        """The store of `BASENAME-ca.pem` in a directory, made first if there is none. Raises CertificateError."""
        path = Path(path)
        file = path / f"{basename}-ca.pem"
        if not file.exists():
            cls.create_store(path, basename, key_size)
        return cls.from_files(file, path / f"{basename}-dhparam.pem", passphrase)

    @classmethod
    def from_files(
        cls, ca_file: Path | str, dhparam_file: Path | str | None = None, passphrase: bytes | str | None = None
    ) -> Self:
        """The store of a file with a CA's key and certificate; what else it has is the chain. Raises CertificateError.

        `dhparam_file` is not read.
        """
        ca_file = Path(ca_file)
        bundle = _load(ca_file, passphrase)
        key = _key(bundle, ca_file)
        ca = Cert(bundle.certificate)
        return cls(key, ca, ca_file if bundle.others else None, dummy_crl(key, ca))

    @classmethod
    def create_store(
        cls,
        path: Path | str,
        basename: str,
        key_size: int,
        organization: str | None = None,
        cn: str | None = None,
    ) -> None:
        """Write a new CA: `-ca.pem` and `-ca.p12` (with the key), `-ca-cert.pem`, `.cer` and `.p12` (without)."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        key, ca = create_ca(organization or basename, cn or basename, key_size)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        public = ca.public_bytes(Encoding.PEM)
        name = basename.encode()
        for suffix, data, mode in (
            ("-ca.pem", secret + public, 0o600),
            ("-ca.p12", serialize_key_and_certificates(name, key, ca, None, NoEncryption()), 0o600),
            ("-ca-cert.pem", public, 0o644),
            ("-ca-cert.cer", public, 0o644),
            ("-ca-cert.p12", serialize_key_and_certificates(name, None, ca, None, NoEncryption()), 0o644),
        ):
            file = path / f"{basename}{suffix}"
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as out:
                out.write(data)

    def add_cert_file(self, spec: str, path: Path | str, passphrase: bytes | str | None = None) -> None:
        """Use the certificate, key and chain of a file for `spec` (a name, `*.name`, `*`) and its own names.

        Raises CertificateError.
        """
        path = Path(path)
        bundle = _load(path, passphrase)
        key = _key(bundle, path)
        cert = Cert(bundle.certificate)
        names = [cert.cn] if cert.cn else []
        names += [str(name.value) for name in cert.altnames if isinstance(name, x509.DNSName | x509.IPAddress)]
        chain = [cert, *map(Cert, bundle.others)]
        self.add_cert(CertStoreEntry(cert, key, path if bundle.others else None, chain), spec, *names)

    # -- certificates

    def add_cert(self, entry: CertStoreEntry, *names: str) -> None:
        for name in names:
            self.certs[name] = entry

    @staticmethod
    def asterisk_forms(dn: str | x509.GeneralName) -> Iterator[str]:
        """`a.b.c` -> itself, `*.b.c`, `*.c`; an address only itself."""
        name = dn if isinstance(dn, str) else str(dn.value)
        yield name
        if isinstance(dn, x509.IPAddress):
            return
        rest = name
        while "." in rest:
            rest = rest.partition(".")[2]
            yield f"*.{rest}"

    def get_cert(
        self,
        commonname: str | None,
        sans: Iterable[x509.GeneralName | str],
        organization: str | None = None,
        crl_url: str | None = None,
    ) -> CertStoreEntry:
        """A certificate for these names: one from a file that covers one of them (the common name first), else a leaf
        of the CA. Raises ValueError.
        """
        names = _general_names(sans)
        wanted = list(self.asterisk_forms(commonname)) if commonname else []
        for name in names:
            wanted += self.asterisk_forms(name)
        for text in (*wanted, "*"):
            if text in self.certs:
                return self.certs[text]
        key = commonname, tuple(names)
        if key not in self.certs:
            cert = dummy_cert(self.default_privatekey, self.default_ca, commonname, names, organization, crl_url)
            self._keep(
                key,
                CertStoreEntry(cert, self.default_privatekey, self.default_chain_file, list(self.default_chain_certs)),
            )
        return self.certs[key]

    def _keep(self, key: tuple[str | None, tuple[x509.GeneralName, ...]], entry: CertStoreEntry) -> None:
        self.certs[key] = entry
        self.expire_queue.append(entry)
        if len(self.expire_queue) > self.STORE_CAP:
            oldest = self.expire_queue.pop(0)
            self.certs = {name: one for name, one in self.certs.items() if one is not oldest}


def _load(path: Path, passphrase: bytes | str | None) -> pem.Bundle:
    data = pem.read(path, guarded=False)
    text = passphrase.decode() if isinstance(passphrase, bytes) else passphrase
    return pem.pair(pem.private_key(data, path, text), pem.certificates(data, path), path)


def _key(bundle: pem.Bundle, path: Path) -> PrivateKey:
    if not isinstance(bundle.key, PrivateKey):
        raise CertificateError(f"The private key in {path} is neither RSA nor EC.")
    return bundle.key


def _chain(path: Path) -> list[Cert]:
    return [Cert(one) for one in pem.certificates(pem.read(path, guarded=False), path)]
