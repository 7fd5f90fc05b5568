"""What a leaf certificate should say, what it is for TLS, and the key it is made for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

from appliance.net import names, pem

MAX_NAMES = 100
RSA_BITS = 2048
LeafKeyKind = Literal["ec", "rsa"]
LeafFault = Literal["expired", "not_yet_valid", "name_mismatch", "untrusted"]
_E = TypeVar("_E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class LeafSpec:
    """What a leaf should say. Equal specs get the same leaf.

    names: DNS names (U-labels or A-labels, wildcards) and IP addresses as text. The first usable one is the subject;
        no more than `MAX_NAMES` are used.
    key: "rsa" only for clients that cannot do ECDSA.
    organization: O of the subject, as far as X.520 can hold it.
    crl: the revocation list URL of the upstream certificate; the leaf gets the URL of our list on the same host.
    fault: what is to be wrong with the leaf, as it is with the upstream certificate; "untrusted" = signed by a CA that
        nobody knows.
    """

    names: tuple[str, ...]
    key: LeafKeyKind = "ec"
    organization: str | None = None
    crl: str | None = None
    fault: LeafFault | None = None

    @classmethod
    def mirroring(
        cls,
        upstream: x509.Certificate | None,
        *wanted: str,
        key: LeafKeyKind = "ec",
        fault: LeafFault | None = None,
    ) -> LeafSpec:
        """The spec of a leaf like `upstream`'s that is also good for the `wanted` names (SNI, address).

        fault: with "name_mismatch" it is good only for the names in `upstream`.

        Never raises: what cannot be read of `upstream` is left out. However long its list, `wanted` has room.
        """
        if upstream is None:
            return cls(wanted, key)
        own: list[str] = []
        organization = crl = None
        try:
            own += _texts(upstream.subject, NameOID.COMMON_NAME)
            organization = next(iter(_texts(upstream.subject, NameOID.ORGANIZATION_NAME)), None)
            extensions = upstream.extensions
            for name in extension(extensions, x509.SubjectAlternativeName) or ():
                if isinstance(name, x509.DNSName | x509.IPAddress):
                    own.append(str(name.value))
            own = [name for name in own if len(name) < 256]  # a spec is kept in memory; more is no name anyway
            for point in extension(extensions, x509.CRLDistributionPoints) or ():
                crl = crl or next((uri.value for uri in point.full_name or () if _is_http(uri)), None)
        except ValueError:  # cryptography parses on access
            pass
        if fault == "name_mismatch":
            own, wanted = own if names.general_names(own, 1) else ["no-name.invalid"], ()
        kept = own[: max(1, MAX_NAMES - len(wanted))]
        return cls(tuple(dict.fromkeys([*kept, *wanted])), key, organization, crl, fault)


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A certificate with its key, ready for `Connection.use_certificate` and `use_privatekey`.

    chain: what a client needs besides its trust store, in order; empty under a self-signed CA.
    not_after: aware, UTC.
    """

    certificate: crypto.X509
    key: crypto.PKey
    chain: tuple[crypto.X509, ...]
    not_after: datetime


class LeafKey:
    """A key pair for leaves, in the forms that minting and TLS want, each made once."""

    __slots__ = ("identifier", "kind", "pkey", "public")

    def __init__(self, kind: LeafKeyKind, bits: int = RSA_BITS) -> None:
        private = rsa.generate_private_key(65537, bits) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
        self.kind = kind
        self.public = private.public_key()
        self.pkey = pem.pkey(private)
        self.identifier = x509.SubjectKeyIdentifier.from_public_key(self.public)


def _is_http(uri: x509.GeneralName) -> bool:
    """Whether this is a web address, and short enough to keep."""
    if not isinstance(uri, x509.UniformResourceIdentifier) or len(uri.value) > 1024:
        return False
    return uri.value.startswith(("http://", "https://"))


def _texts(name: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [attribute.value for attribute in name.get_attributes_for_oid(oid) if isinstance(attribute.value, str)]


def extension(extensions: x509.Extensions, kind: type[_E]) -> _E | None:
    """The extension of this kind, `None` if there is none. Raises ValueError if the extensions cannot be read."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
