"""Types of command arguments, each read from text."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import command, types
from appliance.exceptions import CommandError
from appliance.flow import Flow
from appliance.http import HTTPFlow
from appliance.test import taddons, tflow


class Flows:
    flows = (tflow.tflow(), tflow.tflow())

    @command.command("view.flows.resolve")
    def resolve(self, spec: str) -> Sequence[Flow]:
        return self.flows[: int(spec)]

    @command.command("sides")
    def sides(self) -> Sequence[str]:
        return ["left", "right"]


@pytest.fixture(scope="module")
def manager() -> Any:
    with taddons.context(Flows()) as tctx:
        yield tctx.master.commands


@pytest.mark.parametrize(
    "kind, text, value, shown",
    [
        (str, r"a\tb\x41\u00fc\'\0", "a\tbAü'\0", "str"),
        (bytes, r"a\x00\n", b"a\0\n", "bytes"),
        (int, "-3", -3, "int"),
        (float, "1.5", 1.5, "float"),
        (bool, "true", True, "bool"),
        (bool, "false", False, "bool"),
        (Sequence[str], "a, b", ["a", "b"], "str[]"),
        (list[str], "a", ["a"], "str[]"),
        (tuple[str, ...], "a,b", ["a", "b"], "str[]"),
        (Optional[int], "5", 5, "int"),  # noqa: UP045 - as older scripts have it
        (int | None, "5", 5, "int"),
        (types.Path, "~/x", str(Path("~/x").expanduser()), "path"),
        (types.Cmd, "sides", "sides", "cmd"),
        (types.CmdArgs, "as it is", "as it is", "arg"),
        (types.Marker, "true", ":default:", "marker"),
        (types.Marker, "false", "", "marker"),
        (types.Marker, ":x:", ":x:", "marker"),
        (types.CutSpec, "request.method,request.host", ["request.method", "request.host"], "cut[]"),
        (Flow, "1", Flows.flows[0], "flow"),
        (HTTPFlow, "1", Flows.flows[0], "flow"),
        (Sequence[Flow], "2", Flows.flows, "flow[]"),
        (Sequence[HTTPFlow], "0", (), "flow[]"),
        (types.Choice("sides"), "left", "left", "choice"),
    ],
)
def test_read(manager: Any, kind: Any, text: str, value: object, shown: str) -> None:
    found = types.read(manager, kind, text)
    assert (list(found) if isinstance(value, tuple) else found) == (list(value) if isinstance(value, tuple) else value)
    assert types.display(kind) == shown
    assert types.is_valid(kind, value)
    assert not types.is_valid(kind, object())


@pytest.mark.parametrize(
    "kind, text, told",
    [
        (int, "x", "'x' as int"),
        (bool, "yes", "expected true or false"),
        (bytes, r"\q", "unknown escape"),
        (types.Cmd, "nosuch", "no such command"),
        (types.Choice("sides"), "up", "'up' is not one of left, right"),
        (Flow, "2", "exactly one flow is wanted, this names 2"),
        (types.Data, "x", "cannot be given as text"),
    ],
)
def test_refused(manager: Any, kind: Any, text: str, told: str) -> None:
    with pytest.raises(CommandError) as caught:
        types.read(manager, kind, text)
    assert told in str(caught.value)


def test_flows_without_an_addon_that_keeps_them() -> None:
    with taddons.context() as tctx, pytest.raises(CommandError, match="no add-on keeps flows"):
        types.read(tctx.master.commands, Flow, "@focus")


def test_other_types() -> None:
    for nothing in (None, type(None), inspect.Signature.empty):
        assert types.display(nothing) == ""
    with pytest.raises(CommandError, match="cannot be the type of an argument"):
        types.display(dict)
    assert not types.is_valid(dict, {})
    assert types.is_valid(types.Data, [["a", b"b"]])
    assert isinstance(types.Unknown("x"), str) and isinstance(types.Space(" "), str)


@given(st.sampled_from([str, bytes, int, float, bool, Sequence[str], types.Path, types.Marker]), st.text(max_size=20))
def test_any_text_is_read_or_refused(kind: Any, text: str) -> None:
    with taddons.context() as tctx:
        try:
            value = types.read(tctx.master.commands, kind, text)
        except CommandError:
            return
        assert types.is_valid(kind, value)


# -- commands


def test_a_command_by_hand(manager: Any) -> None:
    @command.command("say")
    def say(word: str, *more: int, **ignored: int) -> str:
        return word

    with pytest.raises(CommandError, match="keyword argument"):
        command.Command(manager, "say", say)

    def count(word: str, times: int = 2, *more: int) -> str:
        """Says it."""
        return word * times + str(sum(more))

    made = command.Command(manager, "count", count)
    assert [str(one) for one in made.parameters] == ["word", "[times]", "*more"]
    assert (made.help, made.signature_help()) == ("Says it.", "count word [times] *more -> str")
    assert made.prepare_args(["a"]) == ["a"] and made.prepare_args(["a", "1", "2", "3"]) == ["a", 1, 2, 3]
    assert made.call(["a", "3", "4"]) == "aaa4"


def test_the_manager() -> None:
    class Owner:
        @command.command("owner.act")
        def act(self) -> None: ...

        @command.command()
        def other_name(self) -> None: ...

    owner = Owner()
    with taddons.context(loadcore=False) as tctx:
        commands = command.CommandManager(tctx.master)
        commands.collect_commands(owner)
        assert list(commands) == ["owner.act", "other.name"]
        assert [name for name, _ in command.decorated(owner)] == ["owner.act", "other.name"]
        commands.forget(owner)
        assert list(commands) == []
