"""Packages, folders of add-ons, modules beside scripts, and what a reload leaves behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import ctx
from appliance.addonmanager import AddonManager
from appliance.addons.script import ScriptLoader
from appliance.cli.main import main
from appliance.exceptions import CommandError, OptionsError
from appliance.hooks import Hooks
from appliance.options import COMMAND_LINE, Options
from appliance.test import tflow

calls: list[str] = []
SAY = """
from script_test_calls import calls
def request(flow): calls.append("{0}")
def done(): calls.append("{0} done")
"""
ADDON = 'class Addon:\n    def request(self, flow): calls.append("{0}")\n'


class Gateway:
    def __init__(self) -> None:
        self.options = Options()
        self.addons = AddonManager(self, self.options, Hooks())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    calls.clear()
    before = set(sys.modules)
    monkeypatch.setitem(sys.modules, "script_test_calls", sys.modules[__name__])
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("__mitmproxy_script__", "lgtest_")):
            del sys.modules[name]


@pytest.fixture
def loader() -> ScriptLoader:
    return ScriptLoader()


@pytest.fixture
def manager(loader: ScriptLoader) -> AddonManager:
    manager = Gateway().addons
    manager.add(loader)
    return manager


def write(path: Path, text: str) -> Path:
    """Write, with a time stamp that differs from the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = path.stat().st_mtime_ns + 10**7 if path.exists() else None
    path.write_text(text)
    if stamp:
        os.utime(path, ns=(stamp, stamp))
    return path


def fired(manager: AddonManager) -> list[str]:
    calls.clear()
    manager.trigger("request", "flow")
    return list(calls)


async def start(manager: AddonManager, *scripts: object) -> None:
    manager.options.scripts = [str(script) for script in scripts]
    manager.configure()
    await manager.running()


# -- packages


async def test_a_package(manager: AddonManager, loader: ScriptLoader, tmp_path: Path) -> None:
    package = tmp_path / "lgtest_pack"
    write(package / "__init__.py", "from . import sub\nfrom lgtest_pack.deep.er import word\naddons = [sub.Addon()]\n")
    write(
        package / "sub.py", SAY.format("module") + 'class Addon:\n    def request(self, flow): calls.append("sub 1")\n'
    )
    write(package / "deep" / "__init__.py", "")
    deep = write(package / "deep" / "er.py", "word = 1\n")
    await start(manager, package)
    assert fired(manager) == ["sub 1"]
    assert "lgtest_pack.deep.er" in sys.modules and "__mitmproxy_script__.lgtest_pack.sub" in sys.modules
    assert str(tmp_path) not in sys.path

    old = sys.modules["__mitmproxy_script__.lgtest_pack.sub"]
    write(package / "sub.py", SAY.format("module") + ADDON.format("sub 2"))
    loader.look_around()
    assert fired(manager) == ["sub 2"]
    assert sys.modules["__mitmproxy_script__.lgtest_pack.sub"] is not old

    write(deep, "1 / 0\n")
    kept = dict(sys.modules)
    loader.look_around()
    assert fired(manager) == ["sub 2"]
    assert {name: one for name, one in sys.modules.items() if "lgtest" in name} == {
        name: one for name, one in kept.items() if "lgtest" in name
    }
    write(deep, "word = 2\n")
    loader.look_around()
    assert sys.modules["lgtest_pack.deep.er"].word == 2
    manager.options.scripts = []
    assert not [name for name in sys.modules if "lgtest" in name]
    await manager.done()


async def test_a_package_does_not_take_the_name_of_another(manager: AddonManager, tmp_path: Path) -> None:
    import json

    write(tmp_path / "json" / "__init__.py", SAY.format("mine"))
    write(tmp_path / "wave" / "__init__.py", SAY.format("also mine"))  # of the standard library, not imported
    await start(manager, tmp_path / "json", tmp_path / "wave")
    assert fired(manager) == ["mine", "also mine"]
    assert sys.modules["json"] is json
    assert sys.modules.get("wave") is not sys.modules["__mitmproxy_script__.wave"]
    await manager.done()


