"""Fixture `vm`: a Debian 12 machine (Linux 6.1) that runs scripts with the working tree in it."""

from __future__ import annotations

import os

import pytest

from tests.vm import image
from tests.vm.machine import Machine


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the machine carries the markers `vm` and `slow` (before -m chooses), and minutes of time."""
    for item in items:
        if "vm" in getattr(item, "fixturenames", ()):
            item.add_marker("vm")
            item.add_marker("slow")
            item.add_marker(pytest.mark.timeout(1500))


@pytest.fixture(scope="session")
def vm() -> Machine:
    """Skips, with the reason, where QEMU or mmdebstrap are missing; LOCKGATE_REQUIRE_VM=1 makes that a failure."""
    if why := image.missing():
        if os.environ.get("LOCKGATE_REQUIRE_VM", "0") not in ("", "0"):
            pytest.fail(f"the virtual machine is required here: {why}", pytrace=False)
        pytest.skip(why)
    return Machine(image.get())
