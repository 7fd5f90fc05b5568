"""Carries datagrams between UDP sockets and a WireGuard device, and packets between that and a TUN descriptor.

One recvfrom, one write: what GRO, GSO and TUN's offloads would save was within the noise on a quiet machine
(docs/decisions/wireguard.md).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from appliance.log import RateLimited

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from modes.wireguard.device import Device

logger = logging.getLogger(__name__)

AT_ONCE = 64
"""Datagrams or packets taken in one turn of the loop, so that a flood does not starve connections."""
NO_ROOM = "no room, or no route"
TICK_SECONDS = 0.25
BUFFER = 4 << 20
_AROUND = 512
"""Header, padding and tag; and a peer may have a larger MTU than we."""
MOST_SEGMENTS = 44
"""Of 1452 bytes, what fits into one of UDP's 65507 (and the kernel takes 64)."""
_UDP_SEGMENT = 103
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class Tunnel:
    """tick: called on the loop, a few times a second, after the device's own. What finds no room is counted there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        device: Device,
        tun: int,
        sockets: Sequence[socket.socket],
        mtu: int,
        tick: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._device = device
        self._tun = tun
        self._sockets = {sock.family: sock for sock in sockets}
        self._tick = tick
        self._warn = RateLimited(logger, 2)
        self._segments = True
        self._packet = mtu  # not more: Python makes room for all that could come before it reads
        self._datagram = mtu + _AROUND
        for sock in sockets:
            loop.add_reader(sock.fileno(), self._from_network, sock)
        loop.add_reader(tun, self._from_tun)
        self._timer = loop.call_later(TICK_SECONDS, self._ticked)

    def close(self) -> None:
        """Stop; the descriptors are the caller's, but for the sockets."""
        self._timer.cancel()
        self._loop.remove_reader(self._tun)
        for sock in self._sockets.values():
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _from_network(self, sock: socket.socket) -> None:
        receive, recvfrom, write, tun = self._device.receive, sock.recvfrom, os.write, self._tun
        largest, now = self._datagram, self._loop.time()
        try:
            for _ in range(AT_ONCE):
                data, source = recvfrom(largest)
                packet = receive(data, source, now)
                if packet is not None:
                    try:
                        write(tun, packet)
                    except OSError:  # its queue is full, or the packet is none to the kernel
                        self._device.counted[NO_ROOM] += 1
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as e:  # ICMP's answer to something sent earlier
            if e.errno != errno.ECONNREFUSED:
                self._warn.log(logging.WARNING, e.errno, "WireGuard: %s", e.strerror)
        if self._device.out:
            self.flush()

    def _from_tun(self) -> None:
        send, read, tun = self._device.send, os.read, self._tun
        largest, now = self._packet, self._loop.time()
        try:
            for _ in range(AT_ONCE):
                send(read(tun, largest), now)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as e:
            self._warn.log(logging.ERROR, e.errno, "WireGuard: the TUN device: %s", e.strerror)
            self._loop.remove_reader(tun)
        if self._device.out:
            self.flush()

    def flush(self) -> None:
        """Send what the device has to send; neighbours of one size to one peer in one call (UDP_SEGMENT)."""
        out, self._device.out = self._device.out, []
        sockets = self._sockets
        count, first = len(out), 0
        while first < count:
            data, to = out[first]
            sock = sockets.get(socket.AF_INET6 if len(to) == 4 else socket.AF_INET)
            size, last = len(data), first + 1
            while last < count and last - first < MOST_SEGMENTS and out[last][1] is to and len(out[last][0]) <= size:
                last += 1
                if len(out[last - 1][0]) < size:
                    break  # a shorter one ends it
            try:
                if sock is None:
                    self._device.counted[NO_ROOM] += 1
                elif last - first == 1:
                    sock.sendto(data, to)
                elif self._segments:
                    how = ((socket.IPPROTO_UDP, _UDP_SEGMENT, size.to_bytes(2, sys.byteorder)),)
                    sock.sendmsg([one for one, _ in out[first:last]], how, 0, to)
                else:
                    for one, _ in out[first:last]:
                        sock.sendto(one, to)
            except OSError as e:  # no room, no route for now: as on any network
                if e.errno in (errno.EIO, errno.EINVAL) and last - first > 1 and self._segments:
                    self._segments = False  # the interface cannot do checksums
                    continue
                self._device.counted[NO_ROOM] += last - first
            first = last

    def _ticked(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._ticked)
        self._device.tick(self._loop.time())
        self._tick()
        if self._device.out:
            self.flush()


def bind(addresses: Sequence[tuple[int, str]], port: int) -> list[socket.socket]:
    """A UDP socket for each (family, host), all at one port (0: any). :raises OSError: with the host as `filename`."""
    found: list[socket.socket] = []
    try:
        for family, host in addresses:
            try:
                sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError:
                continue  # a host without IPv6
            found.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
                try:
                    sock.setsockopt(socket.SOL_SOCKET, force, BUFFER)
                except OSError:
                    sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
            try:
                sock.bind((host, port))
            except OSError as e:
                if len(found) > 1 and e.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    found.pop().close()
                    continue  # no IPv6 here
                e.filename = host
                raise
            port = sock.getsockname()[1]
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found
