"""The main job as its user sees it: the pasted curl line, the gateway's certificate, browsers, add-ons."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import ssl
import time
from collections.abc import Iterator
from urllib.parse import urljoin

import pytest
from cryptography import x509

from tests.lab.bytes_on_wire import get, read_all
from tests.lab.clients import chromium_path
from tests.lab.gateway_proc import Gateway
from tests.lab.labkit import HTTP, HTTPS, Lab
from tests.lab.recorder import Origins
from tests.lab.witness import connect, issuer_of, read_head, status, subject_of, tunnel

ADDON = """
import asyncio

from appliance import http

class Now:
    def request(self, flow):
        flow.request.headers["x-sync"] = "1"
        if flow.request.path == "/answered":
            flow.response = http.Response.make(418, b"by the add-on", {"X-By": "add-on"})
        elif flow.request.path == "/answered-later":
            flow.metadata["later"] = True
        elif flow.request.path.startswith("/killed"):
            flow.kill()
        elif flow.request.path == "/body":
            flow.request.text = "another body"
            flow.request.path = "/echo"

class Later:
    async def request(self, flow):
        await asyncio.sleep(0.01)
        flow.request.headers["x-async"] = "2"
        if flow.metadata.get("later"):
            flow.response = http.Response.make(200, b"after a while")

    def responseheaders(self, flow):
        if flow.request.path == "/kill/responseheaders":
            flow.kill()
        flow.response.headers["x-head"] = "3"

    async def response(self, flow):
        await asyncio.sleep(0.01)
        if flow.request.path == "/kill/response":
            flow.kill()
        flow.response.headers["x-response"] = "4"
        if flow.request.path == "/shout":
            flow.response.text = flow.response.text.upper()
        if flow.request.path == "/gzip":
            assert flow.response.content.startswith(b"0000000")
            flow.response.content = b"unpacked and packed again"

addons = [Now(), Later()]
"""


@pytest.fixture(scope="module")
def gateway(lab: Lab) -> Iterator[Gateway]:
    """One without add-ons."""
    with lab.gateway_proc("--set", "stream_large_bodies=1m") as gateway:
        yield gateway
    assert "Traceback" not in gateway.output


@pytest.fixture(scope="module")
def hooked(lab: Lab) -> Iterator[Gateway]:
    with lab.gateway_proc("-p", "8090", addon=ADDON) as gateway:
        yield gateway
    assert "Traceback" not in gateway.output


# -- first contact


def test_the_pasted_curl_line(lab: Lab, origins: Origins) -> None:
    """On the embedded default: no mode, no root needed, the proxy on loopback; the line printed is the one run."""
    confdir = lab.scratch / "first"
    confdir.mkdir()
    with lab.gateway_proc(
        "-m", "regular@127.0.0.1:8080", confdir=confdir, options={"ca_key": "ec"}, timeout=20
    ) as gateway:
        line = gateway.wait_output(r"^ *Try it +(curl .*) https://\S+$")[1]
        told = gateway.wait_output(r"SHA-256 +([0-9A-F:]{95})")[1]
        done = lab.gateway.run([*shlex.split(line), "-sS", "-w", "%{http_code}", f"https://origin.test:{HTTPS}/x"])
        assert done.stdout.endswith("200"), done
        assert origins.requests(HTTPS)[0].target == "/x"
        der = ssl.PEM_cert_to_DER_cert(gateway.ca.read_text())
        assert told.replace(":", "").lower() == _sha256(der)
        key_mode = [path for path in confdir.iterdir() if "key" in path.name or path.suffix == ".key"]
        assert key_mode
        assert all(path.stat().st_mode & 0o077 == 0 for path in key_mode), key_mode
        assert b"PRIVATE" not in gateway.ca.read_bytes()
    assert re.search(r"1 connection, 1 flow", gateway.output), gateway.output


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_certificate_is_the_gateways(lab: Lab, gateway: Gateway) -> None:
    with lab.connect_tls("www.origin.test", ca=gateway.ca, over=tunnel(lab, "www.origin.test", HTTPS)) as tls:
        der = tls.getpeercert(binary_form=True)
        assert der
        leaf = x509.load_der_x509_certificate(der)
    ca = x509.load_pem_x509_certificate(gateway.ca.read_bytes())
    leaf.verify_directly_issued_by(ca)
    assert issuer_of(der) == subject_of(gateway.ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "www.origin.test" in names.get_values_for_type(x509.DNSName)
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days < 200
    origin = x509.load_pem_x509_certificate(lab.pki.good.cert.read_bytes())
    assert leaf.public_key() != origin.public_key()


def test_curl_trusts_only_the_gateways_ca(lab: Lab, gateway: Gateway) -> None:
    assert lab.curl(f"https://origin.test:{HTTPS}/", via=gateway).status == 200
    assert lab.curl(f"https://origin.test:{HTTPS}/", proxy=gateway.proxy).exit == 60  # the origin's own root


def test_python_requests(lab: Lab, gateway: Gateway, origins: Origins) -> None:
    pytest.importorskip("requests")
    done = lab.client.python(
        """
import json, sys, requests
proxy, ca, port = sys.argv[1:]
with requests.Session() as s:
    s.proxies, s.verify = {"http": proxy, "https": proxy}, ca
    a = s.get(f"https://origin.test:{port}/bytes/100000")
    b = s.post(f"https://origin.test:{port}/echo", data=b"x" * 300000)
    c = s.get(f"https://origin.test:{port}/gzip")
    d = s.get("http://origin.test:8000/x")
    print(json.dumps([a.status_code, len(a.content), b.content == b"x" * 300000, len(c.content), d.status_code]))
