"""The layer stack of one connection. A layer is a coroutine over streams; nested calls are the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.connection import Server

if TYPE_CHECKING:
    from appliance.connection import Client
    from appliance.handler import ConnectionHandler
    from appliance.net.datagrams import Datagrams
    from appliance.net.stream import Stream
    from appliance.options import Options


class Context:
    """What the layers of a connection share, and what hooks such as `tls_start_client` see as `data.context`."""

    __slots__ = ("client", "handler", "layers", "options", "server")

    handler: ConnectionHandler

    def __init__(self, client: Client, options: Options, handler: ConnectionHandler | None = None) -> None:
        """Without a handler it carries nothing: for tests of add-ons."""
        self.client = client
        self.server = Server(address=None)
        self.options = options
        self.layers: list[Layer] = []
        if handler is not None:
            self.handler = handler

    def __repr__(self) -> str:
        stack = " > ".join(type(layer).__name__ for layer in self.layers)
        return f"<Context {self.client.peername} -> {self.server.address}: {stack}>"


class Layer:
    """One protocol in the stack; making it appends it to `context.layers`."""

    child_layer: Layer | None = None
    """What an add-on has put inside; None: it is decided on the bytes."""

    def __init__(self, context: Context) -> None:
        self.context = context
        context.layers.append(self)

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "_handle_event" in cls.__dict__:
            raise TypeError(
                f"{cls.__name__}: layers made for mitmproxy's event generator (_handle_event) do not run here; "
                "write `async def run(self, client)` over a Stream instead"
            )

    async def run(self, client: Stream | Datagrams) -> None:
        """Carry the connection until it is done. :raises Gone: a stream was lost and nobody here minds."""
        raise NotImplementedError
