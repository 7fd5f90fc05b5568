"""Who a client is, where the way it came by says so."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """name: unique on this gateway, such as a WireGuard peer's. label: free text beside it."""

    name: str
    label: str = ""

    def __str__(self) -> str:
        return self.name
