"""The flows in memory that commands can name: what is kept, for how long, and how it is named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import command
from appliance.addons.comment import Comment
from appliance.addons.core import Core
from appliance.addons.intercept import Intercept
from appliance.addons.view import LIMIT, View
from appliance.addons.viewstore import Store
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.http import HTTPFlow
from appliance.io import FlowWriter
from appliance.test import tflow
from tests.addons.chain import Chain
from tests.flowkit import http, several, tcp, udp, websocket


def kept(view: View) -> list[Flow]:
    return list(view.store)


def chain_with(limit: int | None = 1000, **options: Any) -> tuple[Chain, View]:
    view = View()
    return Chain(Core(), Comment(), view, Intercept(), view_limit=limit, **options), view


def test_off_it_listens_to_nothing_and_says_why_there_is_nothing() -> None:
    chain, view = chain_with(None)
    assert chain.listens() == set()
    with pytest.raises(CommandError, match=r"set view_limit, such as view_limit=1000"):
        chain.addons.commands.execute("flow.mark @all :x:")
    chain.options.update(view_limit=5)
    assert {"requestheaders", "response", "tcp_start", "dns_request"} <= chain.listens()
    assert "tcp_message" not in chain.listens() and "request" not in chain.listens()
    assert not chain.hooks.holds["response"] and not chain.hooks.heard["tcp_message"]
    chain.options.update(view_limit=0)
    assert chain.listens() == set() and not kept(view)


def test_whoever_holds_flows_can_name_them() -> None:
    chain, view = chain_with(None, intercept="~q")
    assert "requestheaders" in chain.listens() and view.store.limit == LIMIT
    flow = http(live=True, status=None)
    chain.fire(flow, "requestheaders", "request")
    assert flow.intercepted
    chain.addons.commands.execute(f"flow.resume @{flow.id}")
    assert not flow.intercepted
    chain.options.update(intercept=None)
    assert chain.listens() == set()


def test_each_kind_once() -> None:
    chain, view = chain_with()
    web, talk, broken = http(), websocket(), http(status=None)
    chain.fire(web, "requestheaders", "request", "responseheaders", "response")
    chain.fire(talk, "requestheaders", "response", "websocket_start", "websocket_end")
    chain.fire(broken, "error")  # a head that was refused
    raw, datagrams, query = tcp(), udp(), tflow.tdnsflow(resp=True)
    chain.fire(raw, "tcp_start", "tcp_end")
    chain.fire(datagrams, "udp_start", "udp_end")
    chain.fire(query, "dns_request", "dns_response")
    assert kept(view) == [web, talk, broken, raw, datagrams, query]
    assert chain.call("view.flows.resolve", "@all") == kept(view)
    assert view.store.bytes == len(b"hello") + len("grüße".encode()) + 2 + len(b"fooBAR\xff") + len(b"ping")


def test_the_oldest_that_is_over_leaves_and_an_intercepted_one_never() -> None:
    chain, view = chain_with(3)
    held, going, *others = http(), http(live=True), http(), http(), http(), http()
    held.intercept()
    for flow in (held, going, *others):
        chain.fire(flow, "requestheaders")
    assert {*kept(view)} == {held, going, others[-1]}
    chain.options.update(view_limit=1)
    assert {*kept(view)} == {held, going}
    going._live = None
    last = http()
    chain.fire(last, "requestheaders")
    assert kept(view) == [held]  # the one flow there is room for is one that must stay
    chain.call("view.clear")
    assert kept(view) == [held]


def test_bytes_are_bounded_too() -> None:
    chain, view = chain_with(100, view_memory="10k")
    for _ in range(30):
        chain.fire(http(answer=b"x" * 2000), "requestheaders", "response")
    assert len(kept(view)) == 5 and view.store.bytes == 10000
    chain.options.update(view_memory="4k")
    assert len(kept(view)) == 2
    chain.fire(http(answer=b"x" * 50000), "requestheaders", "response")
    assert not kept(view) and view.store.bytes == 0


def test_weeks_of_traffic_are_flat() -> None:
    store = Store(50, 1000)
    for number in range(5000):
        flow = http(answer=bytes(number % 90), live=number % 7 == 0)
        if number % 11 == 0:
            flow.intercept()
        store.add(flow)
        store.measure(flow)
        flow._live = None
        if number % 3 == 0:
            flow.resume()
        for other in store:
            if number % 5 == 0:
                other.resume()
        assert len(store) <= 60 and len(store._sizes) <= len(store) and store.bytes >= 0
    store.limit = 0
    for flow in store:
        flow.resume()
    store.shrink()
    assert (len(store), store.bytes, store._sizes, store._settings) == (0, 0, {}, {})


def named(chain: Chain, spec: str) -> list[str]:
    return [flow.request.path for flow in chain.call("view.flows.resolve", spec)]


def test_names_of_flows() -> None:
    chain, view = chain_with()
    for number, path in enumerate("abcd"):
        flow = http(f"http://h/{path}", status=200 + number)
        flow.request.timestamp_start = float(number)
        chain.fire(flow, "requestheaders", "response")
    kept(view)[1].marked = ":x:"
    chain.options.update(view_filter="~u /[abc]")
    assert named(chain, "@all") == ["/a", "/b", "/c", "/d"]
    assert named(chain, "@shown") == ["/a", "/b", "/c"] and named(chain, "@hidden") == ["/d"]
    assert named(chain, "@marked") == ["/b"] and named(chain, "@unmarked") == ["/a", "/c", "/d"]
    assert named(chain, "@focus") == ["/a"]
    assert named(chain, "~c 203") == ["/d"] and named(chain, "~u /b | ~c 202") == ["/b", "/c"]
    first, last = kept(view)[0], kept(view)[3]
    assert named(chain, f"@{first.id},{last.id}") == ["/a", "/d"]
    for wrong, told in (("@nosuch", "@all, @focus"), ("~~", "names no flows"), ("", "names no flows")):
        with pytest.raises(CommandError, match=told):
            chain.call("view.flows.resolve", wrong)


def test_commands_of_scripts_take_them() -> None:
    class Script:
        @command.command("paths")
        def paths(self, flows: Sequence[HTTPFlow]) -> str:
            return " ".join(flow.request.path for flow in flows)

        @command.command("path")
        def path(self, flow: HTTPFlow) -> str:
            return flow.request.path

    chain, _ = chain_with()
    chain.addons.add(Script())
    for path in "ab":
        chain.fire(http(f"http://h/{path}"), "requestheaders")
    run = chain.addons.commands.execute
    assert run("paths @all") == "/a /b" and run("path '~u /b'") == "/b"
    run("flow.comment @all 'a note'")
    assert run("paths '~comment note'") == "/a /b"
    run("flow.set '~u /a' path /z")
    assert run("paths @all") == "/z /b"
    with pytest.raises(CommandError, match="exactly one flow is wanted, this names 2"):
        run("path @all")
    raw = udp()
    chain.fire(raw, "udp_start")
    assert run("paths @all") == "/z /b" and len(chain.call("view.flows.resolve", "@all")) == 3
    with pytest.raises(CommandError, match="a flow of http is wanted, this is one of udp"):
        run(f"path @{raw.id}")


def test_order_focus_and_marks() -> None:
    chain, view = chain_with()
    sizes = {"a": 30, "b": 10, "c": 20}
    for number, (path, size) in enumerate(sizes.items()):
        flow = http(f"http://h/{path}", method="GET" if path != "a" else "POST", answer=bytes(size))
        flow.request.timestamp_start = 10.0 - number
        chain.fire(flow, "requestheaders", "response")
    run = chain.addons.commands.execute
    chain.fire(udp(), "udp_start")
    run("view.filter.set ~http")

    def shown() -> str:
        return "".join(flow.request.path[1:] for flow in view if isinstance(flow, HTTPFlow))

    assert run("view.order.options") == ["method", "size", "time", "url"]
    assert shown() == "cba" and run("view.order") == "time"
    for order, expected in (("size", "bca"), ("method", "bca"), ("url", "abc")):
        run(f"view.order.set {order}")
        assert shown() == expected, order
    run("view.order.reverse true")
    assert shown() == "cba" and run("view.properties.length") == 3 == len(view)
    assert view.focus.index == 0
    run("view.focus.next")
    run("view.focus.next")
    run("view.focus.next")
    assert named(chain, "@focus") == ["/a"] and view.focus.index == 2
    run("view.focus.prev")
    assert named(chain, "@focus") == ["/b"]
    run("view.focus.go -1")
    assert named(chain, "@focus") == ["/a"]
    run("view.focus.go 99")
    assert named(chain, "@focus") == ["/a"]
    run("flow.mark @focus :x:")
    run("view.properties.marked.toggle")
    assert run("view.properties.marked") and shown() == "a"
    assert run("view.properties.inbounds 0") and not run("view.properties.inbounds 1")
    assert not run("view.properties.inbounds -1")
    run("view.clear_unmarked")
    run("view.properties.marked.toggle")
    assert shown() == "a" and len(kept(view)) == 1
    with pytest.raises(CommandError, match="not one of method"):
        run("view.order.set nosuch")
    with pytest.raises(CommandError, match="view_filter"):
        run("view.filter.set ~nosuch")
    with pytest.raises(ValueError, match="not shown"):
        view.focus.flow = http()


def test_settings_live_as_long_as_the_flow() -> None:
    chain, view = chain_with(1)
    flow = http()
    chain.fire(flow, "requestheaders")
    run = chain.addons.commands.execute
    assert run("view.settings.getval @focus wrap no") == "no"
    run("view.settings.setval @all wrap yes")
    assert run("view.settings.getval @focus wrap no") == "yes" == view.settings(flow)["wrap"]
    run("view.settings.setval.toggle @all on")
    assert run("view.settings.getval @focus on -") == "true"
    run("view.settings.setval.toggle @all on")
    assert run("view.settings.getval @focus on -") == "false"
    chain.fire(http(), "requestheaders")
    assert view.store._settings == {}
    with pytest.raises(CommandError, match="not kept"):
        view.settings(flow)


def test_flows_made_copied_and_removed() -> None:
    chain, view = chain_with()
    run = chain.addons.commands.execute
    run("view.flows.create post http://made.example:81/x")
    made: Any = kept(view)[0]
    assert (made.request.method, made.request.url, made.request.headers["host"]) == (
        "POST", "http://made.example:81/x", "made.example:81",
    )  # fmt: skip
    assert made.server_conn.address == ("made.example", 81) and view.get_by_id(made.id) is made
    chain.call("view.flows.add", [made])  # as scripts do that replay a copy
    run("view.flows.duplicate @all")
    assert len(kept(view)) == 2 and kept(view)[0].id != kept(view)[1].id and view.focus.index == 1
    going = http(live=True)
    chain.fire(going, "requestheaders")
    run("view.flows.remove @all")
    assert not kept(view) and going.killed and view.store_count() == 0 and view.focus.flow is None
    with pytest.raises(CommandError, match=r"view\.flows\.create"):
        run("view.flows.create GET nothing")


async def test_flows_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chain, view = chain_with(4)
    path = tmp_path / "flows"
    with path.open("wb") as file:
        for flow in several():
            FlowWriter(file).add(flow)
        file.write(b"garbage")
    chain.call("view.flows.load", str(path))
    async with asyncio.timeout(10):
        await asyncio.gather(*view._loading)
    assert [flow.type for flow in view.store] == ["tcp", "udp", "http", "http"]
    assert "a length was expected" in caplog.text
    with pytest.raises(CommandError, match="no such file"):
        chain.call("view.flows.load", str(tmp_path / "none"))


def test_wrong_options() -> None:
    chain, view = chain_with()
    for name, value in (("view_filter", "~nosuch"), ("view_order", "x"), ("view_limit", -1), ("view_memory", "x")):
        with pytest.raises(OptionsError, match=name):
            chain.options.update(**{name: value})
    assert view.filter is None


def test_scripts_find_them_under_their_older_names() -> None:
    from appliance import compat
    from appliance.addons.cut import Cut

    compat.install()
    try:
        from mitmproxy.addons import comment, cut, view  # type: ignore[import-not-found]

        assert (view.View, cut.Cut, comment.Comment) == (View, Cut, Comment)
    finally:
        compat.uninstall()


_SPECS = st.text(alphabet="@~abcdlmfoucsu,-|&!()'\" 0123456789", max_size=12) | st.text(max_size=8)


@settings(max_examples=60, deadline=None)
@given(_SPECS)
def test_any_spec_names_flows_or_says_why_not(spec: str) -> None:
    chain, _ = chain_with()
    chain.fire(http(), "requestheaders")
    try:
        assert len(chain.call("view.flows.resolve", spec)) <= 1
    except CommandError as error:
        assert "names no flows" in str(error)
