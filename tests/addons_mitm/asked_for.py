"""What scripts out there ask of the program around them: its listeners, its TLS, its commands, names of old."""

import os
import re

from mitmproxy import ctx, http, tls
from mitmproxy.addons.export import raw_request
from mitmproxy.net.http.http1.assemble import assemble_request_head
from mitmproxy.proxy.layers.http import HttpResponseHook
from mitmproxy.utils import human
from OpenSSL import SSL

if __name__.startswith("__mitmproxy_script__"):
    os.environ["ASKED_FOR_IS_A_SCRIPT"] = "1"


def is_for(flow: http.HTTPFlow, path: str) -> bool:
    return flow.request.path.partition("?")[0] == path


class Where:
    """Where the gateway listens, and who has come."""

    def running(self) -> None:
        self.ports = sorted({address[1] for address in ctx.master.addons.get("proxyserver").listen_addrs()})

    def response(self, flow: http.HTTPFlow) -> None:
        mode = flow.client_conn.proxy_mode
        flow.response.headers["x-ports"] = f"{self.ports} {mode.type_name} {mode.listen_port()}"
        peer = human.format_address(flow.client_conn.peername)
        flow.response.headers["x-peer"] = str(
            peer == human.format_address((flow.client_conn.address[0], *flow.client_conn.peername[1:]))
        )


class AsBytes:
    """Requests as bytes: as the server is to get them, not as the proxy was asked."""

    def request(self, flow: http.HTTPFlow) -> None:
        flow.metadata["line"] = assemble_request_head(flow.request).splitlines()[0].decode()
        flow.metadata["raw"] = raw_request(flow).split(b"\r\n")[0].decode()

    def response(self, flow: http.HTTPFlow) -> None:
        same = flow.metadata["line"] == flow.metadata["raw"]
        flow.response.headers["x-line"] = f"{flow.metadata['line']} {same} {flow.request.first_line_format}"


class Lists:
    """Options of many texts, taken for lists."""

    def load(self, loader) -> None:
        ctx.options.ignore_hosts = ctx.options.ignore_hosts + [r"^never\.asked\.for:1$"]  # noqa: RUF005

    def response(self, flow: http.HTTPFlow) -> None:
        hosts = [rule for rule in ctx.options.ignore_hosts if re.search(rule, "never.asked.for:1")]
        flow.response.headers["x-rules"] = f"{len(hosts)} {ctx.options.map_remote == []}"


class Trusting:
    """One server's certificate is not looked at."""

    def tls_start_server(self, data: tls.TlsData) -> None:
        if data.context.server.address[1] == 8014 and data.ssl_conn is None:
            ctx.master.addons.get("tlsconfig").tls_start_server(data)
            data.ssl_conn.set_verify(SSL.VERIFY_NONE, None)


class Twice:
    def request(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/twice") and flow.is_replay != "request":
            copy = flow.copy()
            if "view" in ctx.master.addons:
                ctx.master.commands.call("view.flows.add", [copy])
            copy.request.query["again"] = "yes"
            ctx.master.commands.call("replay.client", [copy])


class Old:
    """Names that mitmproxy itself has given up."""

    def request(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/of-old"):
            flow.response = http.HTTPResponse.make(404, "nothing here", {"X-Old": os.environ["ASKED_FOR_IS_A_SCRIPT"]})


class Undeclared:
    """Text whose character set nobody names."""

    def response(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/latin"):
            flow.response = http.Response.make(200, "grüße".encode("latin-1"), {"content-type": "text/html"})
            flow.response.headers["x-length"] = str(len(flow.response.text))


class Fires:
    """Lets the others hear of a flow of its own."""

    heard = ""

    async def request(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/fires"):
            made = flow.copy()
            made.request.path = "/made-up"
            made.response = http.Response.make(200)
            await ctx.master.addons.trigger_event(HttpResponseHook(made))

    def response(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/made-up"):
            self.heard = flow.request.path
        elif is_for(flow, "/fires"):
            flow.response.headers["x-heard"] = self.heard


addons = [Where(), AsBytes(), Lists(), Trusting(), Twice(), Old(), Undeclared(), Fires()]
