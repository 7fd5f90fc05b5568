"""Add-ons that change or answer HTTP messages: what each option means, and that none costs anything while off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.addons import default_addons
from appliance.addons.anticache import AntiCache
from appliance.addons.anticomp import AntiComp
from appliance.addons.block import Block, kind_of
from appliance.addons.blocklist import BlockList
from appliance.addons.intercept import Intercept
from appliance.addons.maplocal import MapLocal
from appliance.addons.mapremote import MapRemote
from appliance.addons.modifybody import ModifyBody
from appliance.addons.modifyheaders import ModifyHeaders
from appliance.addons.stickyauth import StickyAuth
from appliance.addons.stickycookie import StickyCookie, domain_match
from appliance.connection import Client, ModeName
from appliance.exceptions import OptionsError
from appliance.flow import Error
from appliance.http import HTTPFlow
from appliance.udp import UDPFlow
from tests.addons.chain import HEAD_AND_BODY, Chain
from tests.flowkit import ends, http, tcp

ALL = (AntiCache, AntiComp, Block, BlockList, Intercept, MapLocal, MapRemote, ModifyBody, ModifyHeaders, StickyAuth,
       StickyCookie)  # fmt: skip


def test_what_is_off_listens_to_nothing() -> None:
    chain = Chain(*(kind() for kind in ALL), block_global=False)
    assert chain.listens() == set()
    on: dict[str, Any] = {"anticache": True, "modify_headers": ["/a/b"], "intercept": "~m POST", "stickyauth": "~all"}
    chain.options.update(**on)
    assert {"requestheaders", "request", "tcp_message"} <= chain.listens()
    chain.options.reset(*on)
    assert chain.listens() == set()


def test_by_default_only_what_is_asked_for_sees_http() -> None:
    chain = Chain(*default_addons(), onboarding=False, flow_detail=0, block_global=False)
    assert chain.listens() == set()


def test_the_order_is_that_of_mitmproxy() -> None:
    names = [type(addon).__name__ for addon in default_addons()]
    wanted = ["Block", "BlockList", "AntiCache", "AntiComp", "Export", "Portal", "ScriptLoader", "MapRemote",
              "MapLocal", "ModifyBody", "ModifyHeaders", "StickyAuth", "StickyCookie", "Save", "SaveHar", "Dumper",
              "ReadFile", "Intercept"]  # fmt: skip
    assert [name for name in names if name in wanted] == wanted


def test_anticache_and_anticomp() -> None:
    chain, flow = Chain(AntiCache(), AntiComp(), anticache=True, anticomp=True), http(live=True)
    flow.request.headers.update({"if-none-match": "x", "if-modified-since": "y", "accept-encoding": "br"})
    chain.fire(flow, "requestheaders")
    assert flow.request.headers["accept-encoding"] == "identity"
    assert not {"if-none-match", "if-modified-since"} & set(flow.request.headers)


# -- block


@pytest.mark.parametrize(("host", "kind"), [
    ("127.0.0.1", ""), ("::1", ""), ("::ffff:127.0.0.1", ""), ("10.1.2.3", "private"), ("fe80::1%eth0", "private"),
    ("fd00::1", "private"), ("8.8.8.8", "global"), ("::ffff:8.8.8.8", "global"), ("2a00:1450::1", "global"), ("x", ""),
])  # fmt: skip
def test_kinds_of_addresses(host: str, kind: str) -> None:
    assert kind_of(host) == kind


@pytest.mark.parametrize(("host", "mode", "options", "blocked"), [
    ("8.8.8.8", "regular", {}, True), ("8.8.8.8", "regular", {"block_global": False}, False),
    ("2a00:1450::1", "transparent@8080", {}, False), ("2a00:1450::1", "reverse:x@80", {}, True),
    ("10.0.0.1", "regular", {}, False), ("10.0.0.1", "transparent", {"block_private": True}, True),
    ("127.0.0.1", "regular", {"block_private": True}, False),
])  # fmt: skip
def test_block(host: str, mode: str, options: dict[str, Any], blocked: bool) -> None:
    chain = Chain(Block(), **options)
    for _ in range(2):  # the second time from memory
        client = Client(peername=(host, 1), sockname=None, proxy_mode=ModeName(mode))
        chain.hooks.fire("client_connected", client)
        assert (client.error is not None) == blocked
    assert not blocked or f"option block_{'global' if host != '10.0.0.1' else 'private'}" in str(client.error)


def test_blocklist() -> None:
    chain = Chain(BlockList(), block_list=["/~u first/404", ":~m PUT & ~b secret:403", "|~u kill|444"])
    flow = http("http://a.example/first", status=None, live=True)
    chain.fire(flow, "requestheaders")
    assert flow.response is not None and flow.response.status_code == 404 and flow.metadata["blocklisted"] is True
    late = http(method="PUT", body=b"the secret", status=None, live=True)
    chain.fire(late, "requestheaders")
    assert late.response is None and late.request.stream is False and "stream" in vars(late.request)  # held for it
    chain.fire(late, "request")
    assert late.response is not None and late.response.status_code == 403
    killed = http("http://a.example/kill", status=None, live=True)
    chain.fire(killed, "requestheaders")
    assert killed.killed and killed.response is None
    for other in (http("http://a.example/first", status=None), http("http://a.example/x", status=None, live=True)):
        chain.fire(other, "requestheaders", "request")
        assert other.response is None and not other.metadata


# -- modify


def test_modify_headers(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("from a file")
    specs = ["/~q/X-One/1", "/~q/x-one/2", "/~s/Server/", f":X-File:@{tmp_path / 'value'}", "/~bq secret/X-Late/yes"]
    chain = Chain(ModifyHeaders(), modify_headers=specs)
    flow = http(live=True, status=None, method="POST", body=b"a secret")
    chain.fire(flow, "requestheaders")
    assert flow.request.headers.get_all("x-one") == ["1", "2"] and "x-late" not in flow.request.headers
    chain.fire(flow, "request")
    assert flow.request.headers["x-late"] == "yes" and flow.request.headers["x-file"] == "from a file"
    flow.response = http(server="hide me").response
    chain.fire(flow, "responseheaders", "response")
    assert flow.response is not None
    assert "server" not in flow.response.headers and flow.response.headers["x-file"] == "from a file"
    assert flow.request.headers.get_all("x-one") == ["1", "2"]


def test_filters_of_modify_headers_see_the_flow_as_it_came() -> None:
    chain = Chain(ModifyHeaders(), modify_headers=["/~hq one:.quux/X-One/", "/~hq one:.quux/X-Two/2"])
    flow = http(live=True, status=None)
    chain.fire(flow, "requestheaders")
    assert "x-one" not in flow.request.headers and flow.request.headers["x-two"] == "2"


def test_modify_body(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\\1 literally")
    specs = ["/~q/f(o+)/<\\1>", f"|~s|h.llo|@{tmp_path / 'file'}", "/~s/\\x0a/\\n\\n"]
    chain = Chain(ModifyBody(), modify_body=specs)
    flow = http(method="POST", body=b"foo fo", answer=b"hello\n", live=True, status=200)
    response, flow.response = flow.response, None
    chain.fire(flow, "requestheaders", "request")
    flow.response = response
    assert response is not None
    response.encode("gzip")
    chain.fire(flow, "responseheaders", "response")
    assert flow.request.content == b"<oo> <o>" and flow.request.headers["content-length"] == "8"
    assert response.content == b"\\1 literally\n\n" and response.headers["content-encoding"] == "gzip"


def test_modify_body_holds_only_what_it_may_change() -> None:
    chain = Chain(ModifyBody(), modify_body=["/~s & ~t html/a/b"])
    assert not chain.hooks.holds["request"] and not chain.hooks.holds["response"]
    for kind, held in (("text/html", True), ("image/png", False)):
        flow = http(live=True, content_type=kind)
        chain.fire(flow, *HEAD_AND_BODY)
        assert flow.response is not None and vars(flow.response).get("stream") == (False if held else None)
        assert "stream" not in vars(flow.request)
    events = Chain(ModifyBody(), modify_body=["/a/b"])
    flow = http(live=True, content_type="text/event-stream")
    events.fire(flow, "responseheaders")
    assert flow.response is not None and "stream" not in vars(flow.response)  # these never end
    flow.response.headers["content-type"], flow.response.stream = "text/html", True
    events.fire(flow, "responseheaders")
    assert flow.response.stream is True  # a script's word stands


def test_a_body_that_was_not_held_is_told(caplog: pytest.LogCaptureFixture) -> None:
    chain, flow = Chain(ModifyBody(), modify_body=["/a/b"]), http(live=True, answer=None)
    chain.fire(flow, "response")
    assert "the body streamed past" in caplog.text


def test_flows_that_are_over_are_left_alone() -> None:
    chain = Chain(ModifyBody(), ModifyHeaders(), MapRemote(), BlockList(), modify_body=["/h/X"],
                  modify_headers=["/a/b"], map_remote=["/example/other"], block_list=["/~all/404"])  # fmt: skip
    failed = http(live=True)
    failed.error = Error("x")
    for flow in (http(), failed):
        before = flow.get_state()
        chain.fire(flow, *HEAD_AND_BODY)
        assert flow.get_state() == before


# -- map


def test_map_remote() -> None:
    specs = [r"|//pretty\.example(:\d+)?/|//lab.example:8080/", "/~m PUT/foo/bar"]
    chain, flow = Chain(MapRemote(), map_remote=specs), http(live=True, status=None)
    chain.fire(flow, "requestheaders", "request")
    assert flow.request.url == "http://lab.example:8080/foo?q=1" and flow.request.host_header == "lab.example:8080"
    big = http(live=True, status=None, method="PUT", body=b"x")
    big.request.headers["content-length"] = str(5 << 20)
    chain.fire(big, "requestheaders")  # it streams: later would be too late
    assert big.request.url == "http://lab.example:8080/bar?q=1"
    big.request.stream = True
    chain.fire(big, "request")
    assert big.request.url == "http://lab.example:8080/bar?q=1"


def test_map_remote_acts_once() -> None:
    """Also where the head of an HTTP/2 request does not tell whether a body follows."""
    chain, flow = Chain(MapRemote(), map_remote=["/example/example.example"]), http(live=True, status=None)
    flow.request.http_version = "HTTP/2.0"
    flow.request.headers.pop("content-length", None)
    chain.fire(flow, "requestheaders", "request")
    assert flow.request.host == "pretty.example.example"


async def test_map_local(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "a b.js").write_text("spaced")
    (site / "index.html").write_text("top")
    (site / "sub" / "index.html").write_text("below")
    (site / "odd_name_.txt").write_text("odd")
    (tmp_path / "secret").write_text("secret")
    (site / "link").symlink_to(tmp_path / "secret")
    chain = Chain(MapLocal(), map_local=[f"|//pretty.example/static|{site}", f"|~m GET|one.txt|{tmp_path / 'secret'}"])

    async def get(path: str) -> tuple[int, bytes | None, str | None]:
        flow = http(f"http://pretty.example/{path}", live=True, status=None)
        await chain.fire_all(flow, "requestheaders", "request")
        assert flow.response is not None
        return flow.response.status_code, flow.response.content, flow.response.headers.get("content-type")

    assert await get("static/a%20b.js?x=1#y") == (200, b"spaced", "text/javascript") or (
        await get("static/a%20b.js") == (200, b"spaced", "application/javascript")
    )
    assert await get("static") == (200, b"top", "text/html") == await get("static/")
    assert (await get("static/sub/"))[1] == b"below" and (await get("static/odd%3Fname%3F.txt"))[1] == b"odd"
    for outside in (
        "static/../secret",
        "static/%2e%2e/secret",
        "static/link",
        "static//etc/passwd",
        "static/none",
        "static/%00",
        "static/" + "a" * 300,
        "static/" + "a/" * 3000,
    ):
        assert (await get(outside))[0] == 404, outside
    assert (await get("one.txt"))[:2] == (200, b"secret")
    other = http("http://pretty.example/else", live=True, status=None)
    await chain.fire_all(other, "request")
    assert other.response is None


async def test_where_map_local_fails_nothing_goes_to_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(MapLocal(), map_local=[f"|/static|{tmp_path}"])
    (tmp_path / "a").write_text("local")
    monkeypatch.setattr("mimetypes.guess_type", lambda name: 1 // 0)
    flow = http("http://pretty.example/static/a", live=True, status=None)
    await chain.fire_all(flow, "requestheaders", "request")
    assert flow.response is not None and flow.response.status_code == 500


# -- sticky


def test_sticky_auth() -> None:
    chain = Chain(StickyAuth(), stickyauth="~u foo")
    first, second, elsewhere, unmatched = http(), http(), http("http://other.example/foo"), http("http://example.com/x")
    first.request.headers["authorization"] = "Basic abc"
    for flow in (first, second, elsewhere, unmatched):
        chain.fire(flow, "requestheaders", "request")
    assert second.request.headers["authorization"] == "Basic abc"
    assert "authorization" not in elsewhere.request.headers and "authorization" not in unmatched.request.headers


def cookies_sent(chain: Chain, url: str, cookie: str = "") -> str:
    flow = http(url, status=None)
    if cookie:
        flow.request.headers["cookie"] = cookie
    chain.fire(flow, "requestheaders", "request")
    return flow.request.headers.get("cookie", "")


def test_sticky_cookie() -> None:
    chain = Chain(StickyCookie(), stickycookie="~all")
    chain.fire(http("http://www.example.com/", set_cookie="a=1; Domain=example.com; Path=/p"), "response")
    chain.fire(http("http://www.example.com/", set_cookie="b=2"), "response")
    chain.fire(http("http://www.example.com/", set_cookie="evil=1; Domain=other.com"), "response")
    assert cookies_sent(chain, "http://www.example.com/p/x") == "a=1; b=2"
    assert (
        cookies_sent(chain, "http://api.example.com/p") == "a=1" and cookies_sent(chain, "http://example.com/px") == ""
    )
    assert cookies_sent(chain, "http://www.example.com:81/p") == "" and cookies_sent(chain, "http://other.com/") == ""
    assert cookies_sent(chain, "http://www.example.com/", "b=mine") == "b=mine"
    chain.fire(http("http://www.example.com/", set_cookie="b=; Max-Age=0"), "response")
    assert cookies_sent(chain, "http://www.example.com/") == ""


@pytest.mark.parametrize(("host", "domain", "match"), [
    ("a.example", "a.example", True), ("b.a.example", ".a.example", True), ("ba.example", "a.example", False),
    ("10.0.0.1", "0.0.1", False), ("A.Example", "a.example", True), ("a.example", "", False),
])  # fmt: skip
def test_domains(host: str, domain: str, match: bool) -> None:
    assert domain_match(host, domain) == match


# -- intercept


def test_intercept() -> None:
    chain = Chain(Intercept(), intercept="~m POST | ~tcp")
    assert chain.options.intercept_active
    flow, other, talk = http(method="POST", live=True), http(live=True), tcp()
    chain.fire(flow, "requestheaders", "request")
    chain.fire(other, "requestheaders", "request")
    assert flow.intercepted and not other.intercepted and vars(flow.request)["stream"] is False
    assert "stream" not in vars(other.request)
    talk._live = flow._live
    chain.fire(talk, "tcp_message")
    assert talk.intercepted
    chain.options.intercept_active = False
    assert chain.listens() == set()
    chain.options.update(intercept_active=True, intercept=None)
    assert chain.listens() == set()


def test_replayed_flows_and_those_from_files_are_not_held() -> None:
    chain, replayed = Chain(Intercept(), intercept="~all"), http(live=True)
    replayed.is_replay = "request"
    for flow in (replayed, http()):
        chain.fire(flow, "request")
        assert not flow.intercepted
    datagrams = ends(UDPFlow, live=True)
    chain.fire(datagrams, "udp_message")
    assert datagrams.intercepted


# -- bad options


@pytest.mark.parametrize(("options", "why"), [
    ({"block_list": ["/~q"]}, "should be /FILTER/STATUS"), ({"block_list": ["/~q/99"]}, "is not a status"),
    ({"block_list": ["/~zz/404"]}, "no operator ~zz"), ({"block_list": [""]}, "should be"),
    ({"modify_headers": ["/x"]}, "should be"), ({"modify_headers": ["/~q//v"]}, "names no header"),
    ({"modify_headers": ["|a|@/nonexistent"]}, "No such file"), ({"modify_body": ["/[/x"]}, "unterminated"),
    ({"modify_body": ["/a/\\7"]}, "invalid group"), ({"map_remote": ["/(/x"]}, "not a regular expression"),
    ({"map_remote": ["/a/\\g<b>"]}, "map_remote"), ({"map_local": ["/a//nonexistent"]}, "map_local"),
    ({"map_local": ["|a|/nonexistent"]}, "No such file"), ({"intercept": "~q &"}, "intercept: filter"),
    ({"stickyauth": "("}, "stickyauth: filter"), ({"stickycookie": "("}, "stickycookie: filter"),
])  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_changes(options: dict[str, Any], why: str) -> None:
    chain = Chain(*(kind() for kind in ALL), block_global=False)
    with pytest.raises(OptionsError, match=why):
        chain.options.update(**options)
    assert chain.listens() == set()
    assert all(chain.options.is_default(name) for name in options)


def test_names_are_those_of_mitmproxy() -> None:
    assert [kind().name for kind in ALL] == [  # type: ignore[attr-defined]
        "anticache", "anticomp", "block", "blocklist", "intercept", "maplocal", "mapremote", "modifybody",
        "modifyheaders", "stickyauth", "stickycookie",
    ]  # fmt: skip
    assert HTTPFlow.type == "http"
