"""Thirteen add-ons in mitmproxy's idiom, in one file: each leaves a trace that the other end can see."""

import asyncio
import time
from collections.abc import Sequence

from mitmproxy import command, connection, ctx, http, tcp, tls
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import layer, mode_specs, server_hooks
from mitmproxy.script import concurrent


class AddHeader:
    def request(self, flow: http.HTTPFlow) -> None:
        flow.request.headers["x-added"] = "1"


class Option:
    def load(self, loader: Loader) -> None:
        loader.add_option("tag", str, "none", "A tag.")

    def request(self, flow):
        flow.request.headers["x-tag"] = ctx.options.tag


class Query:
    def request(self, flow):
        flow.request.query["added"] = "by query"


class Cookies:
    def request(self, flow):
        flow.request.cookies["session"] = "s1"


class Form:
    def request(self, flow):
        if flow.request.urlencoded_form:
            flow.request.urlencoded_form["field"] = "changed"


class Synthetic:
    def request(self, flow):
        if flow.request.path.startswith("/synthetic"):
            flow.response = http.Response.make(418, b"short and stout", {"x-from": "addon"})


class Async:
    async def request(self, flow):
        await asyncio.sleep(0.01)
        flow.request.headers["x-async"] = "1"


class Threaded:
    @concurrent
    def request(self, flow):
        time.sleep(0.01)
        flow.request.headers["x-thread"] = "1"


class Commands:
    @command.command("greet")
    def greet(self, name: str, more: Sequence[str] = ()) -> str:
        return f"hello {name}"

    def request(self, flow):
        flow.request.headers["x-command"] = ctx.master.commands.call("greet", "lab")


class Broken:
    def request(self, flow):
        raise ZeroDivisionError("on purpose")


class Body:
    def response(self, flow: http.HTTPFlow) -> None:
        if not flow.response.content:
            return
        flow.response.headers["x-size"] = str(len(flow.response.content))
        flow.response.text = flow.response.text.replace("GET", "GOT")


class Connections:
    def client_connected(self, client: connection.Client) -> None:
        self.mode = isinstance(client.proxy_mode, mode_specs.RegularMode)

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        self.server = data.server.peername

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        self.asked = True

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        self.sni = data.client_hello.sni or "-"

    def tls_established_server(self, data: tls.TlsData) -> None:
        self.cn = data.conn.certificate_list[0].cn or "-"

    def response(self, flow):
        if not flow.server_conn.certificate_list:
            return
        parts = (
            self.mode,
            bool(self.server),
            self.asked,
            self.sni,
            next(str(n.value) for n in flow.server_conn.cert.altnames),
        )
        flow.response.headers["x-connection"] = " ".join(map(str, parts))


class Raw:
    def tcp_message(self, flow: tcp.TCPFlow) -> None:
        flow.messages[-1].content = flow.messages[-1].content.replace(b"ping", b"pong")


addons = [
    AddHeader(),
    Option(),
    Query(),
    Cookies(),
    Form(),
    Broken(),
    Synthetic(),
    Async(),
    Threaded(),
    Commands(),
    Body(),
    Connections(),
    Raw(),
]
