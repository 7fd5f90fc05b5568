"""The gateway's certificate authority.

The CA's key lives in `CertificateAuthority` and signs leaves and an empty revocation list, nothing else; there is no
way to get it out again. Leaves have keys of their own, which are never written anywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.exceptions import CertificateError
from appliance.net import ca_store, names, pem
from appliance.net.leaf import MAX_NAMES, LeafKey, LeafSpec, extension

LEAF_LIFETIME = timedelta(days=199)  # browsers refuse 200 days and more, counted from notBefore

_FAR = timedelta(days=30)  # how long ago a leaf that mirrors an expired one ended: no device's clock is so far behind
_SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
_USAGE = {
    "ec": ca_store.key_usage(digital_signature=True),
    "rsa": ca_store.key_usage(digital_signature=True, key_encipherment=True),
}


class CertificateAuthority:
    """The CA that clients are asked to trust. Its key cannot be read, copied or pickled from here."""

    __slots__ = ("__key", "_authority", "certificate", "chain")

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]  # sent with each leaf: this CA and those above it, without the root

    def __init__(self, bundle: pem.Bundle) -> None:
        """Raises CertificateError if the bundle is no usable CA."""
        self.__key = ca_store.check_ca(bundle)
        self.certificate = bundle.certificate
        self.chain = _path_to_root(bundle)
        self._authority = _authority_key_identifier(bundle.certificate)

    @classmethod
    def open(cls, confdir: Path, kind: ca_store.KeyKind = "rsa", bits: int = ca_store.RSA_BITS) -> CertificateAuthority:
        """The CA of this directory, made on the first start; see `ca_store.load_or_create`."""
        return cls(ca_store.load_or_create(confdir, kind, bits))

    @classmethod
    def nobodys(cls) -> CertificateAuthority:
        """A CA in memory that no client has ever been told of, for leaves which are not to be trusted."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(pem.Bundle(key, ca_store.self_signed(key, "lockgate, trusted by nobody"), ()))

    @property
    def pem(self) -> bytes:
        """The certificate for a device's trust store."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The same in binary, as Android and Windows like it."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the certificate, as `AB:CD:…`."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def not_after(self) -> datetime:
        """End of validity; aware, UTC."""
        return self.certificate.not_valid_after_utc

    @property
    def subject(self) -> str:
        """The subject as text, `CN=lockgate 1f2e3d4c,O=lockgate`."""
        return self.certificate.subject.rfc4514_string({NameOID.EMAIL_ADDRESS: "E"})

    @property
    def crl_path(self) -> str:
        """Where leaves say that our revocation list is, on whatever host; `revocation_list()` is the answer."""
        return _crl_path(self.certificate.serial_number)

    def issue(self, spec: LeafSpec, key: LeafKey, now: datetime) -> x509.Certificate:
        """A new leaf certificate. Raises CertificateError if the spec has no usable name or the CA is over."""
        san = names.general_names(spec.names, MAX_NAMES)
        if not san:
            asked = ", ".join(ascii(name[:80]) for name in spec.names[:3]) or "no name"
            raise CertificateError(f"No certificate can be made for {asked}.")
        if self.not_after <= now:
            raise CertificateError(f"The CA {self.subject} has expired on {self.not_after:%Y-%m-%d}.")
        if spec.fault == "expired":
            start = now - _FAR - LEAF_LIFETIME
        elif spec.fault == "not_yet_valid":
            start = now + _FAR
        else:
            start = max(now - ca_store.BACKDATED, self.certificate.not_valid_before_utc)
        start = start.replace(microsecond=0)
        end = start + LEAF_LIFETIME if spec.fault else min(start + LEAF_LIFETIME, self.not_after)
        subject = _subject(str(san[0].value), spec.organization)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key.public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            # RFC 5280 §4.2.1.6: critical when the subject is empty, and only then.
            .add_extension(x509.SubjectAlternativeName(san), critical=not list(subject))
            .add_extension(_USAGE[key.kind], critical=True)
            .add_extension(_SERVER_AUTH, critical=False)
            .add_extension(self._authority, critical=False)
            .add_extension(key.identifier, critical=False)
        )
        if spec.crl and (url := _own_crl_url(spec.crl, self.certificate.serial_number)):
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
        return builder.sign(self.__key, hashes.SHA256())

    def revocation_list(self) -> bytes:
        """An empty revocation list in DER, good for 7 days. Each call signs one."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - ca_store.BACKDATED).next_update(now + timedelta(days=7))
        builder = builder.add_extension(self._authority, critical=False)
        builder = builder.add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        return builder.sign(self.__key, hashes.SHA256()).public_bytes(Encoding.DER)

    def __repr__(self) -> str:
        return f"<CertificateAuthority {self.subject!r} until {self.not_after:%Y-%m-%d}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a certificate authority cannot be pickled or copied: its key stays where it is")


def _subject(first: str, organization: str | None) -> x509.Name:
    attributes = []
    if organization and len(organization) <= 64 and organization.isprintable():
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    if len(first) < 64:  # X.520 bounds both attributes to 64 characters
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, first))
    return x509.Name(attributes)


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """By the issuer's own identifier: a foreign CA may have made it in any way (RFC 5280 §4.2.1.1)."""
    identifier = extension(issuer.extensions, x509.SubjectKeyIdentifier)
    if identifier is None:
        identifier = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key())
    return x509.AuthorityKeyIdentifier(identifier.digest, None, None)


def _path_to_root(bundle: pem.Bundle) -> tuple[x509.Certificate, ...]:
    path: list[x509.Certificate] = []
    current: x509.Certificate | None = bundle.certificate
    while current is not None and current.issuer != current.subject and current not in path:
        path.append(current)
        current = next((other for other in bundle.others if other.subject == path[-1].issuer), None)
    return tuple(path)


def _crl_path(serial: int) -> str:
    return f"/lockgate-{serial:x}.crl"


def _own_crl_url(upstream: str, serial: int) -> str | None:
    """Our list's URL on the host of the upstream's; `None` for what is not plain http(s) on a proper host."""
    try:
        parts = urlsplit(upstream)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    host = names.canonical(host) or ""
    if parts.scheme not in ("http", "https") or not host or host.startswith("*"):
        return None
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return f"{parts.scheme}://{authority}{_crl_path(serial)}"
