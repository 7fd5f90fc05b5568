"""Certificates nobody should trust: the server's, towards us; ours, towards a client that has not got our CA."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

import pytest

from tests.lab.bytes_on_wire import get
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import BAD, CHAINED, HTTPS, Lab
from tests.lab.recorder import Origins
from tests.lab.witness import Witness, both_modes, issuer_of, read_response, status, subject_of, tunnel

Running = tuple[Gateway, Witness]
FAULTS = {
    "expired": "has expired",
    "future": "is not valid yet",
    "wrong-name": "is for another name",
    "self-signed": "is self-signed",
    "unknown-root": "comes from an unknown (root|issuer)",
    "incomplete": "comes from an unknown issuer",
}


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[Running]:
    with both_modes(lab) as running:
        yield running


@pytest.mark.parametrize("way", ["regular", "transparent"])
@pytest.mark.parametrize("bad", BAD)
def test_client_gets_a_page_and_the_server_nothing(
    lab: Lab, running: Running, origins: Origins, bad: str, way: str
) -> None:
    gateway, witness = running
    witness.forget()
    url = f"https://origin.test:{BAD[bad]}/secret"
    through = {"via": gateway} if way == "regular" else {"ca": gateway.ca}
    reply = lab.curl(url, "-d", "password=1", **through)  # verified: the page is on our own leaf
    assert reply.status == 502, reply
    assert re.search(FAULTS[bad], reply.body.decode()), reply.body
    assert b"origin.test" in reply.body
    assert b"nothing was sent to it" in reply.body
    assert not origins.requests()
    assert origins.received() == b""
    assert witness.endings() == ["error"]
    assert re.search(FAULTS[bad], witness.events("error")[0].error)
    assert len(witness.events("tls_failed_server")) == 1
    gateway.wait_output(FAULTS[bad])


def test_lazy_strategy_shows_the_page_too(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc("-p", "8090", "--set", "connection_strategy=lazy") as gateway:
        reply = lab.curl(f"https://origin.test:{BAD['expired']}/", via=gateway)
        assert reply.status == 502
        assert b"has expired" in reply.body
    assert origins.received() == b""


def test_a_sent_intermediate_completes_the_chain(lab: Lab, running: Running) -> None:
    assert lab.curl(f"https://origin.test:{CHAINED}/x", via=running[0]).status == 200


def test_name_is_checked_for_what_the_client_asked(lab: Lab, running: Running, origins: Origins) -> None:
    """bad.test is the same server; its good certificate is not for that name. An address counts as a name."""
    assert lab.curl(f"https://bad.test:{HTTPS}/x", via=running[0]).status == 502
    assert lab.curl(f"https://10.61.2.2:{HTTPS}/x", via=running[0]).status == 200
    assert lab.curl(f"https://10.61.2.2:{BAD['wrong-name']}/x", via=running[0]).status == 502
    assert len(origins.requests()) == 1


def test_second_request_is_told_the_same(lab: Lab, running: Running, origins: Origins) -> None:
    """The connection stays; the server is not asked again each time."""
    port = BAD["expired"]
    with lab.connect_tls(ca=running[0].ca, over=tunnel(lab, "origin.test", port)) as tls:
        for _ in range(3):
            tls.sendall(get("/x"))
            assert status(read_response(tls)[0]) == 502
    assert len(origins.connections(port)) <= 1


@pytest.mark.parametrize("way", ["regular", "transparent"])
def test_insecure_lets_all_through(lab: Lab, origins: Origins, way: str) -> None:
    with lab.gateway_proc("-m", "regular@8090", "-m", "transparent@8091", "-k") as gateway, lab.redirect(8091):
        for port in BAD.values():
            through = {"via": gateway} if way == "regular" else {"ca": gateway.ca}
            reply = lab.curl(f"https://origin.test:{port}/x", **through)
            assert reply.status == 200, (port, reply)
    assert len(origins.requests()) == len(BAD)


def test_reset(lab: Lab, origins: Origins) -> None:
    """upstream_cert_invalid=reset: no handshake with the client at all."""
    with lab.gateway_proc("-p", "8090", "--set", "upstream_cert_invalid=reset") as gateway:
        for bad in BAD:
            over = tunnel(lab, "origin.test", BAD[bad], proxy=8090)
            with pytest.raises((ConnectionResetError, ssl.SSLEOFError, ssl.SSLError)) as refused:
                lab.connect_tls(ca=gateway.ca, over=over)
            assert not isinstance(refused.value, ssl.SSLCertVerificationError)
            gateway.wait_output(FAULTS[bad])
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200
    assert [seen.target for seen in origins.requests()] == ["/x"]


MIRRORED = {
    "expired": "certificate has expired",
    "future": "certificate is not yet valid",
    "wrong-name": "no alternative certificate subject name matches",
    "self-signed": "unable to get local issuer certificate",
    "unknown-root": "unable to get local issuer certificate",
    "incomplete": "unable to get local issuer certificate",
}


def test_mirror(lab: Lab, origins: Origins) -> None:
    """The client sees the same fault on our leaf, and so may decide for itself; the server gets nothing either way."""
    witness = Witness(lab)
    mirror = ("--set", "upstream_cert_invalid=mirror")
    modes = ("-m", "regular@8090", "-m", "transparent@8091")
    with lab.gateway_proc(*modes, *mirror, addon=witness.addon) as gateway, lab.redirect(8091):
        for bad, told in MIRRORED.items():
            url = f"https://origin.test:{BAD[bad]}/secret"
            for through in ({"via": gateway}, {"ca": gateway.ca}):
                reply = lab.curl(url, "-d", "password=1", **through)
                assert reply.exit == 60, (bad, reply)
                assert told in reply.error, (bad, reply)
                careless = lab.curl(url, "-d", "password=1", "-k", **through)
                assert careless.status == 502, (bad, careless)
                assert re.search(FAULTS[bad], careless.body.decode())
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 200
        assert "does not trust" not in gateway.output
        assert "Traceback" not in gateway.output
    assert [seen.target for seen in origins.requests()] == ["/x"]
    assert [event.event for event in witness.events("response", "error")] == ["error"] * 2 * len(BAD) + ["response"]


def test_default_roots_do_not_know_the_lab(lab: Lab, origins: Origins) -> None:
    with lab.gateway_proc("-p", "8090", trust=False) as gateway:
        assert lab.curl(f"https://origin.test:{HTTPS}/x", via=gateway).status == 502
    assert origins.received() == b""


def test_bad_server_may_be_passed(lab: Lab) -> None:
    """The client then sees for itself what is wrong."""
    with lab.gateway_proc("-p", "8090", "--ignore-hosts", r"origin\.test") as gateway:
        reply = lab.curl(f"https://origin.test:{BAD['expired']}/", via=gateway, ca=lab.root)
        assert reply.exit == 60
        assert "expired" in reply.error


# -- a client without our CA


def told(gateway: Gateway, client: str, name: str) -> str:
    """The line that says so; there is one alone for this name."""
    line = gateway.wait_output(rf"^.*{re.escape(client)} does not trust the gateway's CA.*{re.escape(name)}.*$")[0]
    assert "http://lockgate.internal/" in line
    assert "--ignore-hosts" in line
    lines = [each for each in gateway.output.splitlines() if name in each and "trust" in each]
    assert lines == [line]
    return line


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("way", ["regular", "transparent"])
def test_distrusting_curl_is_named(lab: Lab, way: str, version: str) -> None:
    witness = Witness(lab)
    modes = ("-m", "regular@8090", "-m", "transparent@8091")
    with lab.gateway_proc(*modes, addon=witness.addon) as gateway, lab.redirect(8091, only=[HTTPS]):
        through = {"proxy": gateway.proxy} if way == "regular" else {}
        only = ("--tls-max", version, f"--tlsv{version}", "-4")
        reply = lab.curl(f"https://www.origin.test:{HTTPS}/x", *only, **through)
        assert reply.exit == 60
        told(gateway, "10.61.1.2", "www.origin.test")
        failed = witness.wait("tls_failed_client", "client_disconnected")
        assert "CA" in failed[0].error or failed[0].event == "client_disconnected"
    assert "Traceback" not in gateway.output


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_distrusting_openssl_is_named(lab: Lab, version: str) -> None:
    with lab.gateway_proc("-m", "transparent@8091") as gateway, lab.redirect(8091, only=[HTTPS]):
        done = lab.client.run(
            ["openssl", "s_client", "-connect", f"10.61.2.2:{HTTPS}", "-servername", "alt.test", "-verify_return_error",
             "-CAfile", lab.root, version],
            input="GET / HTTP/1.0\r\n\r\n",
        )  # fmt: skip
        assert done.returncode != 0
        assert "verify error" in done.stderr + done.stdout
        told(gateway, "10.61.1.2", "alt.test")


def test_client_without_sni_is_named_by_address(lab: Lab) -> None:
    with lab.gateway_proc("-m", "transparent@8091") as gateway, lab.redirect(8091, only=[HTTPS]):
        lab.curl(f"https://10.61.2.2:{HTTPS}/x")
        told(gateway, "10.61.1.2", "10.61.2.2")


def test_trusting_client_is_not_named(lab: Lab, running: Running) -> None:
    before = running[0].output.count("does not trust")
    lab.curl(f"https://origin.test:{HTTPS}/x", via=running[0])
    lab.curl(f"https://origin.test:{HTTPS}/x", "-k", via=running[0])
    with lab.connect_tls(ca=False, over=tunnel(lab, "origin.test", HTTPS)):
        pass  # left without a word: that is no distrust
    assert running[0].output.count("does not trust") == before


# -- which leaf


def test_rsa_leaf_for_a_client_without_ecdsa(lab: Lab, running: Running) -> None:
    for only in (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], ["-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"],
                 ["-tls1_3", "-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"]):  # fmt: skip
        done = lab.client.run(
            ["openssl", "s_client", "-connect", f"10.61.2.2:{HTTPS}", "-servername", "origin.test", "-CAfile",
             running[0].ca, "-verify_return_error", "-verify_hostname", "origin.test", *only],
            input="",
        )  # fmt: skip
        assert "Verify return code: 0 (ok)" in done.stdout, done
        assert re.search("Server public key is 2048 bit|rsaEncryption|RSA", done.stdout)
        assert "id-ecPublicKey" not in done.stdout
    done = lab.client.run(
        ["openssl", "s_client", "-connect", f"10.61.2.2:{HTTPS}", "-servername", "origin.test"], input=""
    )
    assert "Server public key is 256 bit" in done.stdout


@pytest.mark.parametrize("strategy", ["lazy", "eager"])
def test_own_certificate_for_a_name(lab: Lab, strategy: str) -> None:
    """--certs: shown for its name, not for others."""
    pair = lab.pki.issue("own", ["www.origin.test"])
    both = lab.scratch / "own-both.pem"
    both.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    both.chmod(0o600)
    own = ("--certs", f"www.origin.test={both}", "--set", f"connection_strategy={strategy}")
    with lab.gateway_proc("-p", "8090", *own) as gateway:
        issuers = {}
        for name in ("www.origin.test", "origin.test"):
            with lab.connect_tls(name, ca=False, over=tunnel(lab, name, HTTPS, proxy=8090)) as tls:
                issuers[name] = issuer_of(tls.getpeercert(binary_form=True) or b"")
                if name == "www.origin.test":
                    assert tls.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(pair.cert.read_text())
        assert issuers == {"www.origin.test": subject_of(lab.root), "origin.test": subject_of(gateway.ca)}
