from __future__ import annotations

from appliance.net.sessions import SessionCache


def test_a_tls13_session_is_given_out_once_and_others_again() -> None:
    cache = SessionCache()
    cache.put("13", b"s", (), once=True)
    cache.put("12", b"t", (), once=False)
    assert [bool(cache.take("13")) for _ in range(2)] == [True, False]
    assert [bool(cache.take("12")) for _ in range(2)] == [True, True]
    assert cache.take("other") is None


def test_age_counts_from_the_full_handshake() -> None:
    now = [0.0]
    cache = SessionCache(max_age=10, clock=lambda: now[0])
    cache.put("a", b"s", (), once=True)
    now[0] = 9.0
    kept = cache.take("a")
    assert kept is not None
    cache.put("a", b"s2", (), once=True, verified=kept.verified)
    now[0] = 11.0
    assert cache.take("a") is None
    assert len(cache) == 0


def test_the_one_not_used_for_longest_goes_first() -> None:
    cache = SessionCache(size=2)
    for key in "ab":
        cache.put(key, key.encode(), (), once=False)
    cache.take("a")
    cache.put("c", b"c", (), once=False)
    assert cache.take("b") is None
    assert cache.take("a") and cache.take("c")
    cache.clear()
    assert len(cache) == 0


def test_the_newest_session_counts() -> None:
    cache = SessionCache()
    cache.put("a", b"old", (), once=True)
    cache.put("a", b"new", (), once=True)
    kept = cache.take("a")
    assert kept is not None and kept.session == b"new"
    assert len(cache) == 0
