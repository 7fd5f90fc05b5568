"""Which layer comes next: the decision table, and that it does not depend on how the bytes were cut."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.layers.decide import MAX_HEAD, Facts, Proposal, decide, host_header
from appliance.policy import HostPolicy
from appliance.verdict import NeedMore


def hello(name: str | None = "shop.example", alpn: tuple[str, ...] = ()) -> bytes:
    """A ClientHello as Python's ssl sends it."""
    context = ssl.create_default_context()
    if name is None:
        context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same hello, cut into records of `size` bytes."""
    body = data[5:]
    return b"".join(
        b"\x16\x03\x01" + len(body[i : i + size]).to_bytes(2) + body[i : i + size] for i in range(0, len(body), size)
    )


HELLO = hello()
NAMELESS = hello(None)
GET = b"GET / HTTP/1.1\r\nUser-Agent: x\r\nHost: shop.example\r\nAccept: */*\r\n\r\n"
NO_HOST = b"GET / HTTP/1.0\r\nAccept: */*\r\n\r\n"


def facts(data: bytes = b"", **kw: Any) -> Facts:
    values: dict[str, Any] = {
        "final": False,
        "proxy": False,
        "addresses": ["192.0.2.1:443"],
        "sni": None,
        "port": 443,
        "alpn": None,
        "server_spoke": False,
        "rawtcp": True,
    }
    return Facts(data=data, **(values | kw))


def kind(found: Proposal | NeedMore) -> str:
    return found.kind if isinstance(found, Proposal) else "wait"


NOBODY = HostPolicy([], [])


@pytest.mark.parametrize(
    ("data", "also", "wanted"),
    [
        # TLS: three bytes are enough, fewer wait
        (b"", {}, "wait"),
        (b"\x16", {}, "wait"),
        (b"\x16\x03", {}, "wait"),
        (b"\x16\x03\x01", {}, "tls"),
        (b"\x16\x03\x00\x00", {}, "tls"),
        (b"\x16\x03\x03", {}, "tls"),
        (b"\x16\x03\x04", {}, "tcp"),
        (b"\x16\x04\x01", {}, "tcp"),
        (b"\x16", {"final": True}, "tcp"),
        (b"\x16\x03", {"final": True}, "tcp"),
        (b"\x17\x03\x03\x00\x10", {}, "tcp"),
        (b"\x16\xfe\xfd\x00", {}, "tcp"),
        (HELLO, {}, "tls"),
        # HTTP
        (b"G", {}, "wait"),
        (b"GE", {}, "wait"),
        (b"GET", {}, "wait"),
        (b"GET ", {}, "http"),
        (b"GET / HTTP/1.1\r\n", {}, "http"),
        (GET, {}, "http"),
        (b"M-SEARCH * HTTP/1.1\r\n", {}, "tcp"),  # "M-S" is no three letters; as mitmproxy
        (b"PROPFIND /x HTTP/1.1\r\n", {}, "http"),
        (b"OPTIONS * HTTP/1.1\r\n", {}, "http"),
        (b"get / http/1.1\r\n", {}, "http"),
        (b"CONNECT", {}, "wait"),
        (b"CONNECT a:443 HTTP/1.1\r\n", {}, "tcp"),  # for a proxy beyond us
        (b"CONNECT a:443 HTTP/1.1\r\n", {"proxy": True}, "http"),  # for us
        (b"CONNECT a:443 HTTP/1.1\r\n", {"rawtcp": False}, "block"),
        (b"CONNECTED x\r\n", {}, "http"),
        (b"GE", {"final": True}, "tcp"),
        (b"GET", {"final": True}, "tcp"),
        (b"QUIT\r\n", {}, "tcp"),  # no space before the end of line
        (b"HELLO\nworld x", {}, "tcp"),
        (b"a" * 32, {}, "wait"),
        (b"a" * 33, {}, "tcp"),
        (b"12 34", {}, "tcp"),
        (b"\x00\x01\x02", {}, "tcp"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", {}, "tcp"),
        (b"SSH-", {}, "tcp"),
        (b"SSH", {}, "wait"),
        # ALPN of a TLS layer below
        (b"", {"alpn": b"http/1.1"}, "http"),
        (b"", {"alpn": b"h2"}, "http"),
        (b"\x00\x01\x02", {"alpn": b"http/1.1"}, "http"),
        (b"GET / HTTP/1.1\r\n", {"alpn": b"mqtt"}, "http"),
        (b"\x10\x0c\x00\x04MQTT", {"alpn": b"mqtt"}, "tcp"),
        # a server that speaks first
        (b"", {"server_spoke": True}, "tcp"),
        (b"", {"final": True}, "tcp"),
        # rawtcp off
        (b"\x00\x01\x02", {"rawtcp": False}, "block"),
        (b"SSH-2.0-x\r\n", {"rawtcp": False}, "block"),
        (b"", {"server_spoke": True, "rawtcp": False}, "block"),
        (GET, {"rawtcp": False}, "http"),
        (HELLO, {"rawtcp": False}, "tls"),
        # an explicit proxy: TLS or HTTP, nothing else
        (b"", {"proxy": True}, "wait"),
        (b"G", {"proxy": True}, "http"),
        (b"\x16", {"proxy": True}, "wait"),
        (b"\x16\x03\x01", {"proxy": True}, "tls"),
        (b"\x00\x01\x02", {"proxy": True, "rawtcp": False}, "http"),
        (b"SSH-2.0-x\r\n", {"proxy": True}, "http"),
        (b"", {"proxy": True, "final": True}, "http"),
    ],
)
def test_protocols(data: bytes, also: dict[str, Any], wanted: str) -> None:
    assert kind(decide(facts(data, **also), NOBODY)) == wanted


@pytest.mark.parametrize(
    ("ignore", "allow", "data", "also", "wanted"),
    [
        # by address, before a byte came
        ([r"192\.0\.2\.1:443"], [], b"", {}, "pass"),
        ([r"198\."], [], b"", {}, "wait"),
        # both addresses count
        (["real"], [], b"", {"addresses": ["192.0.2.1:443", "real.example:443"]}, "pass"),
        # by SNI, which is waited for
        (["shop"], [], b"\x16", {}, "wait"),
        (["shop"], [], HELLO[:3], {}, "wait"),
        (["shop"], [], HELLO[:100], {}, "wait"),
        (["shop"], [], HELLO[:-1], {}, "wait"),
        (["shop"], [], HELLO, {}, "pass"),
        ([r"^shop\.example:443$"], [], HELLO, {}, "pass"),
        (["bank"], [], HELLO, {}, "tls"),
        (["shop"], [], in_records(HELLO, 40), {}, "pass"),
        (["shop"], [], in_records(HELLO, 40)[:-1], {}, "wait"),
        (["shop"], [], NAMELESS, {}, "tls"),
        (["shop"], [], HELLO[:100], {"final": True}, "tls"),
        (["shop"], [], b"\x16\x03\x01\x00\x05hello", {}, "tls"),  # malformed: nothing more to learn
        (["shop"], [], HELLO[:5] + b"\x02" + HELLO[6:], {}, "tls"),
        # by the SNI of a TLS layer below
        (["shop"], [], b"GET ", {"sni": "shop.example"}, "pass"),
        # by Host, which is waited for
        (["shop"], [], b"GET", {}, "wait"),
        (["shop"], [], b"GET / HTTP/1.1\r\n", {}, "wait"),
        (["shop"], [], GET[: GET.index(b"Host:") + 10], {}, "wait"),
        (["shop"], [], GET[: GET.index(b"Accept")], {}, "pass"),
        (["shop"], [], GET, {}, "pass"),
        (["shop"], [], GET.replace(b"Host", b"hOST"), {}, "pass"),
        ([r"shop\.example:443"], [], GET, {}, "pass"),
        ([r"shop\.example:8080"], [], GET.replace(b"shop.example", b"shop.example:8080"), {}, "pass"),
        (["bank"], [], GET, {}, "http"),
        (["shop"], [], NO_HOST, {}, "http"),
        (["shop"], [], NO_HOST[:-2], {}, "wait"),
        (["shop"], [], NO_HOST + b"Host: shop.example\r\n", {}, "http"),
        (["shop"], [], GET[:20], {"final": True}, "http"),
        # allow_hosts
        ([], ["shop"], b"", {}, "wait"),
        ([], ["192"], b"", {}, "wait"),  # allowed; what it is remains to be seen
        ([], ["192"], HELLO, {}, "tls"),
        ([], ["shop"], HELLO, {}, "tls"),
        ([], ["bank"], HELLO, {}, "pass"),
        ([], ["bank"], HELLO[:50], {}, "wait"),
        ([], ["bank"], HELLO[:50], {"final": True}, "pass"),
        ([], ["shop"], GET, {}, "http"),
        ([], ["bank"], GET, {}, "pass"),
        ([], ["bank"], b"\x00\x01\x02", {}, "pass"),
        ([], ["bank"], b"", {"server_spoke": True}, "pass"),
        ([], ["bank"], b"SSH-2.0-x\r\n", {}, "pass"),
        (["443"], ["shop"], HELLO, {}, "pass"),
        # nothing known to match, or nothing to match with
        ([".*"], [], HELLO, {"addresses": []}, "tls"),
        ([".*"], [], b"", {"proxy": True, "addresses": []}, "wait"),
        ([".*"], [], HELLO, {"proxy": True}, "tls"),
    ],
)
def test_rules(ignore: list[str], allow: list[str], data: bytes, also: dict[str, Any], wanted: str) -> None:
    found = decide(facts(data, **also), HostPolicy(ignore, allow))
    assert kind(found) == wanted
    if isinstance(found, Proposal):
        assert found.verdict.action == {"pass": "pass", "block": "block"}.get(found.kind, "decrypt")
        assert found.verdict.reason


STREAMS = [
    HELLO,
    NAMELESS,
    in_records(HELLO, 7),
    GET,
    NO_HOST,
    GET.replace(b"\r\n", b"\n"),
    b"SSH-2.0-OpenSSH_9.2p1\r\n" + bytes(40),
    b"QUIT\r\n",
    b"USER anonymous\r\nPASS x\r\n",
    b"\x16\x03\x01\x00\x05hello and more",
    b"\x00\x00\x00\x01binary",
    b"a" * 200,
    b"POST /a b c HTTP/1.1\r\nHost: shop.example\r\n\r\nbody",
]
RULES = [([], []), (["shop"], []), ([], ["shop"]), (["nothing"], []), ([], ["nothing"]), ([r"192\."], [])]


def run(data: bytes, cuts: list[int], policy: HostPolicy, proxy: bool = False) -> tuple[str, int]:
    """The decision when the bytes come in these pieces, and how often it was asked for."""
    asked = 0
    for end in [*sorted(cuts), len(data)]:
        asked += 1
        found = decide(facts(data[:end], proxy=proxy, addresses=[] if proxy else ["192.0.2.1:443"]), policy)
        if isinstance(found, Proposal):
            return found.kind, asked
    found = decide(facts(data, proxy=proxy, final=True, addresses=[] if proxy else ["192.0.2.1:443"]), policy)
    assert isinstance(found, Proposal), "the last word is a decision"
    return found.kind, asked


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(STREAMS),
    st.sampled_from(RULES),
    st.booleans(),
    st.lists(st.integers(0, 600), max_size=12),
)
def test_how_it_was_cut_does_not_matter(
    data: bytes, rules: tuple[list[str], list[str]], proxy: bool, cuts: list[int]
) -> None:
    policy = HostPolicy(*rules)
    whole, _ = run(data, [], policy, proxy)
    pieces, _ = run(data, [cut for cut in cuts if cut < len(data)], policy, proxy)
    assert pieces == whole


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("data", STREAMS)
def test_a_byte_at_a_time(data: bytes, rules: tuple[list[str], list[str]]) -> None:
    policy = HostPolicy(*rules)
    assert run(data, list(range(len(data))), policy)[0] == run(data, [], policy)[0]


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(RULES), st.booleans(), st.booleans(), st.booleans())
def test_any_bytes_get_a_decision(
    data: bytes, rules: tuple[list[str], list[str]], proxy: bool, spoke: bool, raw: bool
) -> None:
    found = decide(facts(data, final=True, proxy=proxy, server_spoke=spoke, rawtcp=raw), HostPolicy(*rules))
    assert isinstance(found, Proposal)


def test_a_head_without_end_is_not_waited_for() -> None:
    data = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD // 6)
    assert kind(decide(facts(data), HostPolicy(["shop"], []))) == "http"


@pytest.mark.parametrize(
    ("data", "host"),
    [
        (b"", None),
        (b"GET", None),
        (b"GET /", None),
        (b"GET / HTTP/1.1\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", "a"),
        (b"GET / HTTP/1.1\r\nHost:a:80 \r\n", "a:80"),
        (b"GET / HTTP/1.1\r\nX-Host: b\r\nHost: a\r\n", "a"),
        (b"GET / HTTP/1.1\r\nX: b\r\n\r\nHost: a\r\n", ""),
        (b"\x00\x01", ""),
        (b"QUIT\r\n", ""),
    ],
)
def test_host_header(data: bytes, host: str | None) -> None:
    assert host_header(data) == host
