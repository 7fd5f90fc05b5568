"""Keeps the latest flows in memory, so that commands and add-ons can name them: `@all`, `@marked`, `~c 500`.

What is kept is bounded in number (`view_limit`) and in bytes of bodies and messages (`view_memory`); the oldest flows
that are over leave first. Filter and order are worked out when somebody asks, so that a flow costs next to nothing
while nobody does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from appliance import command, ctx, flowfilter, types
from appliance.addons.filters import option_filter
from appliance.addons.switch import Switch
from appliance.addons.viewstore import Collecting, Store, content_size
from appliance.connection import Client, Server
from appliance.dns import DNSFlow
from appliance.exceptions import CommandError, ControlException, FlowReadException, OptionsError
from appliance.flow import Flow
from appliance.flowfilter import TFilter
from appliance.http import HTTPFlow, Request
from appliance.io import FlowReader
from appliance.log import ALERT
from appliance.url import hostport

logger = logging.getLogger(__name__)

LIMIT: Final = 1000
"""Flows kept while `intercept` is on, or somebody adds some, and `view_limit` says nothing."""


def _method(flow: Flow) -> str:
    return flow.request.method if isinstance(flow, HTTPFlow) else flow.type.upper()


def _url(flow: Flow) -> str:
    if isinstance(flow, HTTPFlow):
        return flow.request.url
    if isinstance(flow, DNSFlow):
        return str(getattr(flow.request.question, "name", ""))
    address = flow.server_conn.address
    return f"{address[0]}:{address[1]}" if address else ""


ORDERS: Final[dict[str, Callable[[Flow], Any]]] = {
    "time": lambda flow: flow.timestamp_start,
    "method": _method,
    "url": _url,
    "size": content_size,
}
_SPECS = ("@all", "@focus", "@shown", "@hidden", "@marked", "@unmarked", "@ID[,ID...]")


class View(Switch):
    """The flows that match `view_filter`, in the order of `view_order`; `resolve` finds any that are kept.

    Collects while `view_limit` is above 0; if it says nothing, while `intercept` is on: who holds flows must be able to
    name them.
    """

    name = "view"

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(LIMIT)
        self.filter: TFilter | None = None
        self.focus = Focus(self)
        self._marked_only = False
        self._loading: set[asyncio.Task[None]] = set()

    # -- options -------------------------------------------------------------------------------------------------------

    def configure(self, updated: frozenset[str]) -> None:
        options = ctx.options
        if "view_filter" in updated:
            self.filter = option_filter("view_filter")
        if {"view_limit", "view_memory", "intercept", "intercept_active"} & updated:
            limit = options.view_limit
            on = limit > 0 if limit is not None else bool(options.intercept and options.intercept_active)
            self.store.limit = LIMIT if limit is None else limit
            self.store.memory = options.size("view_memory") or 0
            if on != bool(self.addons):
                self.use(Collecting(self.store) if on else None)
            self.store.shrink()

    def done(self) -> None:
        for task in self._loading:
            task.cancel()

    # -- as a sequence of what is shown --------------------------------------------------------------------------------

    def shown(self) -> list[Flow]:
        """Those that match the filter, in order."""
        flt, marked = self.filter, self._marked_only
        flows = [flow for flow in self.store if (not marked or flow.marked) and (flt is None or flt(flow))]
        flows.sort(key=ORDERS[ctx.options.view_order], reverse=ctx.options.view_order_reversed)
        return flows

    def __len__(self) -> int:
        return len(self.shown())

    def __iter__(self) -> Iterator[Flow]:
        return iter(self.shown())

    def __getitem__(self, index: int) -> Flow:
        return self.shown()[index]

    def __contains__(self, flow: object) -> bool:
        return any(one is flow for one in self.shown())

    def __bool__(self) -> bool:
        return True

    def index(self, flow: Flow) -> int:
        """Raises ValueError."""
        return self.shown().index(flow)

    def inbounds(self, index: int) -> bool:
        return 0 <= index < len(self)

    # -- what is kept --------------------------------------------------------------------------------------------------

    def store_count(self) -> int:
        return len(self.store)

    def get_by_id(self, flow_id: str) -> Flow | None:
        return next((flow for flow in self.store if flow.id == flow_id), None)

    def add(self, flows: Iterable[Flow]) -> None:
        """Keep these. Room is made as ever."""
        for flow in flows:
            self.store.add(flow)
        self.store.shrink()

    def settings(self, flow: Flow) -> dict[str, str]:
        """Notes on a flow that are kept as long as the flow is. Raises CommandError for one that is not kept."""
        found = self.store.settings(flow)
        if found is None:
            raise CommandError("the flow is not kept (any more)")
        return found

    @command.command("view.flows.resolve")
    def resolve(self, flow_spec: str) -> Sequence[Flow]:
        """The flows that are meant: @all, @focus, @shown, @hidden, @marked, @unmarked, @ID[,ID...], or a filter."""
        if not self.addons and not len(self.store):
            raise CommandError("no flows are kept, so none can be named: set view_limit, such as view_limit=1000")
        flows = list(self.store)
        match flow_spec:
            case "@all":
                return flows
            case "@focus":
                return [flow] if (flow := self.focus.flow) is not None else []
            case "@shown":
                return self.shown()
            case "@hidden":
                shown = set(map(id, self.shown()))
                return [flow for flow in flows if id(flow) not in shown]
            case "@marked":
                return [flow for flow in flows if flow.marked]
            case "@unmarked":
                return [flow for flow in flows if not flow.marked]
        if flow_spec.startswith("@"):
            wanted = set(flow_spec[1:].split(","))
            if not all(map(_is_id, wanted)):
                raise CommandError(f"{flow_spec!r} names no flows; there are {', '.join(_SPECS)}, and filters")
            return [flow for flow in flows if flow.id in wanted]
        try:
            flt = flowfilter.parse(flow_spec)
        except ValueError as error:
            raise CommandError(f"{flow_spec!r} names no flows: {error}") from None
        return [flow for flow in flows if flt(flow)]

    @command.command("view.flows.create")
    def create(self, method: str, url: str) -> None:
        """Make a request that nobody has sent, to be edited and replayed."""
        try:
            request = Request.make(method.upper(), url)
        except ValueError as error:
            raise CommandError(f"view.flows.create: {error}") from None
        flow = HTTPFlow(Client(peername=("", 0), sockname=("", 0)), Server(address=(request.host, request.port)))
        request.headers["Host"] = hostport(request.scheme, request.host, request.port)
        flow.request = request
        self.add([flow])

    @command.command("view.flows.add")
    def add_flows(self, flows: Sequence[Flow]) -> None:
        """Keep flows of one's own: the older name of `add`."""
        self.add(flows)

    @command.command("view.flows.duplicate")
    def duplicate(self, flows: Sequence[Flow]) -> None:
        """Make copies of flows, and have the focus on the first of them."""
        copies = [flow.copy() for flow in flows]
        self.add(copies)
        if copies:
            self.focus.flow = copies[0]
        logger.log(ALERT, "made copies of %d flows", len(copies))

    @command.command("view.flows.remove")
    def remove(self, flows: Sequence[Flow]) -> None:
        """Forget flows. Those that are going on are killed."""
        for flow in list(flows):
            if flow.killable:
                with contextlib.suppress(ControlException):
                    flow.kill()
            self.store.discard(flow)

    @command.command("view.flows.load")
    def load_file(self, path: types.Path) -> None:
        """Keep the flows of a file, in the background; the latest of them, where they are more than are kept."""
        if not Path(path).is_file():
            raise CommandError(f"view.flows.load: {path}: no such file")
        task = asyncio.get_running_loop().create_task(self._load(path))
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _load(self, path: str) -> None:
        count = 0
        try:
            with await asyncio.to_thread(open, path, "rb") as file:
                flows = FlowReader(file).stream()
                while (flow := await asyncio.to_thread(next, flows, None)) is not None:
                    self.add([flow])
                    count += 1
        except (OSError, FlowReadException) as error:
            logger.error("view.flows.load: %s: %s", path, error)
        logger.info("view.flows.load: %d flows of %s", count, path)

    @command.command("view.clear")
    def clear(self) -> None:
        """Forget all flows but those that are intercepted, which nobody could resume any more."""
        self.store.forget(lambda flow: True)

    @command.command("view.clear_unmarked")
    def clear_not_marked(self) -> None:
        """Forget the flows that are not marked, but for those that are intercepted."""
        self.store.forget(lambda flow: not flow.marked)

    # -- filter and order ----------------------------------------------------------------------------------------------

    @command.command("view.filter.set")
    def set_filter_cmd(self, filter_expr: str) -> None:
        """Show only flows that match; an empty text shows all."""
        try:
            ctx.options.update(view_filter=filter_expr or None)
        except OptionsError as error:
            raise CommandError(str(error)) from None

    def set_filter(self, flt: TFilter | None) -> None:
        """Any function of a flow, until the option is set again."""
        self.filter = flt

    @command.command("view.order.options")
    def order_options(self) -> Sequence[str]:
        """The orders there are."""
        return sorted(ORDERS)

    @command.command("view.order")
    def get_order(self) -> str:
        """The order of the flows shown."""
        return str(ctx.options.view_order)

    @command.command("view.order.set")
    @command.argument("order_key", type=types.Choice("view.order.options"))
    def set_order(self, order_key: str) -> None:
        """Show flows in another order."""
        ctx.options.update(view_order=order_key)

    @command.command("view.order.reverse")
    def set_reversed(self, boolean: bool) -> None:
        """Show the last first, or not."""
        ctx.options.update(view_order_reversed=boolean)

    @command.command("view.properties.marked.toggle")
    def toggle_marked(self) -> None:
        """Show marked flows only, or all again."""
        self._marked_only = not self._marked_only

    @command.command("view.properties.marked")
    def get_marked(self) -> bool:
        """Whether only marked flows are shown."""
        return self._marked_only

    @command.command("view.properties.length")
    def get_length(self) -> int:
        """How many flows are shown."""
        return len(self)

    @command.command("view.properties.inbounds")
    def is_inbounds(self, index: int) -> bool:
        """Whether there is a flow at this place."""
        return self.inbounds(index)

    # -- focus ---------------------------------------------------------------------------------------------------------

    @command.command("view.focus.go")
    def go(self, offset: int) -> None:
        """Focus on the flow at this place; from the end if it is negative."""
        flows = self.shown()
        if flows:
            at = offset if offset >= 0 else len(flows) + offset
            self.focus.flow = flows[min(max(at, 0), len(flows) - 1)]

    @command.command("view.focus.next")
    def focus_next(self) -> None:
        """Focus on the flow that follows."""
        self.focus.move(1)

    @command.command("view.focus.prev")
    def focus_prev(self) -> None:
        """Focus on the flow before."""
        self.focus.move(-1)

    # -- settings ------------------------------------------------------------------------------------------------------

    @command.command("view.settings.getval")
    def getvalue(self, flow: Flow, key: str, default: str) -> str:
        """A setting of a flow."""
        return self.settings(flow).get(key, default)

    @command.command("view.settings.setval")
    def setvalue(self, flows: Sequence[Flow], key: str, value: str) -> None:
        """Set a setting of flows."""
        for flow in flows:
            self.settings(flow)[key] = value

    @command.command("view.settings.setval.toggle")
    def setvalue_toggle(self, flows: Sequence[Flow], key: str) -> None:
        """Turn a setting of flows from false (or nothing) to true, and the other way round."""
        for flow in flows:
            settings = self.settings(flow)
            settings[key] = "false" if settings.get(key) == "true" else "true"


class Focus:
    """The one flow that `@focus` means: the first shown, unless another was chosen and is shown still."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._flow: Flow | None = None

    @property
    def flow(self) -> Flow | None:
        flows = self._view.shown()
        if not any(flow is self._flow for flow in flows):
            self._flow = flows[0] if flows else None
        return self._flow

    @flow.setter
    def flow(self, flow: Flow | None) -> None:
        """Raises ValueError for one that is not shown."""
        if flow is not None and flow not in self._view:
            raise ValueError("the flow is not shown")
        self._flow = flow

    @property
    def index(self) -> int | None:
        return None if (flow := self.flow) is None else self._view.index(flow)

    def move(self, by: int) -> None:
        if (index := self.index) is not None and self._view.inbounds(index + by):
            self._flow = self._view[index + by]


def _is_id(text: str) -> bool:
    return len(text) > 7 and all(char in "0123456789abcdefABCDEF-" for char in text)
