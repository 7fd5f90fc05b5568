"""Finished flows, live, as pcapng over TCP: PCAP-over-IP, for Wireshark (`-i TCP@host:port`) and NetworkMiner."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket

from appliance import ctx
from appliance.addons.switch import Switch
from appliance.exceptions import OptionsError
from appliance.flow import Flow
from appliance.http import HTTPFlow
from appliance.io import pcapng
from appliance.log import RateLimited

logger = logging.getLogger(__name__)

MAX_CLIENTS = 16
MAX_QUEUED = 8 << 20
"""Bytes that wait for one client; a flow that has no room is left out for it, and counted."""


class PcapOverIp(Switch):
    """Listens on `pcap_over_ip`. While nobody is connected it has no hooks, so nothing is held for its sake."""

    name = "pcapoverip"

    def __init__(self) -> None:
        super().__init__()
        self.clients: dict[asyncio.StreamWriter, Count] = {}
        self.address: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._starting: asyncio.Task[None] | None = None
        self._told = RateLimited(logger, 2)

    def configure(self, updated: frozenset[str]) -> None:
        if "pcap_over_ip" not in updated:
            return
        wanted = ctx.options.pcap_over_ip
        sock = _bound(wanted) if wanted else None  # the old one stays when the new one cannot be
        self._stop()
        if sock is not None:
            self.address = sock.getsockname()[0], sock.getsockname()[1]
            self._guard(self.address, listening=True)
            self._socket = sock
            self._starting = asyncio.get_running_loop().create_task(self._start(sock))

    async def _start(self, sock: socket.socket) -> None:
        self._server = await asyncio.start_server(self._serve, sock=sock)
        assert self.address is not None
        host, port = self.address
        logger.info("decrypted flows are fed to whoever connects to %s port %d (pcap_over_ip)", host, port)
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            logger.warning("pcap_over_ip listens on %s: whoever reaches it sees everything in the clear", host)

    def _guard(self, address: tuple[str, int], listening: bool) -> None:
        """No client of the gateway may have it dialled."""
        worker = getattr(ctx.master, "worker", None)
        if worker is not None:
            (worker.guard.listening if listening else worker.guard.forget)(address)

    def running(self) -> None:
        if self.address is not None:  # there was no worker to tell before
            self._guard(self.address, listening=True)

    def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.close()
        elif self._socket is not None:
            self._socket.close()
        for writer in [*self.clients]:
            writer.transport.abort()
        if self.address is not None:
            self._guard(self.address, listening=False)
        self._server = self._starting = self._socket = self.address = None

    def done(self) -> None:
        self._stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        if len(self.clients) >= MAX_CLIENTS:
            logger.warning("pcap_over_ip: %s is refused, %d clients are connected", peer, len(self.clients))
            writer.close()
            return
        count = Count()
        writer.write(pcapng.header())
        self.clients[writer] = count
        try:
            if not self.addons:
                self.use(Feed(self))
            logger.info("pcap_over_ip: %s has connected", peer)
            while await reader.read(4096):  # it has nothing to say; this tells when it goes
                pass
        except OSError:
            pass
        finally:
            del self.clients[writer]
            if not self.clients:
                self.use(None)
            writer.close()
            logger.info("pcap_over_ip: %s has left: %d flows sent, %d left out", peer, count.sent, count.dropped)

    def feed(self, flow: Flow) -> None:
        """To every client that has room for it."""
        try:
            data = b"".join(pcapng.packets(flow))
        except Exception:  # an add-on may have put anything into a flow
            logger.exception("pcap_over_ip: flow %s cannot be written as packets", flow.id)
            return
        if not data:
            return
        for writer, count in self.clients.items():
            queued = writer.transport.get_write_buffer_size()
            if queued and queued + len(data) > MAX_QUEUED:
                count.dropped += 1
                self._told.log(logging.WARNING, "slow", "pcap_over_ip: %s reads too slowly: %d flows left out so far",
                               writer.get_extra_info("peername"), count.dropped)  # fmt: skip
            else:
                count.sent += 1
                writer.write(data)


class Count:
    """Flows of one client."""

    def __init__(self) -> None:
        self.sent = self.dropped = 0


class Feed:
    """There while somebody is connected. Bodies and messages are needed, as by any add-on with these hooks."""

    name = "pcapoverip feed"

    def __init__(self, owner: PcapOverIp) -> None:
        self._feed = owner.feed

    def request(self, flow: HTTPFlow) -> None:
        """So that its body is there."""

    def response(self, flow: HTTPFlow) -> None:
        if flow.websocket is None:
            self._feed(flow)

    def error(self, flow: HTTPFlow) -> None:
        self._feed(flow)

    def websocket_end(self, flow: HTTPFlow) -> None:
        self._feed(flow)

    def tcp_message(self, flow: Flow) -> None:
        """So that there are messages."""

    def tcp_end(self, flow: Flow) -> None:
        self._feed(flow)

    def tcp_error(self, flow: Flow) -> None:
        self._feed(flow)

    def udp_message(self, flow: Flow) -> None:
        """So that there are messages."""

    def udp_end(self, flow: Flow) -> None:
        self._feed(flow)

    def udp_error(self, flow: Flow) -> None:
        self._feed(flow)

    def dns_response(self, flow: Flow) -> None:
        self._feed(flow)

    def dns_error(self, flow: Flow) -> None:
        self._feed(flow)


def _bound(text: str) -> socket.socket:
    """A listening socket on [HOST:]PORT; loopback without a host. :raises OptionsError: there cannot be one."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError
    except ValueError:
        raise OptionsError(f"pcap_over_ip: {text!r} is not [ADDRESS:]PORT, such as 57012 or 127.0.0.1:57012") from None
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise OptionsError(f"pcap_over_ip: cannot listen on {text}: {error.strerror}") from None
