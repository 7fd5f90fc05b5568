"""Where the flow store is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.options import Options


def folder_of(options: Options) -> Path:
    """`store_dir`, else `flows` in the configuration folder, so that each configuration has a store of its own."""
    chosen = options.path("store_dir")
    if chosen is not None:
        return chosen
    confdir = options.path("confdir")
    assert confdir is not None
    return confdir / "flows"
