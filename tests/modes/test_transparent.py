"""Where transparent connections wanted to go."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

import modes
from modes.base import Unwanted
from modes.spec import ModeSpec
from modes.transparent import Transparent
from tests.harness import Make, Rig


class Fake:
    """A socket as the kernel would show it after REDIRECT or TPROXY."""

    def __init__(self, own: tuple[Any, ...], original: tuple[str, int] | None) -> None:
        self.own = own
        self.original = original
        self.family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
        self.transparent = True
        self.only_ipv6 = False

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) in ((41, 75), (socket.SOL_IP, 19))
        self.transparent = bool(value)

    def getsockname(self) -> tuple[Any, ...]:
        return self.own

    def getsockopt(self, level: int, name: int, size: int = 0) -> bytes | int:
        if (level, name) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            return self.only_ipv6
        assert name == 80
        if self.original is None:
            raise OSError(2, "No such file or directory")
        host, port = self.original
        if level == 41:
            assert size == 28
            return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, socket.inet_pton(10, host), 0)
        assert (level, size) == (socket.SOL_IP, 16)
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))


def mode(rig: Rig) -> Transparent:
    made = modes.make(ModeSpec.parse("transparent@8081"), rig.worker, "", None)
    assert isinstance(made, Transparent)
    made.addresses = [("0.0.0.0", 8081)]
    return made


PEER = ("198.51.100.7", 5555)


@pytest.mark.parametrize(
    ("own", "original", "wanted"),
    [
        (("127.0.0.1", 8081), ("192.0.2.1", 443), ("192.0.2.1", 443)),
        (("::1", 8081, 0, 0), ("2001:db8::1", 443), ("2001:db8::1", 443)),
        (("192.0.2.1", 443), None, ("192.0.2.1", 443)),
        (("2001:db8::1", 443, 0, 0), None, ("2001:db8::1", 443)),
        (("::ffff:192.0.2.1", 443, 0, 0), None, ("192.0.2.1", 443)),
        (("::ffff:127.0.0.1", 8081, 0, 0), ("192.0.2.1", 80), ("192.0.2.1", 80)),
        # TPROXY towards a port that happens to be ours, on a machine that is not
        (("192.0.2.1", 8081), None, ("192.0.2.1", 8081)),
    ],
)
async def test_destination(rigs: Make, own: tuple[Any, ...], original: Any, wanted: tuple[str, int]) -> None:
    sock: Any = Fake(own, original)
    assert mode(await rigs()).wanted(sock, PEER) == wanted
    assert sock.transparent == (original is None)  # a redirected one must not be


async def test_redirect_of_a_local_service_on_another_port(rigs: Make) -> None:
    made = mode(await rigs())
    for here in ("127.0.0.1", "::1"):
        local: Any = Fake((here, 8081), (here, 80))
        assert made.wanted(local, (here, 5555)) == (here, 80)
        with pytest.raises(Unwanted, match="nobody's address"):
            made.wanted(local, PEER)


@pytest.mark.parametrize("host", ["::ffff:127.0.0.1", "::ffff:192.0.2.1", "::ffff:0.0.0.0", "::", "0.0.0.0"])
@pytest.mark.parametrize("method", ["redirect", "tproxy"])
async def test_what_no_packet_is_for(rigs: Make, host: str, method: str) -> None:
    """IPv4-mapped, it comes as IPv6, past rules that know of local addresses, and would be dialled as IPv4."""
    own = ("2001:db8::1" if ":" in host else "192.0.2.9", 8081) if method == "redirect" else (host, 80)
    sock: Any = Fake(own, (host, 80) if method == "redirect" else None)
    sock.only_ipv6 = ":" in host
    for peer in (PEER, ("2001:db8::7", 5555, 0, 0), ("127.0.0.1", 5555)):
        with pytest.raises(Unwanted, match="nobody's address"):
            mode(await rigs()).wanted(sock, peer)


@pytest.mark.parametrize("own", [("127.0.0.1", 8081), ("::1", 8081, 0, 0)])
async def test_somebody_who_connects_to_the_listener_itself(rigs: Make, own: tuple[Any, ...]) -> None:
    sock: Any = Fake(own, None)
    with pytest.raises(Unwanted, match="no original destination"):
        mode(await rigs()).wanted(sock, PEER)


async def test_a_direct_connection_is_closed_with_a_word(rigs: Make, caplog: pytest.LogCaptureFixture) -> None:
    rig = await rigs()
    address = await rig.listen(modes.make(ModeSpec.parse("transparent@127.0.0.1:0"), rig.worker, "", None))
    client = await rig.connect(address)
    assert await client.rest() == b""
    assert "no original destination" in caplog.text
    assert not rig.worker.handlers
