"""`lockgate exec` where it cannot start; programs in it are in tests/lab/test_exec.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, tempfile
tempfile.tempdir = "/no/such"
from appliance.cli.main import main
sys.exit(main(["exec", "--set", f"confdir={sys.argv[1]}", "--", "true"]))
"""


def test_no_folder_for_what_is_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    said = "lockgate: no folder can be made for what the program is shown: No such file or directory\n"
    assert (done.returncode, done.stderr) == (1, said)
