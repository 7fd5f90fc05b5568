"""`make lab` as a person has it: in a terminal with tmux, in one without, and left in every way."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.gateway_proc import ROOT
from tests.lab.labkit import Lab
from tests.lab.netns import ETC, RUN, clean_environment, wait_for

COMMAND = [sys.executable, "-m", "tests.lab.byhand"]


def environment(**more: str) -> dict[str, str]:
    return {**clean_environment(), "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


def traces(pid: int) -> list[str]:
    """What a lab made by this process has left: namespaces, files, processes."""
    named = [str(path) for place in (RUN, ETC, Path("/tmp")) if place.is_dir() for path in place.glob(f"lglab-{pid}-*")]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if f"lglab-{pid}-".encode() in words:
            named.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return named


class Terminal:
    """A program on a pseudo-terminal of its own, as its session's leader."""

    def __init__(self, **more: str) -> None:
        self.text = ""
        self.process_id, self.master = pty.fork()
        if self.process_id == 0:
            os.chdir(ROOT)
            os.execve(COMMAND[0], COMMAND, environment(**more))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_text(self, regex: str, timeout: float = 40.0) -> None:
        end = time.monotonic() + timeout
        while not re.search(regex, self.text):
            assert time.monotonic() < end, f"no {regex!r} in:\n{self.text}"
            self._read(0.2)

    def _read(self, timeout: float) -> bool:
        if not select.select([self.master], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def wait_end(self, timeout: float = 40.0) -> int:
        """Its exit code."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            done, status = os.waitpid(self.process_id, os.WNOHANG)
            if done:
                while self._read(0):
                    if not select.select([self.master], [], [], 0)[0]:
                        break
                return os.waitstatus_to_exitcode(status)
            self._read(0.05)
        raise AssertionError(f"still there:\n{self.text}")


@pytest.fixture
def terminal(lab: Lab) -> Iterator[Terminal]:
    """Without tmux. (`lab` only for what it requires of the machine.)"""
    made = Terminal(LAB_PLAIN="1")
    yield made
    try:
        os.kill(made.process_id, signal.SIGKILL)
        os.waitpid(made.process_id, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    os.close(made.master)


def test_a_plain_shell_in_the_client(terminal: Terminal) -> None:
    terminal.wait_text(r"The gateway writes to (\S+)")
    terminal.wait_text(r"client\$ ")
    terminal.type("curl -s -o /dev/null -w 'got %{http_code}\\n' https://origin.test/1k\n")
    terminal.wait_text(r"got 200")
    terminal.type("curl -s -o /dev/null -w 'six %{http_code} %{remote_ip}\\n' -6 https://alt.test:443/1k\n")
    terminal.wait_text(r"six 200 fd61:2::3")
    terminal.type("exec 4<>/dev/udp/origin.test/7000; echo hello >&4; head -n 1 <&4 | rev\n")
    terminal.wait_text("olleh")
    found = re.search(r"The gateway writes to (\S+)", terminal.text)
    assert found and "/1k 200 " in Path(found[1]).read_text()
    terminal.type("exit\n")
    assert terminal.wait_end() == 0
    assert "Everything is taken down." in terminal.text
    assert traces(terminal.process_id) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_all_down(terminal: Terminal, number: signal.Signals) -> None:
    terminal.wait_text(r"client\$ ")
    assert traces(terminal.process_id)
    os.kill(terminal.process_id, number)
    assert terminal.wait_end() == 130
    assert traces(terminal.process_id) == []


def test_a_signal_while_it_is_built(terminal: Terminal) -> None:
    terminal.wait_text("Building")
    wait_for(lambda: bool(traces(terminal.process_id)), 10, "it has begun")
    os.kill(terminal.process_id, signal.SIGINT)
    assert terminal.wait_end() == 130
    assert traces(terminal.process_id) == []


@pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")
def test_two_panes_in_tmux(lab: Lab, tmp_path: Path) -> None:
    """A tmux around it plays the person's terminal: keys go in, the screen comes out."""
    outer = ["tmux", "-S", str(tmp_path / "outer"), "-f", os.devnull]

    def tmux(*words: str) -> str:
        done = subprocess.run([*outer, *words], env=environment(), capture_output=True, text=True, check=True)
        return done.stdout

    def shown(regex: str) -> None:
        wait_for(lambda: re.search(regex, tmux("capture-pane", "-p")) is not None, 40, f"{regex!r} on the screen")

    (tmp_path / "run").write_text(f"cd {ROOT}\necho $$ >{tmp_path}/pid\nexec {' '.join(COMMAND)}\n")
    tmux("new-session", "-d", "-x", "220", "-y", "50", f"sh {tmp_path}/run; echo 'it ended with' $?; sleep 60")
    try:
        shown(r"client\$ .*│")
        pid = int((tmp_path / "pid").read_text())
        tmux("send-keys", "clear; curl -s -o /dev/null -w 'got %{http_code}' https://origin.test/1k", "Enter")
        shown(r"got 200.*│")
        shown(r"│.*GET https://\S+/1k 200 ")
        tmux("send-keys", "exit", "Enter")
        shown(r"Everything is taken down\.\n+it ended with 0")
    finally:
        tmux("kill-server")
    assert traces(pid) == []
