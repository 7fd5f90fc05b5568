"""The page that gives devices the CA certificate: `http://lockgate.internal` (and `mitm.it`) through the gateway."""

from __future__ import annotations

import hashlib
import html
import re
import time
from base64 import b64encode

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.http import Headers, HTTPFlow, Request, Response
from appliance.status_codes import RESPONSES
from appliance.tls import ClientHelloData

ALIAS = "mitm.it"
"""The name that users of mitmproxy know."""
_METHODS = frozenset({b"GET", b"HEAD"})
_CERTIFICATE = b"application/x-x509-ca-cert"
_HTML = b"text/html; charset=utf-8"

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff }
code { overflow-wrap: anywhere } dt { font-weight: bold; margin-top: .8rem } dd { margin: 0 }
a.get { display: inline-block; margin: .3rem .6rem .3rem 0; padding: .5rem 1rem; border: 1px solid #06c; color: #06c }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #111 } a, a.get { color: #8cf } }
"""
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
{content}
</html>
"""
_CONTENT = """<p>This device's traffic goes through a lockgate gateway. A device that trusts the certificate below lets
that gateway read and change its encrypted traffic: install it on devices under test only, and remove it afterwards.
<p><a class="get" href="/cert/pem">PEM</a><a class="get" href="/cert/cer">DER</a>
<p>{subject}, valid until {until}<br>SHA-256 <code>{fingerprint}</code>
<p>This page is not protected on its way to you: compare the fingerprint with the one that the gateway's terminal shows
(<code>lockgate ca show</code>) before you trust it.
<h2>Installing it</h2>
<dl>
<dt>iOS, iPadOS<dd>PEM in Safari, allow the profile, install it under Settings &gt; General &gt; VPN &amp; Device
Management, then switch it on under Settings &gt; General &gt; About &gt; Certificate Trust Settings.
<dt>Android<dd>DER, then Settings &gt; Security &gt; Encryption &amp; credentials &gt; Install a certificate &gt; CA
certificate. Apps trust it only if they say so, or once it is among the system's certificates.
<dt>Windows<dd>DER, open it, Install Certificate, into the store Trusted Root Certification Authorities.
<dt>macOS<dd>PEM, open it with Keychain Access, and set it to Always Trust.
<dt>Debian, Ubuntu<dd>PEM to <code>/usr/local/share/ca-certificates/lockgate.crt</code>, then
<code>update-ca-certificates</code> as root.
<dt>Fedora<dd>PEM to <code>/etc/pki/ca-trust/source/anchors/</code>, then <code>update-ca-trust</code> as root.
<dt>Firefox, on any system<dd>Settings &gt; Privacy &amp; Security &gt; View Certificates &gt; Authorities &gt; Import.
<dt>curl, Python requests<dd>PEM, then <code>curl --cacert lockgate-ca-cert.pem</code> or
<code>REQUESTS_CA_BUNDLE=lockgate-ca-cert.pem</code>.
</dl>"""


class Portal(Switch):
    """Has the page below itself while the option `onboarding` is on; otherwise nothing listens."""

    name = "portal"

    def configure(self, updated: frozenset[str]) -> None:
        if "onboarding" in updated or "onboarding_host" in updated:
            options = ctx.options
            self.use(Page(options.onboarding_host) if options.onboarding else None)


Onboarding = Portal
"""The older name."""


class Page:
    """Answers for its host names itself, in every mode; nothing goes upstream for them."""

    name = "portal page"

    def __init__(self, host: str) -> None:
        self._hosts = frozenset({host.lower().rstrip("."), ALIAS})
        names = b"|".join([re.escape(name.encode("latin-1", "replace")) for name in self._hosts])
        self._ours = re.compile(rb"(?i:" + names + rb")\.*+(?::.*)?", re.DOTALL).fullmatch
        self._policy = f"default-src 'none'; style-src 'sha256-{_sha256(_STYLE)}'; frame-ancestors 'none'".encode()

    def http_connect(self, flow: HTTPFlow) -> None:
        """A tunnel to us has no server: granted without dialling one."""
        if flow.request.raw_host.lower() in self._hosts and flow.response is None:
            flow.response = _response(200, b"Connection established", (), b"")

    def tls_clienthello(self, data: ClientHelloData) -> None:
        address = data.context.server.address
        if address is not None and address[0].lower() in self._hosts:
            data.establish_server_tls_first = False

    def requestheaders(self, flow: HTTPFlow) -> None:
        request = flow.request
        if request.raw_host in self._hosts or self._meant(request):
            flow.response = self._answer(request)

    def _meant(self, request: Request) -> bool:
        """For names in capitals, and for requests whose destination is an address: what the Host field says."""
        if request.raw_authority:
            return request.raw_host.lower() in self._hosts
        names = request.headers.names()
        return b"host" in names and self._ours(request.headers.fields[names.index(b"host")][1]) is not None

    def _answer(self, request: Request) -> Response:
        ca = ctx.master.worker.ca
        path = request.raw_path.partition(b"?")[0]
        if path not in (b"/", b"/cert/pem", b"/cert/cer"):
            return self._page(404, "<p>There is nothing here. <a href='/'>The gateway's certificate</a>")
        if request.raw_method not in _METHODS:
            return self._page(405, "<p>This page can only be read.", (b"Allow", b"GET, HEAD"))
        if path == b"/cert/pem":
            return self._download(b"lockgate-ca-cert.pem", ca.pem)
        if path == b"/cert/cer":
            return self._download(b"lockgate-ca-cert.cer", ca.der)
        until = f"{ca.not_after:%Y-%m-%d}"
        content = _CONTENT.format(subject=html.escape(ca.subject), until=until, fingerprint=html.escape(ca.fingerprint))
        return self._page(200, content)

    def _page(self, status: int, content: str, *fields: tuple[bytes, bytes]) -> Response:
        title = "lockgate: the gateway's certificate" if status == 200 else f"{status} {RESPONSES[status]}"
        body = _PAGE.format(title=title, style=_STYLE, content=content).encode()
        return self._make(status, _HTML, body, *fields)

    def _download(self, name: bytes, body: bytes) -> Response:
        return self._make(200, _CERTIFICATE, body, (b"Content-Disposition", b'attachment; filename="%s"' % name))

    def _make(self, status: int, kind: bytes, body: bytes, *fields: tuple[bytes, bytes]) -> Response:
        common = (
            (b"Content-Type", kind),
            (b"Content-Length", b"%d" % len(body)),
            (b"Cache-Control", b"no-store"),
            (b"Content-Security-Policy", self._policy),
            (b"X-Content-Type-Options", b"nosniff"),
            (b"Referrer-Policy", b"no-referrer"),
            (b"Server", b"lockgate"),
        )
        return _response(status, RESPONSES[status].encode(), (*common, *fields), body)


def _response(status: int, reason: bytes, fields: tuple[tuple[bytes, bytes], ...], body: bytes) -> Response:
    now = time.time()
    return Response(b"HTTP/1.1", status, reason, Headers.trusted(fields), body, None, now, now)


def _sha256(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()
