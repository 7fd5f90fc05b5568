"""Allowed IPs: which peer an inner address belongs to, by the longest prefix (whitepaper §2)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

T = TypeVar("T")
Network = IPv4Network | IPv6Network
_REMEMBERED = 4096


class Routes(Generic[T]):
    """A dict for each length of prefix there is: in practice one for IPv4 and one for IPv6."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, dict[int, T]]] = {4: {}, 16: {}}  # bytes of an address: bits: prefix
        self._found: dict[bytes, T | None] = {}

    def add(self, network: Network, owner: T) -> None:
        """It is this owner's from now on, whoever's it was."""
        size, rest = network.max_prefixlen // 8, network.max_prefixlen - network.prefixlen
        table = self._by_length[size]
        table.setdefault(rest, {})[int(network.network_address) >> rest] = owner
        self._by_length[size] = dict(sorted(table.items()))
        self._found.clear()

    def remove(self, owner: T) -> None:
        """All that is this owner's."""
        for table in self._by_length.values():
            for rest in list(table):
                table[rest] = {prefix: one for prefix, one in table[rest].items() if one is not owner}
                if not table[rest]:
                    del table[rest]
        self._found.clear()

    def owner(self, address: bytes) -> T | None:
        """Whose address (4 or 16 bytes) that is."""
        try:
            return self._found[address]
        except KeyError:
            pass
        found, number = None, int.from_bytes(address, "big")
        for rest, prefixes in self._by_length[len(address)].items():
            if (found := prefixes.get(number >> rest)) is not None:
                break
        if len(self._found) >= _REMEMBERED:
            self._found.clear()
        self._found[address] = found
        return found

    def networks(self, owner: T) -> Iterable[Network]:
        """What is this owner's."""
        for size, table in self._by_length.items():
            kind: type[Network] = IPv4Network if size == 4 else IPv6Network
            for rest, prefixes in table.items():
                for prefix, one in prefixes.items():
                    if one is owner:
                        yield kind((prefix << rest, size * 8 - rest))
