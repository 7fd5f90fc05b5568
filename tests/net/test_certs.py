from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from appliance.exceptions import CertificateError
from appliance.net import ca_store, pem
from appliance.net.certs import MAX_NAMES, CertificateAuthority, LeafSpec, Minter, import_ca
from appliance.net.leaf import LeafKey

DAY = 86400

# What the engine does in its own way; here the plain methods of pyOpenSSL are good enough.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


@pytest.fixture(scope="session")
def confdirs(tmp_path_factory):
    """Configuration directories by kind of CA: our own two, and foreign ones made by openssl."""
    base = tmp_path_factory.mktemp("cas")
    found = {}
    for kind in ("rsa", "ec"):
        CertificateAuthority.open(base / kind, kind)
        found[kind] = base / kind
    # The default configuration would add an AKI of its own reckoning, which no longer fits an odd SKI.
    (base / "req.cnf").write_text("[req]\ndistinguished_name = dn\n[dn]\n")
    for name, key, identifier in (
        ("foreign-rsa", "rsa:2048", "subjectKeyIdentifier=01:02:03"),
        ("foreign-ec", "ec", "subjectKeyIdentifier=" + ":".join(["AB"] * 40)),
        ("foreign-bare", "ec", "subjectKeyIdentifier=none"),
    ):
        files = base / f"{name}.key", base / f"{name}.crt"
        command = [
            "openssl",
            "req",
            "-x509",
            "-config",
            base / "req.cnf",
            "-newkey",
            key,
            "-nodes",
            "-days",
            "90",
            "-utf8",
        ]
        command += ["-subj", "/C=DE/O=Örg & Söhne/OU=one+OU=two/CN=Foreign CA", "-keyout", files[0], "-out", files[1]]
        if key == "ec":
            command += ["-pkeyopt", "ec_paramgen_curve:P-384"]
        for each in ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign", identifier):
            command += ["-addext", each]
        subprocess.run(command, check=True, capture_output=True)
        import_ca(base / name, *files)
        found[name] = base / name
    return found


KINDS = ["rsa", "ec", "foreign-rsa", "foreign-ec", "foreign-bare"]


@pytest.fixture
def ca(confdirs, request):
    return CertificateAuthority.open(confdirs[getattr(request, "param", "ec")])


@pytest.fixture
def minter(ca):
    return Minter(ca)


class Clock:
    def __init__(self):
        self.now = datetime.now(UTC).timestamp()

    def __call__(self):
        return self.now


def short_ca(valid: timedelta) -> CertificateAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "brief")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(hours=1)).not_valid_after(now + valid)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return CertificateAuthority(pem.Bundle(key, builder.sign(key, hashes.SHA256()), ()))


def own(leaf) -> x509.Certificate:
    return leaf.certificate.to_cryptography()


def extension(certificate, oid):
    return certificate.extensions.get_extension_for_oid(oid)


def san(certificate) -> list:
    return [name.value for name in extension(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value]


def openssl_verify(tmp_path, ca, leaf, *arguments):
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "leaf.pem").write_bytes(own(leaf).public_bytes(pem.Encoding.PEM))
    command = ["openssl", "verify", "-purpose", "sslserver", "-CAfile", tmp_path / "ca.pem", *arguments]
    return subprocess.run([*command, tmp_path / "leaf.pem"], capture_output=True, text=True)


def handshake(ca, leaf, hostname: str, ciphers: bytes | None = None) -> ssl.SSLObject:
    """A real TLS handshake: pyOpenSSL as server with the leaf, Python's ssl as client that trusts only the CA."""
    server_context = SSL.Context(SSL.TLS_SERVER_METHOD)
    server = SSL.Connection(server_context, None)
    server.use_certificate(leaf.certificate)
    server.use_privatekey(leaf.key)
    server.set_accept_state()
    client_context = ssl.create_default_context(cadata=ca.der)
    if ciphers:
        client_context.maximum_version = ssl.TLSVersion.TLSv1_2
        client_context.set_ciphers(ciphers.decode())
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=hostname)
    for _ in range(10):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
            return client
        server.bio_write(to_server.read())
        with contextlib.suppress(SSL.WantReadError):
            server.do_handshake()
        with contextlib.suppress(SSL.WantReadError):
            to_client.write(server.bio_read(65536))
    raise AssertionError("the handshake does not end")


