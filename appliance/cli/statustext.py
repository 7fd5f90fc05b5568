"""`lockgate status` for people."""

from __future__ import annotations

from typing import Any

from appliance.human import format_address, pretty_duration, pretty_size
from appliance.log import escape

SLOW_SECONDS = 0.1
"""A hook that ever held the loop as long is shown."""
BEAT_SECONDS = 2.5
"""Without a heartbeat for so long the redirect is off, or soon will be."""


def text(status: dict[str, Any]) -> str:
    """Several lines."""
    connections, flows, dropped, memory = (status[name] for name in ("connections", "flows", "dropped", "memory"))
    lines = [
        f"lockgate {status['version']} runs: process {status['pid']}, up {_duration(status['uptime'])}, "
        f"{escape(status['confdir'])}",
        *(f"  {mode_line(mode)}" for mode in status["modes"]),
        f"  connections  {connections['open']:,} open of at most {connections['limit']:,}; {connections['total']:,} "
        f"in all, {connections['passed']:,} passed, {connections['blocked']:,} blocked",
        f"  flows        {flows['total']:,}, {flows['errors']:,} failed"
        + (f"; {flows['held']:,} held: `lockgate intercepted`" if flows["held"] else ""),
        f"  memory       {pretty_size(memory['resident'])}, {pretty_size(memory['peak'])} at most",
    ]
    for script in status["scripts"]:
        lines.append(f"  script       {escape(script['path'])}{'' if script['loaded'] else ': not loaded'}")
    for hook in status["hooks"]:
        if hook["errors"] or hook["longest"] >= SLOW_SECONDS:
            failed = f", {hook['errors']} errors" if hook["errors"] else ""
            lines.append(
                f"  hook         {escape(hook['addon'])} {hook['event']}: {pretty_duration(hook['longest'])} "
                f"at most{failed}"
            )
    lines += _store(status["store"])
    if dropped["events"]:
        lines.append(f"  dropped      {dropped['events']:,} events, for clients that read too slowly")
    if dropped["flow_files"]:
        lines.append(f"  lost         {dropped['flow_files']:,} flows that save_stream_file could not write")
    return "\n".join(lines)


def _store(store: dict[str, Any] | None) -> list[str]:
    if store is None:
        return ["  store        flows are not recorded (store=false)"]
    lines = [
        f"  store        {store['flows']:,} flows recorded, {pretty_size(store['bytes'])}, in {escape(store['folder'])}"
    ]
    if store["fault"]:
        lines.append(f"               cannot be written now: {escape(store['fault'])}; {_waiting(store['waiting'])}")
    if store["dropped"]:
        lines.append(f"               {store['dropped']:,} flows could not be recorded and are lost")
    return lines


def _waiting(size: int) -> str:
    return f"{pretty_size(size)} wait in memory" if size else "nothing waits"


def mode_line(mode: dict[str, Any]) -> str:
    """Where a mode listens, and how its redirect is."""
    where = ", ".join(format_address(address) for address in mode["addresses"])
    firewall = mode["firewall"]
    said = f"{escape(mode['spec'])}{'  on ' if where else ''}{where}{_facts(mode['facts'])}"
    if firewall is None:
        return said
    beat = firewall["heartbeat"]
    state = "" if beat is None else ", beating" if beat < BEAT_SECONDS else f", no heartbeat for {beat:.0f} s"
    return f"{said}; redirect laid ({firewall['backend']}, {firewall['method']}{state})"


def _facts(facts: dict[str, Any]) -> str:
    found = []
    for name, value in facts.items():
        if isinstance(value, dict):
            counts = ", ".join(f"{count:,} {escape(what)}" for what, count in value.items() if count)
            found += [f"{name} {counts}"] if counts else []
        else:
            found.append(f"{name} {escape(str(value))}")
    return "; ".join(["", *found])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.0f} s"
