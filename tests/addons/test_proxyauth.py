"""Who is let in, how others are asked, and that no secret gets out."""

from __future__ import annotations

import logging
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.addons.proxyauth import ProxyAuth, credentials
from appliance.addons.upstream_auth import Giving, UpstreamAuth, parse_upstream_auth
from appliance.connection import ModeName
from appliance.exceptions import OptionsError
from appliance.htpasswd import apr1
from appliance.http import HTTPFlow
from tests.addons.chain import Chain
from tests.flowkit import http
from tests.harness import Events, Make, Peer, echo
from tests.layers.http.h2_frames import data, get, headers
from tests.layers.http.h2_kit import setting as h2_setting
from tests.layers.http.h2_peer import H2Peer
from tests.layers.http.httpkit import OK, Origin, read_response
from tests.test_htpasswd import BCRYPT


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


GOOD, BAD = basic("ann", "U*U"), basic("ann", "U*V")


def flow_of(mode: str = "regular", **fields: str) -> HTTPFlow:
    flow = http(status=None, live=True)
    flow.client_conn.proxy_mode = ModeName(mode)
    for name, value in fields.items():
        flow.request.headers[name.replace("_", "-")] = value
    return flow


def status(flow: HTTPFlow) -> int | None:
    return flow.response.status_code if flow.response else None


def test_off_it_listens_to_nothing() -> None:
    chain = Chain(ProxyAuth(), UpstreamAuth())
    assert chain.listens() == set()
    chain.options.update(proxyauth="any")
    assert chain.listens() == {"requestheaders", "http_connect"}
    chain.options.reset("proxyauth")
    assert chain.listens() == set()


@pytest.mark.parametrize(("mode", "field", "code", "asked"), [
    ("regular", "Proxy_Authorization", 407, "Proxy-Authenticate"),
    ("upstream:http://p:1", "Proxy_Authorization", 407, "Proxy-Authenticate"),
    ("transparent", "Authorization", 401, "WWW-Authenticate"),
    ("reverse:http://x", "Authorization", 401, "WWW-Authenticate"),
])  # fmt: skip
def test_by_mode(mode: str, field: str, code: int, asked: str) -> None:
    chain = Chain(ProxyAuth(), proxyauth="ann:U*U")
    other = "Authorization" if field.startswith("Proxy") else "Proxy_Authorization"
    for wrong in ({}, {field: BAD}, {other: GOOD}, {field: "Basic"}, {field: "Bearer x"}, {field: basic("eve", "U*U")}):
        flow = flow_of(mode, **wrong)
        chain.fire(flow, "requestheaders")
        assert status(flow) == code and flow.response and flow.response.headers[asked].startswith("Basic realm=")
        assert "proxyauth" not in flow.metadata
    flow = flow_of(mode, **{field: GOOD, other: "kept"})
    chain.fire(flow, "requestheaders")
    assert status(flow) is None and flow.metadata["proxyauth"] == ("ann", "")
    assert field.replace("_", "-") not in flow.request.headers
    assert flow.request.headers[other.replace("_", "-")] == "kept"


def test_a_connect_is_remembered_for_its_connection() -> None:
    chain = Chain(ProxyAuth(), proxyauth="ann:U*U")
    tunnel = flow_of(proxy_authorization=BAD)
    chain.fire(tunnel, "http_connect")
    assert status(tunnel) == 407
    inside = flow_of(authorization="for the server")
    inside.client_conn = tunnel.client_conn
    chain.fire(inside, "requestheaders")
    assert status(inside) == 407
    again = flow_of(proxy_authorization=GOOD)
    again.client_conn = tunnel.client_conn
    chain.fire(again, "http_connect")
    inside.response = None
    chain.fire(inside, "requestheaders")
    assert status(inside) is None and inside.metadata["proxyauth"] == ("ann", "")
    assert inside.request.headers["authorization"] == "for the server"
    other = flow_of()
    chain.fire(other, "requestheaders")
    assert status(other) == 407
    # a request that is not in a tunnel is not remembered: the next one on its connection is asked again
    plain, following = flow_of(proxy_authorization=GOOD), flow_of()
    following.client_conn = plain.client_conn
    chain.fire(plain, "requestheaders")
    chain.fire(following, "requestheaders")
    assert (status(plain), status(following)) == (None, 407)


def test_what_came_before_does_not_get_around_it() -> None:
    chain = Chain(ProxyAuth(), proxyauth="ann:U*U")
    flow = http(live=True)
    chain.fire(flow, "requestheaders")
    assert status(flow) == 407
    replayed = flow_of()
    replayed.is_replay = "request"
    chain.fire(replayed, "requestheaders")
    assert status(replayed) is None


