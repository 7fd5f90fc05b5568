"""Findings as text for people, the worst first, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from appliance import __version__
from appliance.doctor.finding import Finding, Level


def as_text(findings: Sequence[Finding], verbose: bool = False) -> str:
    """Faults, warnings, notes; what is well as a count, or line by line when `verbose`."""
    lines: list[str] = []
    for level in sorted(Level, reverse=True):
        for finding in findings:
            if finding.level != level or (level == Level.OK and not verbose):
                continue
            lines.append(f"{level.name.lower():<8} {finding.seen}")
            lines += [f"{'':<8}   because  {finding.why}"] if finding.why else []
            lines += [f"{'':<8}   remedy   {finding.remedy}"] if finding.remedy else []
    well = sum(finding.level == Level.OK for finding in findings)
    if well and not verbose:
        lines.append(f"{'ok':<8} {well} checks (-v shows them)")
    lines.append(verdict(findings))
    return "\n".join(lines)


def verdict(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = {level: sum(finding.level == level for finding in findings) for level in Level}
    told = ", ".join(
        f"{counts[level]} {level.name.lower()}{'s' if counts[level] != 1 else ''}"
        for level in (Level.FAULT, Level.WARNING, Level.NOTE)
        if counts[level]
    )
    if counts[Level.FAULT]:
        return f"Transparent interception would not work here as asked: {told}."
    return f"Transparent interception can work here{': ' + told if told else ''}."


def as_json(findings: Sequence[Finding]) -> str:
    """{"version", "ok", "findings": [{"check", "level", "seen", "why", "remedy"}]}"""
    document = {
        "version": __version__,
        "ok": not exit_code(findings),
        "findings": [finding.as_dict() for finding in findings],
    }
    return json.dumps(document, indent=2)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 if there is a fault."""
    return int(any(finding.level == Level.FAULT for finding in findings))