async def test_scripts_of_one_name(manager: AddonManager, loader: ScriptLoader, tmp_path: Path) -> None:
    a, b = (write(tmp_path / one / "__init__.py", "from . import sub\n").parent for one in ("x/same", "y/same"))
    write(a / "sub.py", "word = 'x'\n")
    write(b / "sub.py", "word = 'y'\n")
    await start(manager, a, b)
    assert [one.sub.word for one in loader.addons] == ["x", "y"]
    write(a / "sub.py", "word = 'z'\n")
    loader.look_around()
    assert [one.sub.word for one in loader.addons] == ["z", "y"]
    await manager.done()


# -- folders


async def test_a_folder(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "addons"
    last = write(tmp_path / "last.py", SAY.format("last"))
    for name in ("b", "a", "_not", ".nor"):
        write(folder / f"{name}.py", SAY.format(name))
    write(folder / "pack" / "__init__.py", SAY.format("pack"))
    write(folder / "no_package" / "x.py", SAY.format("x"))
    write(folder / "readme.txt", "1 / 0")
    await start(manager, folder, last)
    assert fired(manager) == ["a", "b", "pack", "last"]

    write(folder / "aa.py", SAY.format("aa"))
    loader.look_around()
    assert fired(manager) == ["a", "aa", "b", "pack", "last"]

    caplog.clear()
    bad = write(folder / "bad.py", "1 / 0\n")
    loader.look_around()
    loader.look_around()
    assert caplog.text.count("script not loaded: ") == 1
    assert fired(manager) == ["a", "aa", "b", "pack", "last"]
    write(bad, SAY.format("good"))
    loader.look_around()
    assert fired(manager) == ["a", "aa", "b", "good", "pack", "last"]

    (folder / "a.py").unlink()
    loader.look_around()
    assert fired(manager) == ["aa", "b", "good", "pack", "last", "a"]  # an editor may be about to replace it
    loader.look_around()
    assert fired(manager) == ["aa", "b", "good", "pack", "last"] and len(loader.scripts) == 5
    write(folder / "a.py", SAY.format("again"))
    loader.look_around()
    assert fired(manager) == ["again", "aa", "b", "good", "pack", "last"]
    await manager.done()


async def test_what_is_closed_to_us_in_a_folder(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as lost+found."""
    write(tmp_path / "a.py", SAY.format("a"))
    closed = tmp_path / "closed"
    closed.mkdir()

    def looked(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if closed in Path(path).parents:
            raise PermissionError(13, "closed")
        return stat(path, *args, **kwargs)

    stat = os.stat
    monkeypatch.setattr(os, "stat", looked)
    await start(manager, tmp_path)
    loader.look_around()
    assert fired(manager) == ["a"]
    await manager.done()
    with pytest.raises(OptionsError, match="closed"):
        await start(manager, closed / "x")


async def test_an_empty_folder_is_told(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await start(manager, tmp_path)
    assert f"there are no add-ons in {tmp_path} (yet)" in caplog.text
    write(tmp_path / "a.py", SAY.format("a"))
    loader.look_around()
    assert fired(manager) == ["a"]
    await manager.done()


async def test_a_broken_file_in_a_folder_at_the_start(manager: AddonManager, tmp_path: Path) -> None:
    write(tmp_path / "a.py", SAY.format("a"))
    write(tmp_path / "b.py", "1 / 0\n")
    with pytest.raises(OptionsError, match="ZeroDivisionError"):
        await start(manager, tmp_path)
    assert fired(manager) == []


def test_check_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.py", "def request(flow): pass\n")
    write(tmp_path / "pack" / "__init__.py", "from . import sub\naddons = [sub.A()]\n")
    write(tmp_path / "pack" / "sub.py", "class A:\n    def respones(self, flow): pass\n")
    assert main(["addons", "check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/a.py: no fault found" in out and f"{tmp_path}/pack/sub.py:2: warning" in out
    assert "did you mean response" in out
    write(tmp_path / "bad.py", "1 / 0\n")
    assert main(["addons", "check", str(tmp_path)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    assert main(["addons", "check", str(tmp_path / "none")]) == 0
    assert "no add-ons in this folder" in capsys.readouterr().out


# -- modules beside scripts


async def test_a_changed_helper_reads_its_scripts_again(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    helper = write(tmp_path / "lgtest_helper.py", "word = 'one'\n")
    text = "import lgtest_helper\n" + SAY.replace('"{0}"', "{0}lgtest_helper.word", 1).replace("{0} done", "")
    a, b = (write(tmp_path / f"{name}.py", text.format(repr(name) + " + ")) for name in "ab")
    elsewhere = write(tmp_path / "other" / "c.py", SAY.format("c"))
    await start(manager, a, b, elsewhere)
    assert fired(manager) == ["aone", "bone", "c"]
    shared = sys.modules["lgtest_helper"]
    write(a, text.format("'A' + "))
    loader.look_around()
    assert fired(manager) == ["Aone", "bone", "c"]
    assert sys.modules["lgtest_helper"] is shared  # scripts may share state in it

    write(helper, "word = 'two'\n")
    calls.clear()
    loader.look_around()
    assert "c done" not in calls
    assert fired(manager) == ["Atwo", "btwo", "c"]

    write(helper, "1 / 0\n")
    loader.look_around()
    assert "the old one goes on" in caplog.text
    assert fired(manager) == ["Atwo", "btwo", "c"]
    caplog.clear()
    loader.look_around()
    assert not caplog.records
    write(helper, "word = 'three'\n")
    loader.look_around()
    assert fired(manager) == ["Athree", "bthree", "c"]
    await manager.done()


# -- what is left behind

OPTIONS = """
from appliance import command
def load(loader):
    for name in {0}: loader.add_option(name, int, 1, "A number.")
@command.command("{1}")
def act() -> None: ...
"""


async def test_options_and_commands_of_the_old_instance_go(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.py", OPTIONS.format(["one", "two"], "a.act"))
    manager.options.set("one=5", "two=6", source=COMMAND_LINE)
    await start(manager, path)
    options = manager.options
    assert (options.one, options.two) == (5, 6) and "a.act" in manager.commands
    write(path, OPTIONS.format(["two", "three"], "a.other"))
    loader.look_around()
    assert "one" not in options and (options.two, options.three) == (6, 1)
    assert options.source("two") == COMMAND_LINE
    assert "a.act" not in manager.commands and "a.other" in manager.commands
    write(path, OPTIONS.format(["one"], "a.act"))
    loader.look_around()
    assert options.one == 5 and "two" not in options

    write(path, OPTIONS.format(["new"], "a.new") + "def configure(updated): 1 / 0\n")
    loader.look_around()
    assert options.one == 5 and "new" not in options and "a.new" not in manager.commands
    options.scripts = []
    assert "one" not in options and "a.act" not in manager.commands
    with pytest.raises(OptionsError, match="built-in"):
        options.remove_option("mode")
    await manager.done()


# -- script.run


async def test_script_run(manager: AddonManager, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.py",
        SAY.format("a")
        + "def running(): calls.append('running')\nasync def response(flow): calls.append(flow.response.reason)\n",
    )
    await start(manager)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ctx, "options", manager.options)
        await manager.commands.call("script.run", [tflow.tflow(resp=True), tflow.tflow()], str(path))
    assert calls == ["running", "a", "OK", "a", "a done"]
    assert fired(manager) == [] and "__mitmproxy_script__.a" not in sys.modules
    write(path, "1 / 0\n")
    with pytest.raises(CommandError, match="ZeroDivisionError"):
        await manager.commands.call("script.run", [], str(path))
    write(path, "addons = 5\n")
    with pytest.raises(CommandError, match="should be a list"):
        await manager.commands.call("script.run", [], str(path))
    await manager.done()
