from __future__ import annotations

import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from appliance.exceptions import CertificateError
from appliance.net.certs import CertificateAuthority, LeafSpec, Minter


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """`NAME.pem` of leaf and key for a few hosts, as a person would make them with openssl."""
    base = tmp_path_factory.mktemp("custom")
    for name, cn, san in (
        ("exact", "exact.example", "DNS:alias.example,IP:192.0.2.9"),
        ("wild", "Some Company", "DNS:*.wild.example"),
        ("any", "any", "DNS:any.example"),
    ):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "9", "-subj", f"/CN={cn}", "-keyout", base / f"{name}.key", "-out", base / f"{name}.crt"]
        command += ["-addext", f"subjectAltName={san}", "-addext", "basicConstraints=critical,CA:FALSE"]
        subprocess.run(command, check=True, capture_output=True)
        (base / f"{name}.pem").write_bytes((base / f"{name}.crt").read_bytes() + (base / f"{name}.key").read_bytes())
        (base / f"{name}.pem").chmod(0o600)
    return base


@pytest.fixture(scope="session")
def ca(tmp_path_factory):
    return CertificateAuthority.open(tmp_path_factory.mktemp("ca"), "ec")


async def issuer(minter, *names):
    certificate = (minter.custom(names) or await minter.leaf(LeafSpec(names))).certificate.to_cryptography()
    return certificate.issuer.rfc4514_string()


async def test_order_of_look_up(ca, directory):
    minter = Minter(ca, custom=[f"{directory}/exact.pem", f"b.example={directory}/wild.pem"])
    # Without a domain the first one is for everybody; its own names go before.
    assert await issuer(minter, "elsewhere.example") == "CN=exact.example"
    assert await issuer(minter, "B.Example.") == "CN=Some Company"
    assert await issuer(minter, "x.wild.example") == "CN=Some Company"
    assert await issuer(minter, "deep.x.wild.example") == "CN=Some Company"
    assert await issuer(minter, "wild.example") == "CN=exact.example"
    assert await issuer(minter, "alias.example", "x.wild.example") == "CN=exact.example"


async def test_only_the_names_it_is_for(ca, directory):
    minter = Minter(ca)
    assert await issuer(minter, "alias.example") == await issuer(minter, "other.example")
    minter.add_custom(f"*.foo.example={directory}/exact.pem")
    assert await issuer(minter, "alias.example") == "CN=exact.example"  # also where a minted one was kept
    assert await issuer(minter, "192.0.2.9") == "CN=exact.example"
    assert await issuer(minter, "a.foo.example") == "CN=exact.example"
    minter.add_custom(f"*.0.2.8={directory}/exact.pem")  # no address is below a wildcard
    for other in ("foo.example", "192.0.2.8", "other.example"):
        assert "lockgate" in await issuer(minter, other)


async def test_no_custom_certificate(ca, directory):
    assert Minter(ca).custom(["x.example"]) is None
    assert Minter(ca, custom=[f"x.example={directory}/any.pem"]).custom(["y.example"]) is None


async def test_leaf_is_ready_for_tls(ca, directory):
    minter = Minter(ca, custom=[f"{directory}/any.pem"])
    leaf = minter.custom(["x.example"])
    key = load_pem_private_key((directory / "any.key").read_bytes(), None)
    assert leaf.key.to_cryptography_key().private_numbers() == key.private_numbers()
    assert leaf.certificate.to_cryptography().public_key() == key.public_key()
    assert leaf.not_after == leaf.certificate.to_cryptography().not_valid_after_utc
    assert minter.custom(["y.example"]) is leaf


async def test_key_beside_chain_and_passphrase(ca, directory, tmp_path):
    chained = tmp_path / "site.pem"
    chained.write_bytes((directory / "any.crt").read_bytes() + ca.pem)
    with pytest.raises(CertificateError, match=r"site\.key"):
        Minter(ca, custom=[str(chained)])
    plain = load_pem_private_key((directory / "any.key").read_bytes(), None)
    encrypted = plain.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"s3cret"))
    (tmp_path / "site.key").write_bytes(encrypted)
    with pytest.raises(CertificateError, match="encrypted"):
        Minter(ca, custom=[str(chained)])
    with pytest.raises(CertificateError, match="passphrase right"):
        Minter(ca, custom=[str(chained)], passphrase="wrong")
    leaf = Minter(ca, custom=[str(chained)], passphrase="s3cret").custom(["x.example"])
    assert [each.to_cryptography() for each in leaf.chain] == [ca.certificate]


async def test_what_cannot_be_used_changes_nothing(ca, directory, tmp_path):
    minter = Minter(ca, custom=[f"keep.example={directory}/any.pem"])
    mismatched = tmp_path / "mismatched.pem"
    mismatched.write_bytes((directory / "any.crt").read_bytes() + (directory / "wild.key").read_bytes())
    for spec, why in (
        (str(mismatched), "does not belong"),
        (f"{tmp_path}/absent.pem", "No such file"),
        (f"{tmp_path}", "not a regular file"),
        (f"not a domain={directory}/any.pem", "not a domain"),
        (f"={directory}/any.pem", "not a domain"),
    ):
        with pytest.raises(CertificateError, match=why):
            minter.use_custom([f"{directory}/wild.pem", spec])
    assert await issuer(minter, "keep.example") == "CN=any"
    assert "lockgate" in await issuer(minter, "other.example")
    minter.use_custom([])
    assert "lockgate" in await issuer(minter, "keep.example")


def test_warnings(ca, directory, tmp_path, caplog):
    shown = tmp_path / "shown.pem"
    shown.write_bytes((directory / "any.pem").read_bytes())
    shown.chmod(0o644)
    Minter(ca, custom=[str(shown), f"{directory}/wild.pem"])
    assert [record.getMessage() for record in caplog.records] == [
        f"Everybody on this machine can read the private key in {shown}: chmod o-r {shown}"
    ]
