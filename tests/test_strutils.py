from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import strutils


def test_conversions() -> None:
    assert strutils.always_bytes("é", "latin-1") == b"\xe9"
    assert strutils.always_bytes(b"x") == b"x" and strutils.always_bytes(None) is None
    assert strutils.always_str(b"\xff", "utf-8", "replace") == "\ufffd"
    assert strutils.always_str("x") == "x" and strutils.always_str(None) is None
    with pytest.raises(TypeError, match="int"):
        strutils.always_bytes(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="int"):
        strutils.always_str(3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "data, options, text",
    [
        (b"foo", {}, "foo"),
        (b"\b'\"\\", {}, "\\x08'\"\\\\"),
        (b"\r\n\t", {}, "\\r\\n\\t"),
        (b"\r\n\t\0", {"keep_spacing": True}, "\r\n\t\\x00"),
        (b"\\n\n", {"keep_spacing": True}, "\\\\n\n"),
        (b"it's", {"escape_single_quotes": True}, "it\\'s"),
        (b"\xc3\xbc", {}, "\\xc3\\xbc"),
    ],
)
def test_escapes(data: bytes, options: dict[str, bool], text: str) -> None:
    assert strutils.bytes_to_escaped_str(data, **options) == text
    if "keep_spacing" not in options:
        assert strutils.escaped_str_to_bytes(text) == data


def test_escapes_that_are_none() -> None:
    assert strutils.escaped_str_to_bytes(r"\0\\ü") == b"\0\\\xc3\xbc"
    with pytest.raises(ValueError, match=r"\\q"):
        strutils.escaped_str_to_bytes(r"\q")
    with pytest.raises(TypeError):
        strutils.escaped_str_to_bytes(b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        strutils.bytes_to_escaped_str("x")  # type: ignore[arg-type]


@given(st.binary(), st.booleans(), st.booleans())
def test_escapes_go_back(data: bytes, spacing: bool, quotes: bool) -> None:
    text = strutils.bytes_to_escaped_str(data, spacing, quotes)
    assert strutils.escaped_str_to_bytes(text) == data
    assert re.fullmatch("[ -~\r\n\t]*" if spacing else "[ -~]*", text)


@given(st.text())
def test_any_text_is_unescaped_or_refused(text: str) -> None:
    try:
        strutils.escaped_str_to_bytes(text)
    except ValueError as error:
        assert "unknown escape" in str(error) or isinstance(error, UnicodeError)


def test_control_characters() -> None:
    assert strutils.escape_control_characters("a\0b\nc\td\x85") == "a.b\nc\td."
    assert strutils.escape_control_characters("a\nb\tc\r", False) == "a.b.c."
    with pytest.raises(TypeError):
        strutils.escape_control_characters(b"x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data, binary",
    [
        (b"", False),
        (b"plain text\r\n", False),
        ("größer".encode() * 30, False),
        (("ü" * 600).encode()[:1000], False),
        (bytes(10), True),
        (b"\xff\xd8\xff\xe0" * 10, True),
        (b"abcdefg\0\0\0", False),
        (b"abcdef\0\0\0\0", True),
        (b"x" * 100 + bytes(1000), False),
    ],
)
def test_is_mostly_bin(data: bytes, binary: bool) -> None:
    assert strutils.is_mostly_bin(data) is binary


def test_is_xml() -> None:
    assert strutils.is_xml(b" \n<a/>") and not strutils.is_xml(b"a<b") and not strutils.is_xml(b"")


def test_lines() -> None:
    assert strutils.clean_hanging_newline("a\n") == "a" and strutils.clean_hanging_newline("a\n\n") == "a\n"
    assert strutils.cut_after_n_lines("a\nb", 2) == "a\nb"
    assert strutils.cut_after_n_lines("a\nb\nc", 2) == "a\nb\n(cut off)"


def test_hexdump() -> None:
    rows = list(strutils.hexdump(b"one\0" * 5))
    assert rows == [
        ("0000000000", "6f 6e 65 00 6f 6e 65 00 6f 6e 65 00 6f 6e 65 00", "one.one.one.one."),
        ("0000000010", "6f 6e 65 00" + " " * 36, "one."),
    ]
    assert list(strutils.hexdump(b"")) == []
