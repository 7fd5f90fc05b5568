from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.addonmanager import AddonManager
from appliance.addons import script as script_module
from appliance.addons.script import ScriptLoader
from appliance.exceptions import OptionsError
from appliance.hooks import Hooks
from appliance.options import Options

calls: list[str] = []  # the scripts of these tests get at it through sys.modules


class Gateway:
    def __init__(self) -> None:
        self.options = Options()
        self.addons = AddonManager(self, self.options, Hooks())

    def shutdown(self) -> None:
        raise AssertionError("not asked for")


class Marker:
    def __init__(self, name: str) -> None:
        self.name = name

    def request(self, flow: object) -> None:
        calls.append(self.name)


@pytest.fixture(autouse=True)
def _calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    calls.clear()
    # Plain data under a name of its own: importlib mode gives the test module another.
    monkeypatch.setitem(sys.modules, "script_test_calls", sys.modules[__name__])
    yield
    for name in [name for name in sys.modules if name.startswith("__mitmproxy_script__.")]:
        del sys.modules[name]


@pytest.fixture
def loader() -> ScriptLoader:
    return ScriptLoader()


@pytest.fixture
def manager(loader: ScriptLoader) -> AddonManager:
    manager = Gateway().addons
    manager.add(Marker("before"), loader, Marker("after"))
    return manager


LIFE = """
from script_test_calls import calls
def load(loader): calls.append("{0} load")
def configure(updated): calls.append("{0} configure" + ("" if len(updated) > 5 else " some"))
def running(): calls.append("{0} running")
def request(flow): calls.append("{0}")
def done(): calls.append("{0} done")
"""


def write(path: Path, text: str) -> Path:
    """Write, with a time stamp that differs from the last."""
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


# -- at the start


async def test_hooks_run_at_the_loaders_place(manager: AddonManager, tmp_path: Path) -> None:
    b = write(tmp_path / "b.py", LIFE.format("b"))
    a = write(
        tmp_path / "a.py",
        LIFE.format("a")
        + """
class Inner:
    def request(self, flow): calls.append("inner")
addons = [Inner()]
""",
    )
    await start(manager, b, a)
    assert calls == ["b load", "b configure", "a load", "a configure", "b running", "a running"]
    assert fired(manager) == ["before", "b", "a", "inner", "after"]
    assert "inner" in manager and str(a) in manager
    assert sys.modules["__mitmproxy_script__.a"].__file__ == str(a)
    calls.clear()
    await manager.done()
    assert calls == ["b done", "a done"]


async def test_relative_paths_and_home(manager: AddonManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.py", LIFE.format("a"))
    write(tmp_path / "b", LIFE.format("b"))  # a name without .py will do
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    await start(manager, "a.py", "~/b")
    monkeypatch.chdir("/")
    assert fired(manager) == ["before", "a", "b", "after"]


async def test_the_scripts_folder_is_on_the_path_while_it_is_imported(manager: AddonManager, tmp_path: Path) -> None:
    write(tmp_path / "lockgate_test_helper.py", "word = 'help'")
    path = write(tmp_path / "a.py", "from lockgate_test_helper import word\ndef request(flow): pass\n")
    before = list(sys.path)
    try:
        await start(manager, path)
        assert sys.path == before
        assert sys.modules["__mitmproxy_script__.a"].word == "help"
    finally:
        sys.modules.pop("lockgate_test_helper", None)


async def test_options_of_a_script(manager: AddonManager, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.py",
        """
from appliance import ctx
from script_test_calls import calls
def load(loader): loader.add_option("greeting", str, "hello", "what to say")
def request(flow): calls.append(ctx.options.greeting)
""",
    )
    manager.options.set("greeting=servus")
    await start(manager, path)
    manager.options.apply_deferred()
    assert fired(manager) == ["before", "servus", "after"]


def refused(manager: AddonManager, *scripts: object) -> str:
    manager.options.scripts = [str(script) for script in scripts]
    with pytest.raises(OptionsError) as info:
        manager.configure()
    assert not manager.hooks.wants("response")
    return str(info.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{}/no.py", "script {}/no.py: no such file or directory"),
        ("", "scripts: an empty name is no script"),
        ("~no-such-user/a.py", "scripts: ~no-such-user/a.py: there is no such home folder; write the whole path"),
    ],
)
def test_a_missing_file_is_fatal_with_a_clean_message(
    manager: AddonManager, tmp_path: Path, name: str, expected: str
) -> None:
    assert refused(manager, name.format(tmp_path)) == expected.format(tmp_path)


