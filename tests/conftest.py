"""Tests that this machine cannot run are skipped by name, never silently left out."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from appliance.net.certs import CertificateAuthority
from tests.harness import NAMES, Make, Rig, TestPki

# The machine may be busy with other tests: how long an example takes says nothing.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")


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


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """No long bytes in a test's name: a hello is random in part, and all of xdist's workers need the same names."""
    return argname if isinstance(val, bytes) and len(val) > 20 else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged goes from xdist's worker to its master in UTF-8, so lone surrogates are escaped."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    """The root of the origins in this process, and good and bad certificates for them."""
    return TestPki(tmp_path_factory.mktemp("origins") / "pki", NAMES)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """A gateway's CA."""
    return CertificateAuthority.open(tmp_path_factory.mktemp("confdir"), "ec")


@pytest.fixture
async def rigs(ca: CertificateAuthority, pki: TestPki) -> AsyncIterator[Make]:
    """`await rigs(*addons, **options)` is a Rig (tests/harness.py); all are ended with the test."""
    made: list[Rig] = []

    async def make(*addons: object, **options: Any) -> Rig:
        rig = Rig(addons, options, ca, pki)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        await rig.close()


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a listener whose queue is full: a connection is neither made nor refused."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
