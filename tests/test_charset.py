from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import charset


@pytest.mark.parametrize(
    ("content_type", "content", "name"),
    [
        ("text/plain; charset=latin-1", codecs.BOM_UTF8 + b"x", "utf-8-sig"),
        ("", codecs.BOM_UTF16_LE + b"x\0", "utf-16"),
        ("", codecs.BOM_UTF16_BE + b"\0x", "utf-16"),
        ("", codecs.BOM_UTF32_LE + b"x\0\0\0", "utf-32"),
        ("", codecs.BOM_UTF32_BE + b"\0\0\0x", "utf-32"),
        ("text/html; charset=iso-8859-5", b"<meta charset=utf-8>", "iso-8859-5"),
        ("application/json", b"", "utf-8"),
        ("application/problem+json", b"", "utf-8"),
        ("text/html", b"<p>", "utf-8"),
        ("text/html", b"<head><META charset='shift_jis'>", "shift_jis"),
        ("text/html", b'<meta http-equiv=x content="text/html; charset=euc-jp">', "euc-jp"),
        ("text/xml", b'<?xml version="1.0" encoding="iso-8859-2"?>', "iso-8859-2"),
        ("image/svg+xml", b"<svg/>", "utf-8"),
        ("text/javascript", b"", "utf-8"),
        ("text/css", b'@charset "koi8-r";', "koi8-r"),
        ("text/css", b"a{}", "utf-8"),
        ("text/plain", b"", "latin-1"),
        ("", b"", "latin-1"),
        ("text/plain; charset=GBK", b"", "gb18030"),
        ("text/html", b"<meta charset=gb2312>", "gb18030"),
    ],
)
def test_infer(content_type: str, content: bytes, name: str) -> None:
    assert charset.infer(content_type, content) == name


@pytest.mark.parametrize("name", ["nope", "rot13", "hex", "idna", "punycode", "unicode_escape", "a\0b", "ü"])
def test_what_is_no_character_set(name: str) -> None:
    with pytest.raises(ValueError, match="character set"):
        charset.decode(b"x", name)
    with pytest.raises(ValueError, match="character set"):
        charset.encode("x", name)


@given(st.text(st.characters(codec="utf-8")), st.sampled_from(["utf-8", "utf-16", "gb18030", "utf-8-sig"]))
def test_round_trip(text: str, name: str) -> None:
    assert charset.decode(charset.encode(text, name), name) == text


def test_what_cannot_be_expressed() -> None:
    with pytest.raises(ValueError, match="codec can't"):
        charset.encode("ł", "latin-1")
    with pytest.raises(ValueError, match="codec can't"):
        charset.decode(b"\xff", "utf-8")
