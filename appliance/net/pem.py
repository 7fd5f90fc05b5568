"""Reading certificates and private keys from PEM files, with the care that a file holding a secret wants."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import crypto

from appliance.exceptions import CertificateError

_MAX_FILE = 1 << 20
_KEY = re.compile(rb"-----BEGIN ((?:[A-Z]+ )*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """What PEM files held: the key, the certificate that belongs to it, and the other certificates in file order."""

    key: PrivateKeyTypes
    certificate: x509.Certificate
    others: tuple[x509.Certificate, ...]

    def __repr__(self) -> str:
        return f"<Bundle {self.certificate.subject.rfc4514_string()!r}>"


def has_key(data: bytes) -> bool:
    """Whether there is a private key among the PEM blocks."""
    return _KEY.search(data) is not None


def read(path: Path, *, guarded: bool) -> bytes:
    """The content of a PEM file of at most 1 MiB.

    `guarded` is for the CA's files: no symbolic link, and one with a private key must be ours and readable by nobody
    else. The checks are made on the open file, so that it cannot be exchanged after them. Raises CertificateError.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if guarded else 0)
    try:
        fd = os.open(path, flags)
    except OSError as fault:
        if fault.errno == errno.ELOOP:
            raise CertificateError(f"{path} is a symbolic link; put the file itself there.") from None
        raise CertificateError(f"Cannot read {path}: {fault.strerror}.") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise CertificateError(f"{path} is not a regular file.")
    try:
        with os.fdopen(fd, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as fault:
        raise CertificateError(f"Cannot read {path}: {fault.strerror}.") from None
    if len(data) > _MAX_FILE:
        raise CertificateError(f"{path} is too large for a certificate file.")
    if guarded and has_key(data):
        _check_secret(path, status)
    return data


def _check_secret(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise CertificateError(
            f"{path} holds a private key but belongs to user id {status.st_uid}, and lockgate runs as {os.geteuid()}: "
            f"chown {os.geteuid()} {path}"
        )
    if status.st_mode & 0o077:
        raise CertificateError(f"{path} holds a private key that others can read or change: chmod 600 {path}")


def certificates(data: bytes, source: object) -> list[x509.Certificate]:
    """All certificates in `data`, in order. `source` names the file in the CertificateError for a damaged one."""
    try:
        found = [x509.load_pem_x509_certificate(block.group()) for block in _CERTIFICATE.finditer(data)]
        for certificate in found:
            _ = certificate.subject, certificate.issuer  # parsed on access only: fail here, not later
        return found
    except ValueError as fault:
        raise CertificateError(f"{source} holds a certificate that cannot be read: {fault}") from None


def private_key(data: bytes, source: object, passphrase: str | None = None) -> PrivateKeyTypes | None:
    """The first private key in `data`, `None` if there is none.

    Raises CertificateError for a damaged one or a wrong passphrase.
    """
    block = _KEY.search(data)
    if block is None:
        return None
    encrypted = b"ENCRYPTED" in block.group()
    if not encrypted:
        passphrase = None
    elif passphrase is None:
        raise CertificateError(f"The private key in {source} is encrypted and no passphrase was given.")
    try:
        return load_pem_private_key(block.group(), None if passphrase is None else passphrase.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # OpenSSL's own words are a list of its functions; they help nobody.
        why = "cannot be decrypted; is the passphrase right?" if encrypted else "cannot be read."
        raise CertificateError(f"The private key in {source} {why}") from None


def pair(key: PrivateKeyTypes | None, found: list[x509.Certificate], source: object) -> Bundle:
    """Puts a key and its certificate together.

    Raises CertificateError if one is missing or none of the certificates belongs to the key.
    """
    if key is None:
        raise CertificateError(f"There is no private key in {source}.")
    if not found:
        raise CertificateError(f"There is no certificate in {source}.")
    ours = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for certificate in found:
        if _public_bytes(certificate) == ours:
            return Bundle(key, certificate, tuple(other for other in found if other is not certificate))
    raise CertificateError(f"The private key in {source} does not belong to any certificate there.")


def pkey(key: PrivateKeyTypes) -> crypto.PKey:
    """The key for pyOpenSSL. Raises CertificateError for a kind that TLS certificates do not have."""
    usable: Any = key  # pyOpenSSL's own types and the separate stubs do not agree on what it takes
    try:
        return crypto.PKey.from_cryptography_key(usable)
    except TypeError:
        raise CertificateError(f"A {type(key).__name__} cannot be the key of a TLS certificate.") from None


def _public_bytes(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return None
