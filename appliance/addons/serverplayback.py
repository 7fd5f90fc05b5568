"""Answers requests with recorded responses (option `server_replay`, `-S`; commands `replay.server…`).

What was recorded need not be reachable: CONNECT is granted and TLS spoken without dialling a server whose responses
are here, or any server when `server_replay_extra` forwards nothing.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from appliance import command, ctx
from appliance.addons.filters import insist, untouched, will_stream
from appliance.addons.recording import Recording
from appliance.addons.switch import Switch
from appliance.exceptions import CommandError, FlowReadException, OptionsError
from appliance.flow import Flow
from appliance.hooks import body_not_needed
from appliance.http import HTTPFlow, Request, Response
from appliance.layers.http.pages import established
from appliance.log import ALERT, RateLimited
from appliance.tls import ClientHelloData
from appliance.url import decode

logger = logging.getLogger(__name__)
_told = RateLimited(logger, per_minute=6)

MOST: Final = 100_000
"""Flows kept."""
MOST_BYTES: Final = 256 << 20
"""Of their bodies, which are held in memory."""
_MATCHING: Final = frozenset(
    f"server_replay_{name}"
    for name in (
        "use_headers",
        "ignore_content",
        "ignore_params",
        "ignore_payload_params",
        "ignore_host",
        "ignore_port",
    )
)


class ServerPlayback(Switch):
    """Has the hooks below itself from the first recorded response on until `replay.server.stop`."""

    name = "serverplayback"

    def __init__(self) -> None:
        super().__init__()
        self.flowmap: dict[bytes, deque[HTTPFlow]] = {}
        self.hosts: set[str] = set()
        """Names and addresses under which a recorded server may be asked for."""
        self._loaded: tuple[str, ...] = ()  # by the option
        self._size = 0

    def configure(self, updated: frozenset[str]) -> None:
        options = ctx.options
        if updated & _MATCHING and self.flowmap:
            flows = list(chain.from_iterable(self.flowmap.values()))
            self.flowmap = {}
            for flow in flows:
                self._keep(flow)
        if "server_replay" in updated and (paths := tuple(options.server_replay)) != self._loaded:
            try:
                self._take(chain.from_iterable(map(Recording, paths)), anew=True)
            except (FlowReadException, ValueError) as error:
                raise OptionsError(f"server_replay: {error}") from None
            self._loaded = paths

    # -- commands

    @command.command("replay.server")
    def load_flows(self, flows: Sequence[Flow]) -> None:
        """Answer with the responses of these flows, and forget others."""
        self.source(flows, anew=True)

    @command.command("replay.server.add")
    def add_flows(self, flows: Sequence[Flow]) -> None:
        """Answer with the responses of these flows too."""
        self.source(flows, anew=False)

    @command.command("replay.server.file")
    def load_file(self, path: str) -> None:
        """Answer with the responses of a flow file or HAR, or of store:FILTER, and forget others."""
        try:
            self.source(Recording(path), anew=True)
        except FlowReadException as error:
            raise CommandError(str(error)) from None

    @command.command("replay.server.stop")
    def clear(self) -> None:
        """Forget all recorded responses: every request goes to its server again."""
        self._forget()
        self.use(None)

    @command.command("replay.server.count")
    def count(self) -> int:
        """How many recorded responses are left."""
        return sum(map(len, self.flowmap.values()))

    def source(self, flows: Iterable[Flow], *, anew: bool) -> None:
        """Answer with the responses of `flows`, from wherever; anew: and forget others. Raises CommandError."""
        try:
            self._take(flows, anew=anew)
        except ValueError as error:
            raise CommandError(f"replay.server: {error}") from None
        logger.log(ALERT, "server replay: %d responses", self.count())

    # -- what is kept

    def _forget(self) -> None:
        self.flowmap, self.hosts, self._size, self._loaded = {}, set(), 0, ()

    def _take(self, flows: Iterable[Flow], *, anew: bool) -> None:
        """Raises ValueError: there are too many (nothing has changed then), and what reading them raises."""
        good: list[HTTPFlow] = []
        size, count, without = (0, 0, 0) if anew else (self._size, self.count(), 0)
        for flow in flows:
            if not isinstance(flow, HTTPFlow) or flow.response is None or flow.response.status_code == 101:
                continue
            if flow.response.raw_content is None:
                without += 1
                continue
            size += _size(flow)
            if size > MOST_BYTES or count + len(good) >= MOST:
                raise ValueError(
                    f"there are more than {MOST} responses, or {MOST_BYTES >> 20} MB of bodies: take out what is "
                    "needed, as in `lockgate run -n -r FILE -w SMALLER '~d host'` or store:'~d host'"
                )
            good.append(flow)
        if anew:
            self._forget()
        self._size = size
        for flow in good:
            self._keep(flow)
            self.hosts |= names_of(flow)
        if without:
            logger.warning("server replay: %d responses are left out, for their bodies were not kept", without)
        if self.flowmap and not self.addons:
            self.use(Answers(self))
        elif anew and not self.flowmap:
            self.use(None)

    def _keep(self, flow: HTTPFlow) -> None:
        self.flowmap.setdefault(digest(flow.request), deque()).append(flow)

    def next_flow(self, flow: HTTPFlow) -> HTTPFlow | None:
        """The recorded flow whose response this one gets. It is used up, unless `server_replay_reuse`."""
        key = digest(flow.request)
        found = self.flowmap.get(key)
        if not found:
            return None
        if ctx.options.server_replay_reuse or ctx.options.server_replay_nopop:
            return found[0]
        first = found.popleft()
        self._size = max(0, self._size - _size(first))
        if not found:
            del self.flowmap[key]
        return first


class Answers:
    """The hooks."""

    name = "serverplayback requests"

    def __init__(self, playback: ServerPlayback) -> None:
        self._playback = playback

    def http_connect(self, flow: HTTPFlow) -> None:
        if flow.response is None and self._undialled(flow.request.raw_host):
            flow.response = established()

    def tls_clienthello(self, data: ClientHelloData) -> None:
        address = data.context.server.address
        if self._undialled(data.client_hello.sni, address[0] if address else None):
            data.establish_server_tls_first = False

    def _undialled(self, *names: str | None) -> bool:
        """Whether this server is not looked at before there is a request that has to go to it."""
        options = ctx.options
        if options.server_replay_ignore_host or extra() != "forward":
            return True
        hosts = self._playback.hosts
        return any(name.lower() in hosts for name in names if name)

    def requestheaders(self, flow: HTTPFlow) -> None:
        if not ctx.options.server_replay_ignore_content:
            insist(flow.request)
        if will_stream(flow):
            self._apply(flow)

    @body_not_needed
    def request(self, flow: HTTPFlow) -> None:
        if not flow.request.stream:
            self._apply(flow)

    def _apply(self, flow: HTTPFlow) -> None:
        if flow.response is not None or not untouched(flow):
            return
        recorded = self._playback.next_flow(flow)
        if recorded is not None and recorded.response is not None:
            flow.is_replay = "response"
            flow.response = response = recorded.response.copy()
            if ctx.options.server_replay_refresh:
                response.refresh()
            response.timestamp_start = response.timestamp_end = time.time()
            return
        what = extra()
        if what == "forward":
            return
        url = flow.request.pretty_url
        _told.log(logging.WARNING, "", "server replay: no recorded response for %s (%s)", url, what)
        if what == "kill":
            flow.kill()
        else:
            flow.is_replay = "response"
            flow.response = Response.make(int(what))


def _size(flow: HTTPFlow) -> int:
    """Bytes of its bodies."""
    return sum(len(part.raw_content or b"") for part in (flow.request, flow.response) if part is not None)


def extra() -> str:
    """What becomes of requests that have no recorded response."""
    options = ctx.options
    return "kill" if options.server_replay_kill_extra else str(options.server_replay_extra)


def names_of(flow: HTTPFlow) -> set[str]:
    server = flow.server_conn
    names = (flow.request.raw_host, flow.request.pretty_host, server.sni, server.address[0] if server.address else None)
    return {name.lower() for name in names if name}


def digest(request: Request) -> bytes:
    """Equal for requests that are to get the same responses, by the options of now."""
    options = ctx.options
    path, _, query = request.path.partition("#")[0].partition("?")
    parts: list[object] = [request.scheme, request.method, path]
    if not options.server_replay_ignore_content:
        parts.append(_body(request, options.server_replay_ignore_payload_params))
    if not options.server_replay_ignore_host:
        parts.append(request.pretty_host.lower())
    if not options.server_replay_ignore_port:
        parts.append(request.port)
    ignored = options.server_replay_ignore_params
    parts.append([pair for pair in decode(query) if pair[0] not in ignored])
    parts.append([(name.lower(), request.headers.get(name)) for name in options.server_replay_use_headers])
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).digest()


def _body(request: Request, ignored: Sequence[str]) -> object:
    """The body as transferred; of forms of which some fields do not matter, the others."""
    if ignored:
        if form := list(request.multipart_form.items(multi=True)):
            names = {name.encode() for name in ignored}
            return [pair for pair in form if pair[0] not in names]
        if fields := list(request.urlencoded_form.items(multi=True)):
            return [pair for pair in fields if pair[0] not in ignored]
    return request.raw_content or b""