class TestAuthority:
    def test_what_the_portal_shows(self, ca, tmp_path):
        (tmp_path / "ca.der").write_bytes(ca.der)
        arguments = ["-noout", "-fingerprint", "-sha256", "-subject", "-enddate", "-dateopt", "iso_8601"]
        shown = subprocess.run(
            ["openssl", "x509", "-in", tmp_path / "ca.der", *arguments], capture_output=True, text=True, check=True
        ).stdout
        assert f"Fingerprint={ca.fingerprint}\n" in shown
        assert f"{ca.not_after:%Y-%m-%d %H:%M:%SZ}" in shown
        assert ca.subject.startswith("CN=lockgate ")
        assert ca.subject.endswith(",O=lockgate")
        assert x509.load_pem_x509_certificate(ca.pem) == ca.certificate

    def test_the_key_does_not_get_out(self, ca):
        assert "rivate" not in repr(ca)
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="key stays"):
                attempt(ca)
        with pytest.raises(TypeError):
            pickle.dumps(Minter(ca))
        for name in dir(ca):
            if not name.startswith("_"):
                assert not hasattr(getattr(ca, name), "private_bytes")
        assert not hasattr(ca, "__dict__")
        assert b"PRIVATE" not in ca.pem

    @pytest.mark.parametrize("ca", KINDS, indirect=True)
    def test_revocation_list_verifies(self, ca, tmp_path):
        (tmp_path / "ca.pem").write_bytes(ca.pem)
        (tmp_path / "list.crl").write_bytes(ca.revocation_list())
        command = ["openssl", "crl", "-inform", "DER", "-in", tmp_path / "list.crl", "-CAfile", tmp_path / "ca.pem"]
        done = subprocess.run([*command, "-noout", "-text"], capture_output=True, text=True)
        assert "verify OK" in done.stderr
        assert "No Revoked Certificates" in done.stdout


