"""What others have laid: the numbers whose mark or routing table is somebody's already."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from typing import Any

from modes.firewall.plan import MARK, TABLE
from modes.firewall.undo import NUMBERS

_SECONDS = 10


def taken() -> set[int]:
    """Numbers not to be used on this machine. What `ip` does not tell is taken for free."""
    rules: list[Any] = []
    tables: set[int] = set()
    for family in ("-4", "-6"):
        try:
            found = json.loads(_ip("-json", family, "rule", "show") or "[]")
        except ValueError:
            found = []
        rules += found if isinstance(found, list) else []
        # As text: old iproute2 writes JSON that is none for some routes.
        tables |= {int(number) for number in re.findall(r"\btable (\d+)", _ip(family, "route", "show", "table", "all"))}
    return numbers(rules, tables)


def numbers(rules: Iterable[Any], tables: Iterable[int]) -> set[int]:
    """Those whose mark one of the rules (as `ip -json rule` prints them) matches, or whose table is in use."""
    used, marks = set(tables), []
    for rule in rules:
        if not isinstance(rule, dict):
            continue
        if str(rule.get("table", "")).isdigit():
            used.add(int(rule["table"]))
        if "fwmark" in rule:
            marks.append((_number(rule["fwmark"]), _number(rule.get("fwmask", "0xffffffff"))))
    return {
        n
        for n in NUMBERS
        if TABLE + n in used or any((MARK + n) & mask == value & mask for value, mask in marks if mask)
    }


def _number(text: object) -> int:
    try:
        return int(str(text), 0)
    except ValueError:
        return 0


def _ip(*words: str) -> str:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""  # a kernel without IPv6
