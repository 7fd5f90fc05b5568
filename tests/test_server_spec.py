from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import server_spec


@pytest.mark.parametrize(
    "text, scheme, found",
    [
        ("a.example", "http", ("http", ("a.example", 80))),
        ("a.example/", "https", ("https", ("a.example", 443))),
        ("HTTPS://a.example:8443", "http", ("https", ("a.example", 8443))),
        ("[::1]:80", "http", ("http", ("::1", 80))),
        ("10.0.0.1:53", "udp", ("udp", ("10.0.0.1", 53))),
        ("a.example", "dns", ("dns", ("a.example", 53))),
        ("http3://a.example", "http", ("http3", ("a.example", 443))),
    ],
)
def test_parse(text: str, scheme: str, found: object) -> None:
    assert server_spec.parse(text, scheme) == found


@pytest.mark.parametrize("text", ["", "/", "http://", "a b", "a.example/path", "a:99999", "tcp://a.example", "a:b"])
def test_no_server(text: str) -> None:
    with pytest.raises(ValueError):
        server_spec.parse(text, "http")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        scheme, (host, port) = server_spec.parse(text, "http")
    except ValueError:
        return
    assert scheme == scheme.lower() and host and 0 <= port <= 65535
