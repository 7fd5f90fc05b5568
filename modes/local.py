"""`local`: the traffic of one program, started by `lockgate exec` in an interception namespace of its own.

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
    from appliance.connection import Address
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


class Local(Inside):
    """One namespace for one program. inherited: descriptors, besides the first three, that the program is to have."""

    dns = ("192.0.0.5", f"{_NET6}5")

    def __init__(self, spec: ModeSpec, host: Host, inherited: Sequence[int]) -> None:
        super().__init__(spec, host, "", None)
        self.inherited = inherited
        self.pid = 0

    async def start(self, arrive: Arrive) -> list[Address]:
        namespace = await Namespace.open(WIRE, stdio=True, keep=self.inherited)
        for fd in self.inherited:
            os.close(fd)
        self.occupy(namespace, arrive)
        return []

    def ready(self, want: Mapping[str, Any]) -> list[str]:
        """Namespaces and wire for a program (see `netns.program.Program`). Returns what it could not be given.

        :raises ModeError: it cannot be.
        """
        assert self.namespace is not None
        six = len(self.datagrams) > 1
        asked = {
            **want,
            "link": [*_LINK4, *(_LINK6 if six else ())],
            "setup": [*_SETUP4, *(_SETUP6 if six else ())],
        }
        said, fds = self.namespace.ask({"program": asked, "keep": list(self.inherited)}, PROGRAM_SECONDS)
        self.pid = said["program"]
        for fd in fds:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self.listen(sock)
        return list(said["notes"])

    def packets(self) -> socket.socket:
        """A packet socket of all that goes over the wire, which `ready` has laid. :raises ModeError: there is none."""
        assert self.namespace is not None
        _, (fd,) = self.namespace.ask({"capture": WIRE})
        return socket.socket(fileno=fd)

    def go(self) -> None:
        """Execute it. :raises ModeError: there is no such program."""
        assert self.namespace is not None
        self.namespace.ask({"go": True}, PROGRAM_SECONDS)
