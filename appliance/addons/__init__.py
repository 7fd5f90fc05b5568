"""Built-in add-ons, one idea a file, in the order of the chain."""

from __future__ import annotations

from appliance.addons.core import Core
from appliance.addons.dumper import Dumper
from appliance.addons.portal import Portal
from appliance.addons.script import ScriptLoader


def default_addons() -> list[object]:
    """A new instance of each, the user's scripts among them: what they did is what the terminal shows."""
    return [Core(), Portal(), ScriptLoader(), Dumper()]
