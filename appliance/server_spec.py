"""Texts that name a server: `http://proxy.example:3128`."""

from __future__ import annotations

import re

from appliance.connection import ServerSpec
from appliance.url import default_port, parse_authority

__all__ = ["ServerSpec", "parse"]

_SPEC = re.compile(r"(?:([a-z][a-z0-9+.-]*+)://)?([^/]++)/?", re.IGNORECASE)


def parse(server_spec: str, default_scheme: str) -> ServerSpec:
    """`a.example` -> (default_scheme, ("a.example", its port)). Raises ValueError: no such form, or no port known."""
    found = _SPEC.fullmatch(server_spec)
    if found is None:
        raise ValueError(f"not a server: {server_spec!r}; expected [SCHEME://]HOST[:PORT]")
    scheme = (found[1] or default_scheme).lower()
    host, port = parse_authority(found[2], check=True)
    if port is None:
        port = {"dns": 53, "http3": 443, "quic": 443}.get(scheme) or default_port(scheme)
        if port is None:
            raise ValueError(f"port missing in {server_spec!r}: none is known for {scheme}")
    return ServerSpec(scheme, (host, port))