class TestLeaf:
    @pytest.mark.parametrize("key", ["ec", "rsa"])
    @pytest.mark.parametrize("ca", KINDS, indirect=True)
    async def test_openssl_accepts_it(self, ca, tmp_path, key):
        leaf = await Minter(ca).leaf(LeafSpec(("www.example.com", "*.example.net", "192.0.2.7", "2001:db8::7"), key))
        # The strict mode wants an SKI in the issuer, which openssl's own "none" lacks.
        bare = not any(each.oid == ExtensionOID.SUBJECT_KEY_IDENTIFIER for each in ca.certificate.extensions)
        strict = [] if bare else ["-x509_strict"]
        for good in (
            ["-verify_hostname", "www.example.com"],
            ["-verify_hostname", "a.example.net"],
            ["-verify_ip", "192.0.2.7"],
            ["-verify_ip", "2001:db8::7"],
        ):
            done = openssl_verify(tmp_path, ca, leaf, *strict, *good)
            assert done.returncode == 0, done.stderr
        for bad in (["-verify_hostname", "example.com"], ["-verify_ip", "192.0.2.8"]):
            assert "mismatch" in openssl_verify(tmp_path, ca, leaf, *bad).stderr

    @pytest.mark.parametrize("key", ["ec", "rsa"])
    async def test_shape(self, ca, key):
        minter = Minter(ca)
        leaf = await minter.leaf(LeafSpec(("b.example", "a.example"), key, "Exämple Ltd"))
        certificate = own(leaf)
        assert san(certificate) == ["b.example", "a.example"]
        assert certificate.subject.rfc4514_string() == "CN=b.example,O=Exämple Ltd"
        assert not extension(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME).critical
        usage = extension(certificate, ExtensionOID.KEY_USAGE)
        assert usage.critical
        assert usage.value == ca_store.key_usage(digital_signature=True, key_encipherment=key == "rsa")
        extended = extension(certificate, ExtensionOID.EXTENDED_KEY_USAGE).value
        assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH]
        public = certificate.public_key()
        expected = x509.SubjectKeyIdentifier.from_public_key(public)
        assert extension(certificate, ExtensionOID.SUBJECT_KEY_IDENTIFIER).value == expected
        if key == "ec":
            assert isinstance(public.curve, ec.SECP256R1)
        else:
            assert isinstance(public, rsa.RSAPublicKey)
            assert public.key_size == 2048
        assert leaf.key.to_cryptography_key().public_key() == public
        assert public != ca.certificate.public_key()
        assert leaf.chain == ()
        with pytest.raises(x509.ExtensionNotFound):
            extension(certificate, ExtensionOID.CRL_DISTRIBUTION_POINTS)

    async def test_validity_counts_the_back_dating(self, minter):
        leaf = await minter.leaf(LeafSpec(("a.example",)))
        certificate = own(leaf)
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=199)
        age = datetime.now(UTC) - certificate.not_valid_before_utc
        assert timedelta(days=2) <= age < timedelta(days=2, minutes=1)
        assert leaf.not_after == certificate.not_valid_after_utc

    async def test_validity_stays_within_the_ca(self):
        ca = short_ca(timedelta(days=30))
        certificate = own(await Minter(ca).leaf(LeafSpec(("a.example",))))
        assert certificate.not_valid_before_utc == ca.certificate.not_valid_before_utc
        assert certificate.not_valid_after_utc == ca.not_after

    async def test_serials_differ(self, minter):
        serials = {own(await minter.leaf(LeafSpec((f"{n}.example",)))).serial_number for n in range(20)}
        assert len(serials) == 20
        assert min(serials) > 2**64

    @pytest.mark.parametrize(
        ("kind", "identifier"), [("foreign-rsa", b"\1\2\3"), ("foreign-ec", b"\xab" * 40), ("foreign-bare", None)]
    )
    async def test_authority_key_identifier_is_the_issuers(self, confdirs, kind, identifier):
        ca = CertificateAuthority.open(confdirs[kind])
        certificate = own(await Minter(ca).leaf(LeafSpec(("a.example",))))
        found = extension(certificate, ExtensionOID.AUTHORITY_KEY_IDENTIFIER).value
        computed = x509.SubjectKeyIdentifier.from_public_key(ca.certificate.public_key()).digest
        assert found.key_identifier == (identifier or computed)
        assert found.authority_cert_issuer is None
        # Byte for byte: some clients compare names so.
        assert certificate.issuer.public_bytes() == ca.certificate.subject.public_bytes()

    async def test_long_name_gives_an_empty_subject_and_a_critical_san(self, minter, ca, tmp_path):
        edge = "a" * 58 + ".test"  # 63 characters
        assert own(await minter.leaf(LeafSpec((edge,)))).subject.rfc4514_string() == f"CN={edge}"
        long = "a" + edge
        leaf = await minter.leaf(LeafSpec((long,)))
        assert not list(own(leaf).subject)
        assert extension(own(leaf), ExtensionOID.SUBJECT_ALTERNATIVE_NAME).critical
        done = openssl_verify(tmp_path, ca, leaf, "-x509_strict", "-verify_hostname", long)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("organization", ["", "x" * 65, "a\0b", "a\nb", "\ud800"])
    async def test_unusable_organization_is_left_out(self, minter, organization):
        certificate = own(await minter.leaf(LeafSpec(("a.example",), organization=organization)))
        assert certificate.subject.rfc4514_string() == "CN=a.example"

    async def test_names_in_order_without_duplicates_and_bad_ones(self, minter):
        names = ("a b", "Bücher.example", "192.0.2.1", "xn--bcher-kva.example", "*.x.example", "\0", "_x.example")
        certificate = own(await minter.leaf(LeafSpec(names)))
        assert san(certificate) == ["xn--bcher-kva.example", ip_address("192.0.2.1"), "*.x.example", "_x.example"]

    async def test_number_of_names_is_bounded(self, minter):
        certificate = own(await minter.leaf(LeafSpec(tuple(f"h{n}.example" for n in range(1000)))))
        assert san(certificate) == [f"h{n}.example" for n in range(MAX_NAMES)]

    @pytest.mark.parametrize("names", [(), ("",), ("a b", "\ud800"), ("x" * 10**6,)])
    async def test_no_usable_name(self, minter, names):
        with pytest.raises(CertificateError, match="No certificate") as raised:
            await minter.leaf(LeafSpec(names))
        assert len(str(raised.value)) < 1000
        assert str(raised.value).isascii()

    @pytest.mark.parametrize(
        ("upstream", "start"),
        [
            ("http://crl.example.com/a/b.crl?x=1", "http://crl.example.com/"),
            ("https://user:pw@CRL.example.com:8080/b.crl", "https://crl.example.com:8080/"),
            ("http://[2001:db8::1]/b.crl", "http://[2001:db8::1]/"),
        ],
    )
    async def test_revocation_list_on_the_same_host(self, minter, ca, upstream, start):
        certificate = own(await minter.leaf(LeafSpec(("a.example",), crl=upstream)))
        (point,) = extension(certificate, ExtensionOID.CRL_DISTRIBUTION_POINTS).value
        assert [name.value for name in point.full_name] == [start + ca.crl_path[1:]]

    @pytest.mark.parametrize(
        "upstream", ["ldap://x/y", "http://", "http://a b/", "http://[::1/", "http://h:99999/", "x"]
    )
    async def test_odd_revocation_urls_are_left_out(self, minter, upstream):
        certificate = own(await minter.leaf(LeafSpec(("a.example",), crl=upstream)))
        with pytest.raises(x509.ExtensionNotFound):
            extension(certificate, ExtensionOID.CRL_DISTRIBUTION_POINTS)

    async def test_chain_of_an_intermediate_ca(self, ca):
        root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        now = datetime.now(UTC)

        def sign(name, issuer, public, signer):
            def as_name(text):
                return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

            builder = x509.CertificateBuilder(as_name(issuer), as_name(name), public, x509.random_serial_number())
            builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            return builder.sign(signer, hashes.SHA256())

        root = sign("root", "root", root_key.public_key(), root_key)
        upper = sign("upper", "root", root_key.public_key(), root_key)
        middle = sign("middle", "upper", key.public_key(), root_key)
        stray = sign("stray", "nobody", root_key.public_key(), root_key)
        leaf = await Minter(CertificateAuthority(pem.Bundle(key, middle, (stray, root, upper)))).leaf(LeafSpec(("a",)))
        assert [each.to_cryptography() for each in leaf.chain] == [middle, upper]


