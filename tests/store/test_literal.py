"""What every match of an expression contains, so that rows without it need not be asked."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.literal import literal


@pytest.mark.parametrize(
    ("expression", "like", "whole"),
    [
        ("firmware", "firmware", True),
        (r"10\.0\.0\.7:", "10.0.0.7:", True),
        ("gr.n", "gr_n", True),
        ("a_b%", r"a\_b\%", True),
        (r"seq=\d+77777$", "77777", False),
        ("^https", "https", False),
        ("a.b.", "a_b", False),
        ("(foo|bar)baz", "baz", False),
        ("(?:abc)+x", "abc", False),
        ("(ab)cd", "abcd", False),
        ("(ab)?cd", "cd", False),
        ("x[0-9]yz", "x_yz", False),
        ("ab(?=cd)ef", "abef", False),
        ("fü", None, False),
        ("[0-9]{3}", None, False),
        ("(?-i:abc)", None, False),
        ("a|bcd", None, False),
        ("a", None, False),
        ("", None, False),
    ],
)
def test_of_an_expression(expression: str, like: str | None, whole: bool) -> None:
    found = literal(expression, re.IGNORECASE)
    if like is None:
        assert found is None
    else:
        assert found is not None and (found.like(), found.whole) == (like, whole)


def test_no_expression() -> None:
    with pytest.raises(re.error):
        literal("(", 0)


parts = st.sampled_from(["a", "b", "c", ".", "[ab]", "^", "$", r"\b", r"\w", "[^a]"])
expressions = st.recursive(
    parts,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.builds("({})".format, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("(?={})".format, inner),
        st.builds("(?!{})".format, inner),
        st.builds("(?:{})?".format, inner),
        st.builds("(?:{})+".format, inner),
        st.builds("(?:{}){{2}}".format, inner),
        st.builds("(?:{})*?".format, inner),
        st.builds("(?>{})".format, inner),
    ),
    max_leaves=8,
)


@given(expressions, st.text("abcABC ", max_size=12))
def test_what_matches_has_it(expression: str, text: str) -> None:
    found = literal(expression, re.IGNORECASE)
    if found is None:
        return
    has = re.search(found.pattern(), text, re.IGNORECASE | re.DOTALL) is not None
    matches = re.search(expression, text, re.IGNORECASE) is not None
    assert has or not matches
    if found.whole:
        assert has == matches
