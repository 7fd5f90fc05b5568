from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.exceptions import CertificateError
from appliance.net import ca_store, pem
from appliance.net.ca_store import CERTIFICATE_FILE, KEY_FILE, import_ca, load_or_create

NOW = datetime.now(UTC)
CA_EXTENSIONS = (x509.BasicConstraints(ca=True, path_length=None), ca_store.key_usage(key_cert_sign=True))


def certificate(key, *extensions, name="Foreign", issuer=None, issuer_key=None, days=30):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key()).serial_number(7)
    builder = builder.issuer_name(issuer.subject if issuer else subject)
    builder = builder.not_valid_before(NOW - timedelta(days=60)).not_valid_after(NOW + timedelta(days=days))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    signer = issuer_key or key
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def key_pem(key, passphrase=None):
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def cert_pem(*certificates):
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def secret(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def confdir(tmp_path):
    return tmp_path / "conf"


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


class TestCreate:
    def test_rsa_of_another_size(self, confdir):
        assert load_or_create(confdir, bits=2304).key.key_size == 2304
        assert load_or_create(confdir).key.key_size == 2304  # made once

    def test_rsa_is_the_default_and_its_shape_is_right(self, confdir):
        bundle = load_or_create(confdir)
        assert isinstance(bundle.key, rsa.RSAPrivateKey)
        assert bundle.key.key_size == 3072
        ca = bundle.certificate
        assert ca.signature_hash_algorithm.name == "sha256"
        assert timedelta(days=1, hours=23) < datetime.now(UTC) - ca.not_valid_before_utc < timedelta(days=2, minutes=1)
        assert ca.not_valid_after_utc - ca.not_valid_before_utc == timedelta(days=3650)
        text = subprocess.run(
            ["openssl", "x509", "-noout", "-text", "-in", confdir / CERTIFICATE_FILE], capture_output=True, text=True
        ).stdout
        lines = [line.strip() for line in text.splitlines()]
        assert lines[lines.index("X509v3 Basic Constraints: critical") + 1] == "CA:TRUE, pathlen:0"
        assert lines[lines.index("X509v3 Key Usage: critical") + 1] == "Certificate Sign, CRL Sign"
        digest = x509.SubjectKeyIdentifier.from_public_key(ca.public_key()).digest
        assert lines[lines.index("X509v3 Subject Key Identifier:") + 1] == digest.hex(":").upper()

    def test_files_and_modes_whatever_the_umask(self, confdir):
        before = os.umask(0)
        try:
            load_or_create(confdir, "ec")
        finally:
            os.umask(before)
        assert mode(confdir) == 0o700
        assert mode(confdir / KEY_FILE) == 0o600
        assert mode(confdir / CERTIFICATE_FILE) == 0o644
        assert {path.name for path in confdir.iterdir()} == {KEY_FILE, CERTIFICATE_FILE}
        assert b"PRIVATE" not in (confdir / CERTIFICATE_FILE).read_bytes()

    def test_second_start_finds_the_same(self, confdir):
        first, second = load_or_create(confdir, "ec"), load_or_create(confdir, "rsa")
        assert first.certificate == second.certificate
        assert isinstance(second.key, ec.EllipticCurvePrivateKey)

    def test_two_installations_have_different_subjects(self, tmp_path):
        subjects = {load_or_create(tmp_path / name, "ec").certificate.subject for name in "ab"}
        assert len(subjects) == 2
        assert all("O=lockgate" in subject.rfc4514_string() for subject in subjects)

    def test_processes_that_start_at_once_agree(self, confdir):
        code = (
            "import sys; from pathlib import Path; from appliance.net.certs import CertificateAuthority as CA;"
            "sys.stdin.readline(); print(CA.open(Path(sys.argv[1])).fingerprint)"
        )
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(confdir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        seen = [process.communicate(timeout=50)[0].strip() for process in started]
        assert len(seen[0]) == 95
        assert len(set(seen)) == 1

    @pytest.mark.parametrize("fails_at", [0, 1])
    def test_a_crash_leaves_no_half_file_and_the_next_start_mends(self, confdir, monkeypatch, fails_at):
        count = 0
        rename = Path.rename

        def failing(self, target):
            nonlocal count
            count += 1
            if count > fails_at:
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", failing)
            with pytest.raises(KeyboardInterrupt):
                load_or_create(confdir, "ec")
        assert [path.name for path in confdir.iterdir()] == [KEY_FILE][:fails_at]
        kept = (confdir / KEY_FILE).read_bytes() if fails_at else None
        load_or_create(confdir, "ec")
        assert kept in (None, (confdir / KEY_FILE).read_bytes())

    def test_a_draft_left_by_a_kill_is_not_followed(self, confdir, tmp_path):
        victim = secret(tmp_path / "victim", b"precious")
        confdir.mkdir(mode=0o700)
        (confdir / f".{KEY_FILE}.new").symlink_to(victim)
        load_or_create(confdir, "ec")
        assert victim.read_bytes() == b"precious"
        assert not (confdir / KEY_FILE).is_symlink()

    def test_a_full_disk_is_told(self, confdir, monkeypatch):
        def full(fd):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CertificateError, match="No space left"):
            load_or_create(confdir, "ec")
        assert not list(confdir.iterdir())

    def test_a_file_in_the_way_of_the_directory(self, confdir):
        confdir.write_text("")
        with pytest.raises(CertificateError, match="configuration directory"):
            load_or_create(confdir, "ec")


class TestRefusals:
    @pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o610, 0o644])
    def test_key_that_others_can_touch(self, confdir, bits):
        load_or_create(confdir, "ec")
        (confdir / KEY_FILE).chmod(bits)
        with pytest.raises(CertificateError, match=rf"chmod 600 .*{KEY_FILE}"):
            load_or_create(confdir, "ec")

    def test_key_of_another_user(self, confdir, monkeypatch):
        load_or_create(confdir, "ec")
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(CertificateError, match=f"chown {os.getuid() + 1} "):
            load_or_create(confdir, "ec")

    @pytest.mark.parametrize("name", [KEY_FILE, CERTIFICATE_FILE])
    def test_symbolic_link(self, confdir, tmp_path, name):
        load_or_create(confdir, "ec")
        (confdir / name).rename(tmp_path / "real")
        (confdir / name).symlink_to(tmp_path / "real")
        with pytest.raises(CertificateError, match="symbolic link"):
            load_or_create(confdir, "ec")

    @pytest.mark.parametrize("name", [KEY_FILE, CERTIFICATE_FILE])
    def test_dangling_link_is_neither_followed_nor_replaced(self, confdir, tmp_path, name):
        confdir.mkdir(mode=0o700)
        (confdir / name).symlink_to(tmp_path / "nowhere")
        with pytest.raises(CertificateError):
            load_or_create(confdir, "ec")
        assert (confdir / name).is_symlink()
        assert not (tmp_path / "nowhere").exists()

    def test_a_pipe_does_not_hang(self, confdir):
        load_or_create(confdir, "ec")
        (confdir / KEY_FILE).unlink()
        os.mkfifo(confdir / KEY_FILE, 0o600)
        with pytest.raises(CertificateError, match="regular file"):
            load_or_create(confdir, "ec")

    def test_directory_that_others_can_write(self, confdir):
        load_or_create(confdir, "ec")
        confdir.chmod(0o770)
        with pytest.raises(CertificateError, match="chmod go-w"):
            load_or_create(confdir, "ec")

    def test_certificate_without_key_is_kept(self, confdir):
        load_or_create(confdir, "ec")
        (confdir / KEY_FILE).unlink()
        before = (confdir / CERTIFICATE_FILE).read_bytes()
        with pytest.raises(CertificateError, match="has no key"):
            load_or_create(confdir, "ec")
        assert (confdir / CERTIFICATE_FILE).read_bytes() == before

    def test_key_within_the_public_file(self, confdir):
        load_or_create(confdir, "ec")
        both = (confdir / CERTIFICATE_FILE).read_bytes() + (confdir / KEY_FILE).read_bytes()
        secret(confdir / CERTIFICATE_FILE, both)
        with pytest.raises(CertificateError, match="must not hold a private key"):
            load_or_create(confdir, "ec")

    def test_files_that_are_no_pair(self, confdir, tmp_path):
        load_or_create(confdir, "ec")
        load_or_create(tmp_path / "other", "ec")
        (tmp_path / "other" / KEY_FILE).rename(confdir / KEY_FILE)
        with pytest.raises(CertificateError, match="does not belong"):
            load_or_create(confdir, "ec")

    @pytest.mark.parametrize("name", [KEY_FILE, CERTIFICATE_FILE])
    @pytest.mark.parametrize("keep", [0, 60, 120])
    def test_truncated_files(self, confdir, name, keep):
        load_or_create(confdir, "ec")
        path = confdir / name
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CertificateError, match=name):
            load_or_create(confdir, "ec")

    @pytest.mark.parametrize("name", [KEY_FILE, CERTIFICATE_FILE])
    def test_damaged_block(self, confdir, name):
        load_or_create(confdir, "ec")
        path = confdir / name
        lines = path.read_bytes().splitlines()
        path.write_bytes(b"\n".join([lines[0], b"QUJD", lines[-1]]))
        with pytest.raises(CertificateError, match="cannot be read"):
            load_or_create(confdir, "ec")


