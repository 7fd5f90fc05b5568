"""The command line of `lockgate doctor`; what it finds is tested in tests/doctor and tests/lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.cli.doctor import subject_of
from appliance.cli.main import main
from appliance.options import COMMAND_LINE, Options

_ROOT = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCKGATE_CONFDIR", str(tmp_path))


def test_text_ends_with_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--no-self-test", "-v"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("Transparent interception")
    assert ("would not work" in lines[-1]) == bool(code)
    assert any(line.startswith("ok       Python 3.") for line in lines)


def test_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["doctor", "--no-self-test", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (code == 0)
    checks = {finding["check"]: finding for finding in document["findings"]}
    assert str(tmp_path) in checks["ca"]["seen"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lan0", "--wan", "lan0"], "lan0 is named as"),
        (["--port", "70000"], "port 70000"),
        (["--set", "nosuch=1"], "nosuch"),
        (["--set", "mode=nosuch@1"], "nosuch"),
    ],
)
def test_asked_in_the_wrong_way(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-self-test", *words]) == 2
    assert message in capsys.readouterr().err


def test_ports_are_those_that_run_would_take() -> None:
    options = Options()
    options.set("mode=transparent@8081", "mode=regular@127.0.0.1:0", "mode=regular", "listen_port=3128",
                source=COMMAND_LINE)  # fmt: skip
    assert subject_of(options, (), "", None).ports == (("", 8081), ("", 3128))
    assert subject_of(options, (), "", 99).ports == (("", 99),)


def test_a_user_without_a_home(tmp_path: Path) -> None:
    program = """
import pwd, sys
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from appliance.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    env = {name: value for name, value in os.environ.items() if name != "HOME"}
    command = [sys.executable, "-c", program, "doctor", "--no-self-test"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**env, "PYTHONPATH": _ROOT})
    assert done.returncode in (0, 1) and done.stderr == "" and "Transparent interception" in done.stdout
