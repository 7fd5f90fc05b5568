"""The CA's two files in the configuration directory: made on the first start, laid there by a person, or imported.

`lockgate-ca-cert.pem` (0644) holds the CA's certificate and after it whatever chain came with it, `lockgate-ca-key.pem`
(0600) the key alone: what a person hands on to a device never has the secret in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.exceptions import CertificateError
from appliance.net import pem

CERTIFICATE_FILE = "lockgate-ca-cert.pem"
KEY_FILE = "lockgate-ca-key.pem"
BACKDATED = timedelta(days=2)  # for devices whose clock is behind
_LIFETIME = timedelta(days=3650)
RSA_BITS = 3072

KeyKind = Literal["rsa", "ec"]
CaKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

log = logging.getLogger(__name__)


def load_or_create(confdir: Path, kind: KeyKind = "rsa", bits: int = RSA_BITS) -> pem.Bundle:
    """The CA of this directory, made first if there is none (`kind`: RSA of `bits`, or P-256).

    Safe against a second process that starts at the same time and against a crash at any point.
    Raises CertificateError if the files are unsafe, damaged, expired or not a CA.
    """
    _prepare(confdir)
    if not _complete(confdir):
        with _locked(confdir):
            if not _complete(confdir):
                _create(confdir, kind, bits)
    key_path, certificate_path = confdir / KEY_FILE, confdir / CERTIFICATE_FILE
    key_data, certificate_data = pem.read(key_path, guarded=True), pem.read(certificate_path, guarded=True)
    if pem.has_key(certificate_data):
        raise CertificateError(
            f"{certificate_path} goes to devices and must not hold a private key: move the key to {key_path}"
        )
    key, found = pem.private_key(key_data, key_path), pem.certificates(certificate_data, certificate_path)
    bundle = pem.pair(key, found, f"{key_path} and {CERTIFICATE_FILE}")
    check_ca(bundle)
    return bundle


def import_ca(confdir: Path, *paths: Path, passphrase: str | None = None) -> x509.Certificate:
    """Makes an existing CA the one of this directory; its certificate is returned.

    `paths`: one PEM file with key and certificate, or several that hold them (and chain certificates, which are kept).
    The files are copied, the key without its passphrase. Raises CertificateError if they are unsafe or no usable CA, or
    if the directory already has a CA.
    """
    data = b"\n".join(pem.read(path, guarded=True) for path in paths)
    source = " and ".join(str(path) for path in paths)
    bundle = pem.pair(pem.private_key(data, source, passphrase), pem.certificates(data, source), source)
    key = check_ca(bundle)
    _prepare(confdir)
    with _locked(confdir):
        for name in (KEY_FILE, CERTIFICATE_FILE):
            if os.path.lexists(confdir / name):
                raise CertificateError(
                    f"There is a CA already: move {confdir / name} away first. Devices will have to trust the new one."
                )
        _write_pair(confdir, key, (bundle.certificate, *bundle.others))
    return bundle.certificate


def check_ca(bundle: pem.Bundle) -> CaKey:
    """The bundle's key, if what it signs will be accepted by clients (RFC 5280 §4.2.1.3, §4.2.1.9, §4.2.1.12).

    Raises CertificateError otherwise.
    """
    certificate, key = bundle.certificate, bundle.key
    who = f"The certificate {certificate.subject.rfc4514_string()!r}"
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{who} has a key that browsers do not accept for a CA: use RSA or EC.")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < 2048:
        raise CertificateError(f"{who} has an RSA key of {key.key_size} bits; clients ask for 2048 at least.")
    try:
        extensions = {extension.oid: extension.value for extension in certificate.extensions}
    except ValueError as fault:
        raise CertificateError(f"{who} has extensions that cannot be read: {fault}") from None
    basic = extensions.get(x509.BasicConstraints.oid)
    if not (isinstance(basic, x509.BasicConstraints) and basic.ca):
        raise CertificateError(f"{who} is not a CA (no basicConstraints CA:TRUE).")
    usage = extensions.get(x509.KeyUsage.oid)
    if isinstance(usage, x509.KeyUsage) and not usage.key_cert_sign:
        raise CertificateError(f"{who} may not sign certificates (its keyUsage lacks keyCertSign).")
    extended = extensions.get(x509.ExtendedKeyUsage.oid)
    if isinstance(extended, x509.ExtendedKeyUsage) and not (
        {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(extended)
    ):
        raise CertificateError(f"{who} may not sign for TLS servers (its extendedKeyUsage lacks serverAuth).")
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise CertificateError(f"{who} has expired on {certificate.not_valid_after_utc:%Y-%m-%d}.")
    return key


def _create(confdir: Path, kind: KeyKind, bits: int) -> None:
    """Makes what is missing; called with the lock held."""
    key_path, certificate_path = confdir / KEY_FILE, confdir / CERTIFICATE_FILE
    if os.path.lexists(certificate_path):
        raise CertificateError(
            f"{certificate_path} has no key: put {KEY_FILE} back, or move the certificate away to get a new CA."
        )
    if not os.path.lexists(key_path):
        new = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, bits)
        _write_pair(confdir, new, (self_signed(new),))
        return
    # A crash between the two renames leaves a key alone (or somebody deleted the certificate): the key is good.
    key = pem.private_key(pem.read(key_path, guarded=True), key_path)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{key_path} has no certificate and is no RSA or EC key: move it away to get a new CA.")
    log.warning("%s had no certificate; made a new one, which devices have to be told to trust.", key_path)
    _write(certificate_path, self_signed(key).public_bytes(Encoding.PEM), 0o644)
    _sync(confdir)


def self_signed(key: CaKey, name: str = "lockgate") -> x509.Certificate:
    """The certificate of a new CA."""
    now = datetime.now(UTC).replace(microsecond=0)
    # The number tells two installations apart in one trust store; the host's name would be shown to every client.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "lockgate"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {secrets.token_hex(4)}"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now - BACKDATED + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    """A keyUsage with only the named bits set (RFC 5280 §4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _prepare(confdir: Path) -> None:
    try:
        confdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = confdir.stat().st_mode
    except OSError as fault:
        raise CertificateError(f"Cannot make the configuration directory {confdir}: {fault.strerror}.") from None
    # Whoever may rename in the directory may lay another CA there; the sticky bit of /tmp forbids that.
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise CertificateError(f"{confdir} holds the CA but others can write to it: chmod go-w {confdir}")


def _complete(confdir: Path) -> bool:
    return os.path.lexists(confdir / KEY_FILE) and os.path.lexists(confdir / CERTIFICATE_FILE)


@contextmanager
def _locked(confdir: Path) -> Iterator[None]:
    """Keeps other gateways from writing in the directory. The kernel frees the lock of a process that dies."""
    try:
        fd = os.open(confdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as fault:
        raise CertificateError(f"Cannot open {confdir}: {fault.strerror}.") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    except OSError as fault:
        raise CertificateError(f"Cannot write to {confdir}: {fault.strerror}.") from None
    finally:
        os.close(fd)


def _write_pair(confdir: Path, key: CaKey, certificates: tuple[x509.Certificate, ...]) -> None:
    # The key first: a certificate without a key is what nobody can mend.
    _write(confdir / KEY_FILE, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write(confdir / CERTIFICATE_FILE, b"".join(each.public_bytes(Encoding.PEM) for each in certificates), 0o644)
    _sync(confdir)


def _write(path: Path, data: bytes, mode: int) -> None:
    """The whole file or none: written beside, synced, renamed. The caller has the lock and knows `path` is free."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)  # left by a crash
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
