"""`lockgate ca`: show, export and import the CA. Showing and exporting read the certificate alone, never the key."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import config
from appliance.exceptions import CertificateError
from appliance.options import COMMAND_LINE, Options

if TYPE_CHECKING:
    from cryptography import x509

_HOW_TO = """\
Trusting it:
  Any device   send its traffic through the gateway and open http://{portal} there
  curl         curl --cacert {path} ...
  requests     REQUESTS_CA_BUNDLE={path} python3 ...
  Linux        sudo cp {path} /usr/local/share/ca-certificates/lockgate.crt && sudo update-ca-certificates
  Chromium     certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n lockgate -i {path}   (from libnss3-tools)
  Firefox      Settings > Privacy & Security > Certificates > View Certificates > Authorities > Import
  iOS          install the profile, then Settings > General > About > Certificate Trust Settings: switch it on
  Android      Settings > Security > Encryption & credentials > Install a certificate > CA certificate
               (apps trust it only if they say so, or once it is among the system's certificates)
Compare the SHA-256 fingerprint before you trust it anywhere."""


def main(args: argparse.Namespace) -> int:
    """Run `lockgate ca show|export|import`. Raises OptionsError, CertificateError."""
    options = Options()
    options.set(*args.specs, source=COMMAND_LINE)
    config.start(options)
    if args.ca_command == "import":
        return take(options, [Path(name) for name in args.files], args.passphrase_file)
    if args.ca_command == "export":
        return export(options, args.format, args.output)
    return show(options)


def show(options: Options) -> int:
    """Print where the CA certificate is, what it says, and how it is installed."""
    path = certificate_path(options)
    certificate = load(path)
    until, now = certificate.not_valid_after_utc, datetime.now(UTC)
    left = f"{(until - now).days} days left" if until > now else "EXPIRED"
    print(f"Certificate  {path}")
    print(f"Subject      {certificate.subject.rfc4514_string()}")
    print(f"SHA-256      {fingerprint(certificate)}")
    print(f"Valid        {certificate.not_valid_before_utc:%Y-%m-%d} to {until:%Y-%m-%d} ({left})")
    print()
    print(_HOW_TO.format(path=path, portal=options.onboarding_host))
    return 0


def export(options: Options, format: str, output: str | None) -> int:
    """Write the CA certificate, and nothing else of the file, as `pem` or `der` to a file or standard output."""
    from cryptography.hazmat.primitives.serialization import Encoding

    data = load(certificate_path(options)).public_bytes(Encoding.DER if format == "der" else Encoding.PEM)
    if output is None or output == "-":
        if format == "der" and sys.stdout.isatty():
            raise CertificateError("der is binary and standard output is a terminal: name a file with -o FILE")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    try:
        Path(output).write_bytes(data)
    except OSError as error:
        raise CertificateError(f"{output}: cannot be written: {error.strerror}") from None
    print(f"{output}: CA certificate written ({format})", file=sys.stderr)
    return 0


def take(options: Options, files: list[Path], passphrase_file: str | None) -> int:
    """Make an existing CA that of the configuration folder. `passphrase_file`: its first line unlocks the key."""
    from appliance.net.ca_store import import_ca

    passphrase = None
    if passphrase_file is not None:
        try:
            passphrase = Path(passphrase_file).read_text(encoding="utf-8").split("\n", 1)[0]
        except (OSError, UnicodeDecodeError) as error:
            raise CertificateError(f"{passphrase_file}: cannot be read: {error}") from None
    certificate = import_ca(certificate_path(options).parent, *files, passphrase=passphrase)
    print(f"Imported {certificate.subject.rfc4514_string()}")
    print(f"SHA-256  {fingerprint(certificate)}")
    return 0


def certificate_path(options: Options) -> Path:
    """Where the CA certificate is, or will be."""
    from appliance.net.ca_store import CERTIFICATE_FILE

    confdir = options.path("confdir")
    assert confdir is not None
    return Path(os.path.abspath(confdir)) / CERTIFICATE_FILE


def load(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file. Raises CertificateError."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except FileNotFoundError:
        raise CertificateError(f"{path}: there is no CA yet; `lockgate run` makes one at its first start") from None
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, IndexError):
        raise CertificateError(
            f"{path}: holds no certificate; restore it, or move it away to have a new CA made"
        ) from None


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate as colon-separated hex."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()
