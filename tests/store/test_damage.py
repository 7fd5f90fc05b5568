"""An index that turns out to be damaged, or is no longer there, while a gateway writes to it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.flow import Flow
from appliance.store import index as ix
from appliance.store import recovery
from appliance.store.recorder import Recorder
from appliance.store.store import Store, StoreError
from appliance.store.upkeep import Upkeep
from tests import flowkit
from tests.harness import until
from tests.store.storekit import put


def many(count: int) -> list[Flow]:
    return [flowkit.http(f"http://a.example/{number}") for number in range(count)]


def harm(folder: Path) -> None:
    """All pages but the first: it opens, and is found out when it is used."""
    with closing(sqlite3.connect(folder / ix.FILE, isolation_level=None)) as db:
        db.execute("UPDATE gone SET n = n")  # so that nobody trusts the pages in his memory
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with (folder / ix.FILE).open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * ((folder / ix.FILE).stat().st_size - 4096))


def lose(folder: Path) -> None:
    for path in folder.glob(f"{ix.FILE}*"):
        path.unlink()


def ids(folder: Path) -> list[str]:
    with contextlib.suppress(StoreError), Store(folder, recover=False) as store:  # while it is made anew there is none
        return sorted(row.id for row in store.rows())
    return []


@pytest.mark.parametrize("what", [harm, lose])
async def test_recording_goes_on_and_all_comes_back(tmp_path: Path, what: object) -> None:
    flows = many(900)
    recorder = Recorder(tmp_path)
    recorder.start()
    for flow in flows[:300]:
        put(recorder, flow)
    recorder.sync()
    upkeep = Upkeep(tmp_path, None, None)
    upkeep.start()
    await until(lambda: upkeep._recovered is not None)
    what(tmp_path)  # type: ignore[operator]
    for flow in flows[300:600]:
        put(recorder, flow)
    for _ in range(3):
        recorder.sync()
    assert recorder.status().fault == ""
    for flow in flows[600:]:
        put(recorder, flow)
    recorder.sync()
    await until(lambda: ids(tmp_path) == sorted(flow.id for flow in flows), 10, "the index was not made anew")
    upkeep.stop()
    recorder.close()
    assert recorder.dropped == 0
    with Store(tmp_path) as store:
        assert len(list(store.flows())) == 900 and store.unreadable == 0
        assert bool(store.stats()["set_aside"]) == (what is harm)


def test_damage_that_is_there_at_the_start(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.start()
    flows = many(600)
    for flow in flows[:300]:
        put(recorder, flow)
    recorder.close()
    harm(tmp_path)
    recorder = Recorder(tmp_path)
    recorder.start()
    for flow in flows[300:]:
        put(recorder, flow)
    for _ in range(3):
        recorder.sync()
    recorder.close()
    assert recorder.dropped == 0
    with Store(tmp_path) as store:
        assert sorted(flow.id for flow in store.flows()) == sorted(flow.id for flow in flows)


async def test_upkeep_finds_it(tmp_path: Path) -> None:
    """Nothing is recorded meanwhile. What it says once is not its last word."""
    recorder = Recorder(tmp_path)
    recorder.start()
    flows = many(300)
    for flow in flows:
        put(recorder, flow)
    recorder.close()
    harm(tmp_path)
    upkeep = Upkeep(tmp_path, None, None)
    with recovery.locked(tmp_path):
        upkeep.start()
        await asyncio.sleep(0.2)
    await until(lambda: (tmp_path / "damaged").exists() and len(ids(tmp_path)) == 300, 10, "it is as it was")
    upkeep.stop()


def test_a_conversation_that_was_going_on(tmp_path: Path) -> None:
    """Its number was of the old index: no other flow's row is written over."""
    recorder = Recorder(tmp_path)
    recorder.start()
    flow = flowkit.tcp()
    talk = recorder.talk(flow)
    talk.say(flow.messages[0])  # type: ignore[attr-defined]
    recorder.sync()
    lose(tmp_path)
    others = many(3)
    for other in others:
        put(recorder, other)
    recorder.sync()  # left to recovery
    for other in many(3):
        put(recorder, other)
    recorder.sync()
    talk.say(flow.messages[1])  # type: ignore[attr-defined]
    recorder.sync()
    recorder.over(talk)
    recorder.close()
    with Store(tmp_path) as store:
        assert len(list(store.rows("~http"))) == 6
        (back,) = store.flows("~tcp")
        assert [m.content for m in back.messages] == [b"foo", b"BAR\xff"]  # type: ignore[attr-defined]
        assert not next(store.rows("~tcp")).going_on
