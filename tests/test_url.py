from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import url


@pytest.mark.parametrize(
    ("given_", "parsed"),
    [
        ("http://a.example", ("http", "a.example", 80, "/")),
        (b"HTTPS://A.example:8443/b?c#d", ("https", "a.example", 8443, "/b?c#d")),
        ("http://a.example?x=1", ("http", "a.example", 80, "/?x=1")),
        ("http://user:pw@a.example:81/", ("http", "a.example", 81, "/")),
        ("http://[::1]:8080/x", ("http", "::1", 8080, "/x")),
        ("https://[2001:db8::1]", ("https", "2001:db8::1", 443, "/")),
        ("http://bücher.example/ä b", ("http", "xn--bcher-kva.example", 80, "/%C3%A4%20b")),
        ("http://a.example/%41\r\n", ("http", "a.example", 80, "/%41%0D%0A")),
        ("http://a.example:/", ("http", "a.example", 80, "/")),
        ("ws://a_b.example./", ("ws", "a_b.example.", 80, "/")),
        ("ftp://a.example:21/x", ("ftp", "a.example", 21, "/x")),
    ],
)
def test_parse(given_: str | bytes, parsed: tuple[str, str, int, str]) -> None:
    assert url.parse(given_) == parsed


@pytest.mark.parametrize(
    "bad",
    [
        "", "a.example", "/path", "http:", "http://", "http:///x", "//a.example/", "http://a.example:65536/", "http://a:b/",
        "http://a.example:123456/", "http://[::1/", "http://[nope]/", "http://[fe80::1%x y]/", "http://a b/", "http://a\r\n.example/",
        "http://" + "a" * 300 + "/", "http://\udc80/", "gopher://a.example/", "http://a..b/",
    ],
)  # fmt: skip
def test_parse_refuses(bad: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        url.parse(bad)


hosts = st.sampled_from(["a.example", "10.0.0.1", "::1", "2001:db8::1", "x-y_z.test"])


@given(st.sampled_from(["http", "https"]), hosts, st.integers(0, 65535), st.from_regex(r"/[!-~]{0,12}", fullmatch=True))
def test_unparse_and_parse(scheme: str, host: str, port: int, path: str) -> None:
    assert url.parse(url.unparse(scheme, host, port, path)) == (scheme, host, port, path)


@given(st.text())
def test_any_text_parses_or_raises_value_error(text: str) -> None:
    for candidate in (text, "http://" + text):
        try:
            scheme, host, port, path = url.parse(candidate)
        except ValueError:
            continue
        assert host.isascii()
        assert path.isascii()
        assert url.parse(url.unparse(scheme, host, port, path)) == (scheme, host, port, path)


@pytest.mark.parametrize(
    ("authority", "parsed"),
    [
        ("a.example", ("a.example", None)),
        ("a.example:80", ("a.example", 80)),
        (b"[::1]:1", ("::1", 1)),
        ("[::1]", ("::1", None)),
        ("bücher.example:1", ("bücher.example", 1)),
    ],
)
def test_parse_authority(authority: str, parsed: tuple[str, int | None]) -> None:
    assert url.parse_authority(authority, check=True) == parsed


@pytest.mark.parametrize("bad", ["", ":80", "::1", "a:b", "a:99999", "a b", "[a", "a/b", "[1.2.3.4]x"])
def test_parse_authority_unchecked(bad: str) -> None:
    assert url.parse_authority(bad, check=False) == (bad, None)
    with pytest.raises(ValueError, match="not a valid authority"):
        url.parse_authority(bad, check=True)


def test_hostport() -> None:
    assert url.hostport("https", "a", 443) == "a"
    assert url.hostport(b"https", "a", 443) == "a"
    assert url.hostport("http", "a", 443) == "a:443"
    assert url.hostport("", "::1", 443) == "[::1]:443"


@given(st.lists(st.tuples(st.text(min_size=1), st.text())))
def test_query_round_trip(pairs: list[tuple[str, str]]) -> None:
    clean = [(k.encode("utf-8", "ignore").decode() or "k", v.encode("utf-8", "ignore").decode()) for k, v in pairs]
    assert url.decode(url.encode(clean)) == clean
    assert url.decode(url.encode(clean, similar_to="a&b")) == clean


def test_encode_mimics_bare_keys() -> None:
    assert url.encode([("a", ""), ("b", "1")]) == "a=&b=1"
    assert url.encode([("a", ""), ("b", "1")], similar_to="x&y=1") == "a&b=1"
    assert url.encode([("a", "")], similar_to="") == "a="


@given(st.text())
def test_split_path_loses_nothing(path: str) -> None:
    assert "".join(url.split_path(path)) == path


def test_unquote_keeps_bytes() -> None:
    assert url.quote(url.unquote("%FF%C3%A4"), safe="") == "%FF%C3%A4"


def test_ports_and_hosts() -> None:
    assert [url.default_port(one) for one in ("http", b"https", "wss", "gopher")] == [80, 443, 443, None]
    assert [url.bracketed(one) for one in ("a", "::1", "[::1]")] == ["a", "[::1]", "[::1]"]
    for host in ("a.example", "a.example.", "_dmarc.a", "10.0.0.1", "::1", "x" * 63):
        assert url.valid_host(host), host
    for host in ("", "a b", "a..b", "x" * 64, "fe80::1%eth0", ":::", "ü.example", ".".join(["x" * 60] * 5)):
        assert not url.valid_host(host), host
    assert url.to_ascii("münchen.example") == "xn--mnchen-3ya.example" and url.to_ascii("a.example") == "a.example"
    with pytest.raises(ValueError, match="not a host name"):
        url.to_ascii("ü" * 100)


@given(st.text(), st.booleans())
def test_any_authority(text: str, check: bool) -> None:
    try:
        host, port = url.parse_authority(text, check)
    except ValueError:
        assert check
        return
    assert host == text or url.valid_host(url.to_ascii(host))
    assert port is None or 0 <= port <= 65535
