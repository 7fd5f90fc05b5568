"""appliance/cli/run.py: limits, loop and signals, in a process of its own around a gateway that only waits."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import run
from appliance.exceptions import OptionsError
from appliance.options import Options

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, resource, sys, time, types
from appliance.exceptions import ModeError, OptionsError

class Gateway:
    def __init__(self, options):
        self.options, self.over = options, asyncio.Event()
    async def tick(self):  # as the worker's sweep: without uvloop it is what gets a signal noticed in any case
        while True:
            await asyncio.sleep(0.5)
    async def run(self):
        self.ticking = asyncio.create_task(self.tick())
        if self.options.listen_port == 1:
            raise ModeError("127.0.0.1:1 is in use")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        print("ready", type(asyncio.get_running_loop()).__module__.split(".")[0], soft == min(hard, 1 << 20),
        flush=True)
        if self.options.listen_port == 2:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                pass
        if self.options.listen_port == 6:
            self.held = [asyncio.create_task(asyncio.to_thread(time.sleep, 60)) for _ in range(3)]
            await asyncio.sleep(0.1)
        await self.over.wait()
        print("over", flush=True)
        if self.options.listen_port == 3:
            await asyncio.sleep(30)
        return 4
    def shutdown(self):
        print("shutdown", flush=True)
        self.over.set()
    def reload(self):
        if self.options.listen_port == 5:
            raise OptionsError("config.yaml:1: no")
        print("reload", flush=True)

module = types.ModuleType("appliance.gateway")
module.Gateway = Gateway
sys.modules["appliance.gateway"] = module
from appliance.cli.main import main
sys.exit(main(["run", *sys.argv[1:]]))
"""


class Process:
    def __init__(self, folder: Path, *argv: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--set", f"confdir={folder}", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            ),
        )

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        out, err = self.popen.communicate(timeout=20)
        return self.popen.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Process] = []

    def start(*argv: str) -> Process:
        started.append(Process(tmp_path, *argv))
        return started[-1]

    yield start
    for process in started:
        process.popen.kill()
        process.popen.communicate()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ends_in_good_order_with_the_gateways_code(start: Any, loop: str, signum: int) -> None:
    process = start("--set", f"uvloop={'true' if loop == 'uvloop' else 'false'}")
    assert process.line() == f"ready {loop} True"
    process.popen.send_signal(signum)
    assert process.end() == (4, "shutdown\nover\n", "")


@pytest.mark.parametrize("loop", ["true", "false"])
def test_the_second_time_by_force(start: Any, loop: str) -> None:
    process = start("-p", "3", "--set", f"uvloop={loop}")
    process.line()
    process.popen.send_signal(signal.SIGINT)
    assert [process.line(), process.line()] == ["shutdown", "over"]
    process.popen.send_signal(signal.SIGINT)
    code, _, err = process.end()
    assert (code, err) == (130, "lockgate: stopped by force\n")


@pytest.mark.parametrize("loop", ["true", "false"])
def test_ctrl_c_ends_it_while_an_add_on_holds_up_the_loop(start: Any, loop: str) -> None:
    process = start("-p", "2", "--set", f"uvloop={loop}")
    process.line()
    process.popen.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.popen.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert process.end()[0] == 130
    assert time.monotonic() - began < run.FORCE_SECONDS + 3


@pytest.mark.parametrize("loop", ["true", "false"])
def test_a_hook_that_blocks_in_its_thread_does_not_hold_up_the_end(start: Any, loop: str) -> None:
    process = start("-p", "6", "--set", f"uvloop={loop}")
    process.line()
    process.popen.send_signal(signal.SIGTERM)
    assert process.end()[0] == 4  # within 20 s, and the hook takes 60


def test_sighup_reloads(start: Any) -> None:
    process = start()
    process.line()
    process.popen.send_signal(signal.SIGHUP)
    assert process.line() == "reload"
    process.popen.terminate()
    assert process.end()[0] == 4


def test_a_refused_reload_is_logged_and_nothing_ends(start: Any) -> None:
    process = start("-p", "5")
    process.line()
    process.popen.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    process.popen.terminate()
    code, out, err = process.end()
    assert (code, out) == (4, "shutdown\nover\n")
    assert "config.yaml:1: no" in err and "Traceback" not in err


def test_what_cannot_start_is_one_line(start: Any) -> None:
    assert start("-p", "1").end() == (1, "", "lockgate: 127.0.0.1:1 is in use\n")


def test_unknown_options_are_refused_at_once_without_scripts_but_wait_for_them(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="did you mean tcp_timeout"):
        run.load([f"confdir={tmp_path}", "tcp_timout=1"])
    options = run.load([f"confdir={tmp_path}", "scripts=a.py", "count=1"])
    options.add_option("count", int, 0, "How many.")
    assert options.count == 1


def test_uvloop_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(options: Options) -> str:
        loop = run.loop_factory(options)()
        loop.close()
        return type(loop).__module__.partition(".")[0]

    assert (made(Options(uvloop=False)), made(Options())) == ("asyncio", "uvloop")
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert made(Options()) == "asyncio"


@pytest.mark.parametrize(("limits", "now"), [("(50, 90)", 90), ("(90, 90)", 90)])
def test_file_limit(limits: str, now: int) -> None:
    code = f"""
        import resource
        from appliance.cli.run import raise_file_limit
        resource.setrlimit(resource.RLIMIT_NOFILE, {limits})
        print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == [str(now)] * 3


ENDS = """
import asyncio
from appliance import ctx
def running():
    asyncio.get_running_loop().call_later(0.3, ctx.master.shutdown)
"""


@pytest.mark.parametrize("to", ["full", "nobody"])
def test_starts_and_ends_where_its_first_screen_cannot_be_written(to: str, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(ENDS)
    read, pipe = os.pipe()
    os.close(read)
    settings = [f"--set=confdir={tmp_path}", "--set=listen_port=0", "--set=ca_key=ec"]
    with open("/dev/full", "wb") as full, open(pipe, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.cli", "run", *settings, "-s", str(tmp_path / "ends.py")],
            stdout=full if to == "full" else nobody, stderr=subprocess.PIPE, timeout=60, cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
