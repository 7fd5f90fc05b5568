"""Fixtures `lab` (once a session) and `origins` (what the origins saw in this test). See README.md."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.lab import netns
from tests.lab.labkit import TOOLS, Lab
from tests.lab.recorder import Origins
from tests.lab.rootless import missing


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the lab carries the marker `lab` (before -m chooses)."""
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker("lab")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Client, gateway and server, certificates and origins. Skips, with the reason, where it cannot be built;
    with LOCKGATE_REQUIRE_LAB=1 that is a failure."""
    if why := netns.missing(TOOLS):
        if os.environ.get("LOCKGATE_REQUIRE_LAB", "0") not in ("", "0"):
            pytest.fail(f"the lab is required here: {why}", pytrace=False)
        pytest.skip(why)
    made = Lab()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def rootless(lab: Lab) -> None:
    """Skips, with the reason, where the kernel does not permit an unprivileged user what `exec` and WireGuard need.
    Where it does, these tests have to run: nothing in them skips.
    """
    if why := missing(lab.scratch / "rootless-probe"):
        pytest.skip(why)


@pytest.fixture
def origins(lab: Lab) -> Origins:
    """What the Python origins of the lab have seen since this test began."""
    return Origins(lab.control)


@pytest.fixture
def routed(lab: Lab) -> Iterator[Lab]:
    """The lab with a gateway that only routes: client and origins talk directly."""
    with lab.forwarding():
        yield lab


@pytest.fixture(scope="session")
def primed(lab: Lab) -> None:
    """iptables-legacy has its tables loaded at the first use, for good: here, before states are compared."""
    for six in ("", "6"):
        for flavour in ("nft", "legacy"):
            if not shutil.which(f"ip{six}tables-{flavour}"):
                pytest.fail(f"ip{six}tables-{flavour} is not installed: apt install iptables")
        for table in ("raw", "mangle", "nat", "filter"):
            lab.gateway.run([f"ip{six}tables-legacy", "-w", "-t", table, "-S"], check=True)
