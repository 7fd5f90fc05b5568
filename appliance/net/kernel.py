"""Netlink by pyroute2, in a thread of its own with its own event loop; the gateway's loop awaits the answers.

pyroute2's synchronous calls run a loop themselves and its asynchronous ones open netlink as datagram endpoints, which
uvloop does not have: so neither may run on the gateway's loop. Single look-ups in connection tracking, which every
redirected UDP flow needs, are in net/conntrack.py instead.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from appliance.exceptions import LockgateError

T = TypeVar("T")

SECONDS = 5.0
"""What one question may take."""
MAX_WAITING = 64
"""Questions at once."""
_UP = 1  # IFF_UP
_NO_NEIGHBOUR = 0x01 | 0x20  # NUD_INCOMPLETE, NUD_FAILED
_FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}


class KernelError(LockgateError):
    """The kernel refused, did not answer in time, or lacks something. errno: 0 where there is none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.errno = code


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. kind: "" for hardware, else veth, bridge, wireguard, ..."""

    index: int
    name: str
    mtu: int
    up: bool
    mac: str
    kind: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address of this host, a literal without scope. interface: the link's index."""

    interface: int
    address: str
    prefix: int
    version: int


class Kernel:
    """Its thread starts with the first question and sees the network namespace of whoever asked it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._closed = False

    async def links(self) -> list[Link]:
        """All interfaces. :raises KernelError: as it says."""
        return await self.ask("interfaces", _links)

    async def addresses(self) -> list[Assigned]:
        """All addresses of this host, IPv4 and IPv6. :raises KernelError: as it says."""
        return await self.ask("addresses", _addresses)

    async def mac(self, address: str) -> str | None:
        """The hardware address of a neighbour (a literal), None when it is not known. :raises KernelError: as it says.

        A client behind another router has none.
        """
        return await self.ask("the neighbour table", lambda: _mac(address.partition("%")[0]))

    async def flush_marked(self, mark: int, mask: int = 0xFFFFFFFF) -> None:
        """Forget the tracked connections of this mark, so that what flows on is judged anew. :raises KernelError: as it
        says; needs CAP_NET_ADMIN.
        """
        await self.ask("connection tracking", lambda: _flush(mark, mask))

    async def count_marked(self, mark: int, mask: int = 0xFFFFFFFF) -> int:
        """How many of this mark there are; IPv4 and IPv6. :raises KernelError: as it says; needs CAP_NET_ADMIN."""
        return await self.ask("connection tracking", lambda: _count(mark, mask))

    async def forget(self, protocol: int, source: tuple[str, int], destination: tuple[str, int]) -> bool:
        """Forget one tracked connection, by how it began; False: there is none. :raises KernelError: as it says."""
        return await self.ask("connection tracking", lambda: _forget(protocol, source, destination))

    def close(self) -> None:
        """End the thread; idempotent. Questions under way fail."""
        self._closed = True
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(SECONDS)

    async def ask(self, what: str, question: Callable[[], Coroutine[Any, Any, T]], seconds: float | None = None) -> T:
        """A question of one's own, as a coroutine that runs in the thread. what: its subject, for the error. seconds:
        what it may take, if more than SECONDS. :raises KernelError: as it says.
        """
        if self._closed:
            raise KernelError(f"{what}: the gateway is shutting down")
        if self._waiting >= MAX_WAITING:
            raise KernelError(f"{what}: {self._waiting} questions wait for the kernel already", errno.EBUSY)
        if self._loop is None:
            self._loop = asyncio.SelectorEventLoop()
            self._thread = threading.Thread(target=_serve, args=[self._loop], name="netlink", daemon=True)
            self._thread.start()
        self._waiting += 1
        seconds = SECONDS if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(question(), self._loop))
        except TimeoutError:
            raise KernelError(f"{what}: the kernel did not answer within {seconds:g} s", errno.ETIMEDOUT) from None
        except asyncio.CancelledError:
            if self._closed:
                raise KernelError(f"{what}: the gateway is shutting down") from None
            raise
        except LockgateError:
            raise
        except Exception as e:  # NetlinkError is no OSError, and pyroute2 raises others too
            code = getattr(e, "code", None) or getattr(e, "errno", None) or 0
            raise KernelError(_told(what, code, e), code) from None
        finally:
            self._waiting -= 1


def _told(what: str, code: int, error: Exception) -> str:
    if code in (errno.EPERM, errno.EACCES):
        return f"{what}: not permitted; run as root, or with CAP_NET_ADMIN"
    if what == "connection tracking" and code in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
        return f"{what}: this kernel cannot be asked ({os.strerror(code)}); load the module nf_conntrack_netlink"
    return f"{what}: {os.strerror(code) if code > 0 else error or type(error).__name__}"


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()


# -- in the thread; pyroute2 takes a third of a second to import, so not before it is needed


async def _links() -> list[Link]:
    from pyroute2 import AsyncIPRoute

    async with AsyncIPRoute() as ip:
        found = []
        async for link in await ip.get_links():
            info = link.get_attr("IFLA_LINKINFO")
            found.append(
                Link(
                    link["index"],
                    link.get_attr("IFLA_IFNAME"),
                    link.get_attr("IFLA_MTU"),
                    bool(link["flags"] & _UP),
                    link.get_attr("IFLA_ADDRESS") or "",
                    (info and info.get_attr("IFLA_INFO_KIND")) or "",
                )
            )
        return found


async def _addresses() -> list[Assigned]:
    from pyroute2 import AsyncIPRoute

    async with AsyncIPRoute() as ip:
        return [
            # On a point-to-point link IFA_ADDRESS is the peer's.
            Assigned(
                one["index"],
                one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS"),
                one["prefixlen"],
                _FAMILIES[one["family"]],
            )
            async for one in await ip.get_addr()
            if one["family"] in _FAMILIES
        ]


async def _mac(address: str) -> str | None:
    from pyroute2 import AsyncIPRoute

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    mac: str | None = None
    async with AsyncIPRoute() as ip:
        async for one in await ip.get_neighbours(family=family):
            if one.get_attr("NDA_DST") == address and not one["state"] & _NO_NEIGHBOUR:
                mac = one.get_attr("NDA_LLADDR") or mac
    return mac


async def _flush(mark: int, mask: int) -> None:
    from pyroute2.netlink.nfnetlink.nfctsocket import AsyncNFCTSocket

    if not mark:  # the library would leave it out, and all would be forgotten
        raise KernelError("connection tracking: mark 0 stands for connections that are not ours")
    async with AsyncNFCTSocket() as tracking:
        await tracking.flush(mark=mark, mark_mask=mask)


async def _count(mark: int, mask: int) -> int:
    from pyroute2.netlink.nfnetlink.nfctsocket import AsyncNFCTSocket

    count = 0
    for family in _FAMILIES:
        async with AsyncNFCTSocket(nfgen_family=family) as tracking:
            async for _ in await tracking.dump(mark=mark, mark_mask=mask):
                count += 1
    return count


async def _forget(protocol: int, source: tuple[str, int], destination: tuple[str, int]) -> bool:
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import AsyncNFCTSocket, NFCTAttrTuple

    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    entry = NFCTAttrTuple(
        family=family,
        saddr=source[0],
        daddr=destination[0],
        proto=protocol,
        sport=source[1],
        dport=destination[1],
    )
    async with AsyncNFCTSocket(nfgen_family=family) as tracking:
        try:
            await tracking.entry("del", tuple_orig=entry)
        except NetlinkError as e:
            if e.code == errno.ENOENT:
                return False
            raise
    return True