def test_any_lets_scripts_see_what_was_given() -> None:
    chain = Chain(ProxyAuth(), proxyauth="any")
    flow = flow_of(proxy_authorization=basic("zone-7", "a:b"))
    chain.fire(flow, "requestheaders")
    assert flow.metadata["proxyauth"] == ("zone-7", "a:b")
    flow = flow_of()
    chain.fire(flow, "requestheaders")
    assert status(flow) == 407


async def test_htpasswd(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "users"
    path.write_bytes(b"ann:%b\nbob:%b\n" % (BCRYPT, apr1(b"x", b"salt")))
    chain = Chain(ProxyAuth(), proxyauth=f"@{path}")

    async def let_in(user: str, password: str) -> bool:
        flow = flow_of(proxy_authorization=basic(user, password))
        await chain.fire_all(flow, "requestheaders")
        assert "proxy-authorization" not in flow.request.headers
        return status(flow) is None

    assert await let_in("ann", "U*U") and await let_in("bob", "x") and await let_in("ann", "U*U")
    assert not await let_in("ann", "x") and not await let_in("eve", "U*U")
    flow = flow_of(proxy_authorization=GOOD)
    chain.fire(flow, "requestheaders")  # known by now, so at once
    assert status(flow) is None
    # it is read again when it changes, and what was known is asked anew
    path.write_bytes(b"bob:%b\n" % BCRYPT)
    assert not await let_in("ann", "U*U") and await let_in("bob", "U*U")
    path.write_bytes(b"broken")
    assert await let_in("bob", "U*U") and not await let_in("broken", "")
    path.unlink()
    assert await let_in("bob", "U*U")
    assert (
        "what was read before counts" in caplog.text and "U*U" not in caplog.text and BCRYPT.decode() not in caplog.text
    )


@pytest.mark.parametrize(("spec", "why"), [
    ("secret", "NAME:PASSWORD"), (":secret", "NAME:PASSWORD"), ("a:secret:b", "no further colon"),
    ("@/none", "No such file"),
    ("ldap:secret", "LDAP is not"), ("ldaps:secret", "LDAP is not"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused_without_repeating_it(spec: str, why: str) -> None:
    chain = Chain(ProxyAuth())
    with pytest.raises(OptionsError, match=why) as caught:
        chain.options.update(proxyauth=spec)
    assert "secret" not in str(caught.value) and chain.listens() == set()


@given(st.text(max_size=60))
def test_any_field(text: str) -> None:
    pair = credentials(text)
    assert pair is None or text.strip().lower().startswith("basic ")


@given(st.binary(max_size=30).filter(lambda user: b":" not in user), st.binary(max_size=30))
def test_every_pair_comes_back(user: bytes, password: bytes) -> None:
    assert credentials("bAsIc  " + b64encode(user + b":" + password).decode()) == (user, password)


# -- on connections


async def test_through_the_proxy(rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    events, origin, secure = Events(), Origin(OK), Origin(OK)
    rig = await rigs(ProxyAuth(), events, proxyauth="ann:U*U")
    rig.addons.configure()
    host, port = await rig.origin(origin)
    _, up = await rig.origin(secure, tls=True)
    proxy = await rig.regular()

    async def ask(client: Peer, head: str, *fields: str) -> tuple[int, str | None]:
        await client.say("\r\n".join([head, f"Host: {host}:{port}", *fields, "", ""]).encode())
        message = await read_response(client)
        return message.status, message.value("proxy-authenticate")

    client = await rig.connect(proxy)
    get_it, open_it = f"GET http://{host}:{port}/ HTTP/1.1", f"CONNECT origin.test:{up} HTTP/1.1"
    assert (await ask(client, get_it))[0] == 407 and not origin.connections
    assert (await ask(client, get_it, f"Proxy-Authorization: {GOOD}"))[0] == 200  # on the same connection
    assert (await ask(client, get_it))[0] == 407
    assert origin.requests[0].value("proxy-authorization") is None
    refused = await rig.connect(proxy)
    code, asked = await ask(refused, open_it, f"Proxy-Authorization: {BAD}")
    assert code == 407 and asked and asked.startswith("Basic ") and not secure.connections
    tunnel = await rig.connect(proxy)
    await tunnel.say(f"{open_it}\r\nHost: origin.test:{up}\r\nProxy-Authorization: {GOOD}\r\n\r\n".encode())
    assert b" 200 " in await tunnel.head()
    await tunnel.start_tls("origin.test")
    for _ in range(2):
        assert (await ask(tunnel, "GET / HTTP/1.1", "Authorization: Basic bTpu"))[0] == 200
    assert secure.requests[0].value("authorization") == "Basic bTpu"
    assert "U*U" not in caplog.text and GOOD not in caplog.text
    for flow in events.of("response"):
        assert "U*U" not in repr(flow.get_state())


async def test_inside_http2_each_connect_and_each_request_is_asked(rigs: Make) -> None:
    rig = await rigs(ProxyAuth(), proxyauth="ann:U*U")
    rig.addons.configure()
    origin = Origin(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    web = f"127.0.0.1:{(await rig.origin(origin))[1]}"
    tunnelled = f"127.0.0.1:{(await rig.origin(echo))[1]}".encode()
    client = await H2Peer(await rig.connect(await rig.regular())).start()
    good, bad = (b"proxy-authorization", GOOD.encode()), (b"proxy-authorization", BAD.encode())
    asks = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", web.encode()), (b":path", b"/")]
    opens = [(b":method", b"CONNECT"), (b":authority", tunnelled)]
    await client.say(headers(1, [*opens, bad], end=False), headers(3, asks), headers(5, [*asks, good]))
    assert [(await client.response(number)).status for number in (1, 3, 5)] == [407, 407, 200]
    assert [seen.value("proxy-authorization") for seen in origin.requests] == [None]
    await client.say(headers(7, [*opens, good], end=False), data(7, b"\0raw"))
    assert (await client.head(7)).status == 200
    await client.until(lambda: client.streams[7].body == b"\0raw")
    assert client.streams[7].body == b"\0raw"
    await client.say(headers(9, asks))  # beside a tunnel that was granted
    assert (await client.response(9)).status == 407


async def test_transparent_http2(rigs: Make) -> None:
    got = await h2_setting(rigs, None, ProxyAuth(), proxyauth="ann:U*U")
    got.rig.addons.configure()
    client = await got.client()
    await client.say(get(1), get(3, b"/", (b"authorization", GOOD.encode())))
    assert (await client.response(1)).status == 401 and (await client.response(3)).status == 200
    assert not got.origin.asked[0].values(b"authorization")


async def test_an_answer_in_time_for_a_body_that_is_not_wanted(rigs: Make) -> None:
    rig = await rigs(ProxyAuth(), proxyauth="ann:U*U")
    rig.addons.configure()
    client = await rig.connect(await rig.regular())
    began = time.monotonic()
    await client.say(
        b"PUT http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000
    )
    assert (await read_response(client)).status == 407 and time.monotonic() - began < 5


# -- upstream_auth


def test_upstream_auth_goes_to_whom_it_is_for() -> None:
    field = parse_upstream_auth("ann:U*U")
    assert field == GOOD
    chain = Chain(Giving(field))
    for mode, name in (("regular", None), ("transparent", None), ("upstream:http://p:1", "proxy-authorization"),
                       ("reverse:http://x", "authorization")):  # fmt: skip
        flow = flow_of(mode)
        chain.fire(flow, "requestheaders")
        assert {"authorization", "proxy-authorization"} & {key.lower() for key in flow.request.headers} == (
            {name} if name else set()
        )
        if name:
            assert flow.request.headers[name] == GOOD
    flow = flow_of("upstream:http://p:1")
    flow.request.scheme = "https"  # inside a tunnel, so not the proxy's business
    chain.fire(flow, "requestheaders")
    assert "proxy-authorization" not in flow.request.headers
    chain.fire(flow, "http_connect_upstream")
    assert flow.request.headers["proxy-authorization"] == GOOD


@pytest.mark.parametrize("spec", ["secret", ":secret"])
def test_upstream_auth_that_nobody_would_get_is_refused(spec: str) -> None:
    chain = Chain(UpstreamAuth())
    with pytest.raises(OptionsError, match="NAME:PASSWORD") as caught:
        chain.options.update(upstream_auth=spec)
    assert "secret" not in str(caught.value)
    with pytest.raises(OptionsError, match="no mode here has an upstream proxy"):
        chain.options.update(upstream_auth="ann:secret")
    on: Any = {"mode": ["upstream:http://p:1@8080"], "upstream_auth": "ann:secret"}
    chain.options.update(**on)
    assert chain.listens() == {"requestheaders", "http_connect_upstream"}
