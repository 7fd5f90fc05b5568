"""Files and variables that make programs trust our CA."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from appliance.net import trust
from appliance.net.trust import Trust, subject_hash


def certificate(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Certificate:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(1))
    return builder.sign(key, SHA256())


CA = certificate((NameOID.COMMON_NAME, "lockgate test"))


@pytest.mark.parametrize(
    "attributes",
    [
        [(NameOID.COMMON_NAME, "lockgate")],
        [(NameOID.COMMON_NAME, "  Two   words\t and MORE "), (NameOID.ORGANIZATION_NAME, "Lab")],
        [(NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Prüfstand Ä"), (NameOID.COMMON_NAME, "x" * 60)],
    ],
)
def test_the_name_openssl_looks_for(attributes: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    found = certificate(*attributes)
    pem = found.public_bytes(Encoding.PEM)
    said = subprocess.run(["openssl", "x509", "-noout", "-hash"], input=pem, capture_output=True, check=True).stdout
    assert f"{subject_hash(found):08x}" == said.decode().strip()


def test_what_the_user_has_named_stays_trusted(tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    own.write_bytes(certificate((NameOID.COMMON_NAME, "own root")).public_bytes(Encoding.PEM))
    made = tmp_path / "made"
    made.mkdir()
    found = Trust(made, CA).variables({"REQUESTS_CA_BUNDLE": str(own), "NODE_EXTRA_CA_CERTS": "/no/such", "PATH": ""})
    names = {path: _subjects(Path(path)) for path in found.values()}
    assert names[found["REQUESTS_CA_BUNDLE"]] == {"CN=own root", "CN=lockgate test"}
    assert names[found["NODE_EXTRA_CA_CERTS"]] == names[found["DENO_CERT"]] == {"CN=lockgate test"}
    assert len(names[found["SSL_CERT_FILE"]]) > 10 and "CN=lockgate test" in names[found["GIT_SSL_CAINFO"]]
    assert "JAVA_TOOL_OPTIONS" not in found
    ssl.create_default_context(cafile=found["SSL_CERT_FILE"])
    assert all(Path(path).stat().st_mode & 0o777 == 0o644 for path in found.values())


def test_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: "/usr/bin/java")
    found = Trust(tmp_path, CA).variables({"JAVA_TOOL_OPTIONS": "-Xmx1g"})["JAVA_TOOL_OPTIONS"]
    store = tmp_path / "roots.p12"
    assert found.startswith("-Xmx1g -D") and f"trustStore={store} " in found
    command = ["openssl", "pkcs12", "-in", store, "-passin", "pass:changeit", "-nokeys"]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "CN = lockgate test" in said and "2.16.840.1.113894.746875.1.1" in said


def test_a_system_without_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trust, "BUNDLES", ("/no/such",))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: ssl.DefaultVerifyPaths(None, None, "", "", "", ""))
    assert trust.system_bundle().endswith("cacert.pem")


def _subjects(path: Path) -> set[str]:
    return {one.subject.rfc4514_string() for one in trust._certificates(path.read_bytes())}
