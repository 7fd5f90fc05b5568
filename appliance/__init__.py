"""lockgate: an interception gateway for lab networks. Add-ons import from here: `from appliance import http, ctx`."""

from __future__ import annotations

__version__ = "0.1.0"
