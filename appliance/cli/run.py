"""`lockgate run`: options, limits, event loop and signals around one `Gateway`."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from appliance import config
from appliance.exceptions import LockgateError
from appliance.log import setup
from appliance.options import COMMAND_LINE, Options
from appliance.threads import DaemonThreads

if TYPE_CHECKING:
    from appliance.gateway import Gateway

MAX_FILES = 1 << 20
"""The kernel's own ceiling (fs.nr_open) unless someone has changed it; "unlimited" is refused above it."""

FORCE_SECONDS = 2.0

log = logging.getLogger(__name__)


def load(specs: Sequence[str]) -> Options:
    """Options from the command line (texts for `Options.set`), the environment and config.yaml. Raises OptionsError."""
    options = Options()
    options.set(*specs, source=COMMAND_LINE)
    config.start(options)
    if not options.scripts:
        # No add-on can come and register a name that is unknown now.
        options.apply_deferred()
    return options


def run(specs: Sequence[str]) -> int:
    """Start the gateway, stay until it ends. Returns the exit code; raises LockgateError if it cannot start."""
    options = load(specs)
    setup(options.termlog_verbosity)
    options.subscribe(lambda options, _: setup(options.termlog_verbosity), ["termlog_verbosity"])
    raise_file_limit()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=loop_factory(options)) as runner:
        try:
            return runner.run(serve(options))
        except asyncio.CancelledError:
            print("lockgate: stopped by force", file=sys.stderr)
            return 130


async def serve(options: Options) -> int:
    """One gateway under the process's signals. Raises LockgateError; CancelledError when stopped by force."""
    from appliance.gateway import Gateway

    gateway = Gateway(options)
    handle_signals(gateway)
    return await gateway.run()


def handle_signals(gateway: Gateway) -> None:
    """SIGINT and SIGTERM end it in good order, the second time by force; SIGHUP reads config.yaml and scripts again.

    These are Python's handlers, not the loop's: they also run while an add-on holds up the loop, so that Ctrl-C always
    ends the program.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    asked = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            loop.call_soon_threadsafe(gateway.shutdown)
            return
        loop.call_soon_threadsafe(task.cancel)
        last = threading.Timer(FORCE_SECONDS, os._exit, (130,))
        last.daemon = True
        last.start()

    def again(signum: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(_reload, gateway)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, again)


def _reload(gateway: Gateway) -> None:
    try:
        gateway.reload()
    except LockgateError as error:
        log.error("reload refused, everything stays as it was: %s", error)


def loop_factory(options: Options) -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's loop if the option says so and it is installed, else asyncio's own."""
    new: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if options.uvloop:
        try:
            import uvloop
        except ImportError:
            pass
        else:
            new = uvloop.new_event_loop

    def make() -> asyncio.AbstractEventLoop:
        loop = new()
        loop.set_default_executor(DaemonThreads())
        return loop

    return make


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one: a connection takes two, a spliced one more. Returns the limit
    now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            return soft
        return wanted
    return soft
