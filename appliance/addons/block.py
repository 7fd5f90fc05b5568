"""Refuses clients by the kind of address they come from, so that an open port is no open proxy."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.connection import Client

ROUTED: Final = frozenset({"transparent", "wireguard", "local", "tun"})
"""Modes whose clients reach us by the routing of their network, not by asking for us: block_global lets them be.
(Devices with IPv6 have global addresses, as a rule.)"""
_REMEMBERED: Final = 4096


class Block(Switch):
    """On while one of the options `block_global` and `block_private` is."""

    name = "block"

    def configure(self, updated: frozenset[str]) -> None:
        if "block_global" in updated or "block_private" in updated:
            options = ctx.options
            on = options.block_global or options.block_private
            self.use(ByAddress(options.block_global, options.block_private) if on else None)


class ByAddress:
    name = "block clients"

    def __init__(self, block_global: bool, block_private: bool) -> None:
        self._global = block_global
        self._private = block_private
        self._known: dict[str, str] = {}  # host -> the kind that blocks it, or ""

    def client_connected(self, client: Client) -> None:
        if client.peername is None:
            return
        host = client.peername[0]
        kind = self._known.get(host)
        if kind is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            kind = self._known[host] = kind_of(host)
        if kind == "global":
            if self._global and client.proxy_mode.type_name not in ROUTED:
                client.error = f"clients with a public address such as {host} are blocked (option block_global)"
        elif kind == "private" and self._private:
            client.error = f"clients with a private address such as {host} are blocked (option block_private)"


def kind_of(host: str) -> str:
    """ "global", "private", or "" for loopback and for what is no address."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        return ""
    if address.is_private or address.is_link_local:
        return "private"
    return "global" if address.is_global else ""
