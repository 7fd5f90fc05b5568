"""HTTP: one exchange, and codecs for each version."""

from appliance.layers.http.layer import HttpLayer, HTTPMode

__all__ = ["HTTPMode", "HttpLayer"]
