"""`Layer` and `NextLayer`, for `next_layer` hooks."""

from appliance.layers.base import Context, Layer
from appliance.layers.next_layer import NextLayer

__all__ = ["Context", "Layer", "NextLayer"]
