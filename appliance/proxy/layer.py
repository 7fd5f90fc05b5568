"""`Layer` and `NextLayer`, for `next_layer` hooks."""

from typing import Any

from appliance.layers.base import Context, Layer
from appliance.layers.next_layer import NextLayer

__all__ = ["Context", "Layer", "NextLayer"]


def __getattr__(name: str) -> Any:
    if name == "NextLayerHook":
        from appliance.hookclasses import find

        return find(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
