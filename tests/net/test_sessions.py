from __future__ import annotations

import pytest

from appliance.net.sessions import BARREN_SECONDS, SessionCache, resumable


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


def test_a_server_that_gives_none_is_not_asked_for_a_while() -> None:
    now = [0.0]
    cache = SessionCache(size=2, clock=lambda: now[0])
    cache.none_given("a")
    assert cache.barren("a") and not cache.barren("b")
    now[0] = BARREN_SECONDS
    assert not cache.barren("a")
    for key in "bcd":
        cache.none_given(key)
    assert not cache.barren("b") and cache.barren("d"), "bounded"


def session(version: int, session_id: bytes, more: bytes = b"") -> bytes:
    def element(tag: int, data: bytes) -> bytes:
        size = bytes([len(data)]) if len(data) < 0x80 else b"\x82" + len(data).to_bytes(2)
        return bytes([tag]) + size + data

    fixed = (2, b"\1"), (2, version.to_bytes(2)), (4, b"\x13\1"), (4, session_id), (4, b"k" * 48)
    return element(0x30, b"".join(element(tag, data) for tag, data in fixed) + more)


@pytest.mark.parametrize(
    ("version", "session_id", "more", "wanted"),
    [
        (0x0303, b"i" * 32, b"", True),
        (0x0303, b"", b"", False),
        (0x0303, b"", b"\xaa\x04\x04\x02tt", True),
        (0x0304, b"i" * 32, b"", False),
        (0x0304, b"i" * 32, b"\xa1\x03\x02\x01\x05" + b"\xaa\x82\x01\x04\x04\x82\x01\x00" + b"t" * 256, True),
    ],
)
def test_what_can_be_resumed(version: int, session_id: bytes, more: bytes, wanted: bool) -> None:
    assert resumable(session(version, session_id, more)) is wanted