class TestFaults:
    """Leaves that are as bad as the server's."""

    @pytest.mark.parametrize("fault", ["expired", "not_yet_valid"])
    async def test_at_another_time(self, ca, minter, fault):
        certificate = own(await minter.leaf(LeafSpec(("a.example",), fault=fault)))
        certificate.verify_directly_issued_by(ca.certificate)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        now, margin = datetime.now(UTC), timedelta(days=20)
        assert begins < ends
        assert (ends < now - margin) if fault == "expired" else (begins > now + margin)

    async def test_from_a_ca_that_nobody_knows(self, ca, minter, tmp_path):
        leaf = await minter.leaf(LeafSpec(("a.example",), fault="untrusted"))
        assert own(leaf).issuer != ca.certificate.subject
        assert leaf.chain == ()
        assert "unable to get local issuer" in str(openssl_verify(tmp_path, ca, leaf))
        again = await minter.leaf(LeafSpec(("b.example",), fault="untrusted"))
        assert own(again).issuer == own(leaf).issuer

    def test_for_another_name(self, ca):
        upstream = ca.issue(LeafSpec(("cn.example",)), LeafKey("ec"), datetime.now(UTC))
        assert LeafSpec.mirroring(upstream, "sni.example", fault="name_mismatch").names == ("cn.example",)
        assert LeafSpec.mirroring(upstream, "sni.example", fault="expired").names == ("cn.example", "sni.example")

    @pytest.mark.parametrize("subject", [[], [x509.NameAttribute(NameOID.COMMON_NAME, "not a name")]])
    async def test_for_no_name_at_all(self, minter, subject):
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        name = x509.Name(subject)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + timedelta(days=1))
        spec = LeafSpec.mirroring(builder.sign(key, hashes.SHA256()), "sni.example", fault="name_mismatch")
        assert "sni.example" not in san(own(await minter.leaf(spec)))

    @pytest.mark.parametrize("fault", ["expired", "not_yet_valid", "name_mismatch", "untrusted"])
    async def test_kept_for_a_day(self, ca, fault):
        clock = Clock()
        minter = Minter(ca, clock=clock)
        spec = LeafSpec(("a.example",), fault=fault)
        leaf = await minter.leaf(spec)
        assert minter.cached(spec) is leaf
        assert minter.cached(LeafSpec(("a.example",))) is None
        clock.now += 86400
        assert minter.cached(spec) is None


