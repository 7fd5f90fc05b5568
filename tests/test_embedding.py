"""lockgate inside another program: `DumpMaster`, and what a script reaches as `ctx.master`."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance import asyncio_utils, ctx, embedding, emoji, user_agents
from appliance.embedding import DumpMaster, mitmdump
from appliance.flow import Flow
from appliance.options import Options
from appliance.test import tflow


class Heard:
    def __init__(self) -> None:
        self.events: list[str] = []

    def load(self, loader: Any) -> None:
        self.events.append("load")

    def configure(self, updated: frozenset[str]) -> None:
        self.events.append("configure")

    def running(self) -> None:
        self.events.append("running")

    def request(self, flow: Flow) -> None:
        self.events.append(f"request {flow.id}")

    def done(self) -> None:
        self.events.append("done")


async def test_dump_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctx, "master", None, raising=False)
    monkeypatch.setattr(ctx, "options", None, raising=False)
    options = Options(confdir=str(tmp_path), listen_host="127.0.0.1", mode=["regular@127.0.0.1:0"], ca_key="ec")
    master = DumpMaster(options, with_termlog=False, with_dumper=False)
    addon = Heard()
    master.addons.add(addon)
    names = list(master.addons.lookup)
    assert names.index("scriptloader") < names.index("heard")  # an embedder's come last
    running = asyncio.create_task(master.run())
    async with asyncio.timeout(20):
        while "running" not in addon.events:  # noqa: ASYNC110 - it is another task's list
            await asyncio.sleep(0.01)
    assert ctx.master is master and ctx.options is options and master.event_loop is asyncio.get_running_loop()
    assert master.commands is master.addons.commands and master.log is ctx.log
    flow = tflow.tflow(live=False)
    await master.load_flow(flow)
    assert addon.events == ["load", "configure", "running", f"request {flow.id}"]
    threading.Thread(target=master.shutdown).start()
    async with asyncio.timeout(20):
        assert await running == 0
    assert addon.events[-1] == "done"
    master.shutdown()  # nothing is left to end


def test_in_a_thread(tmp_path: Path) -> None:
    """With a loop of its own and a port that is found; and what asks `proxyserver` where it listens."""
    found: dict[str, Any] = {}
    up = threading.Event()

    class Up:
        def running(self) -> None:
            up.set()

    def serve() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        options = Options(confdir=str(tmp_path), listen_host="127.0.0.1", listen_port=0, ca_key="ec", store=False)
        master = found["master"] = DumpMaster(options, loop=loop, with_termlog=False, with_dumper=False)
        assert master.addons.get("proxyserver").listen_addrs() == []
        master.addons.add(Up())
        try:
            found["code"] = loop.run_until_complete(master.run())
        finally:
            loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert up.wait(20)
    master = found["master"]
    server = master.addons.get("proxyserver")
    (address,) = server.listen_addrs()
    assert address[0] == "127.0.0.1" and address[1] != 0
    assert [one.mode.type_name for one in server.servers] == ["regular"]
    assert server.servers["regular"].listen_addrs == (address,) and server.is_running
    with pytest.raises(KeyError):
        server.servers["socks5"]
    with socket.create_connection(address[:2], 5) as client:
        client.sendall(b"GET http://lockgate.internal/ HTTP/1.1\r\nHost: lockgate.internal\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        assert list(server.connections) == [client.getsockname()]

    def now(specs: list[str]) -> Any:
        return asyncio.run_coroutine_threadsafe(server.servers.update(specs), master.event_loop).result(10)

    assert now(["regular@127.0.0.1:0"]) and server.servers["regular@127.0.0.1:0"].listen_addrs != (address,)
    assert now([]) and not server.is_running
    assert not master.should_exit.is_set()
    master.shutdown()
    thread.join(20)
    assert found["code"] == 0 and master.should_exit.is_set() and server.listen_addrs() == []


def test_before_it_runs(tmp_path: Path) -> None:
    async def end_at_once() -> int:
        master = embedding.Master(Options(confdir=str(tmp_path), server=False, ca_key="ec", termlog_verbosity="error"))
        master.shutdown()
        return await master.run()

    assert asyncio.run(end_at_once()) == 0


def test_mitmdump(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert mitmdump(["--set", "nosuch_option=1", "-q"]) == 2
    assert "nosuch_option" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["program", "--set", "tcp_timeout=x"])
    assert mitmdump() == 2
    assert "tcp_timeout" in capsys.readouterr().err


async def test_tasks() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    for keep in (True, False):
        task = asyncio_utils.create_task(work(), name="work", keep_ref=keep, client=("a", 1))
        assert task.get_name() == "work" and await task == 3
    await asyncio.sleep(0)
    assert not asyncio_utils._kept


def test_tables() -> None:
    assert emoji.emoji[":red_circle:"] == "🔴" and emoji.emoji[":default:"] == "●" and len(emoji.emoji) > 1000
    assert user_agents.get_by_shortcut("f")[0] == "firefox"  # type: ignore[index]
    assert user_agents.get_by_shortcut("?") is None
    assert len({entry[1] for entry in user_agents.UASTRINGS}) == len(user_agents.UASTRINGS)


@pytest.mark.parametrize(
    "call, level", [("debug", 10), ("info", 20), ("alert", 21), ("warn", 30), ("error", 40), (None, 20)]
)
def test_the_older_log(caplog: pytest.LogCaptureFixture, call: str | None, level: int) -> None:
    caplog.set_level(logging.DEBUG)
    (getattr(ctx.log, call) if call else ctx.log)("what it says")
    assert [(record.levelno, record.message) for record in caplog.records] == [(level, "what it says")]
