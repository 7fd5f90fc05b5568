"""What the recorder holds, and for how long."""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from appliance.http import HTTPFlow
from appliance.store import index as ix
from appliance.store.recorder import BATCH, MOST_ROWS, TOGETHER, Recorder
from appliance.store.store import Store
from tests import flowkit
from tests.store.storekit import cut_off, put


def test_flows_are_not_held_until_the_batch_is_written(tmp_path: Path) -> None:
    """Many that wait would leave the processor's cache, and keep the garbage collector busy."""
    recorder = Recorder(tmp_path)
    recorder.start()
    alive: list[weakref.ref[object]] = []
    for number in range(BATCH - 1):
        flow = flowkit.http(f"http://a.example/{number}")
        alive.append(weakref.ref(flow))
        recorder.end(flow)
        del flow
        assert sum(ref() is not None for ref in alive) < TOGETHER
    assert recorder.bytes == 0, "written with its batch"
    recorder.end(flowkit.http())
    assert recorder.bytes > 0
    recorder.close()
    with Store(tmp_path) as store:
        assert len(list(store.rows())) == BATCH


def test_the_index_follows_a_full_batch(tmp_path: Path) -> None:
    """Little by little: a long commit would hold up all connections."""
    recorder = Recorder(tmp_path)
    recorder.start()
    for number in range(1, 4):
        for _ in range(BATCH):
            recorder.end(flowkit.http())
        with Store(tmp_path, recover=False) as store:
            assert store.last() == number * BATCH
    recorder.close()


def test_a_record_begins_where_its_row_says(tmp_path: Path) -> None:
    """Records of connections stand between those of flows, and a flow that is not ordinary between others."""
    recorder = Recorder(tmp_path)
    recorder.start()
    flows = [flowkit.http(f"http://a.example/{number}") for number in range(60)]
    flows[20].comment = "look"
    flows[30].websocket = flowkit.websocket().websocket
    for flow in flows:
        recorder.end(flow)
    recorder.close()
    with Store(tmp_path) as store:
        assert [flow.get_state() for flow in store.flows()] == [flow.get_state() for flow in flows]


REFUSED: dict[str, Callable[[HTTPFlow], object]] = {
    "a status of 65 bits": lambda flow: setattr(flow.response, "status_code", 1 << 63),
    "no time": lambda flow: (
        setattr(flow.request, "timestamp_start", None),
        setattr(flow.response, "timestamp_end", None),
    ),
    "an id that is no text": lambda flow: setattr(flow, "id", "\udcff"),
}


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_a_row_that_sqlite_refuses(tmp_path: Path, name: str, killed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is left out and counted, by the recorder and when the index is made anew; the others are there."""
    recorder = Recorder(tmp_path)
    recorder.start()
    odd = flowkit.http()
    REFUSED[name](odd)
    put(recorder, odd)
    others = [flowkit.http(), flowkit.tcp(), flowkit.http()]
    for flow in others:
        put(recorder, flow)
    recorder.sync()
    assert (recorder.status().flows, recorder.status().dropped, recorder.status().fault) == (3, 1, "")
    assert caplog.text.count("could not be recorded") == 1
    if killed:
        cut_off(recorder)
        for path in tmp_path.glob(f"{ix.FILE}*"):
            path.unlink()
    else:
        recorder.close()
    with Store(tmp_path) as store:
        assert [flow.id for flow in store.flows()] == [flow.id for flow in others]
        assert store.stats()["dropped"] == 1


def test_a_conversation_that_sqlite_refuses(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.start()
    odd, flow = flowkit.tcp(), flowkit.tcp()
    odd.id = "\udcff"
    talks = [recorder.talk(odd), recorder.talk(flow)]
    for _ in range(2):
        for talk in talks:
            talk.say(talk.flow.messages[0])  # type: ignore[attr-defined]
        recorder.sync()
    for talk in talks:
        recorder.over(talk)
    recorder.close()
    assert recorder.dropped == 1
    with Store(tmp_path) as store:
        (back,) = store.flows()
    assert back.id == flow.id and len(back.messages) == 2  # type: ignore[attr-defined]


def test_what_has_waited_for_the_index_comes_in_parts(tmp_path: Path) -> None:
    """None of them holds the loop up for long, and a crash in between loses none."""
    recorder = Recorder(tmp_path)
    recorder.start()
    recorder.end(flowkit.http())
    recorder.sync()
    count = 2 * MOST_ROWS + 10
    with closing(sqlite3.connect(tmp_path / ix.FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(count):
            recorder.end(flowkit.http())
        other.execute("ROLLBACK")
    last = 1
    for _ in range(2):
        recorder.flush()
        with Store(tmp_path, recover=False) as store:
            assert store.last() == (last := last + MOST_ROWS)
    os.close(recorder._fd)  # as if killed
    with Store(tmp_path) as store:
        assert [row.n for row in store.rows(newest=False)] == list(range(1, count + 2))
        assert store.stats()["flows"] == len({row.id for row in store.rows()}) == count + 1
    with closing(sqlite3.connect(tmp_path / ix.FILE)) as db:
        assert db.execute("SELECT flows, first_n, last_n FROM segment").fetchone() == (count + 1, 1, count + 1)
    recorder._fd = -1
    recorder._closed = True
