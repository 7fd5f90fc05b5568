"""Tests that this machine cannot run are skipped by name, never silently left out."""

from __future__ import annotations

import os
import shutil

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [
        program
        for program in ("ip", "nft")
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"needs {' and '.join(missing)}" if missing else "needs root (network namespaces): sudo make test"
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason=reason))
