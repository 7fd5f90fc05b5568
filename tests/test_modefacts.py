"""What `client.proxy_mode` tells add-ons about where it listens and what it leads to."""

from __future__ import annotations

import pytest

from appliance.connection import ModeName
from modes.spec import ModeSpec

#: Specification, then: name, data, own host, own port, port of its kind, listen_host("h"), listen_port(9), transport.
FACTS = [
    ("regular", "regular", "", None, None, 8080, "h", 9, "tcp"),
    ("regular@8081", "regular", "", None, 8081, 8080, "h", 8081, "tcp"),
    ("transparent@[::1]:80", "transparent", "", "::1", 80, 8080, "::1", 80, "tcp"),
    ("upstream:http://p:3128@:8", "upstream", "http://p:3128", "", 8, 8080, "", 8, "tcp"),
    ("reverse:https://a", "reverse", "https://a", None, None, 8080, "h", 9, "both"),
    ("reverse:http://a@127.0.0.1:81", "reverse", "http://a", "127.0.0.1", 81, 8080, "127.0.0.1", 81, "tcp"),
    ("reverse:udp://a:5", "reverse", "udp://a:5", None, None, 8080, "h", 9, "udp"),
    ("reverse:dns://192.0.2.53", "reverse", "dns://192.0.2.53", None, None, 53, "h", 9, "both"),
    ("socks5", "socks5", "", None, None, 1080, "h", 9, "tcp"),
    ("dns@5353", "dns", "", None, 5353, 53, "h", 5353, "both"),
    ("wireguard", "wireguard", "", None, None, 51820, "h", 9, "udp"),
    ("local:curl", "local", "curl", None, None, None, "h", 9, "both"),
]


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: facts[0])
def test_facts(facts: tuple[object, ...]) -> None:
    mode = ModeName(str(facts[0]))
    found = (mode.type_name, mode.data, mode.custom_listen_host, mode.custom_listen_port, mode.default_port)
    assert (*found, mode.listen_host("h"), mode.listen_port(9), mode.transport_protocol) == facts[1:]


def test_nobody_says_where() -> None:
    assert ModeName("regular").listen_host() == "" and ModeName("regular").listen_port() == 8080
    assert ModeName("local").listen_port() is None


@pytest.mark.parametrize(
    "text, scheme, address",
    [
        ("reverse:a.example", "https", ("a.example", 443)),
        ("reverse:tcp://[::1]:6@:8", "tcp", ("::1", 6)),
        ("upstream:p.example:3128", "http", ("p.example", 3128)),
    ],
)
def test_targets(text: str, scheme: str, address: tuple[str, int]) -> None:
    mode = ModeName(text)
    assert (mode.scheme, mode.address) == (scheme, address)


@pytest.mark.parametrize("text", ["regular", "reverse:", "reverse:udp://a"])
def test_no_target(text: str) -> None:
    assert not hasattr(ModeName(text), "address") and not hasattr(ModeName(text), "scheme")


def test_the_modes_that_run_say_the_same() -> None:
    mode = ModeSpec.parse("regular@127.0.0.1:8081")
    assert (mode.custom_listen_host, mode.listen_port(), mode.transport_protocol) == ("127.0.0.1", 8081, "tcp")