def test_the_same_script_twice(manager: AddonManager, tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", "def response(flow): pass\n")
    assert refused(manager, path, path) == f"scripts: {path} is given twice"


def test_an_error_at_import_is_fatal_with_the_scripts_frames_only(manager: AddonManager, tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", "def response(flow): pass\ndef helper():\n    1 / 0\n\nhelper()\n")
    message = refused(manager, path)
    lines = message.splitlines()
    assert lines[:3] == [
        f"script {path} failed:",
        "Traceback (most recent call last):",
        f'  File "{path}", line 5, in <module>',
    ]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "importlib" not in message and "appliance" not in message
    assert "__mitmproxy_script__.a" not in sys.modules
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def request(flow)\n    pass\n", "SyntaxError: expected ':'"),
        ("import no_such_module_here\n", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("def request(): pass\n", "request() should take flow"),
        ("request = 1\n", "request is a hook's name, but it is no function (1)"),
        ("async def load(loader): pass\n", "load must not be async"),
        ("class A:\n    def response(self, flow): pass\naddons = [A]\n", "A is a class, not an add-on"),
        ("addons = 5\n", ".addons should be a list, not 5"),
        ("def load(loader): 1 / 0\n", "in load"),
        ("def configure(updated): 1 / 0\n", "in configure"),
        ("class Before:\n    name = 'before'\naddons = [Before()]\n", "an add-on named before is there already"),
        (
            "from appliance.script import concurrent\n@concurrent\ndef load(loader): pass\n",
            "@concurrent is not possible",
        ),
        ("\0", "null bytes"),
    ],
)
def test_other_errors_at_the_start(manager: AddonManager, tmp_path: Path, text: str, expected: str) -> None:
    message = refused(manager, write(tmp_path / "a.py", text))
    assert message.startswith(f"script {tmp_path}/a.py")
    assert expected in message
    assert "addonmanager.py" not in message
    assert "__mitmproxy_script__.a" not in sys.modules


def test_a_scripts_veto_is_one_clean_line(manager: AddonManager, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.py",
        "from appliance.exceptions import OptionsError\ndef configure(updated): raise OptionsError('no such key')\n",
    )
    assert refused(manager, path) == f"script {path}: no such key"


# -- while running


async def test_changing_the_option(manager: AddonManager, loader: ScriptLoader, tmp_path: Path) -> None:
    a, b, c = (write(tmp_path / f"{name}.py", LIFE.format(name)) for name in "abc")
    bad = write(tmp_path / "bad.py", "1 / 0\n")
    await start(manager, a, b)
    calls.clear()
    manager.options.scripts = [str(c), str(a)]
    assert calls[:3] == ["c load", "c configure", "c running"]
    assert "b done" in calls and "a done" not in calls and "a load" not in calls
    assert fired(manager) == ["before", "c", "a", "after"]
    assert "__mitmproxy_script__.b" not in sys.modules
    calls.clear()
    with pytest.raises(OptionsError, match="ZeroDivisionError"):
        manager.options.scripts = [str(b), str(bad)]
    assert "b done" in calls and "a done" not in calls
    assert fired(manager) == ["before", "c", "a", "after"]
    assert list(manager.options.scripts) == [str(c), str(a)]
    await manager.done()


async def test_reload(manager: AddonManager, loader: ScriptLoader, tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", LIFE.format("a"))
    await start(manager, path)
    (script,) = loader.scripts
    calls.clear()
    loader.look(script)
    assert calls == []
    old = sys.modules["__mitmproxy_script__.a"]
    write(path, LIFE.format("b"))  # of the same size, and within the same second
    loader.look(script)
    assert calls == ["a done", "b load", "b configure", "b running"]
    assert fired(manager) == ["before", "b", "after"]
    assert sys.modules["__mitmproxy_script__.a"] is script.module is not old
    await manager.done()


@pytest.mark.parametrize(
    ("text", "expected", "restarted"),
    [
        ("def request(flow)\n", "SyntaxError", False),
        ("1 / 0\n", "ZeroDivisionError", False),
        ("def request(): pass\n", "should take flow", False),
        ("addons = 5\n", "should be a list", False),
        ("def load(loader): 1 / 0\n", "ZeroDivisionError", True),
        ("def configure(updated): 1 / 0\n", "ZeroDivisionError", True),
        ("class Before:\n    name = 'before'\naddons = [Before()]\n", "named before is there already", True),
    ],
)
async def test_a_broken_reload_keeps_the_old_one(
    manager: AddonManager,
    loader: ScriptLoader,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
    expected: str,
    restarted: bool,
) -> None:
    path = write(tmp_path / "a.py", LIFE.format("a"))
    await start(manager, path)
    (script,) = loader.scripts
    old = script.module
    calls.clear()
    write(path, text)
    loader.look(script)
    assert calls == (["a done", "a load", "a configure", "a running"] if restarted else [])
    assert "script not reloaded; the old one goes on" in caplog.text and expected in caplog.text
    assert fired(manager) == ["before", "a", "after"]
    assert script.module is old is sys.modules["__mitmproxy_script__.a"]
    caplog.clear()
    loader.look(script)
    assert not caplog.records  # not tried again each second
    write(path, LIFE.format("b"))
    loader.look(script)
    assert fired(manager) == ["before", "b", "after"]
    await manager.done()


async def test_a_file_that_has_gone_is_unloaded_and_comes_back(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.py", LIFE.format("a"))
    await start(manager, path)
    (script,) = loader.scripts
    path.unlink()
    loader.look(script)
    assert fired(manager) == ["before", "a", "after"]
    assert calls.pop() == "after"
    loader.look(script)
    assert calls.pop() == "a done"
    assert f"script {path} has gone: unloaded" in caplog.messages
    assert fired(manager) == ["before", "after"]
    assert "__mitmproxy_script__.a" not in sys.modules
    loader.look(script)
    assert len([message for message in caplog.messages if "gone" in message]) == 1
    write(path, "def request(flow)\n")
    loader.look(script)
    assert "script not reloaded: " in caplog.text
    write(path, LIFE.format("c"))
    loader.look(script)
    assert fired(manager) == ["before", "c", "after"]
    await manager.done()


async def test_a_save_by_replacing_the_file_is_no_removal(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.py", LIFE.format("a"))
    stamp = path.stat().st_mtime_ns
    await start(manager, path)
    (script,) = loader.scripts
    path.rename(tmp_path / "a.py~")
    loader.look(script)
    write(path, LIFE.format("b"))
    os.utime(path, ns=(stamp, stamp))
    loader.look(script)
    assert "gone" not in caplog.text
    assert fired(manager) == ["before", "b", "after"]
    await manager.done()


async def test_the_file_is_watched(
    manager: AddonManager, loader: ScriptLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script_module, "_INTERVAL", 0.01)
    path = write(tmp_path / "a.py", LIFE.format("a"))
    await start(manager, path)
    write(path, LIFE.format("b"))
    async with asyncio.timeout(5):
        while fired(manager) != ["before", "b", "after"]:  # noqa: ASYNC110 - it is a file that changes
            await asyncio.sleep(0.01)
    await manager.done()
    write(path, LIFE.format("c"))
    await asyncio.sleep(0.05)
    assert fired(manager) == ["before", "b", "after"]


async def test_a_fault_does_not_end_the_watch(
    manager: AddonManager,
    loader: ScriptLoader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(script_module, "_INTERVAL", 0.01)
    path = write(tmp_path / "a.py", LIFE.format("a"))
    await start(manager, path)
    # What it leaves in sys.modules is asked for its file.
    odd = "import sys\nclass Odd:\n    @property\n    def __file__(self): raise RuntimeError('odd')\n"
    write(path, odd + "sys.modules['lgtest_odd'] = Odd()\n" + LIFE.format("b"))
    async with asyncio.timeout(5):
        while "fault while looking after scripts" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    sys.modules.pop("lgtest_odd")
    write(path, LIFE.format("c"))
    async with asyncio.timeout(5):
        while fired(manager) != ["before", "c", "after"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await manager.done()


async def test_one_script_that_raises_hides_nothing_from_the_next(manager: AddonManager, tmp_path: Path) -> None:
    a = write(tmp_path / "a.py", "def request(flow): raise ValueError('oops')\n")
    b = write(tmp_path / "b.py", LIFE.format("b"))
    await start(manager, a, b)
    assert fired(manager) == ["before", "b", "after"]
    await manager.done()
