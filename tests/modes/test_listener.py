"""The TCP listener of all modes: binding, ports in use, both families, running out of descriptors."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

import modes
from appliance.exceptions import ModeError
from modes import base
from modes.spec import ModeSpec
from tests.harness import Make, Rig, answering, cpu, descriptors, until


def make(rig: Rig, text: str, host: str = "", port: int | None = None) -> modes.Mode:
    mode = modes.make(ModeSpec.parse(text), rig.worker, host, port)
    rig.modes.append(mode)
    return mode


async def test_one_port_for_both_families(rigs: Make) -> None:
    rig = await rigs()
    mode = make(rig, "regular@0")
    addresses = await mode.start(rig.worker.arrive)
    assert addresses == mode.addresses
    assert len({address[1] for address in addresses}) == 1
    assert {address[0] for address in addresses} <= {"0.0.0.0", "::"}
    for address in addresses:
        why = rig.worker.guard.refuse("127.0.0.1", address[1])
        assert why is not None
        with socket.create_connection(("127.0.0.1" if "." in address[0] else "::1", address[1])):
            await until(lambda: rig.worker.handlers)


async def test_where_to_listen(rigs: Make) -> None:
    rig = await rigs()
    assert make(rig, "regular").listen_port == 8080
    assert make(rig, "regular", "", 9).listen_port == 9
    assert make(rig, "regular@7", "", 9).listen_port == 7
    assert make(rig, "regular", "127.0.0.1").listen_host == "127.0.0.1"
    assert make(rig, "regular@[::1]:0", "127.0.0.1").listen_host == "::1"
    rig.modes.clear()


async def test_a_port_in_use_names_the_way_out_and_leaves_nothing_bound(rigs: Make) -> None:
    rig = await rigs()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before = descriptors()
        with pytest.raises(ModeError, match=rf"127\.0\.0\.1:{taken.getsockname()[1]} is in use.*-p"):
            await make(rig, f"regular@127.0.0.1:{taken.getsockname()[1]}").start(rig.worker.arrive)
        assert descriptors() == before


async def test_impossible_addresses(rigs: Make) -> None:
    rig = await rigs()
    with pytest.raises(ModeError, match=r"192\.0\.2\.1"):
        await make(rig, "regular@192.0.2.1:0").start(rig.worker.arrive)
    with pytest.raises(ModeError, match="no-such-host"):
        await make(rig, "regular@no-such-host.invalid:0").start(rig.worker.arrive)


async def test_stop_accepts_no_more_and_is_idempotent(rigs: Make) -> None:
    rig = await rigs()
    address = await rig.regular()
    await rig.modes[0].stop()
    await rig.modes[0].stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


class OutOf:
    """A listening socket that for a while has no descriptors to give."""

    def __init__(self, sock: socket.socket, error: int) -> None:
        self.sock = sock
        self.error = error
        self.tries = 0
        self.out = True

    def accept(self) -> Any:
        self.tries += 1
        if self.out:
            raise OSError(self.error, "Too many open files")
        return self.sock.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_out_of_descriptors_recovers(
    rigs: Make, error: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "RETRY_SECONDS", 0.05)
    rig = await rigs()
    mode: Any = make(rig, "regular@127.0.0.1:0")
    bind = mode._bind
    out: list[Any] = []

    def bound() -> list[Any]:
        out[:] = [OutOf(sock, error) for sock in bind()]
        return out

    monkeypatch.setattr(mode, "_bind", bound)
    (address,) = await mode.start(rig.worker.arrive)
    client = await rig.connect(address)
    client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with cpu() as used:
        await asyncio.sleep(0.4)
        assert used() < 0.04, "no spinning meanwhile"
    assert 2 < out[0].tries < 15
    told = [r for r in caplog.records if "cannot accept" in r.getMessage()]
    assert 1 <= len(told) <= 2
    out[0].out = False
    assert (await client.head()).startswith(b"HTTP/1.1 400")


async def test_a_connection_that_is_gone_before_it_is_taken(rigs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await rigs()
    address = await rig.regular()
    real = socket.socket.setsockopt
    broken = True

    def setsockopt(self: socket.socket, *args: Any) -> None:
        nonlocal broken
        if broken and args[:2] == (socket.IPPROTO_TCP, socket.TCP_NODELAY) and self.getsockname() == address:
            broken = False
            raise OSError(errno.EINVAL, "gone")
        real(self, *args)

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt)
    first = await rig.connect(address)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await first.head()
    second = await rig.connect(address)
    await second.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await second.head()).startswith(b"HTTP/1.1 400")


async def test_many_at_once(rigs: Make) -> None:
    rig = await rigs()
    origin = await rig.origin(answering())
    proxy = await rig.regular()

    async def visit() -> None:
        client = await rig.connect(proxy)
        await client.say(b"GET http://origin.test:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % origin[1])
        assert (await client.rest()).endswith(b"hello")

    await asyncio.gather(*[visit() for _ in range(100)])
    assert rig.worker.totals.connections == 100
