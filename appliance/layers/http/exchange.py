"""One HTTP exchange: the only place that knows HTTP's hooks, when a body is held, limits, kill and errors.

It speaks to a client through an `Inbound` and to a server through an `Outbound`; whether these are HTTP/1, 2 or 3 is
theirs. Every flow ends in `response` or in `error`, never in both.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from appliance.flow import Error
from appliance.http import HTTPFlow
from appliance.layers.gate import gate
from appliance.layers.http import pages
from appliance.layers.http.bodies import SILENCE, hold, is_streaming_kind
from appliance.layers.http.endings import Failed, failed, fire_error, note_cut, send_page
from appliance.layers.http.streaming import OverLimit, Upload, carry_down, state_length
from appliance.layers.http.switching import carry, compression, is_websocket
from appliance.layers.http.wire import Inbound, Outbound
from appliance.net.dial import Attempt
from appliance.net.egress import CannotConnect
from appliance.net.reasons import KILLED, SHUTDOWN, Gone, Killed, Reason
from appliance.response import Response
from appliance.websocket import WebSocketData

if TYPE_CHECKING:
    from appliance.connection import Server
    from appliance.layers.http.layer import HttpLayer
    from appliance.layers.http.pool import Link
    from appliance.message import Message
    from appliance.request import Request

HELD_AT_MOST = 64 << 20
"""Bytes of a body that are held because an add-on insists (it set `stream` to False), whatever size and kind say."""
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
_CHALLENGE = ("proxy-authenticate", "proxy-authentication-info")
_M = TypeVar("_M", "Request", "Response")


class Exchange:
    """Runs once. `flow._live` while it does, so that `flow.kill()` reaches it."""

    __slots__ = (
        "_answered",
        "_attempt",
        "_handler",
        "_heard",
        "_holds",
        "_inbound",
        "_layer",
        "_link",
        "_outbound",
        "_recorded",
        "_rest",
        "_settings",
        "_theirs",
        "_upload",
        "flow",
        "proxied",
    )

    def __init__(self, layer: HttpLayer, inbound: Inbound, proxied: bytes = b"") -> None:
        """proxied: the scheme of a target in absolute form, said to another proxy than us."""
        handler = layer.context.handler
        self._layer = layer
        self._handler = handler
        self._settings = handler.worker.settings
        self._holds = handler.worker.hooks.holds
        self._heard = handler.worker.hooks.heard
        self._inbound = inbound
        self._attempt: Attempt | None = None  # at a connection, while it is waited for
        self._outbound: Outbound | None = None
        self._link: Link | None = None
        self._upload: Upload | None = None
        self._theirs: Response | None = None  # a challenge that is no business of the client
        self._rest = b""  # what was held of a body that streams after all
        self._answered = False  # `response` has been fired
        self._recorded = False
        self.proxied = proxied
        self.flow = flow = HTTPFlow(handler.client, layer.context.server)
        flow.request = inbound.request
        flow._live = self

    async def run(self) -> None:
        """Carry it to its end. Never raises, but for a shutdown's cancellation."""
        self._handler.worker.totals.flows += 1
        flow, inbound, heard = self.flow, self._inbound, self._heard
        try:
            if inbound.refused is not None:
                raise Failed(inbound.refused.status, inbound.refused.why)
            if heard["requestheaders"] and (wait := gate(self._handler, "requestheaders", flow, inbound)) is not None:
                await wait
            held = b"" if inbound.whole else await self._request_body()
            if held is not None:
                flow.request.raw_content = held
                flow.request.timestamp_end = time.time()
                if heard["request"] and (wait := gate(self._handler, "request", flow, inbound)) is not None:
                    await wait
            elif flow.response is not None and (wait := gate(self._handler, "request", flow, inbound)) is not None:
                await wait  # answered already, and too large to be held
            if flow.response is not None:
                await self._answer(flow.response)
                return
            response = await self._forward(held)
            if response.status_code == 101:
                await self._switch(response)
            else:
                await self._response(response)
        except Killed:
            await self._killed()
        except Exception as e:
            await self._fail(failed(e, flow, inbound))
        except asyncio.CancelledError:  # the gateway ends, and this did not in time
            if not self._answered:
                flow.error = Error(SHUTDOWN.text)
                await self._fire_error()
            raise
        finally:
            flow._live = None
            inbound.watch(None)
            if self._upload is not None:
                await self._upload.end()
            self._record()
            if self._link is not None and not self._link.rest():
                await self._layer.pool.drop(self._link)

    # -- the request

    async def _request_body(self) -> bytes | None:
        """The whole body when it is held for the hook (or there is none); None when it streams."""
        inbound, request = self._inbound, self.flow.request
        if inbound.whole:
            return b""
        limit = self._settings.body_limit
        declared = inbound.declared
        if limit is not None and declared is not None and declared > limit:
            raise Failed(413, f"request body of {declared} bytes is over body_size_limit")
        insists, over = self._hold_limit(request)
        if self.flow.response is None and (
            request.stream
            or not (insists or (self._holds["request"] and not is_streaming_kind(request.headers)))
            or (declared is not None and over is not None and declared > over)
        ):
            request.stream = request.stream or True
            return None
        if inbound.expects_continue:
            inbound.inform(pages.continue_())
            inbound.expects_continue = False
            request.headers.pop("expect", None)
        held = await hold(inbound, over, limit, 0.0 if insists else SILENCE)
        if held.over_limit:
            raise Failed(413, "request body is over body_size_limit")
        if held.whole:
            return held.data
        request.stream = True
        self._rest = held.data  # streamed from here on, what was held first
        return None

    def _hold_limit(self, message: Message) -> tuple[bool, int | None]:
        """Whether an add-on insists on this body (`stream` is False unless somebody sets it), and when it streams."""
        insists = vars(message).get("stream") is False
        return insists, HELD_AT_MOST if insists else self._settings.stream_over

    def _target(self, server: Server) -> bytes:
        """What the request line says. To the proxy that the client took the server for, its own form: proxies answer
        400 to the other one. Where an add-on sends it elsewhere there is a server.
        """
        request = self.flow.request
        path = request.raw_path or b"/"
        if not self.proxied or not request.raw_authority or server.alpn == b"h2":
            return path
        wanted = self._layer.context.server.address
        if wanted is None or (request.raw_host, request.raw_port) != wanted[:2]:
            return path
        return b"%b://%b%b" % (self.proxied, request.raw_authority, b"" if path == b"*" else path)

    async def _forward(self, held: bytes | None) -> Response:
        """Send the request and wait for the response's head. One retry where RFC 9110 §9.2.2 allows it."""
        flow, inbound, pool = self.flow, self._inbound, self._layer.pool
        request = flow.request
        inbound.watch(self._client_gone)
        if inbound.why is not None:  # it went before there was anything to tell of it
            raise inbound.why.error()
        fresh = False
        while True:
            upgrade = inbound.upgrade_to
            link = (None if fresh or upgrade is not None else pool.idle(request)) or await self._connect(fresh)
            self._link = link
            flow.server_conn = link.server
            self._outbound = outbound = link.client.open()
            if upgrade is not None:
                outbound.protocol = upgrade.partition(b",")[0].strip()
            if held is None:
                self._state_request_length(request)
            sent = request
            if self._layer.explicit and b"proxy-authorization" in request.headers.names():
                sent = _without(request, "proxy-authorization")  # RFC 9110 §11.7.2: it was for us
            try:
                if held is not None:
                    content = request.raw_content
                    wait = outbound.request(sent, b"" if content is None else content, self._target(link.server))
                    if wait is not None:
                        await wait
                else:
                    await outbound.head(sent, self._target(link.server))
                    rest, self._rest = self._rest, b""
                    self._upload = Upload(self._handler, flow, inbound, outbound, rest)
                flow.response = response = await outbound.response(self._inform)
                return response
            except Gone as e:
                again = held is not None and not fresh
                if again and not outbound.unprocessed:
                    again = (outbound.reused or link.early) and request.raw_method in _IDEMPOTENT
                if isinstance(e, Killed) or not again or inbound.why is not None or not outbound.untouched:
                    raise
                fresh = True
                self._link = self._outbound = None
                await pool.drop(link)

    def _state_request_length(self, request: Request) -> None:
        if callable(request.stream):
            request.headers.pop("content-length", None)
        else:
            left = self._inbound.declared
            state_length(request.headers, None if left is None else len(self._rest) + left)

    async def _connect(self, fresh: bool) -> Link:
        """A connection for this request. :raises Failed: there is none to be had. :raises Gone: the client left."""
        flow, inbound = self.flow, self._inbound
        if not flow.request.raw_host:
            raise Failed(400, "the request does not say where it is to go")
        if inbound.why is not None:  # as the first try was cleared away
            raise inbound.why.error()
        attempt = self._attempt = Attempt()
        try:
            if inbound.upgrade_to is None:
                link = await self._layer.pool.get(flow.request, fresh, attempt)
            else:
                link = await self._layer.pool.switching(flow.request, attempt)
        except CannotConnect as e:
            if flow.killed:
                raise Killed(KILLED) from None
            flow.server_conn = e.server or self._layer.context.server
            if inbound.why is not None:
                raise inbound.why.error() from None
            raise Failed(502, e.text, e.kind) from None
        finally:
            self._attempt = None
        if inbound.why is not None or flow.killed:
            self._link = link
            raise Killed(KILLED) if inbound.why is None else inbound.why.error()
        return link

    # -- the response

    async def _inform(self, response: Response) -> None:
        if response.status_code == 100:
            if not self._inbound.expects_continue:
                return
            self._inbound.expects_continue = False
        self._inbound.inform(response)

    async def _response(self, response: Response) -> None:
        flow, inbound, outbound = self.flow, self._inbound, self._outbound
        assert outbound is not None
        if (
            self._heard["responseheaders"]
            and (wait := gate(self._handler, "responseheaders", flow, inbound)) is not None
        ):
            await wait
        if flow.response is None:
            flow.response = response
        elif flow.response is not response:  # replaced by an add-on: the server's own is thrown away
            outbound.reset(Reason("closed", "an add-on answered instead"))
            await self._answer(flow.response, headers_fired=True)
            return
        if response.status_code == 407 and self._layer.explicit:
            self._theirs = response
        limit, declared = self._settings.body_limit, outbound.declared
        if limit is not None and declared is not None and declared > limit:
            raise Failed(502, f"response body of {declared} bytes is over body_size_limit")
        streams = callable(response.stream) or (response.stream and not outbound.whole)
        content = None if streams else outbound.ready()
        if content is not None:
            response.raw_content = content
            response.timestamp_end = time.time()
            await self._settle(response)
            return
        both_ways = self._upload is not None and not self._upload.done
        insists, over = self._hold_limit(response)
        if (
            not response.stream
            and (insists or (self._holds["response"] and not both_ways and not is_streaming_kind(response.headers)))
            and not (declared is not None and over is not None and declared > over)
        ):
            held = await hold(outbound, over, limit, 0.0 if insists else SILENCE)
            if held.over_limit:
                raise Failed(502, "response body is over body_size_limit")
            if held.whole:
                response.raw_content = held.data
                response.timestamp_end = time.time()
                if outbound.cut:
                    note_cut(flow)
                await self._settle(response, outbound.cut)
                return
            await self._stream_down(response, held.data)
            return
        await self._stream_down(response, b"")

    async def _settle(self, response: Response, cut: bool = False) -> None:
        """`response` has its whole body: fire the hook, send it. cut: all of it that came, and maybe not the whole."""
        flow, inbound = self.flow, self._inbound
        self._answered = True
        if self._heard["response"] and (wait := gate(self._handler, "response", flow, inbound)) is not None:
            await wait
        if cut and flow.response is response:
            inbound.cut()
        response = flow.response or response
        content = response.raw_content
        if self._outbound is not None:
            self._outbound.done()
        if response is self._theirs:
            response = _without(response, *_CHALLENGE)
        wait = inbound.respond(response, b"" if content is None else content)
        if wait is not None:
            await wait
        if self._upload is not None:
            await self._upload.rest()

    async def _answer(self, response: Response, headers_fired: bool = False) -> None:
        """A response that no server gave: the same hooks, and what the client still sends is swallowed."""
        flow = self.flow
        if not headers_fired and (wait := gate(self._handler, "responseheaders", flow, self._inbound)) is not None:
            await wait
        response = flow.response or response
        if response.raw_content is None:
            response.raw_content = b""
        await self._settle(response)

    async def _stream_down(self, response: Response, first: bytes) -> None:
        flow, inbound, outbound = self.flow, self._inbound, self._outbound
        assert outbound is not None
        if callable(response.stream):
            change = response.stream
            response.headers.pop("content-length", None)
        else:
            change, response.stream = None, True
            left = outbound.declared
            state_length(response.headers, None if left is None else len(first) + left)
        if self._upload is not None and not self._upload.done and (inbound.expects_continue or not outbound.stays):
            inbound.persistent = False  # the rest of the request is not waited for
        inbound.until_close = outbound.until_close
        await inbound.head(_without(response, *_CHALLENGE) if response is self._theirs else response)
        recorder = self._handler.worker.recorder
        tee = response.tee = None if recorder is None else recorder.tee()
        try:
            response.moved = await carry_down(outbound, inbound, change, first, self._settings.body_limit, tee)
        except OverLimit:
            raise Failed(502, "response body is over body_size_limit") from None
        response.timestamp_end = time.time()
        if outbound.cut:
            note_cut(flow)
            inbound.cut()
        self._answered = True
        if (wait := gate(self._handler, "response", flow, inbound)) is not None:
            await wait
        await inbound.finish(response.trailers)
        if self._upload is not None:
            await self._upload.rest()
        outbound.done()

    async def _switch(self, response: Response) -> None:
        """101: both sides become a WebSocket, or raw bytes, from here on."""
        flow, inbound, outbound, link = self.flow, self._inbound, self._outbound, self._link
        assert outbound is not None and link is not None
        if inbound.upgrade_to is None:
            raise Failed(502, "the server switched protocols although nobody had asked")
        response.raw_content = b""
        far = None
        if is_websocket(self._layer, inbound.upgrade_to, flow, response):
            flow.websocket = WebSocketData()
            far = compression(response.headers)
        try:
            for event in ("responseheaders", "response"):
                self._answered = event == "response"
                if (wait := gate(self._handler, event, flow, inbound)) is not None:
                    await wait
                if flow.response is not None and flow.response.status_code != 101 and not self._answered:
                    flow.websocket = None  # an add-on does not want it
            final = flow.response or response
            wait = inbound.respond(final, b"" if final.status_code == 101 else final.raw_content or b"")
            if wait is not None:
                await wait
        except BaseException:
            await self._never_open()
            raise
        if final.status_code != 101:
            outbound.reset(Reason("closed", "an add-on answered instead"))
            await self._never_open()
            return
        if flow.websocket is None:
            self._record()  # else when that is over, with its messages
        if not link.client.shared:
            self._layer.pool.forget(link)
            self._link = None
        await carry(self._layer, inbound, outbound, link, flow, far)

    async def _never_open(self) -> None:
        """A WebSocket that was agreed to and did not come about; whoever waits for its end has it."""
        if not self._answered:
            self.flow.websocket = None
        elif self.flow.websocket is not None:
            self.flow.websocket.timestamp_end = time.time()
            await self._handler.fire("websocket_end", self.flow)

    # -- endings

    def _record(self) -> None:
        recorder = self._handler.worker.recorder
        if recorder is not None and not self._recorded:
            self._recorded = True
            recorder.end(self.flow)

    def kill(self) -> None:
        """See flow.kill()."""
        self._inbound.reset(KILLED)
        if self._outbound is not None:
            self._outbound.reset(KILLED)

    def _client_gone(self, reason: Reason) -> None:
        if self._attempt is not None:
            self._attempt.abandon("the client disconnected")
        if self._outbound is not None:
            self._outbound.reset(Reason(reason.kind, "the client disconnected") if reason.kind == "closed" else reason)

    async def _fail(self, e: Failed) -> None:
        flow, inbound = self.flow, self._inbound
        if isinstance(flow.error, Error) and flow.killed:
            await self._killed()
            return
        page_fits = bool(e.status) and not inbound.head_sent and inbound.why is None
        if not self._answered:
            flow.error = Error(e.text, status=e.status if page_fits else 0)
            await self._fire_error()
        if page_fits and inbound.why is None:
            await send_page(inbound, flow, e)
        else:
            inbound.reset(Reason("protocol", e.text, e.detail))
        if self._outbound is not None:
            self._outbound.reset(Reason("closed", e.text))

    async def _killed(self) -> None:
        if not self._answered:
            await self._fire_error()
        self.kill()

    async def _fire_error(self) -> None:
        self._answered = True
        await fire_error(self._handler, self.flow)


def _without(message: _M, *names: str) -> _M:
    """A copy to be sent; the flow keeps what came."""
    sent = message.copy()
    for name in names:
        sent.headers.pop(name, None)
    return sent
