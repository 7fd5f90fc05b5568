"""The container of flow files."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.io import tnetstring
from appliance.io.tnetstring import Malformed, Truncated, dumps, load, loads

_texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _texts, st.binary(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_texts, inner, max_size=4)),
    max_leaves=20,
)


@given(_values)
def test_what_was_written_is_read(value: Any) -> None:
    data = dumps(value)
    assert loads(data) == value
    file = io.BytesIO(data + b"3:abc,")
    assert load(file) == value and load(file) == b"abc"
    with pytest.raises(EOFError):
        load(file)


@pytest.mark.parametrize(("value", "data"), [
    (None, b"0:~"), (True, b"4:true!"), (False, b"5:false!"), (-12, b"3:-12#"), (1.5, b"3:1.5^"), (b"\x00", b"1:\x00,"),
    ("é", b"2:\xc3\xa9;"), ([1, (b"a",)], b"11:1:1#4:1:a,]]"), ({"a": None}, b"7:1:a;0:~}"), ([], b"0:]"), ({}, b"0:}"),
])  # fmt: skip
def test_the_bytes(value: object, data: bytes) -> None:
    assert dumps(value) == data


def test_odd_floats() -> None:
    assert math.isnan(loads(dumps(math.nan))) and loads(dumps(-math.inf)) == -math.inf


@pytest.mark.parametrize("value", [object(), {1: 2}, {1}, [object()]])
def test_what_is_not_plain_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        dumps(value)


@pytest.mark.parametrize("data", [
    b"", b"1", b"1:", b"1:a", b"1:ab", b":,", b"01:a,", b"-1:a,", b"1:a?", b"2:no!", b"1:x#", b"0:#", b"1:x^", b"1:x~",
    b"3:1:a]", b"4:1:a,}", b"7:1:1#1:2#}", b"1:\xff;x", b"9999999999999:a,", b"99:a,", b"4:1:a,]x", b"4:9:a,]",
])  # fmt: skip
def test_broken_ones_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        loads(data)


def test_depth_is_bounded_both_ways() -> None:
    value: Any = []
    data = b""
    for _ in range(200):
        value, data = [value], b"%d:%b]" % (len(data), data)
    with pytest.raises(ValueError, match="deep"):
        dumps(value)
    with pytest.raises(ValueError, match="deep"):
        loads(data)


def test_a_file_tells_what_is_wrong_with_it() -> None:
    with pytest.raises(Truncated):
        load(io.BytesIO(b"5:abc"))
    with pytest.raises(Truncated):
        load(io.BytesIO(b"5"))
    file = io.BytesIO(b"1:x#1:y,")
    with pytest.raises(Malformed):
        load(file)
    assert load(file) == b"y"
    with pytest.raises(ValueError, match="length was expected"):
        load(io.BytesIO(b"what is this"))


def test_a_corrupt_length_does_not_ask_for_all_memory() -> None:
    with pytest.raises(ValueError, match="over the bound"):
        load(io.BytesIO(b"999999999999:abc,"))
    asked = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(size or 0)
            return super().read(size)

    with pytest.raises(Truncated):
        load(File(b"%d:abc," % (tnetstring.MAX_LENGTH - 2)))
    assert max(asked) <= 1 << 20


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = loads(data)
    except ValueError:
        return
    dumps(value)


@given(_values, st.data())
def test_a_changed_byte_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    written = bytearray(dumps(value))
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] = data.draw(st.integers(0, 255))
    try:
        loads(bytes(written))
    except ValueError:
        return
