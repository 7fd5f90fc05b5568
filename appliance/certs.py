"""Certificates as add-ons read them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from .serializable import Serializable

if TYPE_CHECKING:
    from OpenSSL import crypto


class Cert(Serializable):
    """One certificate. What this class does not know is asked of the `cryptography` object below it.

    Two are equal when their bytes are; so is one and the `cryptography` object of the same bytes.
    """

    __slots__ = ("_cert",)

    def __init__(self, cert: x509.Certificate) -> None:
        if not isinstance(cert, x509.Certificate):
            raise TypeError(f"expected a cryptography certificate, not {type(cert).__name__}")
        self._cert = cert

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Raises ValueError."""
        return cls(x509.load_pem_x509_certificate(data))

    @classmethod
    def from_pyopenssl(cls, cert: crypto.X509) -> Self:
        return cls(cert.to_cryptography())

    def to_pem(self) -> bytes:
        return self._cert.public_bytes(Encoding.PEM)

    def to_cryptography(self) -> x509.Certificate:
        return self._cert

    def to_pyopenssl(self) -> crypto.X509:
        from OpenSSL import crypto

        return crypto.X509.from_cryptography(self._cert)

    def get_state(self) -> bytes:
        return self.to_pem()

    def set_state(self, state: bytes) -> None:
        self._cert = x509.load_pem_x509_certificate(state)

    @classmethod
    def from_state(cls, state: bytes) -> Self:
        return cls.from_pem(state)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Cert):
            return self._cert == other._cert
        return self._cert == other if isinstance(other, x509.Certificate) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._cert)

    def __repr__(self) -> str:
        return f"<Cert(cn={self.cn!r}, altnames={[str(name.value) for name in self.altnames]!r})>"

    def __getattr__(self, name: str) -> Any:
        if name == "_cert" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._cert, name)

    def public_key(self) -> Any:
        return self._cert.public_key()

    def fingerprint(self) -> bytes:
        """SHA-256 of the DER form."""
        return self._cert.fingerprint(hashes.SHA256())

    @property
    def issuer(self) -> list[tuple[str, str]]:
        """Pairs such as ("CN", "a.example"), in their order."""
        return _pairs(self._cert.issuer)

    @property
    def subject(self) -> list[tuple[str, str]]:
        return _pairs(self._cert.subject)

    @property
    def cn(self) -> str | None:
        """The subject's first common name."""
        return next((text for name, text in self.subject if name == "CN"), None)

    @property
    def organization(self) -> str | None:
        return next((text for name, text in self.subject if name == "O"), None)

    @property
    def altnames(self) -> x509.GeneralNames:
        """The subject's alternative names; none when the extension is missing or cannot be read."""
        found = self._extension(x509.SubjectAlternativeName)
        return x509.GeneralNames([] if found is None else list(found))

    @property
    def notbefore(self) -> datetime.datetime:
        """With its time zone, UTC."""
        return self._cert.not_valid_before_utc

    @property
    def notafter(self) -> datetime.datetime:
        return self._cert.not_valid_after_utc

    def has_expired(self) -> bool:
        return datetime.datetime.now(datetime.UTC) > self.notafter

    @property
    def serial(self) -> int:
        return self._cert.serial_number

    @property
    def is_ca(self) -> bool:
        found = self._extension(x509.BasicConstraints)
        return found is not None and bool(found.ca)

    @property
    def keyinfo(self) -> tuple[str, int]:
        """Such as ("RSA", 2048) or ("EC (secp256r1)", 256); -1 bits for a key of an unknown kind."""
        try:
            key = self._cert.public_key()
        except ValueError:
            return "unknown", -1
        match key:
            case rsa.RSAPublicKey():
                return "RSA", key.key_size
            case dsa.DSAPublicKey():
                return "DSA", key.key_size
            case ec.EllipticCurvePublicKey():
                return f"EC ({key.curve.name})", key.key_size
            case ed25519.Ed25519PublicKey():
                return "Ed25519", 256
            case ed448.Ed448PublicKey():
                return "Ed448", 456
        return type(key).__name__.removesuffix("PublicKey").lstrip("_"), -1

    @property
    def crl_distribution_points(self) -> list[str]:
        """The URLs of the revocation lists."""
        found: Sequence[x509.DistributionPoint] = self._extension(x509.CRLDistributionPoints) or ()
        names = [name for point in found for name in point.full_name or ()]
        return [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]

    def _extension(self, kind: type[x509.ExtensionType]) -> Any:
        """None: missing, or a certificate that breaks the rules; a certificate from the network raises nothing here."""
        try:
            return self._cert.extensions.get_extension_for_class(kind).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
            return None


def _pairs(name: x509.Name) -> list[tuple[str, str]]:
    shown = []
    for attribute in name:
        value = attribute.value
        text = value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
        shown.append((attribute.rfc4514_attribute_name, text))
    return shown


def __getattr__(name: str) -> Any:
    """What makes certificates is loaded when a script asks for it."""
    if name in ("CertStore", "CertStoreEntry", "create_ca", "dummy_cert", "dummy_crl"):
        from appliance import certstore

        return getattr(certstore, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