class TestImport:
    def test_together(self, confdir, tmp_path, key):
        ca = certificate(key, *CA_EXTENSIONS)
        assert import_ca(confdir, secret(tmp_path / "ca.pem", cert_pem(ca) + key_pem(key))) == ca
        assert load_or_create(confdir).certificate == ca
        assert mode(confdir / KEY_FILE) == 0o600
        assert b"PRIVATE" not in (confdir / CERTIFICATE_FILE).read_bytes()

    def test_apart_encrypted_with_chain(self, confdir, tmp_path, key):
        root_key = ec.generate_private_key(ec.SECP384R1())
        root = certificate(root_key, *CA_EXTENSIONS, name="Root")
        ca = certificate(key, *CA_EXTENSIONS, name="Middle", issuer=root, issuer_key=root_key)
        paths = (
            secret(tmp_path / "key.pem", key_pem(key, b"open sesame")),
            secret(tmp_path / "chain.pem", cert_pem(root, ca)),
        )
        paths[1].chmod(0o644)
        with pytest.raises(CertificateError, match="encrypted"):
            import_ca(confdir, *paths)
        with pytest.raises(CertificateError, match="passphrase right"):
            import_ca(confdir, *paths, passphrase="wrong")
        import_ca(confdir, *paths, passphrase="open sesame")
        bundle = load_or_create(confdir)
        assert bundle.certificate == ca
        assert bundle.others == (root,)

    def test_as_openssl_makes_it(self, confdir, tmp_path):
        made = tmp_path / "made.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=by hand"]
        command += ["-keyout", made, "-out", tmp_path / "c.pem"]
        subprocess.run(command, check=True, capture_output=True)
        import_ca(confdir, secret(made, made.read_bytes() + (tmp_path / "c.pem").read_bytes()))
        assert load_or_create(confdir).certificate.subject.rfc4514_string() == "CN=by hand"

    def test_never_over_an_existing_one(self, confdir, tmp_path, key):
        before = load_or_create(confdir, "ec").certificate
        path = secret(tmp_path / "ca.pem", cert_pem(certificate(key, *CA_EXTENSIONS)) + key_pem(key))
        with pytest.raises(CertificateError, match="There is a CA already"):
            import_ca(confdir, path)
        assert load_or_create(confdir).certificate == before

    @pytest.mark.parametrize(
        ("extensions", "days", "why"),
        [
            ((), 30, "not a CA"),
            ((x509.BasicConstraints(ca=False, path_length=None),), 30, "not a CA"),
            ((CA_EXTENSIONS[0], ca_store.key_usage(digital_signature=True)), 30, "keyCertSign"),
            ((*CA_EXTENSIONS, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])), 30, "serverAuth"),
            (CA_EXTENSIONS, -1, "expired"),
        ],
    )
    def test_what_cannot_sign_leaves(self, confdir, tmp_path, key, extensions, days, why):
        data = cert_pem(certificate(key, *extensions, days=days)) + key_pem(key)
        with pytest.raises(CertificateError, match=why):
            import_ca(confdir, secret(tmp_path / "ca.pem", data))
        assert not confdir.exists()

    def test_keys_that_clients_do_not_take(self, confdir, tmp_path):
        edwards = ed25519.Ed25519PrivateKey.generate()
        short = rsa.generate_private_key(65537, 1024)
        for key, why in ((edwards, "RSA or EC"), (short, "1024 bits")):
            path = secret(tmp_path / "ca.pem", cert_pem(certificate(key, *CA_EXTENSIONS)) + key_pem(key))
            with pytest.raises(CertificateError, match=why):
                import_ca(confdir, path)

    def test_unsafe_or_missing_sources(self, confdir, tmp_path, key):
        path = secret(tmp_path / "ca.pem", cert_pem(certificate(key, *CA_EXTENSIONS)) + key_pem(key))
        link = tmp_path / "link.pem"
        link.symlink_to(path)
        with pytest.raises(CertificateError, match="symbolic link"):
            import_ca(confdir, link)
        with pytest.raises(CertificateError, match="No such file"):
            import_ca(confdir, tmp_path / "absent.pem")
        with pytest.raises(CertificateError, match="no certificate"):
            import_ca(confdir, secret(tmp_path / "key.pem", key_pem(key)))
        with pytest.raises(CertificateError, match="too large"):
            import_ca(confdir, secret(tmp_path / "big.pem", b"x" * (1 << 20) + b"y"))
        path.chmod(0o644)
        with pytest.raises(CertificateError, match="chmod 600"):
            import_ca(confdir, path)


