"""Options as the hot path wants them."""

from __future__ import annotations

import resource

import pytest

from appliance.options import Options
from appliance.settings import Settings, default_connections


def test_base_units() -> None:
    s = Settings(
        Options(
            body_size_limit="3m",
            stream_large_bodies="2k",
            max_header_size="1k",
            tcp_timeout=7,
            server_greeting_wait_ms=250,
            connection_strategy="lazy",
            ignore_hosts=["a"],
        )
    )
    assert (s.body_limit, s.stream_over, s.max_head) == (3 << 20, 2048, 1024)
    assert s.idle_timeout == 7.0
    assert s.greeting_wait == 0.25
    assert not s.eager
    assert s.policy.active


def test_defaults() -> None:
    s = Settings(Options())
    assert s.eager
    assert s.rawtcp
    assert not s.allow_metadata
    assert s.body_limit is None
    assert s.stream_over == 1 << 20
    assert s.websocket and s.stream_messages == 4 << 20
    assert s.max_head == 65536
    assert not s.policy.active


@pytest.mark.parametrize(
    ("soft", "low", "high"),
    [(1024, 300, 341), (20_000, 6_000, 6_666), (16, 8, 8), (resource.RLIM_INFINITY, 1000, 10**6)],
)
def test_connections_fit_the_descriptor_limit(monkeypatch: pytest.MonkeyPatch, soft: int, low: int, high: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, soft))
    assert low <= default_connections() <= high
    assert Settings(Options()).max_connections == default_connections()
    assert Settings(Options(max_connections=5)).max_connections == 5
