from __future__ import annotations

import asyncio
import threading

import pytest

from appliance.connection import Client, ConnectionState, Server
from appliance.exceptions import ControlException
from appliance.flow import Error
from appliance.http import HTTPFlow, Request, Response
from appliance.tcp import TCPFlow


class Hold:
    def __init__(self) -> None:
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1


def make(live: Hold | bool = False) -> HTTPFlow:
    client = Client(peername=("10.0.0.2", 1), sockname=("10.0.0.1", 2), timestamp_start=1.0)
    flow = HTTPFlow(client, Server(address=("a.example", 80)), live)
    flow.request = Request.make("GET", "http://a.example/x", headers={"a": "1"})
    return flow


def test_fresh() -> None:
    flow = make()
    assert flow.response is flow.error is flow.websocket is flow.is_replay is None
    assert (flow.marked, flow.comment, flow.metadata, flow.intercepted) == ("", "", {}, False)
    assert flow.id == flow.id != make().id
    flow.metadata["k"] = 1
    assert flow.metadata == {"k": 1}
    assert make().metadata == {}


def test_kill() -> None:
    hold = Hold()
    flow = make(hold)
    assert flow.live
    assert flow.killable
    flow.kill()
    assert hold.kills == 1
    assert flow.error is not None
    assert flow.error.msg == Error.KILLED_MESSAGE
    assert not flow.killable
    with pytest.raises(ControlException):
        flow.kill()
    assert hold.kills == 1


def test_what_is_over_cannot_be_killed() -> None:
    flow = make()
    assert not flow.live
    with pytest.raises(ControlException):
        flow.kill()
    assert flow.error is None


def test_an_earlier_error_does_not_prevent_a_kill() -> None:
    flow = make(True)
    flow.error = Error("server vanished")
    assert flow.killable
    flow.kill()
    assert flow.killed


async def test_wait_for_resume() -> None:
    flow = make()
    await asyncio.wait_for(flow.wait_for_resume(), 1)
    flow.intercept()
    flow.intercept()
    waiters = [asyncio.ensure_future(flow.wait_for_resume()) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(w.done() for w in waiters)
    flow.resume()
    flow.resume()
    await asyncio.wait_for(asyncio.gather(*waiters), 1)
    assert not flow.intercepted


async def test_intercepted_again_before_the_waiter_woke() -> None:
    flow = make()
    flow.intercept()
    waiter = asyncio.ensure_future(flow.wait_for_resume())
    await asyncio.sleep(0.01)
    flow.resume()
    flow.intercept()
    await asyncio.sleep(0.01)
    assert not waiter.done()
    flow.resume()
    await asyncio.wait_for(waiter, 1)


async def test_resume_from_another_thread() -> None:
    flow = make()
    flow.intercept()
    threading.Timer(0.02, flow.resume).start()
    await asyncio.wait_for(flow.wait_for_resume(), 2)


async def test_kill_ends_interception() -> None:
    flow = make(Hold())
    flow.intercept()
    waiter = asyncio.ensure_future(flow.wait_for_resume())
    await asyncio.sleep(0)
    flow.kill()
    await asyncio.wait_for(waiter, 1)
    assert not flow.intercepted


def test_backup_and_revert() -> None:
    flow = make(True)
    assert not flow.modified()
    flow.revert()
    flow.backup()
    assert not flow.modified()
    flow.server_conn.timestamp_start = 5.0  # the engine goes on meanwhile
    flow.server_conn.state = ConnectionState.OPEN
    assert not flow.modified()
    client, server = flow.client_conn, flow.server_conn
    flow.request.path = "/other"
    flow.request.headers["a"] = "2"
    flow.response = Response.make(404)
    flow.marked = ":x:"
    assert flow.modified()
    flow.backup()  # does not overwrite the first
    flow.revert()
    assert flow.request.path == "/x"
    assert flow.request.headers["a"] == "1"
    assert flow.response is None
    assert flow.marked == ""
    assert not flow.modified()
    assert (flow.client_conn, flow.server_conn) == (client, server)
    assert flow.server_conn is server
    assert server.connected
    assert server.timestamp_start == 5.0
    assert flow.live


def test_forced_backup() -> None:
    flow = make()
    flow.backup()
    flow.comment = "one"
    flow.backup(force=True)
    flow.comment = "two"
    flow.revert()
    assert flow.comment == "one"


def test_copy() -> None:
    flow = make(True)
    flow.intercept()
    flow.error = Error("x")
    flow.metadata["a"] = 1
    copied = flow.copy()
    assert copied.id != flow.id
    assert (copied.live, copied.intercepted) == (False, False)
    assert copied.client_conn == flow.client_conn
    assert copied.client_conn is not flow.client_conn
    assert copied.error == flow.error
    copied.request.headers["a"] = "changed"
    copied.metadata["a"] = 2
    assert flow.request.headers["a"] == "1"
    assert flow.metadata == {"a": 1}


def test_state_is_strict() -> None:
    flow = make()
    state = flow.get_state()
    assert (state["version"], state["type"]) == (21, "http")
    assert HTTPFlow.from_state(state).get_state() == state
    for wrong in ({"version": 20}, {"type": "tcp"}, {"more": 1}):
        with pytest.raises(ValueError, match="http flow"):
            HTTPFlow.from_state(state | wrong)
    with pytest.raises(ValueError, match="tcp flow"):
        TCPFlow.from_state(state)
    state.pop("comment")
    with pytest.raises(ValueError, match="comment"):
        HTTPFlow.from_state(state)


def test_marked_true() -> None:
    flow = make()
    flow.marked = True
    assert HTTPFlow.from_state(flow.get_state()).marked == ":default:"


def test_error() -> None:
    error = Error("x", 3.0)
    assert str(error) == "x"
    assert Error.from_state(error.get_state()) == error
    assert hash(Error("x", 3.0)) == hash(error)
    assert Error("x", 4.0) != error
    assert Error("now").timestamp > 1e9
