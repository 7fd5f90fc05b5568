from __future__ import annotations

from pathlib import Path

import pytest

from appliance.cli.main import main

GOOD = """
from mitmproxy import command, ctx, http

class Good:
    def load(self, loader):
        loader.add_option("good_word", str, "", "A word.")

    def request(self, flow: http.HTTPFlow):
        pass

    @command.command("good.say")
    def say(self, word: str) -> str:
        return word

addons = [Good()]
"""

BAD = """
from mitmproxy.proxy import layer

def request(flow, more):
    pass

def respones(flow):
    pass

async def configure(updated):
    pass

class Old(layer.Layer):
    pass
"""


def run(tmp_path: Path, source: str, what: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    path = tmp_path / "file.py"
    path.write_text(source)
    code = main(["addons", what, str(path)])
    return code, capsys.readouterr().out.replace(str(path), "file.py")


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(tmp_path, GOOD, "list", capsys)
    assert code == 0
    assert "good: load, request" in out and "options: good_word" in out and "commands: good.say" in out


def test_check_finds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, GOOD, "check", capsys) == (0, "file.py: no fault found\n")


def test_check_names_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(tmp_path, BAD, "check", capsys)
    assert code == 1
    assert "file.py:4: error" in out and "request(flow, more) should take flow" in out
    assert "file.py:7: warning" in out and "did you mean response?" in out
    assert "file.py:10: error" in out and "configure must not be async" in out


@pytest.mark.parametrize(
    "source, told",
    [
        ("def broken(:\n", "file.py:1: error"),
        ("import os\n1 / 0\n", "file.py:2: error"),
        ("class A:\n  def request(self, flow): ...\naddons = [A]\n", "list an instance, A()"),
        ("from mitmproxy.tools import web\n", "mitmproxy.tools.web is not in lockgate"),
        (
            "from mitmproxy.proxy import layer\nclass L(layer.Layer):\n  def _handle_event(self, event):\n    yield\n",
            "file.py:3: error: L: layers made",
        ),
        ("def load(loader):\n  loader.add_option('mode', str, '', '')\n", "built-in"),
    ],
)
def test_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, told: str) -> None:
    code, out = run(tmp_path, source, "check", capsys)
    assert code == 1 and told in out


def test_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["addons", "check", "/nonexistent/x.py"]) == 1
    assert "no such file" in capsys.readouterr().out


@pytest.mark.parametrize(
    "source, told, code",
    [
        ("def load(loader):\n    raise ValueError('no')\n", "a.py:2: error: load: ValueError: no", 1),
        ("def helper():\n    1 / 0\n\ndef configure(updated):\n    helper()\n", "a.py:2: error: configure: Zero", 1),
        (
            "from mitmproxy import ctx, exceptions\n\ndef load(loader):\n    loader.add_option('must', str, '', '')\n\n"
            "def configure(updated):\n    if 'must' in updated and not ctx.options.must:\n"
            "        raise exceptions.OptionsError('must is not set')\n",
            "a.py:8: warning: configure: must is not set (with every option at its default)",
            0,
        ),
        ("from mitmproxy import ctx\n\ndef configure(updated):\n    ctx.master.commands.call\n", "no fault found", 0),
    ],
)
def test_load_and_configure_are_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, told: str, code: int
) -> None:
    (tmp_path / "a.py").write_text(source)
    assert main(["addons", "check", str(tmp_path / "a.py")]) == code
    assert told in capsys.readouterr().out
