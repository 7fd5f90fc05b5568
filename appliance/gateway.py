"""Puts the gateway together. Reads like a table of contents."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import modes
from appliance import config, ctx
from appliance.addonmanager import AddonManager
from appliance.addons import default_addons
from appliance.cli.firstscreen import Listening, first_screen, own_address, totals_line
from appliance.control.server import ControlServer
from appliance.exceptions import LockgateError, ModeError, OptionsError
from appliance.home import expanded
from appliance.hooks import Hooks
from appliance.log import AddLog
from appliance.net.ca_store import CERTIFICATE_FILE, RSA_BITS
from appliance.net.certs import CertificateAuthority, Minter
from appliance.net.leaf import RSA_BITS as LEAF_RSA_BITS
from appliance.net.tls_context import TlsContexts
from appliance.store.service import Service
from appliance.worker import Worker
from modes.firewall import Firewall
from modes.live import LiveModes, Wanted, wanted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from collections.abc import Set as AbstractSet

    from appliance.addons.view import View
    from appliance.command import CommandManager
    from appliance.flow import Flow
    from appliance.options import Options, Source

logger = logging.getLogger(__name__)

CERTIFICATE_OPTIONS = frozenset({"certs", "cert_passphrase", "leaf_cache_size"})
FAREWELL_SECONDS = 5.0
LISTENING = ("mode", "listen_host", "listen_port")
"""Options, beside those of the firewall, that say what runs."""


class Gateway:
    """One gateway process: `ctx.master` to add-ons.

    `await run()` starts all, stays until `shutdown()`, and returns the exit code.

    :raises LockgateError: it cannot start.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.hooks = Hooks()
        self.addons = AddonManager(self, options, self.hooks)
        self.live: LiveModes
        self.control: ControlServer
        self.worker: Worker
        self.store: Service
        self.exit_code = 0
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self.log = ctx.log
        self._stop = asyncio.Event()
        self._since = time.monotonic()
        self._changing = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None  # modes are being made what the options say
        self._unsettled = False
        self._settled: dict[str, tuple[object, Source]] = {}  # options that the modes are like
        self._quiet = True  # until all has started

    @property
    def commands(self) -> CommandManager:
        return self.addons.commands

    @property
    def view(self) -> View | None:
        """The flows that commands can name."""
        view: View | None = self.addons.get("view")
        return view

    @property
    def should_exit(self) -> asyncio.Event:
        """Set once the gateway is to end."""
        return self._stop

    @property
    def uptime(self) -> float:
        """Seconds."""
        return time.monotonic() - self._since

    async def run(self) -> int:
        loop = self.event_loop = asyncio.get_running_loop()
        add_log = AddLog(self.hooks, loop)
        add_log.install()
        try:
            await self._start(loop)
            await self._stop.wait()
            return self.exit_code
        finally:
            try:
                await self._end()
            finally:
                if hasattr(self, "control"):
                    await self.control.close()
                add_log.uninstall()

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        options = self.options
        if "core" not in self.addons:  # an embedder may have put them first
            self.addons.add(*default_addons())
        self.addons.configure()
        options.apply_deferred()
        wished = self._wanted()
        self.control = ControlServer(self)
        self.control.claim()
        ca = CertificateAuthority.open(
            self._confdir(), "ec" if options.ca_key == "ec" else "rsa", options.key_size or RSA_BITS
        )
        minter = Minter(
            ca,
            options.leaf_cache_size,
            options.certs,
            passphrase=options.cert_passphrase,
            rsa_bits=options.key_size or LEAF_RSA_BITS,
        )
        tls = TlsContexts(options)
        self.worker = worker = Worker(options, self.hooks, ca, minter, tls, loop)
        self.live = LiveModes(worker, self._make, self._redirect)
        self.store = Service(worker, options, loop)
        options.subscribe(self._changed)
        worker.start()
        self.store.apply()
        self._settled = self._running_options()
        if options.server:
            await self.live.become(wished)
        await self.addons.running()
        # What is loaded stays; the collector need not look at it again and again while connections come and go.
        gc.collect()
        gc.freeze()
        self._quiet = options.termlog_verbosity == "error"  # -q
        if not self._quiet and options.server:
            self._greet()
        self.control.serve()

    def _confdir(self) -> Path:
        return expanded(self.options.confdir, "confdir")

    # -- modes

    def _wanted(self) -> list[Wanted]:
        """:raises ModeError: one cannot be."""
        options = self.options
        return wanted(options.mode, options.bind_host, options.listen_port, self._redirect_options())

    def _redirect_options(self) -> tuple[object, ...] | None:
        """What the redirects are made of; None if we lay none."""
        if self.options.firewall == "none":
            return None
        return tuple(value for name, value in self.options.items() if _of_firewall(name))

    def _make(self, spec: modes.ModeSpec, host: str, port: int | None) -> modes.Mode:
        """:raises ModeError: it cannot be."""
        return modes.make(spec, self.worker, host, port)

    def _redirect(self, mode: modes.Mode, probe: Callable[[], Awaitable[bool]]) -> Firewall:
        """The redirect of a mode that names interfaces and listens. :raises ModeError: it cannot be."""
        options = self.options
        return Firewall(
            mode.spec.interfaces,
            mode.addresses,
            backend=options.firewall,
            method=options.firewall_method,
            owner=options.firewall_owner,
            masquerade=options.masquerade,
            fail=options.firewall_fail,
            exclude=options.firewall_exclude_ports,
            probe=probe,
        )

    def _running_options(self) -> dict[str, tuple[object, Source]]:
        options = self.options
        names = [name for name in options if name in LISTENING or _of_firewall(name)]
        return {name: (getattr(options, name), options.source(name)) for name in names}

    async def _settle(self) -> None:
        """Make the modes what the options say. :raises ModeError: it cannot be; the options are put back."""
        while self._unsettled:
            self._unsettled = False
            now = self._running_options()
            try:
                await self.live.become(self._wanted())
            except ModeError as error:
                logger.error("the modes stay as they were: %s", error)
                try:
                    self.options.apply(self._settled)
                except OptionsError as refused:
                    logger.error("the options of modes cannot be put back: %s", refused)
                self._unsettled = False
                raise
            self._settled = now

    async def settle(self) -> None:
        """Wait until the modes are what the options say. :raises ModeError: they cannot be, and the options are put
        back.
        """
        if self._settling is not None:
            await asyncio.shield(self._settling)

    async def change(self, names: Iterable[str], change: Callable[[], object]) -> None:
        """Have options changed, modes included. :raises LockgateError: it is refused, and everything is as it was."""
        options = self.options
        async with self._changing:  # one's failure must not undo another's change
            before = {name: (getattr(options, options.entry(name).name), options.source(name)) for name in names}
            change()
            try:
                await self.settle()
            except LockgateError:
                options.apply({name: old for name, old in before.items() if name in options})
                raise

    def _greet(self) -> None:
        ca = self.worker.ca
        listening = [Listening(one.mode.spec.full_spec, at[0], at[1]) for one in self.live for at in one.mode.addresses]
        portal = self.options.onboarding_host if self.options.onboarding else None
        path = self._confdir() / CERTIFICATE_FILE
        _say(first_screen(listening, path, ca.fingerprint, portal=portal, own_address=own_address()))
        for one in self.live:
            if one.mode.hello:
                _say(one.mode.hello)

    def _changed(self, options: Options, updated: AbstractSet[str]) -> None:
        worker = self.worker
        if "control_socket" in updated or "control_group" in updated:
            raise OptionsError("control_socket and control_group need a restart")
        if options.server and any(name in LISTENING or _of_firewall(name) for name in updated):
            try:
                self._wanted()
            except ModeError as error:
                raise OptionsError(str(error)) from None
            self._unsettled = True
            if self._settling is None or self._settling.done():
                self._settling = worker.loop.create_task(self._settle(), name="modes")
                self._settling.add_done_callback(_seen)
        worker.tls.reload()
        if CERTIFICATE_OPTIONS & updated:
            worker.minter.use_custom(options.certs, options.cert_passphrase)
            worker.minter.cache_size = options.leaf_cache_size
        worker.configure()
        if any(name == "server" or name.startswith("store") for name in updated):
            self.store.apply()

    def reload(self) -> None:
        """Read config.yaml again (SIGHUP). :raises LockgateError: it is refused, and everything stays as it was."""
        config.reload(self.options)
        self.options.apply_deferred()
        logger.info("configuration reloaded")

    def shutdown(self) -> None:
        """End in good order. May be called from any thread."""
        loop = self.event_loop
        if loop is None:
            self._stop.set()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._stop.set)

    async def load_flow(self, f: Flow) -> None:
        """Fire the events of a flow that is over, as if it went by now."""
        from appliance.addons.readfile import load_flow

        await load_flow(f)

    async def _end(self) -> None:
        if self._settling is not None:
            await asyncio.wait([self._settling])
        if hasattr(self, "live"):
            await self.live.stop()
        if hasattr(self, "worker"):
            await self.worker.stop()
            self.store.close()
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self.addons.done()
        except TimeoutError:
            logger.warning("an add-on's done hook did not end within %g s", FAREWELL_SECONDS)
        if self.options.hook_profile:
            from appliance.hookprofile import table

            logger.info("what hooks cost:\n%s", table(self.hooks))
        if not self._quiet:
            _say(totals_line(self.worker.totals, self.uptime))


def _of_firewall(name: str) -> bool:
    return name == "masquerade" or name.startswith("firewall")


def _say(text: str) -> None:
    """Nobody need be there to read it, nor room on the disk for it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)


def _seen(task: asyncio.Task[None]) -> None:
    """Who waits for it hears of it too."""
    if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ModeError):
        logger.error("unexpected fault in a change of modes", exc_info=error)
