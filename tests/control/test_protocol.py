"""The lines themselves: whatever the bytes, either a request or a ControlError."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.control.protocol import ControlError, Lines, dump, failure, load, parse
from appliance.exceptions import ModeError, OptionsError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
ODD = [b"{", b"[]", b"1", b"\"x\"", b"nul", b"{}", b'{"id":1}', b'{"id":true,"method":"x"}', b'{"id":1.5,"method":"x"}',
       b'{"id":1,"method":5}', b'{"id":1,"method":"x","params":[]}', b'{"id":1,"method":"x","other":1}', b"\xff\xfe",
       b'{"id":NaN,"method":"x"}', b'{"id":1e999,"method":"x"}', b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000,
       b'{"id":"' + b"x" * 129 + b'","method":"x"}', b'{"id":' + b"1" * 400 + b',"method":"x"}', b"\0"]  # fmt: skip


@pytest.mark.parametrize("line", ODD)
def test_what_is_no_request_is_refused_with_a_remedy(line: bytes) -> None:
    with pytest.raises(ControlError) as caught:
        parse(line)
    assert caught.value.code == "bad_request" and caught.value.message and caught.value.remedy
    assert len(caught.value.message) < 400


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes(line: bytes) -> None:
    with contextlib.suppress(ControlError):
        parse(line)


@given(JSON)
@settings(max_examples=60)
def test_any_json(value: Any) -> None:
    try:
        found = parse(json.dumps(value).encode())
    except ControlError:
        return
    assert value["id"] == found.id and value["method"] == found.method


@given(
    st.integers(-1 << 50, 1 << 50) | st.text(max_size=20),
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)
@settings(max_examples=40)
def test_a_request_is_read_as_it_was_meant(id: int | str, method: str, params: dict[str, Any]) -> None:
    line = dump({"id": id, "method": method, "params": params})
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii()
    assert parse(line.rstrip()) == (id, method, params)


def test_lone_surrogates_survive() -> None:
    assert load(dump({"x": "\udcff a"}).strip()) == {"x": "\udcff a"}


LINE = st.binary(min_size=1, max_size=30).filter(lambda b: b"\n" not in b and b.strip(b" \t\r") == b)


@given(st.lists(LINE, max_size=8), st.lists(st.integers(1, 40), max_size=20))
def test_lines_do_not_depend_on_how_they_arrive(wanted: list[bytes], cuts: list[int]) -> None:
    data, found, lines = b"\r\n".join([*wanted, b""]), [], Lines(100)
    while data:
        size = cuts.pop() if cuts else len(data)
        lines.feed(data[:size])
        data = data[size:]
        while (line := lines.next()) is not None:
            found.append(line)
    assert found == wanted and len(lines) == 0


def test_a_line_without_end_is_not_kept() -> None:
    lines = Lines(100)
    lines.feed(b"x" * 100)
    assert lines.next() is None
    with pytest.raises(ControlError):
        lines.feed(b"x" * 100)


def test_a_line_too_long_that_comes_whole() -> None:
    lines = Lines(100)
    lines.feed(b"a\n" + b"x" * 90)
    lines.feed(b"x" * 50 + b"\n")
    assert lines.next() == b"a"
    with pytest.raises(ControlError):
        lines.next()


def test_errors_of_the_gateway_are_split_into_cause_and_remedy() -> None:
    text = "127.0.0.1:80 is in use by nginx; choose another port with -p, or end that program"
    found = ControlError.of(ModeError(text))
    assert found.message == "127.0.0.1:80 is in use by nginx"
    assert found.remedy == "choose another port with -p, or end that program"
    assert ControlError.of(OptionsError("script x failed:\n  a; b")).message == "script x failed:\n  a; b"
    assert json.loads(failure(7, found))["error"]["remedy"] == found.remedy
    assert str(found) == text
