"""The argument of `server_connect` and its kin."""

from appliance.net.egress import ServerConnectionHookData

__all__ = ["ServerConnectionHookData"]
