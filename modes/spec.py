"""The grammar of mode specifications: `NAME[:DATA][@[HOST:]PORT]`, split at the last `@`, then at the first `:`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from appliance.exceptions import ModeError

MODES = ("regular", "transparent", "dns")
NOT_YET = ("upstream", "reverse", "socks5", "wireguard", "local", "tun", "osproxy")
DEFAULT_PORT = 8080
DEFAULT_PORTS = {"dns": 53}
"""Of modes with a port of their own."""
_LISTEN = re.compile(r"(?:(?P<host>\[[^\]]*\]|[^:\[\]]*|[0-9a-fA-F:.%]*::?[0-9a-fA-F:.%]*):)?(?P<port>\d+)")


@dataclass(frozen=True, slots=True)
class ModeSpec:
    """How traffic arrives. host: None = not said. port: 0 = any free one. full_spec: as it was written."""

    full_spec: str
    type_name: str
    data: str = ""
    host: str | None = None
    port: int | None = None

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
        if data:
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
