"""Modes as classes, for `isinstance(client.proxy_mode, mode_specs.RegularMode)`. The modes themselves are elsewhere."""

from __future__ import annotations

from typing import Any, ClassVar

from appliance.connection import ModeName

__all__ = [
    "DnsMode",
    "LocalMode",
    "ProxyMode",
    "RegularMode",
    "ReverseMode",
    "Socks5Mode",
    "TransparentMode",
    "TunMode",
    "UpstreamMode",
    "WireGuardMode",
]


class _ByName(type):
    mode: str | None

    def __instancecheck__(cls, instance: Any) -> bool:
        name = getattr(instance, "type_name", None)
        return isinstance(name, str) and (cls.mode is None or name == cls.mode)


class ProxyMode(metaclass=_ByName):
    """Any mode."""

    mode: ClassVar[str | None] = None

    @classmethod
    def parse(cls, spec: str) -> ModeName:
        """A mode of which the specification is known. Raises ValueError for one of another class."""
        parsed = ModeName(spec)
        if cls.mode is not None and parsed.type_name != cls.mode:
            raise ValueError(f"{spec!r} is not a {cls.mode} mode")
        return parsed


class RegularMode(ProxyMode):
    mode = "regular"


class UpstreamMode(ProxyMode):
    mode = "upstream"


class ReverseMode(ProxyMode):
    mode = "reverse"


class TransparentMode(ProxyMode):
    mode = "transparent"


class Socks5Mode(ProxyMode):
    mode = "socks5"


class DnsMode(ProxyMode):
    mode = "dns"


class WireGuardMode(ProxyMode):
    mode = "wireguard"


class LocalMode(ProxyMode):
    mode = "local"


class TunMode(ProxyMode):
    mode = "tun"
