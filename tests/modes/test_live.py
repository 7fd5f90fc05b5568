"""Modes that come and go: on loopback, with redirects that only say what was done."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import modes
from appliance.arrival import Arrival, Host
from appliance.exceptions import ModeError
from appliance.net.guard import LoopGuard
from appliance.net.stream import Net
from modes.live import LiveModes, wanted


class Worker(Host):
    """As much of a worker as modes need."""

    def __init__(self) -> None:
        self.net = Net(asyncio.get_running_loop())
        self.guard = LoopGuard()
        self.ended: list[str] = []

    async def arrive(self, arrival: Arrival) -> None:
        arrival.transport.close()

    def full(self, coming: int = 0) -> bool:
        return False

    def limit(self) -> int:
        return 10

    def listening(self, address: Any) -> None:
        self.guard.listening(address)

    def end_mode(self, spec: Any) -> None:
        self.ended.append(spec.full_spec)


class Redirect:
    """One that lays nothing. fail: when it is laid."""

    _list = ""
    _want = SimpleNamespace(method="tproxy")
    backend = "nftables"
    fail = False

    def __init__(self, mode: modes.Mode, log: list[str]) -> None:
        self.mode, self.log = mode, log

    async def lay(self) -> None:
        if self.fail:
            raise ModeError("no rights")
        assert self.mode.addresses, "laid before it listens"
        self.log.append(f"laid {self.mode.spec.full_spec}")

    async def remove(self) -> None:
        self.log.append(f"removed {self.mode.spec.full_spec}")


class Rig:
    def __init__(self) -> None:
        self.worker = Worker()
        self.log: list[str] = []
        worker: Any = self.worker
        self.live = LiveModes(worker, self._make, self._redirect)

    def _make(self, spec: modes.ModeSpec, host: str, port: int | None) -> modes.Mode:
        return modes.make(spec, self.worker, host, port)

    def _redirect(self, mode: modes.Mode, probe: Any) -> Any:
        return Redirect(mode, self.log)

    async def become(self, *specs: str, port: int | None = None, redirect: Any = ("nftables",)) -> None:
        await self.live.become(wanted(specs, "127.0.0.1", port, redirect))

    @property
    def specs(self) -> list[str]:
        return [one.mode.spec.full_spec for one in self.live]

    def ports(self) -> set[int]:
        return {address[1] for one in self.live for address in one.mode.addresses}


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(Redirect, "fail", False)
    made = Rig()
    yield made
    await made.live.stop()


def free(count: int) -> list[int]:
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def open_(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def test_what_stays_is_not_touched(rig: Rig) -> None:
    a, b, c = free(3)
    await rig.become(f"regular@{a}", f"regular@{b}")
    kept = list(rig.live)[1].mode
    await rig.become(f"regular@{b}", f"regular@{c}")
    assert rig.specs == [f"regular@{b}", f"regular@{c}"]
    assert next(iter(rig.live)).mode is kept
    assert [open_(port) for port in (a, b, c)] == [False, True, True]
    assert rig.worker.guard.refuse("127.0.0.1", a) is None and rig.worker.guard.refuse("127.0.0.1", b)
    assert rig.worker.ended == []  # their connections go on
    await rig.live.stop()
    assert [open_(port) for port in (b, c)] == [False, False]


async def test_one_that_cannot_listen_changes_nothing(rig: Rig) -> None:
    a, b = free(2)
    await rig.become(f"regular@{a}", "transparent:lan0@0")
    before = list(rig.live)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ModeError, match="in use"):
        await rig.become(f"regular@{b}", f"regular@{taken.getsockname()[1]}")
    assert list(rig.live) == before
    assert [open_(port) for port in (a, b)] == [True, False]
    assert rig.log == ["laid transparent:lan0@0"]


async def test_a_port_passes_from_one_mode_to_another_and_back_if_that_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free(1)
    await rig.become(f"regular@{port}")
    await rig.become(f"transparent:lan0@{port}")
    assert rig.specs == [f"transparent:lan0@{port}"] and open_(port)
    await rig.become(f"regular@{port}")
    assert rig.worker.ended, "what the redirect had brought has ended"
    monkeypatch.setattr(Redirect, "fail", True)
    with pytest.raises(ModeError, match="no rights"):
        await rig.become(f"transparent:lan0@{port}")
    assert rig.specs == [f"regular@{port}"] and open_(port)
    assert rig.log == [f"laid transparent:lan0@{port}", f"removed transparent:lan0@{port}"]


async def test_another_redirect_for_a_mode_that_goes_on_listening(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.become("transparent:lan0@0", redirect=("nftables",))
    mode = next(iter(rig.live)).mode
    await rig.become("transparent:lan0@0", redirect=("iptables",))
    spec = "transparent:lan0@0"
    assert rig.log == [f"laid {spec}", f"laid {spec}", f"removed {spec}"]  # the new one first: no gap
    assert next(iter(rig.live)).mode is mode
    monkeypatch.setattr(Redirect, "fail", True)
    with pytest.raises(ModeError):
        await rig.become("transparent:lan0@0", redirect=("iptables-legacy",))
    assert next(iter(rig.live)).firewall is not None and len(rig.log) == 3
    await rig.become("transparent:lan0@0", redirect=None)
    assert rig.log[-1] == f"removed {spec}" and next(iter(rig.live)).firewall is None
    assert next(iter(rig.live)).mode is mode and rig.worker.ended == []


async def test_at_the_start_what_had_begun_is_left_for_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With firewall_fail=closed nothing may pass if the gateway does not come up."""
    monkeypatch.setattr(Redirect, "fail", True)
    with pytest.raises(ModeError):
        await rig.become("transparent:lan0@0")
    assert rig.specs == ["transparent:lan0@0"]
    await rig.live.stop()
    assert rig.log == []


async def test_other_defaults_move_those_that_depend_on_them(rig: Rig) -> None:
    a, b = free(2)
    await rig.become("regular", port=a)
    assert rig.ports() == {a}
    await rig.become("regular", port=b)
    assert rig.ports() == {b} and not open_(a)


async def test_changes_that_come_together_come_one_after_the_other(rig: Rig) -> None:
    a, b = free(2)
    await asyncio.gather(rig.become(f"regular@{a}"), rig.become(f"regular@{b}"), rig.become(f"regular@{a}"))
    assert rig.specs == [f"regular@{a}"] and open_(a) and not open_(b)


def test_two_of_one_place() -> None:
    with pytest.raises(ModeError, match="another mode listens there"):
        wanted(["regular@8080", "transparent@8080"], "", None, None)
    with pytest.raises(ModeError, match="lan1 is intercepted by transparent:lan0,lan1@1 already"):
        wanted(["transparent:lan0,lan1@1", "transparent:lan1@2"], "", None, None)
    assert len(wanted(["regular@0", "regular@0", "dns"], "", None, None)) == 3


async def test_its_status(rig: Rig, tmp_path: Path) -> None:
    await rig.become("transparent:lan0@0", "regular@0")
    first, second = (one.status() for one in rig.live)
    assert first["firewall"] == {
        "interfaces": ["lan0"], "backend": "nftables", "method": "tproxy", "heartbeat": None,
    }  # fmt: skip
    assert second["firewall"] is None and second["type"] == "regular"
    one = next(iter(rig.live))
    assert await one.probe()
    assert 0 <= one.status()["firewall"]["heartbeat"] < 5