class TestMirroring:
    def test_names_organization_and_list(self, ca):
        spec = LeafSpec(("cn.example", "*.b.example", "192.0.2.1"), "ec", "Org", "http://c.example/x")
        upstream = ca.issue(spec, LeafKey("ec"), datetime.now(UTC))
        mirrored = LeafSpec.mirroring(upstream, "sni.example", "cn.example", key="rsa")
        assert mirrored.names == ("cn.example", "*.b.example", "192.0.2.1", "sni.example")
        assert (mirrored.key, mirrored.organization) == ("rsa", "Org")
        assert mirrored.crl == f"http://c.example{ca.crl_path}"

    def test_without_upstream(self):
        assert LeafSpec.mirroring(None, "a.example", "192.0.2.1") == LeafSpec(("a.example", "192.0.2.1"))

    async def test_a_long_list_leaves_room_for_what_is_wanted(self, minter):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "first.example")])
        everything = [x509.DNSName(f"h{n}.example") for n in range(2000)] + [x509.DNSName("x" * 5000)]
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + timedelta(days=1))
        upstream = builder.add_extension(x509.SubjectAlternativeName(everything), False).sign(key, hashes.SHA256())
        certificate = own(await minter.leaf(LeafSpec.mirroring(upstream, "sni.example", "192.0.2.1")))
        assert len(san(certificate)) == MAX_NAMES
        assert san(certificate)[0] == "first.example"
        assert san(certificate)[-2:] == ["sni.example", ip_address("192.0.2.1")]

    def test_unreadable_extensions(self, ca):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cn.example")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + timedelta(days=1))
        broken = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x82garbage")
        upstream = builder.add_extension(broken, False).sign(key, hashes.SHA256())
        assert LeafSpec.mirroring(upstream, "sni.example").names == ("cn.example", "sni.example")


class TestHandshake:
    @pytest.mark.parametrize("ca", KINDS, indirect=True)
    async def test_names_and_addresses(self, ca):
        leaf = await Minter(ca).leaf(LeafSpec(("www.example.com", "bücher.example", "192.0.2.7", "2001:db8::7")))
        for hostname in ("www.example.com", "xn--bcher-kva.example", "bücher.example", "192.0.2.7", "2001:db8::7"):
            assert handshake(ca, leaf, hostname).version() == "TLSv1.3"
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            handshake(ca, leaf, "other.example")

    async def test_rsa_keys_of_another_size(self, ca):
        minter = Minter(ca, rsa_bits=2304)
        leaf = await minter.leaf(LeafSpec(("a.example",), "rsa"))
        assert leaf.certificate.to_cryptography().public_key().key_size == 2304

    async def test_rsa_leaf_serves_a_client_without_ecdsa(self, ca):
        minter = Minter(ca)
        ciphers = b"ECDHE-RSA-AES128-GCM-SHA256:AES128-GCM-SHA256"
        leaf = await minter.leaf(LeafSpec(("a.example",), "rsa"))
        assert handshake(ca, leaf, "a.example", ciphers).cipher()[0] == "ECDHE-RSA-AES128-GCM-SHA256"
        assert handshake(ca, leaf, "a.example", b"AES128-GCM-SHA256").cipher()[0] == "AES128-GCM-SHA256"
        with pytest.raises(SSL.Error, match="no shared cipher"):
            handshake(ca, await minter.leaf(LeafSpec(("a.example",))), "a.example", ciphers)

    async def test_another_ca_is_not_trusted(self, confdirs):
        ours, theirs = (CertificateAuthority.open(confdirs[kind]) for kind in ("ec", "foreign-ec"))
        leaf = await Minter(ours).leaf(LeafSpec(("a.example",)))
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(theirs, leaf, "a.example")


