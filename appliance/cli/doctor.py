"""`lockgate doctor`: what keeps transparent interception from working here. Looks, tries, changes nothing."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from appliance.cli.run import load
from appliance.control.address import socket_path
from appliance.control.client import Client
from appliance.doctor import checks, report
from appliance.doctor.finding import Subject
from appliance.exceptions import LockgateError, OptionsError
from appliance.options import Options
from appliance.store.folder import folder_of

ASK_SECONDS: Final = 2.0


def main(args: argparse.Namespace) -> int:
    """Run `lockgate doctor`. 0: no fault, 1: there are. Raises OptionsError."""
    options = load(args.specs)
    subject = subject_of(options, tuple(args.interfaces), args.wan, args.port)
    findings = checks.examine(subject, checks.CHECKS if args.no_self_test else checks.CHECKS + checks.TRIED)
    print(report.as_json(findings) if args.json else report.as_text(findings, args.verbose))
    return report.exit_code(findings)


def subject_of(options: Options, lan: tuple[str, ...], wan: str, port: int | None) -> Subject:
    """Ports and the configuration folder as `lockgate run` would take them; `port` instead of those, if given."""
    if wan in lan:
        raise OptionsError(f"{wan} is named as the clients' interface and as --wan: it can be one of them")
    if port is not None and not 0 < port < 65536:
        raise OptionsError(f"port {port}: ports are 1 to 65535")
    confdir = options.path("confdir")
    assert confdir is not None
    ports = [("", port)] if port is not None else _ports(options)
    store = Path(os.path.abspath(folder_of(options))) if options.store else None
    limit = options.size("store_max_bytes")
    return Subject(
        lan, wan, tuple(ports), Path(os.path.abspath(confdir)), plans=plans(), store=store, store_bytes=limit,
        recording=recording(options) if store is not None else None,
    )  # fmt: skip


def recording(options: Options) -> Any:
    """What the running gateway says of its store; None: none runs, or not for us to ask."""
    if (path := socket_path(options)) is None:
        return None
    try:
        with Client(path, timeout=ASK_SECONDS) as gateway:
            return gateway.call("status")["store"]
    except LockgateError:
        return None


def plans(tools: Sequence[str] = ("nftables", "iptables-nft", "iptables-legacy")) -> dict[str, Any]:
    """What lays the redirect in the doctor's scratch namespace: the gateway's own plan, for one family at a time, as
    plain data (scratch.rules.Plans). The heartbeat, which falls silent there, is left out.
    """
    from appliance.doctor.scratch.wire import LAN, PORT
    from modes.firewall.plan import Method, Redirect
    from modes.firewall.tools import made

    def steps(tool: str, method: Method, family: int) -> list[dict[str, Any]]:
        want = Redirect(1, (LAN,), PORT, ((family, ""),), method, owned=False, beats=False)
        return [{"argv": s.argv, "input": s.input, "undo": s.undo} for s in made(tool, want).interception]

    methods: tuple[Method, ...] = ("tproxy", "redirect")
    return {tool: {method: {str(f): steps(tool, method, f) for f in (4, 6)} for method in methods} for tool in tools}


def _ports(options: Options) -> list[tuple[str, int]]:
    from appliance.exceptions import ModeError
    from modes.spec import DEFAULT_PORT, ModeSpec

    found = []
    for text in options.mode:
        try:
            spec = ModeSpec.parse(text)
        except ModeError as error:
            raise OptionsError(str(error)) from None
        if spec.port != 0:
            found.append((spec.host or options.listen_host or "", spec.port or options.listen_port or DEFAULT_PORT))
    return found
