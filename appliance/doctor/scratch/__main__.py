"""The gateway's side of the self-test; see the package. Reads the plans to be tried (rules.Plans) as JSON. Prints
{"features": …, "combinations": […]} or {"error": …}.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from typing import Any

from appliance.doctor.scratch import client, features, isolation, rules, wire
from appliance.doctor.scratch.listener import Listener

ASKED = {4: "203.0.113.7", 6: "2001:db8::7"}
"""Documentation addresses: nobody has them, so who answers is the listener."""
PORT = 443


def main() -> None:
    isolation.die_with(int(sys.argv[1]))
    plans = json.load(sys.stdin)
    try:
        isolation.leave()
    except OSError as error:
        print(json.dumps({"error": error.strerror or str(error)}))
        return
    found = features.all_tried()
    try:
        combinations = end_to_end(plans)
    except Exception as error:  # whatever it is, the features are known
        print(json.dumps({"features": found, "combinations": [], "error": f"{type(error).__name__}: {error}"}))
        return
    print(json.dumps({"features": found, "combinations": combinations}))


def end_to_end(plans: rules.Plans) -> list[dict[str, Any]]:
    """Every combination of tool, method, protocol and family: does the client's message come back, and do we know
    where it was going?"""
    ours, theirs = multiprocessing.Pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        client.serve(theirs, parent)
    theirs.close()
    ours.recv()
    wire.gateway_end(pid)
    ours.send("go on")
    ours.recv()
    listener = Listener()
    return [
        {"tool": tool, "method": method, "protocol": protocol, "family": int(family),
         "error": one(ours, listener, steps, method, protocol, int(family))}
        for tool, methods in plans.items() for method, families in methods.items()
        for protocol in ("tcp", "udp") for family, steps in families.items()
    ]  # fmt: skip


def one(channel: Any, listener: Listener, steps: Any, method: str, protocol: str, family: int) -> str:
    """ "" if it works, else what does not."""
    try:
        if problem := rules.lay(steps):
            return problem
        listener.drain()
        channel.send((protocol, ASKED[family], PORT))
        found, problem = listener.take(protocol, family, method)
        heard = json.loads(channel.recv())
    finally:
        rules.take_away(steps)
    if problem or heard:
        return str(problem or heard)
    if found != (ASKED[family], PORT):
        return f"the original destination is lost: {found} instead of {(ASKED[family], PORT)}"
    return ""


if __name__ == "__main__":
    main()
