"""`lockgate exec`: a program in an interception namespace of its own, and a gateway around it while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import modes
from appliance.cli.run import load, loop_factory, raise_file_limit
from appliance.exceptions import ModeError, OptionsError
from appliance.gateway import Gateway
from appliance.io.pcapng.live import Capture
from appliance.log import setup
from appliance.net.trust import STORE_FOLDER, Trust
from appliance.options import Options
from modes.local import WIRE, Local
from modes.netns import system
from modes.netns.namespace import HelperFailed

logger = logging.getLogger(__name__)

_FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_RESOLV_CONF = Path("/etc/resolv.conf")
_BESIDE_DNS = (
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve.hook/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
)
"""Sockets by which the C library asks a daemon outside of the namespace instead of a name server."""


def run(specs: Sequence[str], words: Sequence[str]) -> int:
    """Run the program to its end. Returns its exit code; ends by the signal that ended it."""
    argv = list(words[1:] if words[:1] == ["--"] else words)
    if not argv:
        raise OptionsError("which program? lockgate exec [OPTIONS] -- COMMAND [ARGUMENT ...]")
    inherited = _inherited()
    options = load(["control_socket=none", *specs, "mode=local"])  # there may be a gateway that uses this confdir
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    sys.stdout = sys.stderr  # standard output is the program's
    setup(options.termlog_verbosity)
    raise_file_limit()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(tempfile.mkdtemp(prefix="lockgate-exec-"))
    try:
        folder.chmod(0o755)
        with asyncio.Runner(loop_factory=loop_factory(options)) as runner:
            status = runner.run(_serve(options, argv, folder, inherited, before))
    except HelperFailed as e:
        if e.stage != "exec":
            raise
        print(f"lockgate: {e.text}: {os.strerror(e.code)}", file=sys.stderr)
        return 126 if e.code != 2 else 127
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if os.WIFSIGNALED(status):
        _end_by(os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


async def _serve(options: Options, argv: list[str], folder: Path, inherited: list[int], files: tuple[int, int]) -> int:
    gateway = Around(options, argv, folder, inherited, files)
    await gateway.run()
    return gateway.status


class Around(Gateway):
    """A gateway for one program. status: how that ended, as wait(2) has it."""

    def __init__(
        self, options: Options, argv: list[str], folder: Path, inherited: list[int], files: tuple[int, int]
    ) -> None:
        super().__init__(options)
        self.status = 1 << 8
        self._argv = argv
        self._folder = folder
        self._inherited = inherited
        self._files = files
        self._ignored = [number for number in _FORWARDED if signal.getsignal(number) == signal.SIG_IGN]
        self._local: Local
        self._capture = Capture(options.exec_pcap, WIRE) if options.exec_pcap else None

    def _make(self, spec: modes.ModeSpec, host: str, port: int | None) -> modes.Mode:
        self._local = Local(spec, self.worker, self._inherited)
        return self._local

    def _greet(self) -> None:
        pass

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        await super()._start(loop)
        self._quiet = True  # no line of totals: the program may have a screen of its own
        namespace = self._local.namespace
        assert namespace is not None
        namespace.heard = self._heard
        namespace.ended = self._lost
        for note in self._local.ready(self._want()):
            logger.warning("the program has no private view of %s; it may not trust our CA, or not ask our DNS", note)
        for number in _FORWARDED:
            if number not in self._ignored:
                signal.signal(number, self._forward)
        if self._capture is not None:
            self._capture.start(self._local.packets())
            self.worker.tls.tap(self._capture.secrets)
        self._local.go()

    async def _end(self) -> None:
        await super()._end()
        if (capture := self._capture) is not None:
            capture.stop()
            if capture.dropped:
                logger.warning(
                    "%s: %d packets are missing, they came too fast", self.options.exec_pcap, capture.dropped
                )

    def _want(self) -> dict[str, Any]:
        env = dict(os.environ)
        trust = Trust(self._folder, self.worker.ca.certificate)
        env |= trust.variables(os.environ)
        files: dict[str, str] = {}
        resolv_conf = self._folder / "resolv.conf"
        resolv_conf.write_text(_our_resolv_conf(self._local.dns))
        if _RESOLV_CONF.exists():
            files[str(_RESOLV_CONF)] = str(resolv_conf)
        store: list[str] = []
        if self.options.exec_trust_store:
            bundle = str(trust.with_ours(trust.roots))
            if os.path.dirname(trust.roots) == STORE_FOLDER:
                ours = str(trust.with_ours(""))
                store = [STORE_FOLDER, os.path.basename(trust.roots), bundle, ours, trust.hashed()]
            elif trust.roots.startswith("/etc/"):
                files[trust.roots] = bundle
        return {
            "argv": self._argv,
            "env": env,
            "ignore": [int(number) for number in self._ignored],
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
            "nofile": list(self._files),
            "ports": [int(port) for port in self.options.exec_host_ports],
            "files": files,
            "store": store,
            "hide": list(_BESIDE_DNS),
            "folder": str(self._folder),
        }

    def _forward(self, number: int, frame: FrameType | None) -> None:
        namespace = self._local.namespace
        if namespace is not None:
            namespace.tell({"signal": number})

    def _heard(self, said: dict[str, Any]) -> None:
        if "exit" in said:
            self.status = said["exit"]
            self.shutdown()

    def _lost(self) -> None:
        """Orphans of the helper's are our children now."""
        logger.error("the helper process was killed, and the program with it")
        system.end_descendants(0)
        self.status = 1 << 8
        self.shutdown()


def _inherited() -> list[int]:
    """Descriptors that whoever started us meant for the program: what Python opens is never inheritable."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if (fd := int(name)) > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def _our_resolv_conf(servers: Sequence[str]) -> str:
    """Our name servers, and of the machine's own file what is not a server."""
    try:
        lines = _RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kept = [line for line in lines if line.split()[:1] in (["search"], ["domain"], ["options"], ["sortlist"])]
    return "\n".join([*(f"nameserver {server}" for server in servers), *kept, ""])


def _end_by(number: int) -> None:
    """As the program has ended, so that a shell sees the same. Does not return."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    raise ModeError(f"the program was ended by signal {number}")


__all__ = ["run"]
