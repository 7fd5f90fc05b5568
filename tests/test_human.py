from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import human


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0b"),
        (1023, "1023b"),
        (1024, "1.0k"),
        (10 * 1024, "10k"),
        (1024 * 1023, "1023k"),
        (1024 * 1024 - 1, "1.0m"),
        (5 << 40, "5.0t"),
    ],
)
def test_pretty_size(size: int, text: str) -> None:
    assert human.pretty_size(size) == text


@given(st.integers(0, 1 << 60))
def test_any_size_is_short(size: int) -> None:
    assert re.fullmatch(r"\d[\d.]*[bkmgt]", human.pretty_size(size))


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0ms"), (-1, "0ms"), (0.034, "34ms"), (1.5, "1.5s"), (12.3, "12s"), (599.4, "599s"), (720, "12min")],
)
def test_pretty_duration(seconds: float, text: str) -> None:
    assert human.pretty_duration(seconds) == text


def test_parse_size() -> None:
    assert [human.parse_size(text) for text in (None, "0", "1k", "2m", "3g")] == [None, 0, 1024, 2 << 20, 3 << 30]
    for bad in ("", "1x", "k", "-1"):
        with pytest.raises(ValueError):
            human.parse_size(bad)


def test_timestamps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert human.format_timestamp(1.5) == "1970-01-01 00:00:01"
        assert human.format_timestamp_with_milli(1.5) == "1970-01-01 00:00:01.500"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "address, text",
    [
        (None, "<no address>"),
        (("a.example", 80), "a.example:80"),
        (("10.0.0.1", 80), "10.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1]:80"),
        (("::ffff:10.0.0.1", 80, 0, 0), "10.0.0.1:80"),
        (("0.0.0.0", 8080), "*:8080"),
        (("::", 8080, 0, 0), "*:8080"),
    ],
)
def test_format_address(address: tuple[object, ...] | None, text: str) -> None:
    assert human.format_address(address) == text
