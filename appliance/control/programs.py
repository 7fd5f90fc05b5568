"""Methods of `lockgate exec --join`: a program's namespace, made by another process, whose traffic becomes ours.

It stays ours until that process closes its connection.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import TYPE_CHECKING, Any

from appliance.control.methods import method
from appliance.control.protocol import ControlError
from appliance.device import Device

if TYPE_CHECKING:
    from appliance.control.server import Session
    from modes.live import Running

logger = logging.getLogger(__name__)

LISTENERS = ("tcp4", "udp4", "tcp6", "udp6")
MOST_LISTENERS = 64
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@method("program.join", program="text", pid="count", listeners="texts")
async def join(session: Session, program: str, pid: int, listeners: list[str]) -> dict[str, Any]:
    """Takes descriptors: the namespace's helper, then its listeners, as they are named."""
    from modes.local import Joined
    from modes.netns import Namespace
    from modes.spec import ModeSpec

    if len(set(listeners)) < len(listeners):
        raise ControlError("bad_params", "a listener is named twice")
    if unknown := set(listeners) - set(LISTENERS):
        raise ControlError("bad_params", f"no listener is called {min(unknown)[:100]!r}", ", ".join(LISTENERS))
    if session.joined is not None:
        raise ControlError("refused", "one program has joined by this connection", "connect once more")
    gateway = session.server.gateway
    control, *socks = await _sockets(session, 1 + len(listeners))
    name = _NOT_IN_A_NAME.sub("_", program.rpartition("/")[2])[:32] or "program"
    device = Device(f"{name}-{pid}")
    namespace = Namespace.adopt(control, dict(zip(listeners, socks, strict=True)))
    mode = Joined(ModeSpec.parse("local"), gateway.worker, namespace, device)
    one = await gateway.live.join(mode)
    if session.transport.is_closing():
        await gateway.live.leave(one)
        raise ControlError("failed", "the program has gone")
    session.joined = one
    session.ends.append(lambda: _leave(session, one))
    logger.info("%s has joined over the control socket, by %s", device.name, session.who)
    return {"device": device.name, "certificate": gateway.worker.ca.pem.decode()}


@method("program.listen", count="count")
async def listen(session: Session, count: int) -> dict[str, Any]:
    """Takes descriptors: listeners at the loopback of the program that has joined."""
    from modes.local import Joined

    one = session.joined
    if one is None or not isinstance(one.mode, Joined):
        raise ControlError("refused", "no program has joined by this connection", "program.join comes first")
    if not 0 < count <= MOST_LISTENERS:
        raise ControlError("bad_params", f"count should be 1 to {MOST_LISTENERS}")
    one.mode.take(await _sockets(session, count))
    return {}


async def _sockets(session: Session, count: int) -> list[socket.socket]:
    """Raises ControlError: they do not come, or are none; then none is left open."""
    descriptors = await session.descriptors(count)
    socks: list[socket.socket] = []
    try:
        for fd in descriptors:
            socks.append(socket.socket(fileno=fd))
    except OSError as error:
        for sock in socks:
            sock.close()
        for fd in descriptors[len(socks) :]:
            os.close(fd)
        raise ControlError("bad_request", f"a descriptor that came is no socket: {error.strerror}") from None
    return socks


def _leave(session: Session, one: Running) -> None:
    server = session.server
    task = server.loop.create_task(server.gateway.live.leave(one), name="a program has left")
    server.leaving.add(task)
    task.add_done_callback(server.leaving.discard)
