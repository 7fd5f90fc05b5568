"""Environment variables and files that make programs on this machine trust our CA beside what they trust already."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import warnings
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1, Hash
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

INSTEAD = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
)
"""They name a file of roots that takes the place of the program's own: it gets the system's roots and ours."""
BESIDE = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""They name a file of roots beside the program's own."""
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)
STORE_FOLDER = "/etc/ssl/certs"
_JAVA_PASSWORD = "changeit"
_BEGIN = b"-----BEGIN CERTIFICATE-----"


class Trust:
    """Writes its files into `folder`, which every user may read. ca: our certificate."""

    def __init__(self, folder: Path, ca: x509.Certificate) -> None:
        self._folder = folder
        self._ca = ca
        self._pem = ca.public_bytes(Encoding.PEM)
        self._made: dict[str, Path] = {}
        self.roots = system_bundle()

    def variables(self, env: Mapping[str, str]) -> dict[str, str]:
        """What is to be set. Files that `env` names already keep what is in them. :raises OSError: nothing fits."""
        found = {}
        for name in INSTEAD:
            found[name] = str(self.with_ours(env.get(name) or self.roots))
        for name in BESIDE:
            found[name] = str(self.with_ours(env.get(name) or ""))
        if shutil.which("java", path=env.get("PATH")):
            found["JAVA_TOOL_OPTIONS"] = f"{env.get('JAVA_TOOL_OPTIONS', '')} {self._java()}".strip()
        return found

    def with_ours(self, path: str) -> Path:
        """A file with the certificates of another ("" or an unreadable one: none) and ours."""
        if path not in self._made:
            data = b""
            if path:
                try:
                    data = Path(path).read_bytes().rstrip(b"\n") + b"\n"
                except OSError:
                    data = b""
            target = self._folder / (f"roots{len(self._made)}.pem" if path else "lockgate-ca.pem")
            target.write_bytes(data + self._pem)
            target.chmod(0o644)
            self._made[path] = target
        return self._made[path]

    def hashed(self) -> str:
        """The name by which OpenSSL looks for our certificate in a folder, without its suffix."""
        return f"{subject_hash(self._ca):08x}"

    def _java(self) -> str:
        path = self._folder / "roots.p12"
        roots = _certificates(self.with_ours(self.roots).read_bytes())
        entries = [PKCS12Certificate(root, b"root%d" % number) for number, root in enumerate(roots)]
        path.write_bytes(serialize_java_truststore(entries, BestAvailableEncryption(_JAVA_PASSWORD.encode())))
        path.chmod(0o644)
        return (
            f"-Djavax.net.ssl.trustStore={path} -Djavax.net.ssl.trustStoreType=PKCS12 "
            f"-Djavax.net.ssl.trustStorePassword={_JAVA_PASSWORD}"
        )


def _certificates(data: bytes) -> list[x509.Certificate]:
    """Those that can be read at all: a root of the system's with a fault is its own affair."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in data.split(_BEGIN)[1:]:
            with contextlib.suppress(ValueError):
                found.append(x509.load_pem_x509_certificate(_BEGIN + part))
    return found


def system_bundle() -> str:
    """The file with this system's roots; certifi's where there is none."""
    default = ssl.get_default_verify_paths().cafile
    for path in (*BUNDLES, default):
        if path and Path(path).is_file():
            return path
    import certifi

    return certifi.where()


def subject_hash(certificate: x509.Certificate) -> int:
    """As `openssl x509 -subject_hash` has it: of the name in canonical form (X509_NAME_hash)."""
    digest = Hash(SHA1())
    digest.update(_canonical(certificate.subject))
    return int.from_bytes(digest.finalize()[:4], "little")


def _canonical(name: x509.Name) -> bytes:
    """RDNs without the outer SEQUENCE; values as UTF8String, lower case (ASCII), white space collapsed."""
    found = b""
    for rdn in name.rdns:
        members = []
        for attribute in rdn:
            text = " ".join(str(attribute.value).split(" "))
            text = " ".join(text.split())
            value = bytes(c + 32 if 65 <= c <= 90 else c for c in text.encode())
            # The attribute's type as it is encoded in a Name of one attribute: SEQUENCE, SET, SEQUENCE, OID.
            encoded = x509.Name([attribute]).public_bytes()
            start = encoded.index(b"\x06")
            oid = encoded[start : start + 2 + encoded[start + 1]]
            members.append(_der(0x30, oid + _der(0x0C, value)))
        found += _der(0x31, b"".join(sorted(members)))
    return found


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
