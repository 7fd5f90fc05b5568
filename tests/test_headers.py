from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.headers import (
    Headers,
    assemble_content_type,
    infer_content_encoding,
    parse_content_type,
    to_bytes,
    to_str,
)

names = st.sampled_from(["a", "A", "b", "B", "set-cookie", "Set-Cookie", "x"])
values = st.text(st.characters(codec="utf-8"), max_size=4)


class AgainstModel(RuleBasedStateMachine):
    """Headers against a plain list of pairs of str."""

    def __init__(self) -> None:
        super().__init__()
        self.headers = Headers()
        self.model: list[tuple[str, str]] = []

    def present(self, name: str) -> list[int]:
        return [i for i, (k, _) in enumerate(self.model) if k.lower() == name.lower()]

    @rule(name=names, value=values)
    def assign(self, name: str, value: str) -> None:
        self.headers[name] = value
        places = self.present(name)
        if not places:
            self.model.append((name, value))
        else:
            self.model[places[0]] = (self.model[places[0]][0], value)
            for i in reversed(places[1:]):
                del self.model[i]

    @rule(name=names, value=values)
    def add(self, name: str, value: str) -> None:
        self.headers.add(name, value)
        self.model.append((name, value))

    @rule(name=names, value=values, index=st.integers(-3, 8))
    def insert(self, name: str, value: str, index: int) -> None:
        self.headers.insert(index, name, value)
        self.model.insert(index, (name, value))

    @rule(name=names)
    def delete(self, name: str) -> None:
        places = self.present(name)
        if places:
            del self.headers[name]
        else:
            with pytest.raises(KeyError):
                del self.headers[name]
        self.model = [pair for i, pair in enumerate(self.model) if i not in places]

    @rule(name=names, many=st.lists(values, max_size=3))
    def set_all(self, name: str, many: list[str]) -> None:
        self.headers.set_all(name, many)
        places, left, kept = self.present(name), list(many), []
        for i, (k, v) in enumerate(self.model):
            if i not in places:
                kept.append((k, v))
            elif left:
                kept.append((k, left.pop(0)))
        self.model = kept + [(name, v) for v in left]

    @invariant()
    def same(self) -> None:
        assert list(self.headers.items(multi=True)) == self.model
        assert self.headers.fields == tuple((k.encode(), v.encode()) for k, v in self.model)
        firsts = {k.lower(): k for k, _ in reversed(self.model)}
        assert len(self.headers) == len(firsts)
        assert set(self.headers) == set(firsts.values())
        for name in ("a", "B", "sEt-cookie", "nope"):
            want = [v for k, v in self.model if k.lower() == name.lower()]
            assert self.headers.get_all(name) == want
            assert self.headers.get(name) == (", ".join(want) if want else None)
            assert (name in self.headers) == bool(want)


TestAgainstModel = AgainstModel.TestCase


def test_reading_folds_and_ignores_case() -> None:
    h = Headers([(b"Accept", b"a"), (b"Host", b"x"), (b"accept", b"b")])
    assert h["ACCEPT"] == h[b"accept"] == "a, b"
    assert h.get("none") is None
    assert h.get("none", 5) == 5
    assert list(h.keys()) == ["Accept", "Host"]
    with pytest.raises(KeyError):
        h["none"]
    assert 5 not in h


def test_assigning_keeps_place_and_spelling() -> None:
    h = Headers([(b"HOST", b"x"), (b"a", b"1"), (b"host", b"y")])
    h["host"] = "z"
    assert h.fields == ((b"HOST", b"z"), (b"a", b"1"))
    h["A"] = b"\xff"
    assert h.fields == ((b"HOST", b"z"), (b"a", b"\xff"))


def test_keywords_and_bytes() -> None:
    h = Headers([(b"Host", b"x")], content_type="text/html", host="y")
    assert h.fields == ((b"Host", b"y"), (b"content-type", b"text/html"))
    assert bytes(h) == b"Host: y\r\ncontent-type: text/html\r\n"
    assert bytes(Headers()) == b""


@pytest.mark.parametrize("fields", [[("a", "b")], [(b"a", "b")], [("a", b"b")], [(b"a", None)]])
def test_fields_that_are_not_bytes(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        Headers(fields)


@pytest.mark.parametrize("value", [1, None, ["x"]])
def test_values_that_are_not_text(value: str) -> None:
    h = Headers()
    with pytest.raises(TypeError):
        h["a"] = value
    assert not h.fields


def test_trusted_takes_the_tuple_itself_and_changes_do_not_reach_it() -> None:
    fields = ((b"a", b"1"),)
    h = Headers.trusted(fields)
    assert h.fields is fields
    h["a"] = "2"
    assert fields == ((b"a", b"1"),)


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary())))
def test_bytes_survive_text_and_state(fields: list[tuple[bytes, bytes]]) -> None:
    h = Headers(fields)
    again = Headers()
    for name, value in h.items(multi=True):
        again.add(name, value)
    assert again == h
    assert Headers.from_state([list(f) for f in h.get_state()]) == h
    assert h.copy() == h


def test_mapping_methods() -> None:
    h = Headers([(b"A", b"1")])
    h.update({"a": "2", "b": "3"})
    assert h.setdefault("c", "4") == "4"
    assert h.pop("A") == "2"
    assert dict(h) == {"b": "3", "c": "4"}
    h.clear()
    assert h == Headers()


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("text/html", ("text", "html", {})),
        ("Text/HTML; Charset=UTF-8", ("text", "html", {"charset": "UTF-8"})),
        (
            'multipart/form-data; boundary="a;b=\\"c"; x = 1',
            ("multipart", "form-data", {"boundary": 'a;b="c', "x": "1"}),
        ),
        ("text/plain; bare; a=b;", ("text", "plain", {"a": "b"})),
        ("", None),
        ("text", None),
    ],
)
def test_parse_content_type(value: str, parsed: object) -> None:
    assert parse_content_type(value) == parsed


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text('ab;="\\ ,', max_size=6)))
def test_content_type_round_trip(parameters: dict[str, str]) -> None:
    assert parse_content_type(assemble_content_type("a", "b", parameters)) == ("a", "b", parameters)


@given(st.text())
def test_any_content_type(value: str) -> None:
    parsed = parse_content_type(value)
    assert (parsed is None) == ("/" not in value.partition(";")[0])
    if parsed is not None:
        assert parsed[0] == parsed[0].lower() and all(name == name.lower() for name in parsed[2])


@pytest.mark.parametrize(
    "content_type, content, name",
    [
        ("", b"\xff\xfea\0", "utf-16"),
        ("text/html; charset=iso-8859-2", b"", "iso-8859-2"),
        ("application/json", b"", "utf8"),
        ("text/html", b'<meta charset="gbk">', "gb18030"),
        ("text/css", b'@charset "koi8-r";', "koi8-r"),
        ("text/plain", b"x", "latin-1"),
    ],
)
def test_character_sets(content_type: str, content: bytes, name: str) -> None:
    found = infer_content_encoding(content_type, content)
    assert codecs.lookup(found).name in (codecs.lookup(name).name, "utf-16-le")


@given(st.binary())
def test_text_and_bytes(raw: bytes) -> None:
    assert to_bytes(to_str(raw)) == raw == to_bytes(raw)
    with pytest.raises(TypeError, match="int"):
        to_bytes(3)  # type: ignore[arg-type]
