"""What a mode hands over: who came, over what, and where they wanted to go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.connection import Address, Client
    from appliance.layers.base import Context, Layer
    from appliance.net.datagrams import Datagrams
    from appliance.net.stream import Net, Stream


@dataclass(slots=True)
class Arrival:
    """One connection or UDP flow, accepted and not yet looked at.

    wanted: the original destination, None where the client names it itself. mode: the specification, as written.
    top: the mode layer that is the bottom of the connection's stack.
    """

    client: Client
    transport: Stream | Datagrams
    wanted: Address | None
    mode: str
    top: Callable[[Context], Layer]


class Host:
    """What a mode needs of the gateway it feeds."""

    net: Net

    def full(self, coming: int = 0) -> bool:
        """Whether no further connection may be accepted now. coming: accepted, but not handed over yet."""
        raise NotImplementedError

    def limit(self) -> int:
        """Connections at once, TCP and UDP together."""
        raise NotImplementedError

    def confdir(self) -> Path:
        """The folder of configuration and CA."""
        raise NotImplementedError

    def option(self, name: str) -> Any:
        """The value of an option."""
        raise NotImplementedError

    def listening(self, address: Address) -> None:
        """A listener is bound: the gateway never dials it."""
        raise NotImplementedError

    def portal(self, addresses: Sequence[str]) -> None:
        """Whoever asks our own DNS for the names of the page with the CA is sent to these addresses."""
        raise NotImplementedError

    def when_room(self, resume: Callable[[], None]) -> None:
        """Call `resume` once there is room for connections again."""
        raise NotImplementedError


Arrive = Callable[[Arrival], Awaitable[None]]
