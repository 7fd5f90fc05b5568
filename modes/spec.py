"""The grammar of mode specifications: `NAME[:DATA][@[HOST:]PORT]`, split at the last `@`, then at the first `:`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from appliance.exceptions import ModeError
from appliance.modefacts import ModeFacts

MODES = ("regular", "transparent", "wireguard", "dns", "local")
NOT_YET = ("upstream", "reverse", "socks5", "tun", "osproxy")
DEFAULT_PORT = 8080
DEFAULT_PORTS = {"dns": 53, "wireguard": 51820}
"""Of modes with a port of their own."""
_INTERFACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}")
"""Of what the kernel allows (15 bytes without / and white space), what needs no quoting anywhere."""
_LISTEN = re.compile(r"(?:(?P<host>\[[^\]]*\]|[^:\[\]]*|[0-9a-fA-F:.%]*::?[0-9a-fA-F:.%]*):)?(?P<port>\d+)")


@dataclass(frozen=True, slots=True)
class ModeSpec(ModeFacts):
    """How traffic arrives. host: None = not said. port: 0 = any free one. full_spec: as it was written."""

    full_spec: str
    type_name: str
    data: str = ""
    host: str | None = None
    port: int | None = None

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Of `transparent:IFACE[,IFACE...]`; none of the bare listener. They need not exist yet."""
        return _interfaces(self.data) if self.type_name == "transparent" and self.data else ()

    @classmethod
    def parse(cls, text: str) -> ModeSpec:
        """:raises ModeError: unknown mode, or the text is not of the grammar."""
        head, at, listen = text.rpartition("@")
        if not at:
            head, listen = text, ""
        name, _, data = head.partition(":")
        name = name.strip().lower()
        if name in NOT_YET:
            raise ModeError(f"mode {name}: not yet in this release; there are {', '.join(MODES)}")
        if name not in MODES:
            near = difflib.get_close_matches(name, MODES, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(MODES)}"
            raise ModeError(f"mode {name or text!r} is unknown{hint}")
        if data and name == "transparent":
            _interfaces(data)
        elif data and name != "wireguard":
            raise ModeError(f"mode {name} takes nothing behind the colon, but was given {data!r}")
        host: str | None = None
        port: int | None = None
        if at:
            match = _LISTEN.fullmatch(listen)
            if match is None or int(match["port"]) > 65535:
                raise ModeError(f"mode {text!r}: behind @ stands [HOST:]PORT, such as {name}@8080 or {name}@[::1]:8080")
            port = int(match["port"])
            if match["host"] is not None:
                host = match["host"].strip("[]")
        return cls(text, name, data, host, port)


def _interfaces(data: str) -> tuple[str, ...]:
    """:raises ModeError: one cannot be the name of a network interface."""
    names = tuple(dict.fromkeys(name.strip() for name in data.split(",")))
    for name in names:
        if _INTERFACE.fullmatch(name) is None or name in (".", ".."):
            raise ModeError(
                f"mode transparent: {name!r} is not the name of an interface; write transparent:lan0 or "
                "transparent:lan0,lan1@8081 (`ip link` lists them)"
            )
    return names
