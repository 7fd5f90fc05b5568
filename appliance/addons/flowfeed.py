"""What subscribers of the control socket are told about flows. While there is none, nothing listens."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.flow import Flow
from appliance.hooks import body_not_needed

if TYPE_CHECKING:
    from appliance.connection import Client
    from appliance.http import HTTPFlow


class Subscriber(Protocol):
    """Who is told. kinds: of begin, update, end, connection. bodies: it looks into them to know of what."""

    kinds: frozenset[str]
    bodies: bool

    def note(self, kind: str, flow: Flow) -> None: ...
    def note_connection(self, client: Client) -> None: ...
    def end(self) -> None: ...


class FlowFeed(Switch):
    """Below it is a listener of just what the subscribers asked for, or none."""

    name = "flowfeed"

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: list[Subscriber] = []
        self._seen: weakref.WeakValueDictionary[str, Flow] = weakref.WeakValueDictionary()

    def add(self, subscription: Subscriber) -> None:
        self.subscriptions.append(subscription)
        self._arrange()

    def remove(self, subscription: Subscriber) -> None:
        subscription.end()
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
            self._arrange()
            if not self.subscriptions:
                self._seen.clear()

    def _arrange(self) -> None:
        kinds = frozenset[str]().union(*(one.kinds for one in self.subscriptions))
        bodies = any(one.bodies for one in self.subscriptions)
        wanted: type[Ends] | None = None
        if kinds & {"begin", "update"}:
            wanted = ChangesWithBodies if bodies else Changes
        elif kinds:
            wanted = EndsWithBodies if bodies else Ends
        if [type(addon) for addon in self.addons] != ([wanted] if wanted else []):
            self.use(wanted(self) if wanted else None)

    def note(self, kind: str, flow: Flow) -> None:
        self._seen[flow.id] = flow
        for one in self.subscriptions:
            one.note(kind, flow)

    def note_connection(self, client: Client) -> None:
        for one in self.subscriptions:
            one.note_connection(client)

    def at_hand(self) -> dict[str, Flow]:
        """Flows by id: those that the view keeps, those that subscribers have seen and that are there still, and those
        that are held.
        """
        kept = getattr(ctx.master.addons.get("view"), "store", ())
        return {**{flow.id: flow for flow in kept}, **self._seen, **ctx.master.worker.held}


class Ends:
    """Listens to what a flow ends with. Needs no body and no message: nothing is held for its sake."""

    name = "flowfeed ends"

    def __init__(self, feed: FlowFeed) -> None:
        self._feed = feed

    def _end(self, flow: Flow) -> None:
        self._feed.note("end", flow)

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
        self._response(flow)

    def _response(self, flow: HTTPFlow) -> None:
        upgraded = flow.response is not None and flow.response.status_code == 101
        if upgraded and flow.request.headers.get("upgrade", "").lower() == "websocket":
            self._feed.note("update", flow)
        else:
            self._feed.note("end", flow)

    error = http_connect_error = _end
    websocket_end = tcp_end = tcp_error = udp_end = udp_error = dns_response = dns_error = _end

    def client_disconnected(self, client: Client) -> None:
        if client.verdict is not None and client.verdict.action != "decrypt":
            self._feed.note_connection(client)


class Changes(Ends):
    """Listens to a flow's beginning and to every change as well."""

    name = "flowfeed changes"

    def _begin(self, flow: Flow) -> None:
        self._feed.note("begin", flow)

    requestheaders = http_connect = tcp_start = udp_start = dns_request = _begin

    def update(self, flows: Iterable[Flow]) -> None:
        for flow in flows:
            self._feed.note("update", flow)


class Bodies(Ends):
    """While somebody has a filter that looks into bodies or messages: they are needed, as by any add-on."""

    def response(self, flow: HTTPFlow) -> None:
        self._response(flow)

    def request(self, flow: HTTPFlow) -> None:
        """So that its body is there."""

    def tcp_message(self, flow: Flow) -> None:
        """So that there are messages."""

    udp_message = websocket_message = tcp_message


class EndsWithBodies(Bodies):
    name = "flowfeed ends with bodies"


class ChangesWithBodies(Bodies, Changes):
    name = "flowfeed changes with bodies"
