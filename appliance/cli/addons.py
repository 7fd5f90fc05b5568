"""`lockgate addons list|check FILE`: what add-ons a file has, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from appliance.addons.inspection import Finding, Report, inspect_file
from appliance.addons.scriptfile import expand
from appliance.home import absolute, expanded
from appliance.log import escape


def main(what: str, files: Sequence[str]) -> int:
    """0: nothing would keep the files from loading. 1: something would."""
    bad = False
    for name in _expanded(files):
        report = inspect_file(absolute(name))
        bad |= any(one.fatal for one in report.findings)
        print("\n".join(_listed(name, report) if what == "list" else _checked(name, report)))
    return int(bad)


def _expanded(names: Sequence[str]) -> Iterator[str]:
    """What a folder holds, as `run -s` would load it. Raises OptionsError."""
    for name in names:
        found = expand(expanded(name))
        if not found:
            print(f"{name}: no add-ons in this folder")
        yield from map(str, found)


def _listed(name: str, report: Report) -> list[str]:
    lines = [name]
    for addon, hooks in report.hooks.items():
        if hooks:
            lines.append(f"  {escape(Path(addon).name)}: {', '.join(hooks)}")
    if report.options:
        lines.append(f"  options: {', '.join(report.options)}")
    if report.commands:
        lines.append(f"  commands: {', '.join(report.commands)}")
    return lines + [line for line in _checked(name, report) if report.findings]


def _place(name: str, finding: Finding) -> str:
    own = str(absolute(name))
    # As it was named, where it is in there: people click on it.
    file = name + finding.file.removeprefix(own) if finding.file.startswith(own) else finding.file or name
    return f"{file}:{finding.line}" if finding.line else file


def _checked(name: str, report: Report) -> list[str]:
    if not report.findings:
        return [f"{name}: no fault found"]
    return [
        f"{_place(name, one)}: {'error' if one.fatal else 'warning'}: " + "\n".join(map(escape, one.text.split("\n")))
        for one in report.findings
    ]
