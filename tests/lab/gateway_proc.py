"""The real `lockgate run` in the gateway's namespace."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.lab.netns import Host, clean_environment, end_process, wait_for

ROOT = Path(__file__).resolve().parents[2]
LOCKGATE = (sys.executable, "-m", "appliance.cli")
_PORT = re.compile(r"@(?:.*:)?([0-9]+)$")


class Gateway:
    """A running gateway. `with` ends it by SIGTERM and checks that it exits with 0."""

    def __init__(
        self,
        host: Host,
        command: Sequence[str | Path],
        *,
        ports: Sequence[int],
        confdir: Path,
        scratch: Path,
        env: Mapping[str, str] | None = None,
        nofile: int | None = None,
        timeout: float = 15.0,
    ) -> None:
        """Start it and wait until it listens on all `ports` (TCP). Raises RuntimeError, with its output, if it ends
        before or does not come to listen, or when somebody else holds a port."""
        if taken := host.listening() & set(ports):
            raise RuntimeError(f"somebody listens already on {sorted(taken)} in {host}")
        self.host, self.confdir, self.ports = host, confdir, tuple(ports)
        self.command = [str(word) for word in command]
        self._log = scratch / f"gateway-{time.monotonic_ns()}.log"
        limit = ["prlimit", f"--nofile={nofile}:{nofile}"] if nofile else []
        settings = {"HOME": str(scratch), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        with self._log.open("wb") as log:
            self.process = host.popen(
                [*limit, *self.command], output=log, env={**clean_environment(), **settings}, cwd=scratch
            )
        try:
            wait_for(self._ready, timeout, "the gateway listens")
        except (TimeoutError, RuntimeError) as error:
            end_process(self.process)
            raise RuntimeError(f"{error}: {' '.join(self.command)}\n{self.output}") from None

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"ended with {self.process.returncode} before it listened")
        return self.host.listening() >= set(self.ports)

    # -- where it is
    @property
    def proxy(self) -> str:
        """Its first port as the client's proxy URL."""
        return f"http://{self.host.v4}:{self.ports[0]}"

    @property
    def proxy6(self) -> str:
        return f"http://[{self.host.v6}]:{self.ports[0]}"

    @property
    def ca(self) -> Path:
        """Its CA certificate, to be trusted by clients."""
        return self.confdir / "lockgate-ca-cert.pem"

    # -- what it says and uses
    @property
    def log(self) -> Path:
        """The file it writes to."""
        return self._log

    @property
    def output(self) -> str:
        """All it has written to the terminal so far."""
        return self._log.read_text(errors="replace")

    def wait_output(self, regex: str, timeout: float = 5.0) -> re.Match[str]:
        """The first match in the output. Raises AssertionError showing the output when none comes."""
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: re.search(regex, self.output, re.MULTILINE) is not None, timeout, regex)
        found = re.search(regex, self.output, re.MULTILINE)
        assert found, f"no {regex!r} within {timeout:g} s in:\n{self.output}"
        return found

    def cpu_seconds(self) -> float:
        """User and system time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_kb(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024

    def open_files(self) -> int:
        """Its descriptors now, without those of the store, which come and go with what there is to record."""
        count = 0
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += not os.readlink(fd).startswith(f"{self.confdir.resolve()}/")
        return count

    # -- its end
    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, expect: int = 0, timeout: float = 10.0) -> str:
        """SIGTERM; its output. AssertionError when it hangs or exits otherwise than with `expect`. May be repeated."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                end_process(self.process, grace=0)
                raise AssertionError(f"did not end within {timeout:g} s of SIGTERM:\n{self.output}") from None
        assert self.process.returncode == expect, f"exit code {self.process.returncode}, not {expect}:\n{self.output}"
        return self.output

    def kill(self) -> None:
        """SIGKILL; leaving the `with` block then checks nothing more."""
        end_process(self.process, grace=0)

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            end_process(self.process)
            error.add_note(f"The gateway wrote:\n{self.output}")
        elif self.process.poll() is None:
            self.stop()
        elif self.process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"the gateway had died with {self.process.returncode}:\n{self.output}")


def ports_of(arguments: Sequence[str]) -> list[int]:
    """The ports that `lockgate run` arguments ask for: `-m mode@[host:]port`, else `-p`, else 8080."""
    found: list[int] = []
    default = 8080
    bare = not any(word in ("-m", "--mode") or word.startswith("--mode=") for word in arguments)
    for flag, value in _pairs(arguments):
        if flag in ("-p", "--listen-port"):
            default = int(value)
        elif flag in ("-m", "--mode"):
            match = _PORT.search(value)
            bare = bare or not match
            found += [int(match[1])] if match else []
    return found + [default] * bare


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    joined = [(w.partition("=")[0], w.partition("=")[2]) for w in arguments if w.startswith("--") and "=" in w]
    return joined + list(itertools.pairwise(arguments))
