"""What subscribers of the control socket are told about flows. While there is none, nothing listens."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from appliance import command, ctx, flowfilter
from appliance.addons.switch import Switch
from appliance.exceptions import CommandError
from appliance.flow import Flow
from appliance.hooks import body_not_needed

if TYPE_CHECKING:
    from appliance.connection import Client
    from appliance.http import HTTPFlow

KEPT_BYTES = 64 << 20
"""Of bodies and messages of flows that are kept at hand."""
_FLOW_WEIGHT = 2000


class Subscriber(Protocol):
    """Who is told. kinds: of begin, update, end, connection."""

    kinds: frozenset[str]

    def note(self, kind: str, flow: Flow) -> None: ...
    def note_connection(self, client: Client) -> None: ...
    def end(self) -> None: ...


class FlowFeed(Switch):
    """Below it is a listener of just what the subscribers asked for, or none."""

    name = "flowfeed"

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: list[Subscriber] = []
        self.keep = 0
        self._kept: OrderedDict[str, Flow] = OrderedDict()
        self._kept_bytes = 0
        self._seen: weakref.WeakValueDictionary[str, Flow] = weakref.WeakValueDictionary()

    def add(self, subscription: Subscriber, keep: int = 0) -> None:
        """`keep`: as many flows stay at hand after their end, for `flows.get` and `flows.replay`."""
        self.subscriptions.append(subscription)
        self.keep = max(self.keep, keep)
        self._arrange()

    def remove(self, subscription: Subscriber) -> None:
        subscription.end()
        if subscription in self.subscriptions:
            self.subscriptions.remove(subscription)
            if not self.subscriptions:
                self.keep = 0
                self._kept.clear()
                self._kept_bytes = 0
                self._seen.clear()
            self._arrange()

    def _arrange(self) -> None:
        kinds = frozenset[str]().union(*(one.kinds for one in self.subscriptions))
        if self.keep:
            kinds |= {"end"}
        wanted = None if not kinds else Changes if kinds & {"begin", "update"} else Ends
        if [type(addon) for addon in self.addons] != ([wanted] if wanted else []):
            self.use(wanted(self) if wanted else None)

    def note(self, kind: str, flow: Flow) -> None:
        self._seen[flow.id] = flow
        for one in self.subscriptions:
            one.note(kind, flow)
        if kind == "end" and self.keep:
            self._keep(flow)

    def note_connection(self, client: Client) -> None:
        for one in self.subscriptions:
            one.note_connection(client)

    def _keep(self, flow: Flow) -> None:
        if flow.id in self._kept:
            return
        self._kept[flow.id] = flow
        self._kept_bytes += _weight(flow)
        while self._kept and (len(self._kept) > self.keep or self._kept_bytes > KEPT_BYTES):
            self._kept_bytes -= _weight(self._kept.popitem(last=False)[1])

    def at_hand(self) -> dict[str, Flow]:
        """Flows that are held, and those seen by subscribers that are still there, by id."""
        worker = getattr(ctx.master, "worker", None)
        return {**self._seen, **(worker.held if worker is not None else {})}

    @command.command("view.flows.resolve")
    def resolve(self, spec: str) -> Sequence[Flow]:
        """Flows at hand: those held, and those that subscribers of the control socket have seen and that still go on.

        @all, @marked, @unmarked, @intercepted, @ID[,ID...], or a filter.
        """
        flows = list(self.at_hand().values())
        if spec in ("@all", "@shown"):
            return flows
        if spec in ("@marked", "@unmarked"):
            return [flow for flow in flows if bool(flow.marked) is (spec == "@marked")]
        if spec == "@intercepted":
            return [flow for flow in flows if flow.intercepted]
        if spec in ("@hidden", "@focus"):
            return []
        if spec.startswith("@"):
            wanted = [part.strip() for part in spec[1:].split(",")]
            return [flow for flow in flows if flow.id in wanted]
        try:
            flt = flowfilter.parse(spec)
        except ValueError as error:
            raise CommandError(str(error)) from None
        return [flow for flow in flows if flt(flow)]


class Ends:
    """Listens to what a flow ends with. Needs no body and no message: nothing is held for its sake."""

    name = "flowfeed ends"

    def __init__(self, feed: FlowFeed) -> None:
        self._feed = feed

    def _end(self, flow: Flow) -> None:
        self._feed.note("end", flow)

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
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


def _weight(flow: Any) -> int:
    bodies = (getattr(getattr(flow, part, None), "raw_content", None) for part in ("request", "response"))
    return (
        _FLOW_WEIGHT
        + sum(len(body or b"") for body in bodies)
        + sum(len(m.content) for m in getattr(flow, "messages", ()))
    )
