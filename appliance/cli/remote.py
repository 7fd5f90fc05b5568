"""Subcommands that speak to a running gateway through its control socket."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from appliance.cli import flowline
from appliance.cli.options import literal
from appliance.control.address import NONE, socket_path
from appliance.control.client import Client
from appliance.control.protocol import ControlError
from appliance.exceptions import LockgateError, OptionsError
from appliance.log import escape
from appliance.options import COMMAND_LINE, Options

STOP_SECONDS = 30.0


def main(args: argparse.Namespace) -> int:
    """Run one of them. Raises ControlError, OptionsError."""
    path = find(args.specs)
    todo = getattr(args, "todo", None)
    with Client(path, timeout=STOP_SECONDS) as gateway:
        if args.command == "options":
            return options(gateway, args, todo)
        if args.command == "modes":
            return modes(gateway, args, todo)
        if args.command == "intercepted":
            return intercepted(gateway, args, todo)
        return {
            "status": status, "tail": tail, "log": log, "command": command, "reload": reload, "stop": stop,
        }[args.command](gateway, args)  # fmt: skip


def find(specs: list[str]) -> Path:
    """Where the socket of the gateway is that these texts for `--set` mean. Raises OptionsError."""
    from appliance import config

    options = Options()
    options.set(*specs, source=COMMAND_LINE)
    with contextlib.suppress(OptionsError):  # a config.yaml with an error keeps nobody from asking what runs
        config.start(options)
    path = socket_path(options)
    if path is None:
        raise OptionsError(f"control_socket is {NONE}: this gateway cannot be reached; leave the option empty")
    return path


def status(gateway: Client, args: argparse.Namespace) -> int:
    from appliance.cli.statustext import text

    found = gateway.call("status")
    print(json.dumps(found, indent=2) if args.json else text(found))
    return 0


def tail(gateway: Client, args: argparse.Namespace) -> int:
    gateway.call("flows.subscribe", filter=" ".join(args.filter), events=["end", "connection"])
    style = flowline.styler(sys.stdout)
    for event in gateway.events():
        if event["event"] == "dropped":
            print(f"lockgate: {event['count']} were left out: this is read too slowly", file=sys.stderr)
            continue
        what = event.get("flow") or event["connection"]
        print(json.dumps(what) if args.json else flowline.line(what, style), flush=True)
    print("lockgate: the gateway has ended", file=sys.stderr)
    return 0


def log(gateway: Client, args: argparse.Namespace) -> int:
    from datetime import datetime

    gateway.call("log.subscribe", level=args.level)
    for event in gateway.events():
        if event["event"] == "dropped":
            print(f"lockgate: {event['count']} entries were left out: this is read too slowly", file=sys.stderr)
        elif args.json:
            print(json.dumps({name: event[name] for name in ("time", "level", "text")}), flush=True)
        else:
            at = datetime.fromtimestamp(event["time"]).strftime("%H:%M:%S")
            shown = "\n    ".join(map(escape, event["text"].split("\n")))
            print(f"[{at}] {event['level']}: {shown}", flush=True)
    print("lockgate: the gateway has ended", file=sys.stderr)
    return 0


def options(gateway: Client, args: argparse.Namespace, todo: str | None) -> int:
    if todo == "get":
        values = gateway.call("options.get", **({"names": args.names} if args.names else {}))["values"]
    elif todo == "set":
        values = gateway.call("options.set", specs=args.values)["values"]
    else:
        values = gateway.call("options.reset", names=args.names)["values"]
    for name, value in values.items():
        print(f"{name}: {'null' if value is None else literal(value)}")
    return 0


def modes(gateway: Client, args: argparse.Namespace, todo: str | None) -> int:
    from appliance.cli.statustext import mode_line

    found = gateway.call(f"modes.{todo}", spec=args.mode) if todo in ("add", "remove") else gateway.call("modes.list")
    for mode in found["modes"]:
        print(mode_line(mode))
    return 0


def command(gateway: Client, args: argparse.Namespace) -> int:
    if args.name is None:
        for one in gateway.call("commands.list")["commands"]:
            print(f"{escape(one['signature'])}\n    {escape(one['help'].partition(chr(10))[0])}")
        return 0
    value = gateway.call("commands.call", name=args.name, args=args.args)["value"]
    if isinstance(value, str):
        print("\n".join(map(escape, value.split("\n"))))
    elif isinstance(value, list) and all(isinstance(one, str) for one in value):
        print("\n".join(map(escape, value)))
    elif value is not None:
        print(json.dumps(value, indent=2))
    return 0


def reload(gateway: Client, args: argparse.Namespace) -> int:
    done = gateway.call("reload")
    print(f"changed: {', '.join(done['changed']) or 'nothing'}")
    if done["scripts"]:
        print(f"scripts: {', '.join(map(escape, done['scripts']))}")
    return 0


def stop(gateway: Client, args: argparse.Namespace) -> int:
    pid = gateway.call("shutdown")["pid"]
    try:
        gateway.wait_end(STOP_SECONDS)
    except ControlError:
        raise ControlError(
            "failed", f"the gateway (process {pid}) has not ended within {STOP_SECONDS:g} s", f"kill {pid}, twice"
        ) from None
    print(f"process {pid} has ended")
    return 0


# -- what is held


def intercepted(gateway: Client, args: argparse.Namespace, todo: str | None) -> int:
    if todo in (None, "list"):
        return _list(gateway, getattr(args, "json", False))
    if todo == "show":
        flow = gateway.call("flows.get", id=args.id)["flow"]
        print(json.dumps(flow, indent=2) if args.json else flowline.whole(flow))
        return 0
    if todo == "edit":
        flow = gateway.call("flows.edit", id=args.id, resume=args.resume, **_changes(gateway, args))["flow"]
        print(flowline.held(flow))
        return 0
    if not args.ids and not args.all:
        raise ControlError("bad_params", "no flow is named", "give ids, or --all for all that are held")
    which = {"all": True} if args.all else {"ids": args.ids}
    for flow_id in gateway.call(f"flows.{todo}", **which)["ids"]:
        print(flow_id)
    return 0


def _list(gateway: Client, as_json: bool) -> int:
    flows = gateway.call("flows.intercepted")["flows"]
    if as_json:
        print(json.dumps(flows, indent=2))
        return 0
    for flow in flows:
        print(flowline.held(flow))
    if not flows:
        print("nothing is held; `lockgate options set intercept=FILTER` holds flows", file=sys.stderr)
    return 0


def _changes(gateway: Client, args: argparse.Namespace) -> dict[str, Any]:
    request: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("method", "url", "host", "port", "path")
        if getattr(args, name) is not None
    }
    response: dict[str, Any] = {} if args.status is None else {"status_code": args.status}
    changes: dict[str, Any] = {"request": request, "response": response}
    body = _body(args)
    if args.header or args.no_header or body:
        held = gateway.call("flows.get", id=args.id, content_limit=0)["flow"]
        if held["type"] != "http" or held.get("last_messages"):
            changes["message"] = body
        else:
            part = args.part or ("response" if response or held["response"] is not None else "request")
            fields: dict[str, str | None] = dict.fromkeys(args.no_header)
            for text in args.header:
                name, colon, value = text.partition(":")
                if not colon:
                    raise ControlError("bad_params", f"{text!r} is no header field", "such as 'X-Lab: 1'")
                fields[name.strip()] = value.strip()
            changes[part] |= ({"set_headers": fields} if fields else {}) | body
    changes = {name: change for name, change in changes.items() if change}
    if not changes and not args.resume:
        raise ControlError("bad_params", "nothing is to be changed", "`lockgate intercepted edit --help` has examples")
    return changes


def _body(args: argparse.Namespace) -> dict[str, Any]:
    if args.body is not None:
        return {"text": args.body}
    if args.body_file is None:
        return {}
    try:
        data = sys.stdin.buffer.read() if args.body_file == "-" else Path(args.body_file).read_bytes()
    except OSError as error:
        raise LockgateError(f"{args.body_file}: cannot be read: {error.strerror}") from None
    return {"base64": base64.b64encode(data).decode()}
