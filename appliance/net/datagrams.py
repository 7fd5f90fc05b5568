"""One UDP flow, seen from one peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from appliance.net.reasons import CLOSED, Reason

if TYPE_CHECKING:
    from appliance.connection import Connection


@runtime_checkable
class Datagrams(Protocol):
    """See `interfaces.md`. stirred, deadline: for the sweep, as in a Stream."""

    conn: Connection | None
    stirred: bool
    deadline: float

    async def receive(self) -> list[bytes]: ...  # a batch, [] = ended
    def send(self, batch: Sequence[bytes]) -> None: ...
    def unread(self, batch: Sequence[bytes]) -> None: ...
    def reject(self) -> None: ...  # ICMP port unreachable
    def expire(self) -> None: ...
    def close(self, linger: bool = False, why: Reason = CLOSED) -> None: ...
    def abort(self, why: Reason = CLOSED) -> None: ...
