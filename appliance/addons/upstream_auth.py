"""Gives a name and a password to an upstream proxy or a reverse target (option `upstream_auth`)."""

from __future__ import annotations

from base64 import b64encode

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.exceptions import OptionsError
from appliance.http import HTTPFlow


def parse_upstream_auth(spec: str) -> str:
    """The Basic field of ``NAME:PASSWORD``. Raises OptionsError, which does not repeat it."""
    if not spec.partition(":")[0] or ":" not in spec:
        raise OptionsError("upstream_auth: write NAME:PASSWORD")
    return "Basic " + b64encode(spec.encode("utf-8", "surrogateescape")).decode()


class UpstreamAuth(Switch):
    """On while the option `upstream_auth` is set, which needs a mode that has such a server."""

    name = "upstream_auth"

    def configure(self, updated: frozenset[str]) -> None:
        if "upstream_auth" not in updated:
            return
        spec = ctx.options.upstream_auth
        field = parse_upstream_auth(spec) if spec else None
        kinds = {mode.partition("@")[0].partition(":")[0].lower() for mode in ctx.options.mode}
        if spec and not kinds & {"upstream", "reverse"}:
            raise OptionsError(
                "upstream_auth: no mode here has an upstream proxy or a reverse target to give it to (these modes are "
                "not in this release)"
            )
        self.use(Giving(field) if field else None)


class Giving:
    name = "upstream_auth requests"

    def __init__(self, field: str) -> None:
        self._field = field

    def http_connect_upstream(self, flow: HTTPFlow) -> None:
        flow.request.headers["Proxy-Authorization"] = self._field

    def requestheaders(self, flow: HTTPFlow) -> None:
        kind = flow.client_conn.proxy_mode.type_name
        if kind == "upstream" and flow.request.scheme == "http":
            flow.request.headers["Proxy-Authorization"] = self._field
        elif kind == "reverse":
            flow.request.headers["Authorization"] = self._field
