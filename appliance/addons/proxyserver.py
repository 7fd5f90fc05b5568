"""The listeners as an add-on, for those who ask it where the gateway listens. The work is done in `modes/`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from appliance import command, ctx

if TYPE_CHECKING:
    from appliance.connection import Address, ProxyMode
    from appliance.handler import ConnectionHandler
    from modes.live import LiveModes, Running

__all__ = ["Proxyserver", "ServerInstance", "Servers"]


class ServerInstance:
    """One mode that runs."""

    def __init__(self, running: Running) -> None:
        self.mode: ProxyMode = running.mode.spec
        self.listen_addrs: tuple[Address, ...] = tuple(running.mode.addresses)
        self.is_running = True

    def __repr__(self) -> str:
        return f"<ServerInstance {self.mode.full_spec} at {self.listen_addrs}>"


class Servers:
    """The modes that run, by their specification. There are none before the gateway is up, and when it has ended."""

    @property
    def _live(self) -> LiveModes | None:
        live: LiveModes | None = getattr(ctx.master, "live", None)
        return live

    def __iter__(self) -> Iterator[ServerInstance]:
        return iter([ServerInstance(one) for one in self._live or () if one.mode.addresses])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, mode: str | ProxyMode) -> ServerInstance:
        """Raises KeyError: it does not run."""
        spec = mode if isinstance(mode, str) else mode.full_spec
        for one in self:
            if one.mode.full_spec == spec:
                return one
        raise KeyError(spec)

    async def update(self, modes: Sequence[str | ProxyMode]) -> bool:
        """Have these modes run, and no others: sets the option `mode`, unless there are none left.

        Raises OptionsError, ModeError.
        """
        if not modes:
            if self._live is not None:
                await self._live.become([])
            return True
        ctx.options.update(mode=[mode if isinstance(mode, str) else mode.full_spec for mode in modes])
        if self._live is not None:
            await ctx.master.settle()
        return True


class Proxyserver:
    """Has no hooks: it costs nothing."""

    name = "proxyserver"

    def __init__(self) -> None:
        self.servers = Servers()

    @property
    def is_running(self) -> bool:
        return len(self.servers) > 0

    @property
    def connections(self) -> dict[Any, ConnectionHandler]:
        """The client connections that are open, by the client's address."""
        worker = getattr(ctx.master, "worker", None)
        return {handler.client.peername: handler for handler in worker.handlers} if worker is not None else {}

    def listen_addrs(self) -> list[Address]:
        """Where all modes listen: addresses that ports were found for, too."""
        return [address for one in self.servers for address in one.listen_addrs]

    @command.command("proxyserver.active_connections")
    def active_connections(self) -> int:
        """How many connections of clients there are."""
        worker = getattr(ctx.master, "worker", None)
        return len(worker.handlers) if worker is not None else 0
