"""`lockgate firewall`: print the plan, show what is laid, remove what was left."""

from __future__ import annotations

import argparse
import json
import os

import modes
from appliance import config
from appliance.exceptions import ModeError
from appliance.options import COMMAND_LINE, Options
from modes.firewall import advertised, undo
from modes.firewall.plan import FORWARDING, REDIRECTING, Method, Redirect, ports
from modes.firewall.tools import made
from modes.spec import DEFAULT_PORT


def main(args: argparse.Namespace) -> int:
    """Run `lockgate firewall plan|show|clean`. Raises OptionsError, ModeError."""
    options = Options()
    options.set(*args.specs, source=COMMAND_LINE)
    config.start(options)
    if args.firewall_command == "plan":
        return plan(options)
    return clean() if args.firewall_command == "clean" else show()


def plan(options: Options) -> int:
    """Print the plan of each mode that names interfaces. Needs no rights and changes nothing."""
    found = [spec for spec in map(modes.ModeSpec.parse, options.mode) if spec.interfaces]
    if not found:
        raise ModeError("no mode names an interface: try `lockgate firewall plan --set mode=transparent:lan0`")
    for number, spec in enumerate(found, 1):
        host = options.listen_host if spec.host is None else spec.host
        families = ((4, ""), (6, "")) if not host else ((6 if ":" in host else 4, host),)
        port = spec.port or options.listen_port or DEFAULT_PORT
        method: Method = "redirect" if options.firewall_method == "redirect" else "tproxy"
        backend = "nftables" if options.firewall in ("auto", "none") else options.firewall
        exclude = ports(options.firewall_exclude_ports)
        closed = options.firewall_fail == "closed"
        process, byhand = options.firewall_owner == "process", options.firewall == "none"
        want = Redirect(
            number, spec.interfaces, port, families, method, options.masquerade, owned=process and not byhand,
            beats=not byhand, survives=not process, closed=closed, exclude=exclude,
        )  # fmt: skip
        print(f"# {spec.full_spec}: {backend}, {method}")
        print(made(backend, want))
        forwarding = advertised.kept(want.masquerade) | FORWARDING if want.masquerade else {}
        sysctls = forwarding | (REDIRECTING if method == "redirect" else {})
        for name, value in sysctls.items():
            print(f"# sysctl -w {name}={value}")
    return 0


def show() -> int:
    """One line a gateway that has laid rules in this network namespace."""
    gone = set(undo.stale())
    found = False
    try:
        names = sorted(os.listdir(undo.FOLDER))
    except OSError:
        names = []
    for name in names:
        path = f"{undo.FOLDER}/{name}"
        if not name.startswith(f"{undo.namespace()}-") or not name.endswith(".json"):
            continue
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        found = True
        state = "no longer runs: lockgate firewall clean" if path in gone else "runs"
        print(f"{path}: process {data['pid']} {state}")
        for argv in (*data["interception"], *data["routing"], *data["closed"]):
            print("  undone by  " + " ".join(argv))
        for key, value in (data["sysctls"] | data["tuned"]).items():
            print(f"  was  {key}={value}")
    if not found:
        print("nothing is laid here by lockgate")
    return 0


def clean() -> int:
    """Replay the lists whose process is gone."""
    if os.geteuid():
        raise ModeError("removing firewall rules needs root: sudo lockgate firewall clean")
    left = undo.stale()
    for path, whose in left.items():
        undo.replay(path, routing=True, closed=True, whose=whose)
        print(f"removed what {path} lists")
    if not left:
        print("nothing was left behind")
    return 0
