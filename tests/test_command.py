from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import command, types
from appliance.addonmanager import Loader
from appliance.addons.comment import Comment
from appliance.command_lexer import quote, split, unquote
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.test import taddons, tflow


@pytest.mark.parametrize(
    "text, words",
    [
        ("", []),
        ("  a  b ", ["a", "b"]),
        ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
        ("a='b c'd", ["a=b cd"]),
        ("''", [""]),
        ('a "it\'s"', ["a", "it's"]),
    ],
)
def test_split(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_open_quote() -> None:
    with pytest.raises(CommandError, match="character 3 is not closed"):
        split("a 'b")


@given(st.lists(st.text()))
def test_quote_is_the_inverse(words: list[str]) -> None:
    assert split(" ".join(map(quote, words))) == words


class Addon:
    name = "addon"

    def __init__(self) -> None:
        self.got: Any = None
        self.flows: list[Flow] = [tflow.tflow(resp=True), tflow.ttcpflow()]

    def load(self, loader: Loader) -> None:
        loader.add_command("by.loader", self.by_loader)
        loader.add_option("word", str, "", "A word.")

    def by_loader(self, a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    @command.command("all.kinds")
    def kinds(self, a: str, b: int, c: bool, d: Sequence[str], e: types.Path, f: bytes, *g: str) -> None:
        self.got = (a, b, c, d, e, f, g)

    @command.command()
    def no_name(self, flow: Flow) -> str:
        return flow.id

    @command.command("pick")
    @command.argument("which", type=types.Choice("picks"))
    def pick(self, which: str) -> str:
        return which

    @command.command("picks")
    def picks(self) -> Sequence[str]:
        return ["x", "y"]

    @command.command("view.flows.resolve")
    def resolve(self, spec: str) -> Sequence[Flow]:
        return self.flows if spec == "@all" else self.flows[:1] if spec == "@focus" else []

    @property
    def explodes(self) -> None:
        raise AssertionError("read by the collector")


@pytest.fixture
def addon() -> Addon:
    return Addon()


@pytest.fixture
def tctx(addon: Addon) -> Any:
    with taddons.context(addon, Comment()) as tctx:
        yield tctx


def test_call_with_values_texts_and_a_line(tctx: Any, addon: Addon) -> None:
    commands = tctx.master.commands
    assert commands.call("by.loader", 1) == 3
    assert commands.call_strings("by.loader", ["1", "5"]) == 6
    commands.execute(r'all.kinds "a\nb" 3 true x,y ~/f \xff r1 "r 2"')
    a, b, c, d, e, f, g = addon.got
    assert (a, b, c, d, f, g) == ("a\nb", 3, True, ["x", "y"], b"\xff", ("r1", "r 2"))
    assert not e.startswith("~") and e.endswith("/f")
    assert commands.execute("no.name @focus") == addon.flows[0].id
    assert commands.execute("pick y") == "y"


@pytest.mark.parametrize(
    "line, told",
    [
        ("", "no command given"),
        ("by.loder 1", "did you mean by.loader"),
        ("browser.start", "not in lockgate: a gateway has no desktop"),
        ("console.view.flow @focus", "not in lockgate: it belongs to mitmproxy's console"),
        ("by.loader", "a is missing; usage: by.loader a [b] -> int"),
        ("by.loader 1 2 3", "'3' is one too many"),
        ("by.loader x", "by.loader: a: 'x' as int"),
        ("no.name @all", "exactly one flow is wanted, this names 2"),
        ("pick z", "'z' is not one of x, y"),
        ("all.kinds a 1 maybe", "expected true or false"),
    ],
)
def test_wrong_calls(tctx: Any, line: str, told: str) -> None:
    with pytest.raises(CommandError) as caught:
        tctx.master.commands.execute(line)
    assert told in str(caught.value)


def test_help(tctx: Any) -> None:
    found = tctx.master.commands.get("by.loader")
    assert (found.help, found.signature_help()) == ("Adds.", "by.loader a [b] -> int")


def test_what_cannot_be_a_command(tctx: Any) -> None:
    def untyped(a) -> None: ...  # type: ignore[no-untyped-def]

    def odd(a: object) -> None: ...

    def keyword(*, a: str) -> None: ...

    for func, told in ((untyped, "no type annotation"), (odd, "cannot be the type"), (keyword, "keyword argument")):
        with pytest.raises(CommandError, match=told):
            tctx.master.commands.add("x", func)
    with pytest.raises(CommandError, match="no argument 'b'"):
        command.argument("b", type=str)(odd)


def test_commands_go_with_their_addon(tctx: Any, addon: Addon) -> None:
    assert "pick" in tctx.master.commands
    tctx.master.addons.remove(addon)
    assert "pick" not in tctx.master.commands and "by.loader" not in tctx.master.commands
    assert "set" in tctx.master.commands


def test_core_options(tctx: Any, tmp_path: Any) -> None:
    run = tctx.master.commands.execute
    run("set word hello")
    assert tctx.options.word == "hello"
    run("set ignore_hosts a b")
    assert tctx.options.ignore_hosts == ("a", "b")
    run(f"options.save {tmp_path}/o.yaml")
    run("options.reset")
    assert tctx.options.word == "" and tctx.options.ignore_hosts == ()
    run(f"options.load {tmp_path}/o.yaml")
    assert tctx.options.word == "hello" and tctx.options.ignore_hosts == ("a", "b")
    run("options.reset.one word")
    assert tctx.options.word == ""
    with pytest.raises(OptionsError, match="did you mean word"):
        run("set wrod x")


def test_core_flows(tctx: Any, addon: Addon) -> None:
    flow: Any = addon.flows[0]
    run = tctx.master.commands.execute
    run("flow.comment @focus 'a note'")
    run("flow.mark @focus :red_circle:")
    assert (flow.comment, flow.marked) == ("a note", ":red_circle:")
    run("flow.mark.toggle @focus")
    assert flow.marked == ""
    run("flow.set @focus status_code 418")
    run("flow.set @focus path /new")
    assert flow.response.status_code == 418 and flow.request.path == "/new" and flow.modified()
    run("flow.revert @focus")
    assert flow.response.status_code == 200 and flow.request.path == "/path"
    body = flow.response.content
    run("flow.encode @focus response gzip")
    assert flow.response.raw_content != body and flow.response.content == body
    run("flow.decode @focus response")
    assert flow.response.raw_content == body and "content-encoding" not in flow.response.headers
    run("flow.encode.toggle @focus response")
    assert flow.response.headers["content-encoding"] == "deflate"
    flow.intercept()
    run("flow.resume @all")
    assert not flow.intercepted
    run("flow.kill @all")
    assert flow.killed
    for line, told in (
        ("flow.set @focus status_code 9999", "not a status code"),
        ("flow.set @focus nosuch 1", "not one of host"),
        ("flow.set @focus url nothing", "not an absolute URL"),
        ("flow.decode @focus body", "neither request nor response"),
        ("inject.tcp @focus true x", "this is a flow of http"),
    ):
        with pytest.raises(CommandError, match=told):
            run(line)


def test_profile(tctx: Any) -> None:
    assert "no hook" in tctx.master.commands.execute("hooks.profile") or "load" in tctx.master.commands.execute(
        "hooks.profile"
    )
    tctx.master.addons.trigger("load", Loader(tctx.master.addons))
    table = tctx.master.commands.execute("hooks.profile")
    assert "addon" in table and "µs" in table


@given(st.text())
def test_any_line_is_split_or_refused(line: str) -> None:
    try:
        words = split(line)
    except CommandError as error:
        assert "is not closed" in str(error)
        return
    assert split(" ".join(map(quote, words))) == words


def test_unquote() -> None:
    assert [unquote(word) for word in ("'a b'", '"a"', "a", "'a\"", '"', "''")] == ["a b", "a", "a", "'a\"", '"', ""]
