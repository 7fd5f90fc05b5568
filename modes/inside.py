"""What the modes with an interception namespace have in common: listeners that live in there, and a name server."""

from __future__ import annotations

import logging
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from appliance.arrival import Arrival
from appliance.layers.dns import DNSLayer
from appliance.layers.modes import TransparentProxy
from appliance.net.dial import has_route
from modes.base import TcpMode, Unwanted
from modes.udp import UdpListener

if TYPE_CHECKING:
    from appliance.arrival import Arrive, Host
    from appliance.connection import Address, Client
    from appliance.device import Device
    from appliance.layers.base import Context, Layer
    from appliance.net.datagrams import SharedDatagrams
    from appliance.net.stream import Stream
    from modes.netns import Namespace
    from modes.spec import ModeSpec

logger = logging.getLogger(__name__)

DNS_PORT = 53


class Inside(TcpMode):
    """Every connection and datagram in the namespace is ours, with its original destination.

    dns: addresses at which we are a name server, and the portal is reached by its name.
    """

    dns: tuple[str, ...] = ()

    def __init__(self, spec: ModeSpec, host: Host, listen_host: str, listen_port: int | None) -> None:
        super().__init__(spec, host, listen_host, listen_port)
        self.namespace: Namespace | None = None
        self.datagrams: list[UdpListener] = []
        self._opened: set[Address] = set()
        self._stopping = False

    @staticmethod
    def top(context: Context) -> Layer:
        return TransparentProxy(context)

    def name_server(self, context: Context) -> Layer:
        """The bottom of the stack for what is sent to `dns`."""
        return DNSLayer(context, lambda address: address in self.dns or has_route(address))

    def device(self, client: Client) -> Device | None:
        """Who that is."""
        return None

    def occupy(self, namespace: Namespace, arrive: Arrive) -> None:
        """Accept what comes to the namespace's listeners."""
        self.namespace = namespace
        self._arrive = arrive
        namespace.ended = self._ended
        for name, sock in namespace.listeners.items():
            if name.startswith("tcp"):
                self.listen(sock)
            else:
                listener = InsideListener(self, arrive, namespace)
                listener.adopt(sock)
                self.datagrams.append(listener)
        namespace.listeners.clear()

    def listen(self, sock: socket.socket) -> None:
        """Accept on one more TCP listener."""
        self._listeners.append(sock)
        self.host.net.loop.add_reader(sock.fileno(), self._accept, sock)

    def take(self, loopback: list[socket.socket]) -> None:
        """Accept on further listeners, which are ours from now on: to them this host's loopback answers."""
        for sock in loopback:
            self._opened.add(sock.getsockname()[:2])
            sock.setblocking(False)
            self.listen(sock)

    def _ended(self) -> None:
        if not self._stopping:
            logger.error(
                "%s: the helper process of its namespace was killed; nothing new comes from there until a restart",
                self.spec.full_spec,
            )

    def wanted(self, sock: socket.socket, peer: Address) -> Address | None:
        host, port, *_ = sock.getsockname()
        if (host, port) not in self._opened and (why := self.refuses((host, port))):
            raise Unwanted(why)
        return host, port

    def refuses(self, wanted: Address) -> str:
        """Why no connection and no datagram is carried there; "": it is.

        What is no packet's destination in the namespace may be this host's loopback for a socket of ours: so is
        ::ffff:127.0.0.1, which the kernel takes for IPv6 when it comes, and for IPv4 when it is dialled.
        """
        address = ip_address(wanted[0].partition("%")[0])
        if address.is_loopback or address.is_unspecified or getattr(address, "ipv4_mapped", None):
            return f"{wanted[0]} is nobody's address on a network, and not served"
        return ""

    def arrival(self, client: Client, stream: Stream | SharedDatagrams, wanted: Address | None) -> Arrival:
        client.device = self.device(client)
        if wanted is not None and wanted[1] == DNS_PORT and wanted[0] in self.dns:
            return Arrival(client, stream, None, self.spec.full_spec, self.name_server)
        return Arrival(client, stream, wanted, self.spec.full_spec, self.top)

    async def stop(self) -> None:
        self._stopping = True
        await super().stop()
        for listener in self.datagrams:
            listener.close()
        self.datagrams.clear()
        if self.namespace is not None:
            self.namespace.close()
            await self.namespace.gone()
            self.namespace = None


class InsideListener(UdpListener):
    """UDP in the namespace."""

    def __init__(self, mode: Inside, arrive: Arrive, namespace: Namespace) -> None:
        super().__init__(mode.spec, mode.host, mode.top, arrive, namespace)
        self._mode = mode

    def refuses(self, wanted: Address) -> str:
        return self._mode.refuses(wanted)

    def arrival(self, client: Client, flow: SharedDatagrams, wanted: Address) -> Arrival:
        return self._mode.arrival(client, flow, wanted)
