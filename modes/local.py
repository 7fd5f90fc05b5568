"""`local`: the traffic of one program, started by `lockgate exec` in an interception namespace of its own. Its gateway
is in that process (`Local`), or is another that runs already (`Joined`).

    program's namespace             interception namespace          the gateway, in the host's
    eth0 192.0.0.2, default via ── lg0 192.0.0.1, TPROXY ── sockets ── accepts here, and dials from here

The addresses are of RFC 6333's 192.0.0.0/29, which no server has.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from modes.inside import Inside
from modes.netns import Namespace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.arrival import Arrive, Host
    from appliance.connection import Address, Client
    from appliance.device import Device
    from modes.spec import ModeSpec

WIRE = "lg0"
PROGRAM_SECONDS = 30.0
_NET6 = "fd6c:6f63:6b67::"
_LINK4 = (
    f"link add {WIRE} type veth peer name eth0 netns PID",
    f"addr add 192.0.0.1/30 dev {WIRE}",
    f"link set {WIRE} up",
)
_SETUP4 = ("addr add 192.0.0.2/30 dev eth0", "link set eth0 up", "route add default via 192.0.0.1")
_LINK6 = (f"addr add {_NET6}1/126 dev {WIRE} nodad",)
_SETUP6 = (f"addr add {_NET6}2/126 dev eth0 nodad", f"route add ::/0 via {_NET6}1")
DNS = ("192.0.0.5", f"{_NET6}5")


class Wire:
    """A namespace for one program, and the program. inherited: descriptors, besides the first three, that it has."""

    def __init__(self, namespace: Namespace, inherited: Sequence[int]) -> None:
        self.namespace = namespace
        self._inherited = inherited
        self._six = "udp6" in namespace.listeners

    @classmethod
    async def open(cls, inherited: Sequence[int]) -> Wire:
        """The descriptors are closed here. :raises ModeError: it cannot be."""
        namespace = await Namespace.open(WIRE, stdio=True, keep=inherited)
        for fd in inherited:
            os.close(fd)
        return cls(namespace, inherited)

    def ready(self, want: Mapping[str, Any]) -> tuple[list[str], list[socket.socket]]:
        """Namespaces and wire for a program (see `netns.program.Program`). Returns what it could not be given, and the
        listeners at its loopback, which are the caller's. :raises ModeError: it cannot be.
        """
        asked = {
            **want,
            "link": [*_LINK4, *(_LINK6 if self._six else ())],
            "setup": [*_SETUP4, *(_SETUP6 if self._six else ())],
        }
        said, fds = self.namespace.ask({"program": asked, "keep": list(self._inherited)}, PROGRAM_SECONDS)
        return list(said["notes"]), [socket.socket(fileno=fd) for fd in fds]

    def packets(self) -> socket.socket:
        """A packet socket of all that goes over the wire, which `ready` has laid. :raises ModeError: there is none."""
        _, (fd,) = self.namespace.ask({"capture": WIRE})
        return socket.socket(fileno=fd)

    def go(self) -> None:
        """Execute it. :raises ModeError: there is no such program."""
        self.namespace.ask({"go": True}, PROGRAM_SECONDS)


class Local(Inside):
    """The mode of a gateway that runs for one program."""

    dns = DNS
    wire: Wire

    def __init__(self, spec: ModeSpec, host: Host, inherited: Sequence[int]) -> None:
        super().__init__(spec, host, "", None)
        self._inherited = inherited

    async def start(self, arrive: Arrive) -> list[Address]:
        self.wire = await Wire.open(self._inherited)
        self.occupy(self.wire.namespace, arrive)
        self.host.portal(self.dns)
        return []


class Joined(Inside):
    """A program's namespace that another process keeps and has joined us with. device: how flows are told apart."""

    dns = DNS

    def __init__(self, spec: ModeSpec, host: Host, namespace: Namespace, device: Device) -> None:
        super().__init__(spec, host, "", None)
        self._adopted = namespace
        self._device = device

    async def start(self, arrive: Arrive) -> list[Address]:
        self.occupy(self._adopted, arrive)
        return []

    def device(self, client: Client) -> Device | None:
        return self._device

    def facts(self) -> dict[str, Any]:
        return {"program": self._device.name}

    def _ended(self) -> None:
        """Who has joined tells us by leaving."""