class TestCache:
    async def test_hit_is_the_same_object(self, minter):
        spec = LeafSpec(("a.example",))
        assert minter.cached(spec) is None
        leaf = await minter.leaf(spec)
        assert minter.cached(LeafSpec(("a.example",))) is leaf
        assert await minter.leaf(spec) is leaf
        assert minter.cached(LeafSpec(("a.example",), "rsa")) is None

    async def test_leaves_share_a_key_that_differs_per_start(self, ca):
        first, second = Minter(ca), Minter(ca)
        a, b = [await first.leaf(LeafSpec((name,))) for name in ("a.example", "b.example")]
        c = await second.leaf(LeafSpec(("a.example",)))
        assert a.key is b.key
        assert own(a).public_key() != own(c).public_key()

    async def test_least_recently_used_goes_first(self, ca):
        minter = Minter(ca, cache_size=3)
        specs = [LeafSpec((f"h{n}.example",)) for n in range(4)]
        for spec in specs[:3]:
            await minter.leaf(spec)
        minter.cached(specs[0])
        await minter.leaf(specs[3])
        assert [minter.cached(spec) is not None for spec in specs] == [True, False, True, True]
        minter.cache_size = 1
        await minter.leaf(specs[1])
        assert [minter.cached(spec) is not None for spec in specs] == [False, True, False, False]

    async def test_renewed_a_day_before_the_end(self, ca):
        clock = Clock()
        minter = Minter(ca, clock=clock)
        spec = LeafSpec(("a.example",))
        leaf = await minter.leaf(spec)
        clock.now = leaf.not_after.timestamp() - DAY - 10
        assert minter.cached(spec) is leaf
        clock.now += 20
        assert minter.cached(spec) is None
        renewed = await minter.leaf(spec)
        assert renewed.not_after - leaf.not_after > timedelta(days=190)

    async def test_last_hours_of_the_ca_do_not_mint_for_each_connection(self):
        clock = Clock()
        minter = Minter(short_ca(timedelta(hours=10)), clock=clock)
        spec = LeafSpec(("a.example",))
        leaf = await minter.leaf(spec)
        clock.now += 4 * 3600
        assert minter.cached(spec) is leaf
        clock.now += 7 * 3600
        with pytest.raises(CertificateError, match="expired"):
            await minter.leaf(spec)

    @pytest.mark.parametrize("key", ["ec", "rsa"])
    async def test_minted_once_for_many_who_ask(self, minter, key):
        spec = LeafSpec(("a.example",), key)
        leaves = await asyncio.gather(*(minter.leaf(spec) for _ in range(50)))
        assert len(set(map(id, leaves))) == 1

    async def test_one_who_gives_up_does_not_spoil_it_for_others(self, minter):
        spec = LeafSpec(("a.example",), "rsa")
        impatient, patient = (asyncio.create_task(minter.leaf(spec)) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        leaf = await patient
        assert impatient.cancelled()
        assert minter.cached(spec) is leaf


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.text(max_size=80) | st.sampled_from(["a.example", "::1", "*.b.c", "ü.example"]), max_size=8),
    organization=st.none() | st.text(max_size=80),
    crl=st.none() | st.text(max_size=40).map("http://".__add__) | st.text(max_size=40),
)
def test_hostile_specs_give_a_readable_leaf_or_a_refusal(hostile_minter, names, organization, crl):
    spec = LeafSpec(tuple(names), "ec", organization, crl)
    try:
        leaf = asyncio.run(hostile_minter.leaf(spec))
    except CertificateError:
        assert not set(names) & {"a.example", "::1", "*.b.c", "ü.example"}
        return
    assert 0 < len(san(own(leaf))) <= len(names)
    assert own(leaf).subject.public_bytes() is not None


@pytest.fixture(scope="module")
def hostile_minter(confdirs):
    return Minter(CertificateAuthority.open(confdirs["ec"]))
