"""`lockgate doctor`: what keeps transparent interception from working here. Looks, tries, changes nothing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from appliance.cli.run import load
from appliance.doctor import checks, report
from appliance.doctor.finding import Subject
from appliance.exceptions import OptionsError
from appliance.options import Options
from appliance.store.folder import folder_of


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
    folder = Path(os.path.abspath(folder_of(options))) if options.store else None
    return Subject(lan, wan, tuple(ports), Path(os.path.abspath(confdir)), folder, options.size("store_max_bytes"))


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
