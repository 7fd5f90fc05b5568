"""The HTTP layer: a codec towards the client, and an exchange for each of its requests."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from appliance.layers.base import Context, Layer
from appliance.layers.http import connect
from appliance.layers.http.exchange import Exchange
from appliance.layers.http.h1_server import H1Server
from appliance.layers.http.pool import HttpPool
from appliance.net.stream import Stream

if TYPE_CHECKING:
    from appliance.layers.http.wire import Inbound
    from appliance.net.datagrams import Datagrams


class HTTPMode(Enum):
    """How requests name their destination: `regular`, in the request (explicit proxy); `transparent`, they do not."""

    regular = 1
    transparent = 2


class HttpLayer(Layer):
    """Every request on one client connection."""

    def __init__(self, context: Context, mode: HTTPMode) -> None:
        super().__init__(context)
        self.mode = mode
        self.pool = HttpPool(context)

    async def run(self, client: Stream | Datagrams) -> None:
        assert isinstance(client, Stream)
        settings = self.context.handler.worker.settings
        codec = H1Server(client, settings.max_head, settings.header_timeout, settings.strict)
        await codec.serve(self.handle)

    async def handle(self, inbound: Inbound) -> None:
        """One request: fill in where it goes, and run it."""
        request = inbound.request
        if self.mode is HTTPMode.regular:
            if request.raw_method == b"CONNECT" and inbound.refused is None:
                await connect.run(self, inbound)
                return
            if inbound.refused is None and not request.raw_host:
                self._direct(inbound)
            elif request.raw_authority:
                self._host_from_target(inbound)
        elif not request.raw_host:
            server = self.context.server
            if server.address is not None:
                request.raw_host, request.raw_port = server.address
            request.raw_scheme = b"https" if server.tls else b"http"
        await Exchange(self, inbound).run()

    def _direct(self, inbound: Inbound) -> None:
        """An origin-form request to a proxy: somebody typed the proxy's own address into a browser."""
        from appliance.layers.http.h1_fields import Refused

        address = self.context.client.sockname
        request = inbound.request
        request.raw_scheme = b"http"
        if address is not None:
            request.raw_host, request.raw_port = address[0], address[1]
        if request.raw_path != b"*":
            onboarding = self.context.options.onboarding_host
            inbound.refused = Refused(
                400,
                "this is a proxy, not a web server: enter it as the HTTP proxy of your device, "
                f"then open http://{onboarding}/ for its certificate",
            )

    def _host_from_target(self, inbound: Inbound) -> None:
        """In absolute form the target counts, and Host is written anew from it (RFC 9112 §3.2.2)."""
        request = inbound.request
        headers, authority = request.headers, request.raw_authority
        for name, value in headers.fields:
            if name.lower() == b"host":
                if value != authority:
                    headers["host"] = authority
                return
        headers.insert(0, "Host", authority)
