"""What `view` keeps: flows in the order they came, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from appliance.conversation import Conversation
from appliance.flow import Flow
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow

LOOKS: Final = 4
"""Flows looked at for one that can go, each time that one comes."""


class Store:
    """Flows that are going on or intercepted stay, even over the bounds: others hold them too, and each comes with a
    connection, whose number has bounds of its own.
    """

    def __init__(self, limit: int, memory: float = inf) -> None:
        """`limit`: flows; `memory`: bytes of bodies and messages."""
        self.limit = limit
        self.memory = memory
        self.bytes = 0  # of flows that have been measured
        # By id(): no identifier is made for a flow that nobody asks for. A plain dict finds its first entry slowly.
        self._flows: OrderedDict[int, Flow] = OrderedDict()
        self._sizes: dict[int, int] = {}
        self._settings: dict[int, dict[str, str]] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        return iter(list(self._flows.values()))

    def add(self, flow: Flow) -> None:
        flows = self._flows
        flows[id(flow)] = flow
        if len(flows) > self.limit:
            key, oldest = flows.popitem(last=False)
            if oldest.live or oldest.intercepted:
                flows[key] = oldest
                self._make_room(LOOKS)
            else:
                self._gone(key)

    def measure(self, flow: Flow) -> None:
        """It is over: what it holds counts from here on."""
        key = id(flow)
        if (size := content_size(flow)) and key in self._flows:
            self.bytes += size - self._sizes.get(key, 0)
            self._sizes[key] = size
            if self.bytes > self.memory:
                self._make_room(len(self._flows))

    def shrink(self) -> None:
        """Down to the bounds, after they have changed."""
        for flow in self._flows.values():
            if not flow.live and id(flow) not in self._sizes and (size := content_size(flow)):
                self._sizes[id(flow)] = size
                self.bytes += size
        self._make_room(len(self._flows))

    def _over(self) -> bool:
        return len(self._flows) > self.limit or self.bytes > self.memory

    def _make_room(self, looks: int) -> None:
        """The oldest go. Those that must stay are put at the end: each look is at another flow."""
        flows = self._flows
        while looks > 0 and flows and self._over():
            looks -= 1
            key, flow = flows.popitem(last=False)
            if flow.intercepted or flow.live:
                flows[key] = flow
            else:
                self._gone(key)

    def _gone(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key, 0)
        if self._settings:
            self._settings.pop(key, None)

    def discard(self, flow: Flow) -> None:
        if self._flows.pop(id(flow), None) is not None:
            self._gone(id(flow))

    def forget(self, which: Callable[[Flow], bool]) -> None:
        """All of `which`, but for intercepted ones."""
        for flow in self:
            if not flow.intercepted and which(flow):
                self.discard(flow)

    def settings(self, flow: Flow) -> dict[str, str] | None:
        """None: it is not kept."""
        return self._settings.setdefault(id(flow), {}) if id(flow) in self._flows else None


class Collecting:
    """Below `view` while it is on. Needs no body and no message: nothing is held for its sake."""

    name = "view flows"

    def __init__(self, store: Store) -> None:
        self.requestheaders = self.tcp_start = self.udp_start = self.dns_request = store.add
        self._store = store

    @body_not_needed
    def response(self, flow: HTTPFlow) -> None:
        if flow.websocket is None:
            self._store.measure(flow)

    def error(self, flow: HTTPFlow) -> None:
        self._store.add(flow)  # a head that is refused has had no requestheaders
        self._store.measure(flow)

    def websocket_end(self, flow: HTTPFlow) -> None:
        self._store.measure(flow)

    def tcp_end(self, flow: Flow) -> None:
        self._store.measure(flow)

    def tcp_error(self, flow: Flow) -> None:
        self._store.measure(flow)

    def udp_end(self, flow: Flow) -> None:
        self._store.measure(flow)

    def udp_error(self, flow: Flow) -> None:
        self._store.measure(flow)


def content_size(flow: Flow) -> int:
    """Bytes of bodies and messages that are in memory."""
    size = 0
    if isinstance(flow, HTTPFlow):
        size = len(flow.request.raw_content or b"")
        if flow.response is not None:
            size += len(flow.response.raw_content or b"")
        if flow.websocket is not None:
            size += sum(len(message.content) for message in flow.websocket.messages)
    elif isinstance(flow, Conversation):
        size = sum(len(message.content) for message in flow.messages)
    return size
