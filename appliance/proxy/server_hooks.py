"""The argument of `server_connect` and its kin, and these events as classes."""

from typing import Any

from appliance.net.egress import ServerConnectionHookData

__all__ = ["ServerConnectionHookData"]


def __getattr__(name: str) -> Any:
    if name.endswith("Hook"):
        from appliance.hookclasses import find

        return find(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
