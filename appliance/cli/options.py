"""`lockgate options`: every option, its value and where that came from, as a table or as a commented config.yaml."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from appliance.cli.run import load
from appliance.options import DEFAULT, Options
from appliance.optiontable import Option
from appliance.typespec import Typespec

_YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_SECRET = frozenset({"cert_passphrase", "proxyauth", "upstream_auth"})


def show(specs: Sequence[str], *, as_yaml: bool) -> int:
    """Print all options. Raises OptionsError if those given are wrong."""
    options = load(specs)
    print(yaml_text(options) if as_yaml else table_text(options, shutil.get_terminal_size((100, 0)).columns), end="")
    return 0


def table_text(options: Options, width: int) -> str:
    """Two lines an option: name, type, default, value and source if it is not the default; then help, wrapped at
    `width`.
    """
    out = []
    for name in options:
        entry = options.entry(name)
        line = f"{name}  ({_type(entry)}, default {_shown(entry.default)})"
        if options.source(name) is not DEFAULT:
            value = "***" if name in _SECRET else _shown(getattr(options, name))
            line += f"\n    = {value}   from {options.source(name)}"
        out.append(line)
        out += textwrap.wrap(entry.help, max(width, 40), initial_indent="    ", subsequent_indent="    ")
    return "\n".join(out) + "\n"


def yaml_text(options: Options) -> str:
    """A config.yaml: what differs from the default is set, everything else is a comment to be edited. Secrets are left
    out.
    """
    out = [
        "# Options of lockgate. The command line beats this file; `kill -HUP` makes a running gateway read it again.",
        "",
    ]
    for name in options:
        if name == "confdir":
            continue
        entry = options.entry(name)
        out += textwrap.wrap(f"{entry.help} ({_type(entry)})", 118, initial_indent="# ", subsequent_indent="# ")
        value = getattr(options, name)
        if options.is_default(name) or name in _SECRET:
            example = f"   # such as {literal(_example(entry))}" if entry.example else ""
            out.append(f"#{name}: {literal(entry.default)}{example}")
        else:
            out.append(f"{name}: {literal(value)}")
        out.append("")
    return "\n".join(out)


def _shown(value: Any) -> str:
    return "none" if value is None else literal(value)


def literal(value: Any) -> str:
    """A value as YAML writes it on one line: JSON, but for plain words, and for what YAML does not allow as it is."""
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII) and value.lower() not in _YAML_WORDS:
            return value
        return "".join(
            char if char.isprintable() else f"\\U{ord(char):08x}" for char in json.dumps(value, ensure_ascii=False)
        )
    if isinstance(value, tuple | list):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return json.dumps(value)


def _example(entry: Option) -> Any:
    return Typespec(entry.typespec).read([entry.example], None)


def _type(entry: Option) -> str:
    if entry.choices:
        return " | ".join(entry.choices)
    if entry.kind == "size":
        return "size or none" if Typespec(entry.typespec).optional else "size"
    return str(Typespec(entry.typespec))
