"""What comes out of an interception namespace, and what does not."""

from __future__ import annotations

import logging
import socket
import struct

import pytest

from modes.base import Unwanted
from modes.inside import Inside, InsideListener
from modes.netns import Namespace
from modes.spec import ModeSpec
from tests.modes.test_udp_listener import Gateway

OUTSIDE = ("198.51.100.7", "2001:db8::7", "64:ff9b::7f00:1")
NOBODY = ("127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:198.51.100.7")


class Mode(Inside):
    async def start(self, arrive: object) -> list[tuple[str, int]]:
        return []


class Accepted:
    """A TCP connection to this address."""

    def __init__(self, host: str) -> None:
        self._host = host

    def getsockname(self) -> tuple[object, ...]:
        return (self._host, 80, 0, 0) if ":" in self._host else (self._host, 80)


def told(host: str) -> bytes:
    """The original destination of a datagram, as the kernel tells it."""
    if ":" in host:
        return struct.pack("=H", socket.AF_INET6) + struct.pack(
            "!H4x16s4x", 53, socket.inet_pton(socket.AF_INET6, host)
        )
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", 53, socket.inet_aton(host))


@pytest.fixture
async def gateway() -> Gateway:
    return Gateway()


@pytest.mark.parametrize("host", [*OUTSIDE, *NOBODY])
async def test_what_only_a_socket_takes_for_an_address(
    gateway: Gateway, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel does not drop all of them, and a socket outside would be connected to the host's own loopback."""
    mode = Mode(ModeSpec.parse("local"), gateway, "", None)
    listener = InsideListener(mode, gateway.arrive, Namespace())
    peer = ("fd09::2", 4000, 0, 0) if ":" in host else ("10.9.0.2", 4000)
    served = host in OUTSIDE
    with caplog.at_level(logging.WARNING):
        assert (listener._begin((peer, told(host))) is not None) is served
        assert (host in caplog.text) is not served
    if served:
        assert mode.wanted(Accepted(host), peer) == (host, 80)  # type: ignore[arg-type]
    else:
        with pytest.raises(Unwanted, match="not served"):
            mode.wanted(Accepted(host), peer)  # type: ignore[arg-type]
