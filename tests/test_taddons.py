"""What authors test their add-ons with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance import command, ctx
from appliance.addonmanager import Loader
from appliance.dns import DNSMessage
from appliance.exceptions import CommandError, OptionsError
from appliance.flow import Flow
from appliance.options import Options
from appliance.test import taddons, tflow, tutils


class Addon:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def load(self, loader: Loader) -> None:
        assert loader.master is ctx.master
        loader.add_option("word", str, "", "A word.")

    def configure(self, updated: frozenset[str]) -> None:
        if "word" in updated:
            self.heard.append(f"configure {ctx.options.word}")
            if ctx.options.word == "bad":
                raise OptionsError("not this word")

    def running(self) -> None:
        self.heard.append("running")

    def request(self, flow: Flow) -> None:
        self.heard.append("request")

    async def response(self, flow: Flow) -> None:
        self.heard.append("response")

    def done(self) -> None:
        self.heard.append("done")

    @command.command("addon.add")
    def add(self, numbers: Sequence[str], more: int) -> int:
        return sum(map(int, numbers)) + more


def test_options_are_told_also_where_nothing_changes() -> None:
    addon = Addon()
    with taddons.context(addon) as tctx:
        addon.heard.clear()
        tctx.configure(addon, word="a")
        tctx.configure(addon, word="a")
        assert addon.heard == ["configure a"] * 2
        with pytest.raises(OptionsError, match="not this word"):
            tctx.configure(addon, word="bad")
        assert tctx.options.word == "a"
        with pytest.raises(OptionsError):
            tctx.configure(addon, nosuch=1)


def test_an_addon_is_added_when_it_is_configured() -> None:
    with taddons.context() as tctx:
        addon = Addon()
        tctx.configure(addon, block_list=[])
        assert addon in tctx.master.addons
    with taddons.context(loadcore=False, options=Options(showhost=True)) as tctx:
        assert "core" not in tctx.master.addons and tctx.options.showhost


async def test_the_life_of_an_addon() -> None:
    addon = Addon()
    with taddons.context(addon) as tctx:
        addon.heard.clear()
        await tctx.running()
        await tctx.cycle(addon, tflow.tflow(resp=True))
        await tctx.master.load_flow(tflow.tflow())
        assert addon.heard == ["running", "request", "response", "request"]
        assert tctx.master.event_loop is asyncio.get_running_loop()
        assert tctx.master.view is None and not tctx.master.asked_to_end
        tctx.master.shutdown()
        assert tctx.master.asked_to_end
        tctx.master.addons.remove(addon)
        assert addon.heard[-1] == "done"


def test_commands() -> None:
    addon = Addon()
    with taddons.context(addon) as tctx:
        assert tctx.command(addon.add, "1,2", "3") == 6
        assert tctx.master.commands.call("addon.add", [1], 2) == 3
        with pytest.raises(CommandError, match="as int"):
            tctx.command(addon.add, "1", "x")


def test_a_script(tmp_path: Path) -> None:
    path = tmp_path / "s.py"
    path.write_text("class A:\n    def request(self, flow): flow.comment = 'seen'\naddons = [A()]\n")
    with taddons.context() as tctx:
        addon = tctx.script(str(path))
        assert type(addon).__name__ == "A"
        flow = tflow.tflow()
        tctx.master.addons.trigger("request", flow)
        assert flow.comment == "seen"
        path.write_text("1 / 0\n")
        with pytest.raises(OptionsError, match="ZeroDivisionError"):
            tctx.script(str(path))


def test_ctx_is_put_back() -> None:
    with taddons.context() as outer:
        with taddons.context() as inner:
            assert ctx.master is inner.master and ctx.options is inner.options
        assert ctx.master is outer.master


def test_messages() -> None:
    assert tutils.treq(method=b"PUT").method == "PUT" and tutils.tresp(status_code=404).status_code == 404
    asked, told = tutils.tdnsreq(), tutils.tdnsresp(id=7)
    assert asked.query and not told.query and told.id == 7
    assert DNSMessage.unpack(told.packed).answers == told.answers
    assert str(tflow.terr("oops")) == "oops"
    dummy = tflow.tdummyflow(err=True)
    assert dummy.type == "dummy" and dummy.error == tflow.terr() and dummy.copy().id != dummy.id
    assert {flow.type for flow in tflow.tflows()} == {"http", "tcp", "udp", "dns"}
    assert tflow.tdnsflow(live=False).live is False


def test_nothing_of_it_needs_a_thread_or_a_loop() -> None:
    def work() -> None:
        with taddons.context(Addon()) as tctx:
            done.append(tctx.master.addons.get("addon"))

    done: list[object] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert isinstance(done[0], Addon)
