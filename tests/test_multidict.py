from __future__ import annotations

import pytest

from appliance.multidict import MultiDict, MultiDictView


def test_reading_gives_the_first_and_assigning_replaces_in_place() -> None:
    d = MultiDict([("a", 1), ("b", 2), ("a", 3)])
    assert d["a"] == 1
    assert d.get_all("a") == [1, 3]
    assert list(d) == ["a", "b"]
    assert len(d) == 2
    d["a"] = 9
    assert d.fields == (("a", 9), ("b", 2))
    d["c"] = 4
    assert d.fields[-1] == ("c", 4)


def test_set_all_uses_present_places_then_appends() -> None:
    d = MultiDict([("a", 1), ("b", 2), ("a", 3)])
    d.set_all("a", [7, 8, 9])
    assert d.fields == (("a", 7), ("b", 2), ("a", 8), ("a", 9))
    d.set_all("a", [])
    assert d.fields == (("b", 2),)


def test_missing_keys() -> None:
    d = MultiDict([("a", 1)])
    with pytest.raises(KeyError):
        d["A"]
    with pytest.raises(KeyError):
        del d["x"]
    assert d.get("x") is None
    assert d.pop("x", 5) == 5
    assert d.pop("a") == 1
    assert not d


def test_views_of_all_pairs() -> None:
    d = MultiDict([("a", 1), ("b", 2), ("a", 3)])
    assert list(d.items()) == [("a", 1), ("b", 2)]
    assert list(d.items(multi=True)) == [("a", 1), ("b", 2), ("a", 3)]
    assert list(d.keys(multi=True)) == ["a", "b", "a"]
    assert list(d.values()) == [1, 2]
    assert list(d.values(multi=True)) == [1, 2, 3]


def test_insert_add_copy_state() -> None:
    d = MultiDict([("a", 1)])
    d.insert(0, "z", 0)
    d.add("a", 2)
    assert d.fields == (("z", 0), ("a", 1), ("a", 2))
    copied = d.copy()
    copied["z"] = 5
    assert d["z"] == 0
    assert MultiDict.from_state([list(f) for f in d.get_state()]) == d
    assert d != copied
    assert d != {"z": 0}


def test_a_view_writes_through() -> None:
    store: list[tuple[tuple[str, str], ...]] = [(("a", "1"), ("a", "2"))]
    view = MultiDictView(lambda: store[-1], store.append)
    view["a"] = "3"
    assert store[-1] == (("a", "3"),)
    view.add("b", "4")
    assert store[-1] == (("a", "3"), ("b", "4"))
    loose = view.copy()
    loose["a"] = "x"
    assert view["a"] == "3"
    view.clear()
    assert store[-1] == ()