PEM = [key_pem(ec.generate_private_key(ec.SECP256R1())), key_pem(ec.generate_private_key(ec.SECP256R1()), b"x")]
PEM.append(cert_pem(certificate(ec.generate_private_key(ec.SECP256R1()), *CA_EXTENSIONS)))


def test_a_name_that_cannot_be_read(key):
    der = certificate(key, *CA_EXTENSIONS, name="Foreign").public_bytes(Encoding.DER)
    damaged = der.replace(b"\x0c\x07Foreign", b"\x0c\x07Fore\xffgn")  # no UTF-8 within a UTF8String
    assert damaged != der
    block = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(damaged) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(CertificateError, match="cannot be read"):
        pem.certificates(block, "it")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pem_is_refused_in_one_way(data):
    block = bytearray(data.draw(st.sampled_from(PEM)))
    for _ in range(data.draw(st.integers(1, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.sampled_from(b"\0AQz=-\n\xff"))
    # Damaged or not, one block is never a pair; no other exception may come.
    with pytest.raises(CertificateError, match="it"):
        pem.pair(pem.private_key(block, "it", "x"), pem.certificates(block, "it"), "it")


def test_a_bundle_does_not_print_its_key(key):
    bundle = pem.Bundle(key, certificate(key), ())
    assert repr(bundle) == "<Bundle 'CN=Foreign'>"
