"""`lockgate flows replay`: has the running gateway send recorded requests again, and shows what comes of them."""

from __future__ import annotations

import argparse
import json
import sys

from appliance.cli import flowline, remote
from appliance.cli.flows import filter_of
from appliance.control.client import Client
from appliance.exceptions import OptionsError
from appliance.options import Options

IDLE = 1.0
"""Seconds without news after which it is asked whether any is to come."""


def replay(args: argparse.Namespace, options: Options) -> int:
    """0: all were answered; 1: one was not, or the gateway has ended. Raises LockgateError."""
    if bool(args.flows) == bool(args.matching):
        raise OptionsError("say which flows: numbers or ids, or --filter FILTER")
    with Client(remote.find(args.specs)) as gateway:
        if args.matching:
            filter_of(args.matching)
            gateway.call("commands.call", name="replay.client.file", args=[f"store:{args.matching}"])
            print("they go one after another; `lockgate tail '~replayq'` shows them", file=sys.stderr)
            return 0
        numbers = [int(one) for one in args.flows if one.isdecimal()]
        ids = [one for one in args.flows if not one.isdecimal()]
        gateway.call("flows.subscribe", filter="~replayq", events=["end"])
        waiting = set(gateway.call("flows.replay", ids=ids, numbers=numbers)["ids"])
        return _watch(gateway, waiting, args.json)


def _watch(gateway: Client, waiting: set[str], as_json: bool) -> int:
    style, failed, idle = flowline.styler(sys.stdout), False, 0
    for event in gateway.events(idle=IDLE):
        if not event:  # another client may have stopped them; what has just ended is told a moment later
            going_on = gateway.call("commands.call", name="replay.client.count", args=[])["value"]
            idle = 0 if going_on else idle + 1
            if idle == 2:
                print(f"lockgate: {len(waiting)} of them were stopped (replay.client.stop)", file=sys.stderr)
                return 1
            continue
        flow = event.get("flow")
        if flow is None:
            print("lockgate: more come than can be shown; `lockgate flows list '~replayq'` has them", file=sys.stderr)
            return 1
        if flow["id"] in waiting:
            waiting.discard(flow["id"])
            failed = failed or flow["error"] is not None
            print(json.dumps(flow) if as_json else flowline.line(flow, style), flush=True)
        if not waiting:
            return int(failed)
    print("lockgate: the gateway has ended", file=sys.stderr)
    return 1
