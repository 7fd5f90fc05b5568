"""What servers and DNS say of ways past the gateway: Alt-Svc, HTTPS records, h2c; and names that scripts import."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import compat
from appliance.addons.disable_h2c import DisableH2C
from appliance.addons.strip_dns_https_records import StripDnsHttpsRecords
from appliance.addons.update_alt_svc import UpdateAltSvc, update_alt_svc_header, without_http3
from appliance.connection import ModeName
from appliance.dns import DNSError, DNSFlow, HTTPSRecord, ResourceRecord, types
from appliance.dnsrecord import strip_https
from appliance.net.dns import svcb
from appliance.test.tflow import tdnsflow
from tests.addons.chain import Chain
from tests.flowkit import http


@pytest.mark.parametrize(("before", "after"), [
    ('h3=":443"; ma=86400', ""),
    ('h3=":443"; ma=86400, h3-29=":443"', ""),
    ('h3=":443", h2="alt.test:443"; ma=60', 'h2="alt.test:443"; ma=60'),
    ('h2="a.test:1"; x="h3=1, 2"', 'h2="a.test:1"; x="h3=1, 2"'),
    ('H3=":443",h2=":444"', 'h2=":444"'),
    ("clear", "clear"), ("", ""), (",,", ""), ('h3=":443', ""), ('h2=":1", h3="\\', 'h2=":1"'),
    ('h3x=":1"', 'h3x=":1"'),
])  # fmt: skip
def test_http3_goes_out_of_alt_svc(before: str, after: str) -> None:
    assert without_http3(before) == after


@given(st.text(max_size=80))
def test_any_alt_svc(text: str) -> None:
    assert "h3=" not in without_http3("h3=x, " + text.replace("h3=", ""))[:3]
    update_alt_svc_header(text, 8443)


def test_the_port_of_alt_svc_in_reverse_mode() -> None:
    assert update_alt_svc_header('h3=":443"; ma=1, h2="alt.test:8000"', 8443) == 'h3=":8443"; ma=1, h2=":8443"'


@pytest.mark.parametrize(("mode", "left"), [
    ("transparent@8081", None), ("wireguard", None), ("reverse:https://x.test@8443", 'h3=":8443"'),
    ("regular", 'h3=":443"'),
])  # fmt: skip
def test_alt_svc_by_mode(mode: str, left: str | None) -> None:
    chain = Chain(UpdateAltSvc(), mode=[mode])
    assert chain.listens() == (set() if mode == "regular" else {"responseheaders"})
    flow, without = http(alt_svc='h3=":443"'), http()
    flow.client_conn.proxy_mode = ModeName(mode)
    flow.client_conn.sockname = ("192.0.2.1", 8443)
    for one in (flow, without):
        chain.fire(one, "responseheaders")
    assert flow.response is not None and flow.response.headers.get("alt-svc") == left
    chain.options.update(keep_alt_svc_header=True)
    assert chain.listens() == set()


def https(**params: bytes) -> ResourceRecord:
    numbers = {"mandatory": svcb.MANDATORY, "alpn": svcb.ALPN, "only": svcb.NO_DEFAULT_ALPN, "port": svcb.PORT,
               "ech": svcb.ECH, "other": 65000}  # fmt: skip
    record = HTTPSRecord(1, "", {numbers[name]: value for name, value in params.items()})
    return ResourceRecord.HTTPS("a.test", record)


def keys(*numbers: int) -> bytes:
    return struct.pack(f"!{len(numbers)}H", *numbers)


@pytest.mark.parametrize(("before", "after"), [
    ({"ech": b"keys", "port": b"\1\2"}, {"port": b"\1\2"}),
    ({"alpn": b"\2h3\2h2", "ech": b"x"}, {"alpn": b"\2h2"}),
    ({"alpn": b"\2h3", "only": b""}, {}),
    ({"alpn": b"\5h3-29\2h3", "other": b"y"}, {"other": b"y"}),
    ({"alpn": b"\2h2", "only": b""}, {"alpn": b"\2h2", "only": b""}),
    ({"mandatory": keys(1, 5), "alpn": b"\2h3\2h2", "ech": b"x"}, {"mandatory": keys(1), "alpn": b"\2h2"}),
    ({"mandatory": keys(5), "ech": b"x"}, {}),
    ({}, {}),
])  # fmt: skip
def test_https_records(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    records = [https(**before), ResourceRecord.A("a.test", "192.0.2.1")]
    strip_https(records)
    assert records == [https(**after), ResourceRecord.A("a.test", "192.0.2.1")]


def test_what_cannot_be_read_goes_as_a_whole() -> None:
    bad = [ResourceRecord("a.test", kind, data=data) for kind in (types.HTTPS, types.SVCB)
           for data in (b"", b"\0\1\0\0\5\0\2", b"\0\1\0\0\1\0\1\x09", b"\0\1\0\0\0\0\1\x09")]  # fmt: skip
    records = [*bad, https(), ResourceRecord("a.test", types.TXT, data=b"")]
    strip_https(records)
    assert records == [https(), ResourceRecord("a.test", types.TXT, data=b"")]


@given(st.binary(max_size=80))
def test_nothing_gets_through_and_stripping_again_changes_nothing(data: bytes) -> None:
    records = [ResourceRecord("a.test", types.HTTPS, data=data)]
    strip_https(records)
    for record in records:
        assert record.https_ech is None and not {b"h3", b"h3-29"} & set(record.https_alpn or ())
        content = record.https_record
        assert not svcb.strip(content)


@given(st.dictionaries(st.integers(0, 9), st.binary(max_size=12), max_size=6))
def test_other_parameters_stay(params: dict[int, bytes]) -> None:
    record = HTTPSRecord(1, "t.test", dict(params))
    try:
        svcb.strip(record)
    except DNSError:
        return
    touched = {svcb.MANDATORY, svcb.ALPN, svcb.NO_DEFAULT_ALPN, svcb.ECH}
    assert {k: v for k, v in record.params.items() if k not in touched} == {
        k: v for k, v in params.items() if k not in touched
    }


def test_the_add_on_by_hand() -> None:
    flow: DNSFlow = tdnsflow(resp=True)
    assert flow.response is not None
    flow.response.answers = [https(ech=b"x")]
    flow.response.additionals = [https(ech=b"x")]
    Chain(addon := StripDnsHttpsRecords()).fire(flow, "dns_response")
    assert flow.response.answers == flow.response.additionals == [https()] and addon.name
    flow.response = None
    addon.dns_response(flow)


def test_h2c_by_hand() -> None:
    chain = Chain(DisableH2C())
    flow = http(live=True)
    flow.request.headers.update({"Upgrade": "h2c", "Connection": "Upgrade", "HTTP2-Settings": "x"})
    chain.fire(flow, "requestheaders")
    assert not {"upgrade", "connection", "http2-settings"} & {name.lower() for name in flow.request.headers}
    assert not flow.killed
    for change in ({"method": "PRI", "path": "*"}, {"http_version": "HTTP/2.0"}):
        flow = http(live=True)
        for name, value in change.items():
            setattr(flow.request, name, value)
        chain.fire(flow, "requestheaders", "request")
        assert flow.killed
    flow = http("https://a.test/", live=True)
    flow.request.http_version = "HTTP/2.0"
    chain.fire(flow, "requestheaders", "request")
    assert not flow.killed


def test_scripts_can_import_them_by_mitmproxys_names() -> None:
    compat.install()
    try:
        from importlib import import_module

        found: Any
        for module, name in (("clientplayback", "ClientPlayback"), ("serverplayback", "ServerPlayback"),
                             ("proxyauth", "ProxyAuth"), ("upstream_auth", "UpstreamAuth"),
                             ("update_alt_svc", "UpdateAltSvc"), ("disable_h2c", "DisableH2C"),
                             ("strip_dns_https_records", "StripDnsHttpsRecords"), ("onboarding", "Onboarding"),
                             ("keepserving", "KeepServing")):  # fmt: skip
            found = getattr(import_module(f"mitmproxy.addons.{module}"), name)
            assert found.__module__.startswith("appliance.addons")
    finally:
        compat.uninstall()
