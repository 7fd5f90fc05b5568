"""Add-ons in mitmproxy's idiom for all that HTTP has; a path says which one is meant."""

import asyncio
import logging
import os
import typing

from mitmproxy import command as commands
from mitmproxy import contentviews, ctx, exceptions, flowfilter, http, types
from mitmproxy.addons.asgiapp import ASGIApp, WSGIApp
from mitmproxy.addons.export import curl_command
from mitmproxy.io import FlowWriter
from mitmproxy.net.http.http1 import assemble_request_head
from mitmproxy.utils import human, strutils


def is_for(flow: http.HTTPFlow, path: str) -> bool:
    return flow.request.path.partition("?")[0] == path


class StreamDown:
    """The response as it comes, changed piece by piece."""

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/stream-down"):
            flow.response.headers.pop("content-length", None)
            flow.response.stream = self.louder

    def louder(self, data: bytes) -> bytes | list[bytes]:
        return data.upper() if data else [b"<end", b">"]


class StreamUp:
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/stream-up"):
            flow.request.stream = lambda data: data.replace(b"up", b"UP")


class Heads:
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        flow.request.headers["x-head"] = "request"
        flow.request.headers.add("x-head", "twice")

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        flow.response.headers["x-head"] = "response"


class Killer:
    def request(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/kill"):
            flow.kill()

    def error(self, flow: http.HTTPFlow) -> None:
        logging.info("killer: error is %r, killed %s", flow.error.msg, flow.error.msg == flow.error.KILLED_MESSAGE)


class Holder:
    """Holds a flow for somebody else to let it go."""

    def request(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/held"):
            flow.intercept()
            self.task = asyncio.create_task(self.release(flow))

    async def release(self, flow: http.HTTPFlow) -> None:
        await asyncio.sleep(0.05)
        flow.request.headers["x-held"] = str(flow.intercepted)
        flow.resume()


class Elsewhere:
    def request(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/elsewhere"):
            flow.request.host = "alt.test"
            flow.request.path_components = ("else", "where?")


class Multipart:
    def request(self, flow: http.HTTPFlow) -> None:
        if flow.request.multipart_form:
            flow.request.multipart_form = [*flow.request.multipart_form.items(multi=True), (b"added", b"part")]


class SetCookies:
    def response(self, flow: http.HTTPFlow) -> None:
        if "seen" in flow.request.query:
            attributes = http.cookies.CookieAttrs([("Path", "/"), ("Secure", None)])
            flow.response.cookies["seen"] = (flow.request.query["seen"], attributes)


class Codings:
    def response(self, flow: http.HTTPFlow) -> None:
        if flow.request.path.startswith("/gzip"):
            was = flow.response.headers["content-encoding"]
            flow.response.decode()
            flow.response.content += b" after " + was.encode()
            flow.response.encode("br")


class Notes:
    """What one hook notes, another reads."""

    def request(self, flow: http.HTTPFlow) -> None:
        flow.metadata["size"] = human.pretty_size(len(flow.request.content or b""))
        flow.comment = strutils.bytes_to_escaped_str(assemble_request_head(flow.request)[:9])
        flow.marked = ":red_circle:"
        flow.backup()
        flow.request.headers["x-changed"] = str(flow.modified())

    def response(self, flow: http.HTTPFlow) -> None:
        flow.response.headers["x-notes"] = f"{flow.metadata['size']} {flow.comment} {flow.marked} {flow.modified()}"


class Filtered:
    def load(self, loader) -> None:
        loader.add_option("filtered_by", typing.Optional[str], None, "A filter.")  # noqa: UP045 - as scripts have it
        loader.add_option("filtered_kinds", typing.Sequence[str], [], "Some words.")
        loader.add_option("filtered_times", int, 1, "A number.")
        loader.add_option("filtered_how", str, "mark", "A choice.", choices=("mark", "count"))
        self.flt: flowfilter.TFilter = flowfilter.match_all

    def configure(self, updated: set[str]) -> None:
        if "filtered_by" in updated and ctx.options.filtered_by:
            try:
                self.flt = flowfilter.parse(ctx.options.filtered_by)
            except ValueError as e:
                raise exceptions.OptionsError(str(e)) from e

    def response(self, flow: http.HTTPFlow) -> None:
        if self.flt(flow):
            flow.response.headers["x-filtered"] = "-".join(ctx.options.filtered_kinds * ctx.options.filtered_times)


class Typed:
    """A command with arguments of many types, called as a line."""

    @commands.command("typed.choices")
    def choices(self) -> typing.Sequence[str]:
        return ["left", "right"]

    @commands.command("typed.say")
    @commands.argument("side", type=types.Choice("typed.choices"))
    def say(self, side: str, times: int, loud: bool, raw: bytes, path: types.Path, words: typing.Sequence[str]) -> str:
        text = f"{side} {times} {loud} {raw!r} {os.path.isabs(path)} {'/'.join(words)}"
        return text.upper() if loud else text

    def response(self, flow: http.HTTPFlow) -> None:
        line = r"typed.say left 3 false '\x00a' ~/x one,two"
        flow.response.headers["x-typed"] = ctx.master.commands.execute(line)
        try:
            ctx.master.commands.execute(line.replace("left", "up"))
        except exceptions.CommandError as e:
            flow.response.headers["x-refused"] = str(e)


class Ticker:
    """A task of its own, from running() to done()."""

    ticks = 0

    async def running(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.tick())

    async def tick(self) -> None:
        while True:
            self.ticks += 1
            await asyncio.sleep(0.01)

    def response(self, flow: http.HTTPFlow) -> None:
        flow.response.headers["x-ticking"] = str(self.ticks > 0)

    async def done(self) -> None:
        self.task.cancel()
        logging.info("ticker is done")


class Reversed(contentviews.Contentview):
    name = "reversed"
    syntax_highlight = "none"

    def prettify(self, data: bytes, metadata: contentviews.Metadata) -> str:
        return data.decode()[::-1]

    def render_priority(self, data: bytes, metadata: contentviews.Metadata) -> float:
        return 50 if metadata.content_type == "text/x-reversed" else 0


class Viewed:
    def load(self, loader) -> None:
        contentviews.add(Reversed)

    def response(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/viewed"):
            flow.response = http.Response.make(200, b"stressed", {"content-type": "text/x-reversed"})
            shown = contentviews.prettify_message(flow.response, flow)
            flow.response.headers["x-viewed"] = f"{shown.view_name}: {shown.text}"


class Kept:
    """Writes what it saw to a flow file."""

    def load(self, loader) -> None:
        loader.add_option("kept_in", str, "", "Where to.")

    def response(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/kept"):
            flow.metadata["curl"] = curl_command(flow)
            with open(ctx.options.kept_in, "ab") as f:
                FlowWriter(f).add(flow)


class Guarded:
    """Answers before anything goes upstream."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/guarded") and "authorization" not in flow.request.headers:
            flow.response = http.Response.make(401, b"who are you?", {"WWW-Authenticate": "Basic"})


class Again:
    """Asks a second time."""

    def response(self, flow: http.HTTPFlow) -> None:
        if is_for(flow, "/again") and flow.is_replay is None:
            copy = flow.copy()
            copy.request.path = "/replayed"
            ctx.master.commands.call("replay.client", [copy])


async def asgi(scope, receive, send):
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 203, "headers": [(b"x-app", b"asgi")]})
    await send({"type": "http.response.body", "body": scope["path"].encode() + body})


def wsgi(environ, start_response):
    start_response("200 OK", [("x-app", "wsgi")])
    return [environ["REQUEST_METHOD"].encode()]


addons = [
    StreamDown(),
    StreamUp(),
    Heads(),
    Killer(),
    Holder(),
    Elsewhere(),
    Multipart(),
    SetCookies(),
    Codings(),
    Filtered(),
    Typed(),
    Ticker(),
    Viewed(),
    Kept(),
    Guarded(),
    Again(),
    Notes(),
    ASGIApp(asgi, "asgi.lab", 80),
    WSGIApp(wsgi, "wsgi.lab", 443),
]
