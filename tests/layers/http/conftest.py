"""What must hold of HTTP/2 must hold of every implementation of its framing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import Make, Rig

BOTH = ("test_h2_conformance", "test_h2_attacks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rigs" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2].startswith(BOTH):
        metafunc.parametrize("rigs", ["lean", "h2"], indirect=True)


@pytest.fixture
def rigs(rigs: Make, request: pytest.FixtureRequest) -> Make:
    """As in tests/conftest.py; with the option http2_codec where a test runs with each."""
    codec: dict[str, Any] = {"http2_codec": request.param} if hasattr(request, "param") else {}

    async def make(*addons: object, **options: Any) -> Rig:
        return await rigs(*addons, **(codec | options))

    return make