""",
        gateway.proxy, str(gateway.ca), str(HTTPS),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [200, 100000, True, 4096, 200]
    assert len(origins.connections(HTTPS)) == 1  # kept alive through all three


@pytest.mark.skipif(chromium_path() is None, reason="no chromium here")
def test_chromium_proxied_and_transparent(lab: Lab) -> None:
    with lab.gateway_proc("-m", "regular@8070", "-m", "transparent@8071") as gateway:
        pages = [lab.chromium("https://origin.test/", via=gateway)]
        with lab.redirect(8071):
            pages.append(lab.chromium("https://origin.test/", ca=gateway.ca))
        for page in pages:
            assert "over HTTP/1.1" in page.dom, page
        page = lab.chromium("https://origin.test/", via=gateway, ca=lab.root)  # it does not know our CA
        assert "over HTTP/1.1" not in page.dom
        gateway.wait_output(r"does not trust the gateway's CA \(asked for origin.test")


# -- add-ons


def test_addon_changes_request_and_response(lab: Lab, hooked: Gateway, origins: Origins) -> None:
    for url in (f"http://origin.test:{HTTP}/seen", f"https://origin.test:{HTTPS}/seen"):
        reply = lab.curl(url, via=hooked)
        assert reply.status == 200
        seen = dict((name.lower(), value) for name, value in reply.json()["fields"])
        assert (seen["x-sync"], seen["x-async"]) == ("1", "2")
        assert (reply.header("x-head"), reply.header("x-response")) == ("3", "4")
    assert len(origins.requests()) == 2


def test_addon_changes_bodies(lab: Lab, hooked: Gateway, origins: Origins) -> None:
    reply = lab.curl(f"https://origin.test:{HTTPS}/body", "-d", "the body", via=hooked)
    assert reply.body == b"another body"
    assert origins.requests()[0].values("content-length") == ["12"]
    assert b"METHOD" in lab.curl(f"https://origin.test:{HTTPS}/shout", via=hooked).body
    reply = lab.curl(f"https://origin.test:{HTTPS}/gzip", "--compressed", via=hooked)
    assert reply.body == b"unpacked and packed again"


def test_addon_answers_by_itself(lab: Lab, hooked: Gateway, origins: Origins) -> None:
    reply = lab.curl(f"http://origin.test:{HTTP}/answered", via=hooked)
    assert (reply.status, reply.body) == (418, b"by the add-on")
    assert (reply.header("x-by"), reply.header("x-head"), reply.header("x-response")) == ("add-on", "3", "4")
    assert lab.curl(f"http://origin.test:{HTTP}/answered-later", "-d", "x=1", via=hooked).body == b"after a while"
    assert not origins.connections()  # a host that answers nothing at all would do as well
    assert lab.curl("http://no-such-name.test/answered", via=hooked).status == 418


@pytest.mark.parametrize("port", [HTTP, HTTPS])
def test_addon_kills(lab: Lab, hooked: Gateway, origins: Origins, port: int) -> None:
    url = f"{'https' if port == HTTPS else 'http'}://origin.test:{port}"
    reply = lab.curl(f"{url}/killed", via=hooked)
    assert (reply.status, reply.exit) in ((0, 52), (0, 56), (200, 52), (200, 56)), reply  # 200: of CONNECT
    assert not origins.requests()
    for path in ("/kill/responseheaders", "/kill/response"):
        reply = lab.curl(f"{url}{path}", via=hooked)
        assert reply.exit in (52, 56), reply
        assert not reply.body
    assert lab.curl(f"{url}/fine", via=hooked).status == 200


def test_event_stream_is_not_held_by_a_response_hook(lab: Lab, hooked: Gateway) -> None:
    for port in (HTTP, HTTPS):
        over = tunnel(lab, "origin.test", port, proxy=8090)
        with over if port == HTTP else lab.connect_tls(ca=hooked.ca, over=over) as sock:
            began = time.monotonic()
            sock.sendall(get("/sse?n=2&ms=400"))
            assert status(read_head(sock)) == 200
            data = sock.recv(100)
            first = time.monotonic() - began
            assert b"data: 0\n\n" in data
            assert first < 0.1
            while b"data: 1\n\n" not in data:
                data += sock.recv(100)
            assert 0.35 < time.monotonic() - began < 1


def test_onboarding_page_has_the_ca_and_no_key(lab: Lab, gateway: Gateway) -> None:
    """Under its own name and under mitm.it, PEM and DER."""
    page = lab.curl("http://lockgate.internal/", via=gateway)
    assert page.status == 200
    assert "html" in (page.header("content-type") or "")
    assert lab.curl("http://mitm.it/", via=gateway).status == 200
    links = re.findall(r'href="([^"]+)"', page.body.decode())
    files = [lab.curl(urljoin("http://lockgate.internal/", link), via=gateway).body for link in links]
    der = ssl.PEM_cert_to_DER_cert(gateway.ca.read_text())
    assert der in files
    assert any(b"BEGIN CERTIFICATE" in file for file in files)
    assert not any(b"PRIVATE" in file for file in [page.body, *files])


# -- one line a flow


def test_terminal_tells_what_happens(lab: Lab, gateway: Gateway) -> None:
    lab.curl(f"https://origin.test:{HTTPS}/a-path-of-its-own", via=gateway)
    gateway.wait_output(r"GET .*https://origin\.test:8001/a-path-of-its-own.*200")


def test_proxy_spoken_to_as_a_web_server(lab: Lab, gateway: Gateway) -> None:
    with connect(lab) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: gateway.test:8080\r\n\r\n")
        answer = read_all(sock)
    assert status(answer) == 400
    assert b"this is a proxy" in answer
