"""The grammar of --mode."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.exceptions import ModeError
from modes.spec import ModeSpec


@pytest.mark.parametrize(
    ("text", "name", "host", "port"),
    [
        ("regular", "regular", None, None),
        ("regular@8081", "regular", None, 8081),
        ("regular@127.0.0.1:8081", "regular", "127.0.0.1", 8081),
        ("regular@localhost:0", "regular", "localhost", 0),
        ("regular@[::1]:8080", "regular", "::1", 8080),
        ("regular@[::]:8080", "regular", "::", 8080),
        ("transparent@:8080", "transparent", "", 8080),
        ("Transparent", "transparent", None, None),
        ("transparent@0.0.0.0:65535", "transparent", "0.0.0.0", 65535),
        ("transparent:lan0", "transparent", None, None),
        ("wireguard", "wireguard", None, None),
        ("wireguard:/etc/wg/lab.conf@[::]:51821", "wireguard", "::", 51821),
        ("transparent:lan0,br-lab.7@8081", "transparent", None, 8081),
    ],
)
def test_good(text: str, name: str, host: str | None, port: int | None) -> None:
    spec = ModeSpec.parse(text)
    assert (spec.type_name, spec.host, spec.port, spec.full_spec) == (name, host, port, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("regulra", "did you mean regular"),
        ("", "unknown"),
        ("@8080", "unknown"),
        ("regular@", "PORT"),
        ("regular@65536", "PORT"),
        ("regular@-1", "PORT"),
        ("regular@host", "PORT"),
        ("regular@host:", "PORT"),
        ("regular@127.0.0.1", "PORT"),
        ("regular@[::1]", "PORT"),
        ("regular@80 80", "PORT"),
        ("regular:data", "takes nothing"),
        ("transparent:lan 0", "not the name of an interface"),
        ("transparent:lan0,", "not the name of an interface"),
        ("transparent:sixteen-letters0", "not the name of an interface"),
        ('transparent:lan"0', "not the name of an interface"),
        ("reverse:http://example.com", "not yet"),
        ("socks5@1080", "not yet"),
    ],
)
def test_bad(text: str, says: str) -> None:
    with pytest.raises(ModeError, match=says):
        ModeSpec.parse(text)


@given(st.text(max_size=40) | st.from_regex(r"(regular|transparent)@[\[\]:.0-9a-f%]{0,20}", fullmatch=True))
def test_any_text_is_a_spec_or_a_mode_error(text: str) -> None:
    try:
        spec = ModeSpec.parse(text)
    except ModeError:
        return
    assert spec.port is None or 0 <= spec.port <= 65535


def test_interfaces() -> None:
    assert ModeSpec.parse("transparent:lan0,lan1,lan0@8081").interfaces == ("lan0", "lan1")
    assert ModeSpec.parse("transparent@8081").interfaces == ()
