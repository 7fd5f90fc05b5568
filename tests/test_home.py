"""Paths with `~`, where there is no home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.exceptions import OptionsError
from appliance.home import expanded
from appliance.options import Options

ROOT = Path(__file__).parents[1]


def test_a_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert expanded("~/x") == Path("/home/ann/x")
    assert expanded("x") == Path("x")


@pytest.mark.parametrize("words", ["addons list x.py", "run -n -s x.py"])
def test_a_working_folder_that_is_gone_is_told(words: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = "import os, sys; os.rmdir(os.getcwd()); from appliance.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split()],
        capture_output=True, text=True, timeout=60, cwd=gone,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LOCKGATE_CONFDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1, done
    assert "x.py: the working folder is gone; write the whole path" in done.stderr


def test_no_such_user() -> None:
    with pytest.raises(OptionsError, match=r"^client_certs: ~nobody-here/x: there is no such home folder; write"):
        expanded("~nobody-here/x", "client_certs")
    with pytest.raises(OptionsError, match=r"^tls_keylog_file: ~nobody-here/x"):
        Options(tls_keylog_file="~nobody-here/x").path("tls_keylog_file")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be a user whom /etc/passwd does not know")
@pytest.mark.parametrize("command", ["run", "status", "flows list", "ca show", "wireguard peers"])
def test_a_user_of_a_container_without_a_home_is_told_so(command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "LOCKGATE_CONFDIR")}
    program = (
        "import os, sys; from appliance.cli.main import main; import appliance.cli.run, appliance.cli.remote, "
        "appliance.cli.flows, appliance.cli.ca, appliance.cli.wireguard; os.setresuid(64299, 64299, 64299);"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "lockgate: confdir: ~/.lockgate: there is no such home folder (HOME is not set); write the whole path\n"
    )
