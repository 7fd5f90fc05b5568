"""How the gateway is: the method `status`."""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING, Any

from appliance import __version__
from appliance.control.protocol import PROTOCOL
from appliance.home import expanded

if TYPE_CHECKING:
    from appliance.control.server import ControlServer
    from appliance.gateway import Gateway

_LIFE = ("load", "configure", "running", "done")
DEAREST = 10
"""Hooks that are listed."""


def status(server: ControlServer) -> dict[str, Any]:
    """Counts are since the start, times in seconds, sizes in bytes."""
    gateway = server.gateway
    worker = gateway.worker
    totals = worker.totals
    subscriptions = [one for session in server.sessions for one, _ in session.subscriptions.values()]
    return {
        "version": __version__,
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "confdir": str(expanded(gateway.options.confdir).absolute()),
        "started": time.time() - gateway.uptime,
        "uptime": gateway.uptime,
        "modes": modes(gateway),
        "connections": {
            "open": len(worker.handlers),
            "limit": worker.limit(),
            "total": totals.connections,
            "passed": totals.passed,
            "blocked": totals.blocked,
        },
        "flows": {"total": totals.flows, "errors": totals.errors, "held": len(worker.held)},
        "scripts": [
            {"path": str(script.path), "loaded": script.module is not None}
            for script in gateway.addons.get("scriptloader").scripts
        ],
        "hooks": hooks(gateway),
        "store": store(gateway),
        "dropped": {
            "events": server.dropped + sum(one.lost for one in subscriptions),
            "flow_files": _lost_in_files(gateway),
        },
        "memory": memory(),
        "clients": len(server.sessions),
        "subscriptions": len(subscriptions),
    }


def modes(gateway: Gateway) -> list[dict[str, Any]]:
    """Those that run."""
    return [one.status() for one in gateway.live]


def hooks(gateway: Gateway) -> list[dict[str, Any]]:
    """Those of traffic, the dearest first. Calls and totals are counted with the option hook_profile alone, and null
    without.
    """
    profile = gateway.hooks.profile
    called = [one for one in gateway.hooks.listeners() if (one.longest or one.errors) and one.event not in _LIFE]
    called.sort(key=lambda one: -(one.total if profile else one.longest))
    return [
        {
            "addon": one.addon,
            "event": one.event,
            "longest": one.longest,
            "errors": one.errors,
            "calls": one.count if profile else None,
            "total": one.total if profile else None,
        }
        for one in called[:DEAREST]
    ]


def store(gateway: Gateway) -> Any:
    """What the flow store says of itself; null without one."""
    from appliance.control.methods import plain

    found = getattr(gateway.addons.get("store"), "status", None) or getattr(
        getattr(gateway, "store", None), "status", None
    )
    return plain(found()) if callable(found) else None


def _lost_in_files(gateway: Gateway) -> int:
    """Flows that save_stream_file could not write."""
    saver = gateway.addons.get("save")
    return sum(getattr(one, "lost", 0) for one in getattr(saver, "addons", ()))


def memory() -> dict[str, int]:
    """Resident now, and at most so far."""
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return {"resident": resident, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
