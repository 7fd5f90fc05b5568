"""Programs that join: descriptors come over the control socket, and what they bring ends with the connection."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.control import server
from appliance.control.protocol import ControlError
from modes.inside import Inside
from tests.control.kit import Checked, running
from tests.harness import until


class Program:
    """A helper that answers nothing, and one listener of TCP, as `lockgate exec --join` would bring."""

    def __init__(self) -> None:
        self.helper, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()

    def join(self, gateway: Checked, **changed: Any) -> Any:
        params: dict[str, Any] = {"program": "/usr/bin/cu rl", "pid": 7, "listeners": ["tcp4"], **changed}
        return gateway.call_with([self.theirs.fileno(), self.listener.fileno()], "program.join", **params)

    def close(self) -> None:
        for sock in (self.helper, self.theirs, self.listener):
            sock.close()


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_join_and_leave(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inside, "refuses", lambda self, wanted: "")  # its listener stands on loopback here
    async with running(tmp_path, store=False) as gateway:
        types = lambda: [one.mode.spec.type_name for one in gateway.gateway.live]  # noqa: E731
        await gateway.call("status")  # all is open now
        files = open_files()
        with await asyncio.to_thread(Checked, gateway.path) as client:
            found = await asyncio.to_thread(program.join, client)
            assert found["device"] == "cu_rl-7" and "BEGIN CERTIFICATE" in found["certificate"]
            assert types() == ["regular", "local"]
            assert [mode["type"] for mode in (await gateway.call("modes.list"))["modes"]] == ["regular", "local"]
            program.listener.close()
            program.theirs.close()
            with await asyncio.to_thread(socket.create_connection, program.address):
                await until(lambda: len(gateway.gateway.worker.handlers) == 1)
                (handler,) = gateway.gateway.worker.handlers
                assert str(handler.client.device) == "cu_rl-7"
                # options may change; who has joined stays
                await gateway.call("options.set", values={"tcp_timeout": 5})
                assert types() == ["regular", "local"]
                with pytest.raises(ControlError, match="one program has joined"):
                    await asyncio.to_thread(program.join, client)
        await until(lambda: types() == ["regular"])
        await until(lambda: not gateway.gateway.worker.handlers)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(socket.create_connection, program.address)
        program.helper.settimeout(5)
        assert await asyncio.to_thread(program.helper.recv, 1) == b""
        await until(lambda: open_files() <= files)


async def test_the_gateway_ends_first(tmp_path: Path, program: Program) -> None:
    async with running(tmp_path) as gateway:
        client = await asyncio.to_thread(Checked, gateway.path)
        await asyncio.to_thread(program.join, client)
        program.theirs.close()
    program.helper.settimeout(5)
    assert await asyncio.to_thread(program.helper.recv, 1) == b""
    client.close()


async def test_descriptors_that_do_not_come(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "DESCRIPTOR_SECONDS", 0.2)
    async with running(tmp_path, store=False) as gateway:
        await gateway.call("status")  # all is open now
        files = open_files()
        with await asyncio.to_thread(Checked, gateway.path) as client:
            with pytest.raises(ControlError, match="3 descriptors were asked for, and 2 came"):
                await asyncio.to_thread(lambda: program.join(client, listeners=["tcp4", "udp4"]))
            monkeypatch.setattr(socket, "send_fds", lambda *args: None)
            with pytest.raises(ControlError, match="2 descriptors were asked for, and 0 came"):
                await asyncio.to_thread(program.join, client)
            assert (await asyncio.to_thread(client.call, "status"))["pid"] == os.getpid()  # and it goes on
            client.right = False
            for method, params, text in (
                ("program.join", {"program": "x", "pid": 1, "listeners": ["raw4"]}, "no listener is called 'raw4'"),
                ("program.listen", {"count": 1}, "no program has joined"),
            ):
                with pytest.raises(ControlError, match=text):
                    await asyncio.to_thread(lambda m=method, p=params: client.call(m, **p))
        assert [one.mode.spec.type_name for one in gateway.gateway.live] == ["regular"]
        await until(lambda: open_files() <= files)


async def test_descriptors_that_are_no_sockets_are_closed(tmp_path: Path, program: Program) -> None:
    async with running(tmp_path, store=False) as gateway:
        await gateway.call("status")
        files = open_files()
        with await asyncio.to_thread(Checked, gateway.path) as client:
            with Path("/dev/null").open("rb") as file:  # noqa: ASYNC230 - it does not block
                for first in (file.fileno(), program.theirs.fileno()):
                    with pytest.raises(ControlError, match="is no socket"):
                        await asyncio.to_thread(
                            client.call_with, [first, file.fileno()], "program.join", program="x", pid=7,
                            listeners=["tcp4"],
                        )  # fmt: skip
            with pytest.raises(ControlError, match="named twice"):
                await asyncio.to_thread(program.join, client, listeners=["tcp4", "tcp4"])
        await until(lambda: open_files() <= files)


async def test_who_goes_in_the_middle(tmp_path: Path, program: Program) -> None:
    async with running(tmp_path) as gateway:
        for _ in range(3):
            client = await asyncio.to_thread(Checked, gateway.path)
            client._sock.sendall(b'{"id":1,"method":"program.join","params":{"program":"x","pid":1,"listeners":[]}}\n')
            await asyncio.sleep(0.02)
            client.close()
        await until(lambda: len(gateway.gateway.control.sessions) == 1)
        assert (await gateway.call("status"))["clients"] == 1
