"""The page with the CA certificate, asked without a network."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import pytest

from appliance.addons.portal import Portal
from appliance.addons.switch import Switch
from appliance.connection import Client, Server
from appliance.http import Headers, HTTPFlow, Request, Response
from tests.harness import Events, Make, Rig


def ask(
    rig: Rig, path: str = "/", *, host: str = "lockgate.internal", method: str = "GET", named: str = ""
) -> HTTPFlow:
    """named: what the Host field says, in a request whose destination is `host` but not by its target."""
    flow = HTTPFlow(Client(peername=None, sockname=None), Server(address=None))
    headers = Headers([(b"Host", (named or host).encode())])
    authority = "" if named else host
    flow.request = Request(host, 80, method, "http", authority, path, "HTTP/1.1", headers, b"", None, 0.0, 0.0)
    assert rig.hooks.fire("requestheaders", flow) is None
    return flow


async def portal(rigs: Make, **options: object) -> Rig:
    rig = await rigs(Portal(), **options)
    rig.addons.configure()
    return rig


def answered(flow: HTTPFlow) -> Response:
    assert flow.response is not None
    return flow.response


async def test_page(rigs: Make) -> None:
    rig = await portal(rigs)
    response = answered(ask(rig))
    page = response.text
    assert page is not None
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert rig.worker.ca.fingerprint in page
    assert {path for path in re.findall(r'href="([^"]*)"', page)} == {"/cert/pem", "/cert/cer"}
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    allowed = b64encode(sha256(style.encode()).digest()).decode()
    policy = response.headers["content-security-policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{allowed}'; frame-ancestors 'none'"
    assert "style=" not in page and "<script" not in page


async def test_downloads_hold_the_certificate_alone(rigs: Make) -> None:
    rig = await portal(rigs)
    pem, der = answered(ask(rig, "/cert/pem")), answered(ask(rig, "/cert/cer?x=1"))
    assert pem.content == rig.worker.ca.pem
    assert der.content == rig.worker.ca.der
    for response in (pem, der):
        assert response.headers["content-type"] == "application/x-x509-ca-cert"
        assert b"PRIVATE" not in (response.content or b"")


@pytest.mark.parametrize(
    "path", ["/cert/", "/cert/p12", "/cert/key", "/cert/../lockgate-ca-key.pem", "//", "/favicon.ico", "*", ""]
)
async def test_anything_else_is_not_found(rigs: Make, path: str) -> None:
    response = answered(ask(await portal(rigs), path))
    assert response.status_code == 404
    assert "favicon" not in (response.text or "")  # nothing of the request is shown


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
async def test_other_methods(rigs: Make, method: str) -> None:
    response = answered(ask(await portal(rigs), method=method))
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("mitm.it", ""),
        ("LockGate.Internal", ""),
        ("10.61.2.2", "lockgate.internal"),
        ("10.61.2.2", "MITM.it:80"),
        ("", "lockgate.internal."),
    ],
)
async def test_its_names(rigs: Make, host: str, named: str) -> None:
    assert answered(ask(await portal(rigs), host=host, named=named)).status_code == 200


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("origin.test", ""),
        ("lockgate.internal.origin.test", ""),
        ("10.61.2.2", "xlockgate.internal"),
        ("10.61.2.2", "origin.test"),
    ],
)
async def test_other_names_are_left_alone(rigs: Make, host: str, named: str) -> None:
    assert ask(await portal(rigs), host=host, named=named).response is None


async def test_in_absolute_form_the_target_counts(rigs: Make) -> None:
    """RFC 9112 section 3.2.2: a Host field that says otherwise is not listened to."""
    rig = await portal(rigs)
    flow = HTTPFlow(Client(peername=None, sockname=None), Server(address=None))
    headers = Headers([(b"Host", b"lockgate.internal")])
    flow.request = Request(
        "origin.test", 80, "GET", "http", "origin.test", "/", "HTTP/1.1", headers, b"", None, 0.0, 0.0
    )
    rig.hooks.fire("requestheaders", flow)
    assert flow.response is None


async def test_switched(rigs: Make) -> None:
    rig = await portal(rigs, onboarding=False)
    assert not rig.hooks.wants("requestheaders") and not rig.hooks.wants("http_connect")
    rig.options.update(onboarding=True)
    assert answered(ask(rig)).status_code == 200
    rig.options.update(onboarding_host="ca.lab")
    assert answered(ask(rig, host="ca.lab")).status_code == 200
    assert ask(rig, host="lockgate.internal").response is None
    assert len(rig.hooks.table["requestheaders"]) == 1
    rig.options.update(onboarding=False)
    assert not rig.hooks.wants("requestheaders")


async def test_it_holds_no_body(rigs: Make) -> None:
    rig = await portal(rigs)
    assert not rig.hooks.wants("request") and not rig.hooks.wants("response")
    assert isinstance(rig.addons.get("portal"), Switch)


async def test_head_has_the_length_and_no_body(rigs: Make) -> None:
    rig = await portal(rigs)
    client = await rig.connect(await rig.regular())
    await client.say(b"HEAD http://mitm.it/cert/cer HTTP/1.1\r\nHost: mitm.it\r\nConnection: close\r\n\r\n")
    answer = await client.rest()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(rig.worker.ca.der) in head
    assert body == b""


async def test_a_body_sent_to_it_is_swallowed(rigs: Make) -> None:
    rig = await portal(rigs)
    client = await rig.connect(await rig.regular())
    await client.say(b"POST http://mitm.it/ HTTP/1.1\r\nHost: mitm.it\r\nContent-Length: 5\r\n\r\nhello")
    assert b" 405 " in await client.head()
    await client.say(b"GET http://mitm.it/cert/pem HTTP/1.1\r\nHost: mitm.it\r\nConnection: close\r\n\r\n")
    assert rig.worker.ca.pem in await client.rest()


async def test_a_tunnel_to_it_dials_nobody(rigs: Make) -> None:
    rig = await portal(rigs)
    events = Events("server_connect")
    rig.addons.add(events)
    client = await rig.tunnel(await rig.regular(), "lockgate.internal:443")
    await client.start_tls("lockgate.internal")
    await client.say(b"GET /cert/pem HTTP/1.1\r\nHost: lockgate.internal\r\nConnection: close\r\n\r\n")
    assert rig.worker.ca.pem in await client.rest()
    assert events.names == []
