"""appliance/cli/main.py: what holds for every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys, types
module = types.ModuleType("appliance.cli.options")
def show(specs, as_yaml):
    with open(os.environ["TOLD"], "w") as file:
        paths = [os.path.realpath(f"/proc/self/fd/{n}") for n in range(3)]
        print(*("null" if path == "/dev/null" else "other" for path in paths), file=file)
        print(sys.stdin.read() == "", file=file)
    print("said"), print("complained", file=sys.stderr)
    return 3
module.show = show
sys.modules["appliance.cli.options"] = module
from appliance.cli.main import main
sys.exit(main(["options"]))
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_standard_descriptors_that_are_closed_go_to_nobody_else(closed: tuple[int, ...], tmp_path: Path) -> None:
    told = tmp_path / "told"
    words = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {words}', "sh", sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE if 0 in closed else subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, "TOLD": str(told)},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    places = ["null" if number in closed or number == 0 else "other" for number in range(3)]
    assert told.read_text() == " ".join(places) + "\nTrue\n"
    assert done.stdout == ("" if 1 in closed else "said\n")
    assert done.stderr == ("" if 2 in closed else "complained\n")


def lockgate(*words: str, stdout: int | IO[bytes] = subprocess.PIPE, **env: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", *words],
        stdout=stdout, stderr=subprocess.PIPE, timeout=60, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "", **env},
    )  # fmt: skip
    return done.returncode, (done.stdout or b"").decode("latin-1"), done.stderr.decode("latin-1")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_spelt_out(encoding: str, tmp_path: Path) -> None:
    folder = "--set=confdir=" + os.fsdecode(os.fsencode(tmp_path) + "/☃".encode())
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    code, out, err = lockgate("options", folder, **env)
    assert (code, err) == (0, "") and "/\\u2603" in out
    code, out, err = lockgate("wireguard", "add", "phone", "--endpoint=a.test", folder, **env)
    assert code == 0 and "[Interface]" in out
    code, out, err = lockgate("wireguard", "qr", "phone", folder, **env)
    assert (code, err) == (0, "") and "\x1b[7m" in out and "\\u" not in out


def test_a_path_that_is_not_utf_8(tmp_path: Path) -> None:
    script = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")
    Path(script).write_text("def done(): ...\n")
    code, out, err = lockgate("addons", "list", script, PYTHONIOENCODING="utf-8", PYTHONUTF8="1")
    assert (code, err) == (0, "") and "/\\udcff.py\n" in out


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["flows", "--help"], ["options"]])
def test_nobody_takes_the_output(words: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        code, _, err = lockgate(*words, stdout=full, LOCKGATE_CONFDIR=str(tmp_path))
    assert (code, err.count("\n")) == (1, 1) and "No space left on device" in err
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as pipe:
        assert lockgate(*words, stdout=pipe, LOCKGATE_CONFDIR=str(tmp_path)) == (1, "", "")
