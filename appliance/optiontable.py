"""The table of built-in options: name, type, default, help, and how each appears on the command line. Nothing else
names an option.

`OptionTable` is read twice: by people and type checkers as a class with typed attributes, by `Options` as a list of
`Option` entries (`BUILTIN`). Its parts, by topic, are in optiontables/.
Names follow mitmproxy where the meaning is the same; what this release has not got of them is in notyet.py.
"""

from __future__ import annotations

import typing
from dataclasses import replace
from typing import cast

from appliance.optiontables.entry import Option, parse_size
from appliance.optiontables.kept import Kept
from appliance.optiontables.traffic import Traffic
from appliance.optiontables.ways import Ways


class OptionTable(Ways, Traffic, Kept):
    """Every built-in option; on an instance of `Options` these are plain attributes holding the values."""


def _entries() -> dict[str, Option]:
    found = {}
    for topic in (Ways, Traffic, Kept):
        for name, hint in typing.get_type_hints(topic).items():
            found[name] = replace(cast(Option, vars(topic)[name]), name=name, typespec=hint)
    return found


BUILTIN: dict[str, Option] = _entries()

__all__ = ["BUILTIN", "Option", "OptionTable", "parse_size"]
