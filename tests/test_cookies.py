from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import cookies
from appliance.cookies import CookieAttrs


@pytest.mark.parametrize(
    ("line", "pairs"),
    [
        ("a=1; b=2", [("a", "1"), ("b", "2")]),
        ("a=1;b=2;", [("a", "1"), ("b", "2")]),
        ('a="x y"; b==c=', [("a", '"x y"'), ("b", "=c=")]),
        ("bare; =v", [("bare", ""), ("", "v")]),
        ("a=1; a=2", [("a", "1"), ("a", "2")]),
        (" ; ", []),
    ],
)
def test_parse_cookie(line: str, pairs: list[tuple[str, str]]) -> None:
    assert cookies.parse_cookie_header(line) == pairs


@given(st.lists(st.tuples(st.from_regex(r"[!#-:<>-~]{1,6}", fullmatch=True).filter(lambda n: "=" not in n),
                          st.from_regex(r"[!-:<-~]{0,6}", fullmatch=True))))  # fmt: skip
def test_cookie_round_trip(pairs: list[tuple[str, str]]) -> None:
    assert cookies.parse_cookie_header(cookies.format_cookie_header(pairs)) == pairs


def test_set_cookie() -> None:
    line = "sid=a,b; Path=/; Secure; Expires=Wed, 09 Jun 2021 10:18:14 GMT; HttpOnly"
    parsed = cookies.set_cookie(line)
    assert parsed is not None
    name, value, attrs = parsed
    assert (name, value) == ("sid", "a,b")
    assert attrs["path"] == "/"
    assert attrs["SECURE"] is None
    assert "httponly" in attrs
    assert cookies.format_set_cookie_header(name, value, attrs) == line
    assert cookies.set_cookie(" ") is None


def test_expiry() -> None:
    soon = CookieAttrs([("Max-Age", "10"), ("Expires", "Wed, 09 Jun 2021 10:18:14 GMT")])
    assert cookies.expiry(soon, now=100) == 110
    assert not cookies.is_expired(soon, now=100)
    assert cookies.expiry(CookieAttrs([("Expires", "Wed, 09 Jun 2021 10:18:14 GMT")])) == 1623233894
    assert cookies.is_expired(CookieAttrs([("Max-Age", "0")]))
    assert cookies.expiry(CookieAttrs([("Max-Age", "soon"), ("Expires", "never")])) is None
    assert not cookies.is_expired(CookieAttrs())


def test_refresh() -> None:
    line = "a=b; expires=Wed, 09-Jun-2021 10:18:14 GMT; Path=/"
    assert cookies.refresh_set_cookie_header(line, 3600) == "a=b; expires=Wed, 09 Jun 2021 11:18:14 GMT; Path=/"
    for untouched in ("a=b", "a=b; expires=whenever", "a=b; expires=Wed, 09 Jun 9999 10:18:14 GMT"):
        assert cookies.refresh_set_cookie_header(untouched, 1e11) == untouched


@given(st.text())
def test_any_date_text(text: str) -> None:
    moment = cookies.http_date(text)
    assert moment is None or isinstance(moment, float)


def test_several_lines() -> None:
    assert cookies.parse_cookie_headers(["a=1; b", "c=3"]) == [("a", "1"), ("b", ""), ("c", "3")]
    read = cookies.parse_set_cookie_headers(["a=1; Path=/; Secure", "", "b=2"])
    assert [(name, value) for name, value, _ in read] == [("a", "1"), ("b", "2")]
    assert read[0][2].fields == (("Path", "/"), ("Secure", None)) and read[0][2]["PATH"] == "/"


def test_shift_date() -> None:
    assert cookies.shift_date("Thu, 01 Jan 1970 00:00:10 GMT", 5.0) == "Thu, 01 Jan 1970 00:00:15 GMT"
    assert cookies.shift_date("no date", 5.0) is None
    assert cookies.shift_date("Thu, 01 Jan 1970 00:00:10 GMT", 1e18) is None


@given(st.text())
def test_any_set_cookie(line: str) -> None:
    read = cookies.set_cookie(line)
    assert read is None or isinstance(cookies.is_expired(read[2]), bool)
    if read is not None:
        again = cookies.set_cookie(cookies.format_set_cookie_header(*read))
        assert again is not None and (again[:2], again[2].fields) == (read[:2], read[2].fields)
    assert isinstance(cookies.refresh_set_cookie_header(line, 5.0), str)


@given(st.text())
def test_any_cookie(line: str) -> None:
    read = cookies.parse_cookie_header(line)
    assert cookies.parse_cookie_header(cookies.format_cookie_header(read)) == read


def test_a_list_of_one_or_none() -> None:
    assert cookies.parse_set_cookie_header("") == []
    ((name, value, attrs),) = cookies.parse_set_cookie_header("a=b,c=d; Max-Age=5")
    assert (name, value) == ("a", "b,c=d")
    ends = cookies.get_expiration_ts(attrs)
    assert ends is not None and abs(ends - time.time() - 5) < 2
