"""`lockgate exec`: a program in an interception namespace of its own, and a gateway around it or one that runs."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import modes
from appliance.cli.program import Program, inherited
from appliance.cli.run import load, loop_factory, raise_file_limit
from appliance.control.address import NONE, socket_path
from appliance.control.client import Client
from appliance.exceptions import ModeError, OptionsError
from appliance.gateway import Gateway
from appliance.log import setup
from appliance.options import Options
from modes.local import Local, Wire
from modes.netns import system
from modes.netns.namespace import HelperFailed

logger = logging.getLogger(__name__)

_OURS = frozenset(
    {"confdir", "control_socket", "exec_host_ports", "exec_trust_store", "termlog_verbosity", "flow_detail"}
)
"""Options that are not those of a gateway that runs already."""
_INSTEAD = {
    "save_stream_file": "`lockgate flows export --format flows -o FILE '~device NAME'` writes what it has recorded",
    "exec_pcap": "`lockgate flows export --format pcapng -o FILE '~device NAME'` writes what it has recorded",
}


def run(specs: Sequence[str], words: Sequence[str], join: bool = False) -> int:
    """Run the program to its end. join: with the gateway that runs. Returns its exit code, or ends by the signal that
    ended it. Raises LockgateError.
    """
    argv = list(words[1:] if words[:1] == ["--"] else words)
    if not argv:
        raise OptionsError("which program? lockgate exec [OPTIONS] -- COMMAND [ARGUMENT ...]")
    descriptors = inherited()
    if join:
        _refuse_options_of_the_gateway(specs)
        options = load(specs)
    else:
        options = load(["control_socket=none", *specs, "mode=local"])  # there may be a gateway that uses this confdir
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    sys.stdout = sys.stderr  # standard output is the program's
    setup(options.termlog_verbosity)
    raise_file_limit()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    try:
        folder = Path(tempfile.mkdtemp(prefix="lockgate-exec-"))
    except OSError as error:
        raise ModeError(f"no folder can be made for what the program is shown: {error.strerror}") from None
    try:
        folder.chmod(0o755)
        program = Program(options, argv, folder, descriptors, before)
        with asyncio.Runner(loop_factory=loop_factory(options)) as runner:
            runner.run(_joined(options, program) if join else _serve(options, program))
    except HelperFailed as e:
        if e.stage != "exec":
            raise
        print(f"lockgate: {e.text}: {os.strerror(e.code)}", file=sys.stderr)
        return 126 if e.code != 2 else 127
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if os.WIFSIGNALED(program.status):
        _end_by(os.WTERMSIG(program.status))
    return os.waitstatus_to_exitcode(program.status)


# -- with a gateway of its own


async def _serve(options: Options, program: Program) -> None:
    await Around(options, program).run()


class Around(Gateway):
    """A gateway for one program."""

    def __init__(self, options: Options, program: Program) -> None:
        super().__init__(options)
        self._program = program
        self._local: Local

    def _make(self, spec: modes.ModeSpec, host: str, port: int | None) -> modes.Mode:
        self._local = Local(spec, self.worker, self._program.inherited)
        return self._local

    def _greet(self) -> None:
        pass

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        await super()._start(loop)
        self._quiet = True  # no line of totals: the program may have a screen of its own
        program, local = self._program, self._local
        if program.capture is not None:
            self.worker.tls.tap(program.capture.secrets)
        program.ended = self.shutdown
        program.launch(local.wire, self.worker.ca.certificate, local.take)

    async def _end(self) -> None:
        await super()._end()
        self._program.close()


# -- with one that runs


def _refuse_options_of_the_gateway(specs: Sequence[str]) -> None:
    """Raises OptionsError."""
    for spec in specs:
        name = spec.partition("=")[0].strip()
        if name not in _OURS:
            instead = _INSTEAD.get(name, f"`lockgate options set {spec}` sets it there")
            raise OptionsError(f"{name}: with --join the gateway that runs has its own options; {instead}")


async def _joined(options: Options, program: Program) -> None:
    from cryptography import x509

    path = socket_path(options)
    if path is None:
        raise OptionsError(f"control_socket is {NONE}: there is no gateway to join")
    ended = asyncio.Event()
    program.ended = ended.set
    loop = asyncio.get_running_loop()
    with Client(path) as gateway:
        wire = await Wire.open(program.inherited)
        try:
            control, listeners = wire.namespace.share()
            with control:
                found = gateway.call_with(
                    [control.fileno(), *(sock.fileno() for sock in listeners.values())],
                    "program.join",
                    program=program.argv[0],
                    pid=os.getpid(),
                    listeners=list(listeners),
                )
            for sock in listeners.values():
                sock.close()

            def listen(loopback: list[socket.socket]) -> None:
                gateway.call_with([sock.fileno() for sock in loopback], "program.listen", count=len(loopback))
                for sock in loopback:
                    sock.close()

            def gone() -> None:
                loop.remove_reader(gateway.fileno())
                logger.error("the gateway has ended: the program has no network any more")

            logger.info("this program is %s to the gateway", found["device"])
            program.launch(wire, x509.load_pem_x509_certificate(found["certificate"].encode()), listen)
            loop.add_reader(gateway.fileno(), gone)
            await ended.wait()
            loop.remove_reader(gateway.fileno())
        finally:
            wire.namespace.close()
            await wire.namespace.gone()
            program.close()


def _end_by(number: int) -> None:
    """As the program has ended, so that a shell sees the same. Does not return."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    raise ModeError(f"the program was ended by signal {number}")


__all__ = ["run"]
