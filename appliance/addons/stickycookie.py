"""Remembers cookies that servers set and sends them with later requests, as a browser would."""

from __future__ import annotations

from typing import Final

from appliance import cookies
from appliance.addons.filters import insist, option_filter, will_stream
from appliance.addons.switch import Switch
from appliance.cookies import CookieAttrs
from appliance.flowfilter import FlowFilter
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow

PLACES: Final = 10_000
COOKIES_EACH: Final = 200
Place = tuple[str, int, str]  # domain, port, path


class StickyCookie(Switch):
    """On while the option `stickycookie` holds a filter."""

    name = "stickycookie"

    def configure(self, updated: frozenset[str]) -> None:
        if "stickycookie" in updated:
            flt = option_filter("stickycookie")
            self.use(Jar(flt) if flt else None)


class Jar:
    """Cookies of all flows are kept; those are sent with requests that match the filter. The client's own win."""

    name = "stickycookie flows"

    def __init__(self, flt: FlowFilter) -> None:
        self.flt = flt
        self.jar: dict[Place, dict[str, str]] = {}

    def requestheaders(self, flow: HTTPFlow) -> None:
        if self.flt.tree.needs_body:
            insist(flow.request)
        if will_stream(flow):
            self._send(flow)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        if not flow.request.stream:
            self._send(flow)

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
        assert flow.response is not None
        for name, (value, attributes) in flow.response.cookies.items(multi=True):
            place = _place(flow, attributes)
            if not domain_match(flow.request.host, place[0]):
                continue
            kept = self.jar.setdefault(place, {})
            kept.pop(name, None)
            if not cookies.is_expired(attributes):
                kept[name] = value
            if not kept:
                del self.jar[place]
            elif len(kept) > COOKIES_EACH:
                del kept[next(iter(kept))]
            if len(self.jar) > PLACES:
                del self.jar[next(iter(self.jar))]

    def _send(self, flow: HTTPFlow) -> None:
        if not self.jar or not self.flt(flow):
            return
        request = flow.request
        found: dict[str, str] = {}
        for (domain, port, path), kept in self.jar.items():
            if port == request.port and domain_match(request.host, domain) and _below(request.path, path):
                found |= kept
        if found:
            have = dict(request.cookies.items(multi=True))
            request.headers["cookie"] = cookies.format_cookie_header((found | have).items())
            flow.metadata["stickycookie"] = True


def _place(flow: HTTPFlow, attributes: CookieAttrs) -> Place:
    path = attributes.get("path") or "/"
    domain = attributes.get("domain") or flow.request.host
    return domain.lower(), flow.request.port, path if path.startswith("/") else "/"


def _below(path: str, wanted: str) -> bool:
    """RFC 6265 §5.1.4."""
    path = path.partition("?")[0]
    return path.startswith(wanted) and (wanted.endswith("/") or path[len(wanted) : len(wanted) + 1] in ("", "/"))


def domain_match(host: str, domain: str) -> bool:
    """RFC 6265 §5.1.3; addresses match only themselves."""
    host, domain = host.lower(), domain.lower().lstrip(".")
    if host == domain:
        return True
    return bool(domain) and host.endswith("." + domain) and not (":" in host or host.rpartition(".")[2].isdecimal())
