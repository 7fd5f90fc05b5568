"""Keeps clients with the gateway: what servers say of other ways to them (Alt-Svc, RFC 7838) is made to fit.

In reverse mode the port becomes the gateway's own. Where routing brings the clients, HTTP/3 is taken out: they would
go there by QUIC, which is relayed but not decrypted. An explicit proxy's clients cannot, so nothing is done for them.
"""

from __future__ import annotations

import re
from typing import Final

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.http import HTTPFlow

ALT_SVC: Final = "alt-svc"
_ROUTED: Final = frozenset({"transparent", "wireguard", "local", "tun"})
_AUTHORITY: Final = re.compile(r'(=\s*")[^"]*(")')
_ALTERNATIVES: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+(?:"|\\?$))+', re.DOTALL)
_HTTP3: Final = re.compile(r"\s*h3(?:-[^=]*)?\s*=", re.IGNORECASE)


class UpdateAltSvc(Switch):
    """On where a mode needs it, and `keep_alt_svc_header` is off."""

    name = "updatealtsvc"

    def configure(self, updated: frozenset[str]) -> None:
        if "keep_alt_svc_header" in updated or "mode" in updated:
            kinds = {mode.partition("@")[0].partition(":")[0].lower() for mode in ctx.options.mode}
            wanted = not ctx.options.keep_alt_svc_header and bool(kinds & (_ROUTED | {"reverse"}))
            if wanted != bool(self.addons):
                self.use(Fitting() if wanted else None)


class Fitting:
    name = "updatealtsvc responses"

    def responseheaders(self, flow: HTTPFlow) -> None:
        response = flow.response
        if response is None or b"alt-svc" not in response.headers.names():
            return
        kind, headers = flow.client_conn.proxy_mode.type_name, response.headers
        if kind == "reverse" and flow.client_conn.sockname is not None:
            headers[ALT_SVC] = update_alt_svc_header(headers[ALT_SVC], flow.client_conn.sockname[1])
        elif kind in _ROUTED:
            if left := without_http3(headers[ALT_SVC]):
                headers[ALT_SVC] = left
            else:
                del headers[ALT_SVC]


def update_alt_svc_header(header: str, port: int) -> str:
    """Every alternative at the same host and this port."""
    return _AUTHORITY.sub(rf"\g<1>:{port}\2", header)


def without_http3(header: str) -> str:
    """The alternatives that are not HTTP/3; empty when there is none left. `clear` stays."""
    found = (one.strip() for one in _ALTERNATIVES.findall(header))
    return ", ".join(one for one in found if one and not _HTTP3.match(one))
