"""One worker: a process with one event loop and all that connections need. It shares no memory with siblings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.arrival import Arrival, Host
from appliance.handler import ConnectionHandler
from appliance.home import expanded
from appliance.log import RateLimited
from appliance.net.certs import LeafSpec
from appliance.net.guard import LoopGuard
from appliance.net.hosts import System
from appliance.net.nameservers import NameServers
from appliance.net.reasons import Reason
from appliance.net.stream import Net
from appliance.settings import Settings

if TYPE_CHECKING:
    from appliance.connection import Address, Client, ProxyMode
    from appliance.flow import Flow
    from appliance.hooks import Hooks
    from appliance.net.certs import CertificateAuthority, Minter
    from appliance.net.leaf import LeafFault, LeafKeyKind
    from appliance.net.tls_context import TlsContexts
    from appliance.options import Options
    from appliance.store.recorder import Recorder

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 0.5
MIRRORED = 1000


class Totals:
    """Counts since the start, for the last line and for whoever asks."""

    def __init__(self) -> None:
        self.connections = 0
        self.flows = 0
        self.errors = 0
        self.passed = 0
        self.blocked = 0


class Worker(Host):
    """Takes arrivals and runs a handler for each; one coarse sweep looks after all clocks."""

    def __init__(
        self,
        options: Options,
        hooks: Hooks,
        ca: CertificateAuthority,
        minter: Minter,
        tls: TlsContexts,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.options = options
        self.hooks = hooks
        self.ca = ca
        self.minter = minter
        self.tls = tls
        self.loop = loop
        self.net = Net(loop)
        self.settings = Settings(options)
        self.guard = LoopGuard(self.settings.allow_metadata)
        self.dns = NameServers(loop, self.guard)
        self.system = System()
        self.ending = False  # nothing new is begun
        self.light = 0  # handlers that hold no descriptor of their own: flows of DNS
        self.totals = Totals()
        self.recorder: Recorder | None = None  # what has gone through goes to the flow store
        self.handlers: set[ConnectionHandler] = set()
        self.held: dict[str, Flow] = {}  # flows that are intercepted now
        self._waiting: list[Callable[[], None]] = []
        self._tick: asyncio.TimerHandle | None = None
        self._told_full = RateLimited(logger, 1)
        self._mirrored: dict[tuple[bytes, tuple[str, ...], LeafKeyKind, LeafFault | None], LeafSpec] = {}
        self._distrust = RateLimited(logger, 2)

    def start(self) -> None:
        self._tick = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def configure(self) -> None:
        """The options have changed."""
        self.settings = Settings(self.options)
        self.guard.allow_metadata = self.settings.allow_metadata

    async def arrive(self, arrival: Arrival) -> None:
        """Carry one connection to its end. Never raises: a fault in one connection is its own."""
        handler = ConnectionHandler(self, arrival)
        self.handlers.add(handler)
        self.totals.connections += 1
        try:
            await handler.run()
        except asyncio.CancelledError:
            if not handler.closing:
                raise
        except Exception:
            logger.exception(
                "%s: unexpected fault in a connection; it is closed, others are not touched", arrival.client
            )
        finally:
            self.handlers.discard(handler)
            self._make_room()

    def end_mode(self, spec: ProxyMode) -> None:
        """Close the connections that came by this mode, what was already said first."""
        for handler in list(self.handlers):
            if handler.client.proxy_mode is spec:
                handler.shutdown(Reason("shutdown", f"the mode {spec.full_spec} has ended"))

    # -- what connections share

    def mirror(
        self,
        chain: Sequence[x509.Certificate],
        wanted: tuple[str, ...],
        key: LeafKeyKind,
        fault: LeafFault | None = None,
    ) -> LeafSpec:
        """The leaf's names for a server that showed this certificate. Reading it costs 0.1 ms, so it is remembered."""
        der = chain[0].public_bytes(Encoding.DER)
        known = self._mirrored.get((der, wanted, key, fault))
        if known is None:
            if len(self._mirrored) >= MIRRORED:
                self._mirrored.clear()
            known = LeafSpec.mirroring(chain[0], *wanted, key=key, fault=fault)
            self._mirrored[der, wanted, key, fault] = known
        return known

    def distrusted(self, client: Client, name: str, text: str) -> None:
        """A client refused our certificate: say so in one line, with the way out."""
        self._distrust.log(
            logging.WARNING,
            (client.peername[0] if client.peername else "", name),
            "%s does not trust the gateway's CA (asked for %s: %s); install it from http://%s/ through the proxy, "
            "or pass this host with --ignore-hosts",
            client.peername[0] if client.peername else client,
            name,
            text,
            self.options.onboarding_host,
        )

    def name_servers(self) -> Sequence[Address]:
        """Whom the `dns` mode asks: `dns_name_servers`, else this machine's own."""
        return self.settings.name_servers or self.system.servers()

    # -- Host

    def full(self, coming: int = 0) -> bool:
        is_full = len(self.handlers) - self.light + coming >= self.settings.max_connections
        if is_full:
            self._told_full.log(
                logging.WARNING,
                "full",
                "%d connections are open, no more are accepted until some end (option max_connections, ulimit -n)",
                len(self.handlers) - self.light + coming,
            )
        return is_full

    def limit(self) -> int:
        return self.settings.max_connections

    def when_room(self, resume: Callable[[], None]) -> None:
        self._waiting.append(resume)

    def confdir(self) -> Path:
        return expanded(self.options.confdir, "confdir")

    def option(self, name: str) -> Any:
        return getattr(self.options, name)

    def listening(self, address: Address) -> None:
        self.guard.listening(address)

    def portal(self, addresses: Sequence[str]) -> None:
        from appliance.addons.portal import ALIAS

        if self.options.onboarding:
            for name in (self.options.onboarding_host, ALIAS):
                self.system.add(name, addresses)

    def _make_room(self) -> None:
        if self._waiting and len(self.handlers) - self.light < self.settings.max_connections:
            waiting, self._waiting = self._waiting, []
            for resume in waiting:
                resume()

    # -- clocks

    def _sweep(self) -> None:
        now = self.loop.time()
        self._tick = self.loop.call_later(SWEEP_SECONDS, self._sweep)
        for handler in list(self.handlers):
            try:
                handler.sweep(now)
            except Exception:
                logger.exception("%s: unexpected fault in a connection's clock", handler.client)
        self._make_room()

    async def stop(self, grace: float = 2.0) -> None:
        """End every connection: first politely, then by cancelling what is left."""
        self.ending = True
        if self._tick is not None:
            self._tick.cancel()
        for handler in list(self.handlers):
            handler.shutdown()
        await self.dns.close()
        end = self.loop.time() + grace
        while self.handlers and self.loop.time() < end:  # noqa: ASYNC110 - an event would cost every connection
            await asyncio.sleep(0.01)
        for handler in list(self.handlers):
            handler.cancel()
        while self.handlers and self.loop.time() < end + grace:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.net.pipes.close()
