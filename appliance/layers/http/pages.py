"""Pages the gateway writes itself: errors, and the 100 Continue."""

from __future__ import annotations

import html
import time
from typing import TYPE_CHECKING

from appliance.headers import Headers
from appliance.response import Response
from appliance.status_codes import RESPONSES

if TYPE_CHECKING:
    from appliance.http import HTTPFlow

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{status} {reason}</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem }}
code {{ overflow-wrap: anywhere }} footer {{ margin-top: 2rem; color: #666 }}</style>
<h1>{status} {reason}</h1>
<p>{what}
<p><code>{why}</code>
{remedy}<footer>This page comes from the lockgate gateway between you and the server, not from the server.</footer>
</html>
"""
_WHAT = {
    "certificate": "The server's certificate does not verify, so nothing was sent to it.",
    "tls": "No TLS connection to the server could be made, so nothing was sent to it.",
    "dial": "The server could not be reached.",
    "refused": "The gateway does not connect to this address.",
    "killed": "An add-on of the gateway refused this connection.",
}
_REMEDY = {
    "certificate": "<p>If the server is to be trusted all the same, its root belongs into "
    "<code>ssl_verify_upstream_trusted_ca</code> of the gateway, or the host into <code>ignore_hosts</code>.\n",
}


def error(status: int, why: str, kind: str, flow: HTTPFlow) -> Response:
    """The page that tells a client what went wrong. Everything shown of the request is escaped: it is hostile."""
    reason = RESPONSES.get(status, "Error")
    what = _WHAT.get(kind) or (
        "The gateway cannot use this request." if status < 500 else "The server's answer could not be had."
    )
    body = _PAGE.format(
        status=status, reason=html.escape(reason), what=what, why=html.escape(why), remedy=_REMEDY.get(kind, "")
    ).encode()
    fields = (
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'"),
        (b"Server", b"lockgate"),
    )
    now = time.time()
    return Response(b"HTTP/1.1", status, reason.encode(), Headers.trusted(fields), body, None, now, now)


def continue_() -> Response:
    """100 Continue (RFC 9110 §15.2.1)."""
    now = time.time()
    return Response(b"HTTP/1.1", 100, b"Continue", Headers.trusted(()), b"", None, now, now)


def established() -> Response:
    """The answer to a CONNECT that was granted (RFC 9110 §9.3.6)."""
    now = time.time()
    return Response(b"HTTP/1.1", 200, b"Connection established", Headers.trusted(()), b"", None, now, now)


def able() -> Response:
    """The proxy's own answer to `OPTIONS *` (RFC 9110 §9.3.7)."""
    now = time.time()
    fields = (
        (b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT"),
        (b"Content-Length", b"0"),
        (b"Server", b"lockgate"),
    )
    return Response(b"HTTP/1.1", 200, b"OK", Headers.trusted(fields), b"", None, now, now)
