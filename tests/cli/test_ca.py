"""appliance/cli/ca.py, against OpenSSL where a user would use it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance.cli.main import main
from appliance.net.ca_store import CERTIFICATE_FILE, KEY_FILE, load_or_create


def ca(folder: Path, *argv: str) -> int:
    return main(["ca", *argv, "--set", f"confdir={folder}"])


def openssl(*argv: str | Path, stdin: bytes = b"") -> str:
    done = subprocess.run(["openssl", *argv], input=stdin, capture_output=True, check=True)
    return done.stdout.decode()


@pytest.fixture
def confdir(tmp_path: Path) -> Path:
    load_or_create(tmp_path / "conf", "ec")
    return tmp_path / "conf"


def test_show(confdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ca(confdir, "show") == 0
    out = capsys.readouterr().out
    path = confdir / CERTIFICATE_FILE
    fingerprint = openssl("x509", "-in", path, "-noout", "-fingerprint", "-sha256").strip().partition("=")[2]
    assert f"Certificate  {path}\n" in out
    assert f"SHA-256      {fingerprint}\n" in out
    assert "days left" in out
    for where in (
        "curl --cacert",
        "Chromium",
        "Firefox",
        "iOS",
        "Android",
        "update-ca-certificates",
        "http://lockgate.internal",
    ):
        assert where in out


def test_show_and_export_do_not_need_the_key(confdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (confdir / KEY_FILE).unlink()
    assert ca(confdir, "show") == 0
    assert ca(confdir, "export") == 0
    assert not (confdir / KEY_FILE).exists()


@pytest.mark.parametrize("form", ["pem", "der"])
def test_export(confdir: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    assert ca(confdir, "export", "--format", form, "-o", str(target)) == 0
    shown = openssl("x509", "-inform", form, "-in", target, "-noout", "-subject", "-serial")
    assert shown == openssl("x509", "-in", confdir / CERTIFICATE_FILE, "-noout", "-subject", "-serial")
    assert b"PRIVATE KEY" not in target.read_bytes()


def test_export_never_holds_a_key_that_someone_put_into_the_certificate_file(
    confdir: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = confdir / CERTIFICATE_FILE
    path.write_bytes((confdir / KEY_FILE).read_bytes() + path.read_bytes())
    assert ca(confdir, "export") == 0
    out = capfdbinary.readouterr().out
    assert out.startswith(b"-----BEGIN CERTIFICATE") and b"PRIVATE" not in out


@pytest.mark.parametrize("argv", [["show"], ["export"]])
def test_no_ca_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert ca(tmp_path, *argv) == 1
    assert "`lockgate run` makes one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_damaged(confdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ca(confdir, "export", "-o", str(tmp_path / "no" / "where")) == 1
    assert "cannot be written" in capsys.readouterr().err
    (confdir / CERTIFICATE_FILE).write_text("nonsense")
    assert ca(confdir, "show") == 1
    assert "holds no certificate" in capsys.readouterr().err


@pytest.mark.parametrize("locked", [False, True])
def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str], locked: bool) -> None:
    key, certificate, passphrase = tmp_path / "their.key", tmp_path / "their.pem", tmp_path / "passphrase"
    passphrase.write_text("secret\n")
    extension = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    protection = ["-passout", f"file:{passphrase}"] if locked else ["-nodes"]
    openssl(
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        *protection,
        "-keyout",
        key,
        "-out",
        certificate,
        "-days",
        "30",
        "-subj",
        "/CN=Their CA",
        *extension,
    )
    key.chmod(0o600)
    confdir = tmp_path / "conf"
    unlock = ["--passphrase-file", str(passphrase)] if locked else []
    assert ca(confdir, "import", str(certificate), str(key), *unlock) == 0
    assert "Their CA" in capsys.readouterr().out
    assert ca(confdir, "show") == 0
    assert "Subject      CN=Their CA\n" in capsys.readouterr().out
    assert ca(confdir, "import", str(certificate), str(key), *unlock) == 1
    assert "already" in capsys.readouterr().err


def test_import_of_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ca(tmp_path / "conf", "import", str(tmp_path / "no.pem")) == 1
    assert "no.pem" in capsys.readouterr().err
    assert ca(tmp_path / "conf", "import", "x", "--passphrase-file", str(tmp_path / "no")) == 1
