"""Puts the gateway together. Reads like a table of contents."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import modes
from appliance import config, ctx
from appliance.addonmanager import AddonManager
from appliance.addons import default_addons
from appliance.cli.firstscreen import Listening, first_screen, own_address, totals_line
from appliance.exceptions import ModeError, OptionsError
from appliance.hooks import Hooks
from appliance.log import AddLog
from appliance.net.ca_store import CERTIFICATE_FILE
from appliance.net.certs import CertificateAuthority, Minter
from appliance.net.tls_context import TlsContexts
from appliance.worker import Worker
from modes.firewall import Firewall
from modes.spec import DEFAULT_PORTS

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from appliance.addons.view import View
    from appliance.command import CommandManager
    from appliance.flow import Flow
    from appliance.options import Options

logger = logging.getLogger(__name__)

CERTIFICATE_OPTIONS = frozenset({"certs", "cert_passphrase", "leaf_cache_size"})
FAREWELL_SECONDS = 5.0


class Gateway:
    """One gateway process: `ctx.master` to add-ons.

    `await run()` starts all, stays until `shutdown()`, and returns the exit code.

    :raises LockgateError: it cannot start.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.hooks = Hooks()
        self.addons = AddonManager(self, options, self.hooks)
        self.modes: list[modes.Mode] = []
        self.firewalls: list[Firewall] = []
        self.worker: Worker
        self.exit_code = 0
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self.log = ctx.log
        self._stop = asyncio.Event()
        self._since = time.monotonic()
        self._quiet = True  # until all has started

    @property
    def commands(self) -> CommandManager:
        return self.addons.commands

    @property
    def view(self) -> View | None:
        """The flows that commands can name."""
        view: View | None = self.addons.get("view")
        return view

    async def run(self) -> int:
        loop = self.event_loop = asyncio.get_running_loop()
        add_log = AddLog(self.hooks, loop)
        add_log.install()
        try:
            await self._start(loop)
            await self._stop.wait()
            return self.exit_code
        finally:
            await self._end()
            add_log.uninstall()

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        options = self.options
        if "core" not in self.addons:  # an embedder may have put them first
            self.addons.add(*default_addons())
        self.addons.configure()
        options.apply_deferred()
        specs = self._specs()
        ca = CertificateAuthority.open(self._confdir(), "ec" if options.ca_key == "ec" else "rsa")
        minter = Minter(ca, options.leaf_cache_size, options.certs, passphrase=options.cert_passphrase)
        tls = TlsContexts(options)
        self.worker = worker = Worker(options, self.hooks, ca, minter, tls, loop)
        options.subscribe(self._changed)
        worker.start()
        for spec, host in specs if options.server else ():
            mode = modes.make(spec, worker, host, options.listen_port)
            self.modes.append(mode)
            await mode.start(worker.arrive)
        await self._lay_firewall()
        await self.addons.running()
        # What is loaded stays; the collector need not look at it again and again while connections come and go.
        gc.collect()
        gc.freeze()
        self._quiet = options.termlog_verbosity == "error"  # -q
        if not self._quiet and options.server:
            self._greet()

    def _confdir(self) -> Path:
        return Path(self.options.confdir).expanduser()

    def _specs(self) -> list[tuple[modes.ModeSpec, str]]:
        """The modes asked for, each with the address it listens on. :raises ModeError: one cannot be."""
        options = self.options
        specs = [modes.ModeSpec.parse(text) for text in options.mode]
        seen: set[tuple[str | None, int | None]] = set()
        for spec in specs:
            place = (spec.host, spec.port or options.listen_port or DEFAULT_PORTS.get(spec.type_name))
            if place in seen and spec.port != 0:
                raise ModeError(f"{spec.full_spec}: another mode listens there already; give each its own @PORT")
            seen.add(place)
        return [(spec, options.bind_host) for spec in specs]

    async def _lay_firewall(self) -> None:
        """The redirect of each mode that names interfaces, once it listens. :raises ModeError: it cannot be laid."""
        options = self.options
        for mode in self.modes:
            if mode.spec.interfaces and options.firewall != "none":
                laid = Firewall(
                    mode.spec.interfaces,
                    mode.addresses,
                    backend=options.firewall,
                    method=options.firewall_method,
                    masquerade=options.masquerade,
                    fail=options.firewall_fail,
                    exclude=options.firewall_exclude_ports,
                    probe=mode.probe,
                )
                self.firewalls.append(laid)
                await laid.lay()

    def _greet(self) -> None:
        ca = self.worker.ca
        listening = [Listening(mode.spec.full_spec, at[0], at[1]) for mode in self.modes for at in mode.addresses]
        portal = self.options.onboarding_host if self.options.onboarding else None
        path = self._confdir() / CERTIFICATE_FILE
        print(
            first_screen(listening, path, ca.fingerprint, portal=portal, own_address=own_address()),
            flush=True,
        )

    def _changed(self, options: Options, updated: AbstractSet[str]) -> None:
        worker = self.worker
        if "mode" in updated or "listen_host" in updated or "listen_port" in updated:
            raise OptionsError("mode, listen_host and listen_port need a restart in this release")
        if any(name == "masquerade" or name.startswith("firewall") for name in updated):
            raise OptionsError("masquerade, firewall and firewall_* need a restart in this release")
        worker.tls.reload()
        if CERTIFICATE_OPTIONS & updated:
            worker.minter.use_custom(options.certs, options.cert_passphrase)
            worker.minter.cache_size = options.leaf_cache_size
        worker.configure()

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
        for firewall in self.firewalls:
            await firewall.remove()
        for mode in self.modes:
            await mode.stop()
        if hasattr(self, "worker"):
            await self.worker.stop()
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self.addons.done()
        except TimeoutError:
            logger.warning("an add-on's done hook did not end within %g s", FAREWELL_SECONDS)
        if self.options.hook_profile:
            from appliance.hookprofile import table

            logger.info("what hooks cost:\n%s", table(self.hooks))
        if not self._quiet:
            print(totals_line(self.worker.totals, time.monotonic() - self._since), file=sys.stdout, flush=True)
