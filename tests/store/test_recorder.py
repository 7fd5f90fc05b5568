"""What the recorder holds, and for how long."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import time
import tracemalloc
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from appliance.http import HTTPFlow
from appliance.store import index as ix
from appliance.store import segment
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from appliance.store.tee import Talk
from appliance.store.writer import BATCH, COMMIT_ROWS, MOST_ROWS
from tests import flowkit
from tests.harness import until
from tests.store.storekit import cut_off, put


def test_a_flow_is_let_go_with_its_batch(tmp_path: Path) -> None:
    """Many that wait would leave the processor's cache, and keep the garbage collector busy."""
    recorder = Recorder(tmp_path)
    recorder.start()
    alive: list[weakref.ref[object]] = []
    for number in range(BATCH - 1):
        flow = flowkit.http(f"http://a.example/{number}")
        alive.append(weakref.ref(flow))
        recorder.end(flow)
        del flow
    assert recorder.bytes == 0, "written with its batch"
    recorder.end(flowkit.http())
    assert recorder.bytes > 0 and not any(ref() is not None for ref in alive)
    recorder.close()
    with Store(tmp_path) as store:
        assert len(list(store.rows())) == BATCH


def test_what_is_sent_waits_in_the_queue_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads, while the disk is full: else 64 of them would wait unseen."""
    recorder = Recorder(tmp_path, queue_bytes=2 << 20)
    recorder.start()
    monkeypatch.setattr(segment, "write", Mock(side_effect=OSError(28, os.strerror(28))))
    for _ in range(BATCH):
        recorder.end(flowkit.http(method="POST", body=bytes(1 << 20)))
        assert recorder.status().waiting < 4 << 20
    assert recorder.dropped > BATCH // 2
    recorder.close()


def test_the_index_follows_two_full_batches(tmp_path: Path) -> None:
    """Little by little: a long commit would hold up all connections."""
    recorder = Recorder(tmp_path)
    recorder.start()
    for number in range(1, 4):
        for _ in range(COMMIT_ROWS):
            recorder.end(flowkit.http())
        with Store(tmp_path, recover=False) as store:
            assert store.last() == number * COMMIT_ROWS
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


@pytest.mark.parametrize("moment", [math.nan, math.inf, -math.inf, 1e12])
def test_a_moment_that_is_none_ends_no_recovery(tmp_path: Path, moment: float) -> None:
    """An add-on set it. Upkeep would come no further, and not to the budget."""
    recorder = Recorder(tmp_path)
    recorder.start()
    odd = flowkit.http()
    assert odd.response is not None
    odd.request.timestamp_start = odd.response.timestamp_end = moment
    put(recorder, odd)
    put(recorder, flowkit.http())
    recorder.flush()
    cut_off(recorder)
    for path in tmp_path.glob(f"{ix.FILE}*"):
        path.unlink()
    with Store(tmp_path) as store:
        assert store.last() == 2 - math.isnan(moment)
    with closing(ix.connect(tmp_path / ix.FILE)) as db:
        assert db.execute("SELECT last <= ? FROM segment", (time.time(),)).fetchone() == (1,)


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


def heads(recorder: Recorder, number: int) -> None:
    talk = recorder.talk(flow := flowkit.tcp())
    talk.say(flow.messages[0])
    recorder.flush()
    recorder.over(talk)


def ends(recorder: Recorder, number: int) -> None:
    recorder.over(TALKS[number % len(TALKS)])


def words(recorder: Recorder, number: int) -> None:
    talk = TALKS[0]
    talk.say(talk.flow.messages[0])  # type: ignore[attr-defined]
    recorder.flush()


def names(recorder: Recorder, number: int) -> None:
    put(recorder, flowkit.http(f"http://host{number}.example/", answer=b""))


TALKS: list[Talk] = []


@pytest.mark.parametrize("more", [heads, ends, words, names])
def test_what_waits_for_the_index_is_bounded(tmp_path: Path, more: Callable[[Recorder, int], None]) -> None:
    """All that a batch holds is reckoned, and at no less than it takes."""
    recorder = Recorder(tmp_path, queue_bytes=1 << 20)
    recorder.start()
    TALKS[:] = [recorder.talk(flowkit.tcp()) for _ in range(20)]
    for talk in TALKS:
        talk.say(talk.flow.messages[0])  # type: ignore[attr-defined]
    recorder.sync()
    with closing(sqlite3.connect(tmp_path / ix.FILE, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(10_000):
                more(recorder, number)
                if recorder.dropped or recorder._late:
                    break
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        lock.execute("ROLLBACK")
    assert (recorder.dropped or recorder._late) and recorder.status().waiting >= 1 << 20
    assert held < 2 << 20
    for _ in range(20):  # it comes in parts
        recorder.sync()
    assert recorder.status().waiting == 0
    recorder.close()
    TALKS.clear()


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


async def test_a_burst_is_written_without_the_loop(tmp_path: Path) -> None:
    """Many that end in one turn do not pile up until they are dropped."""
    recorder = Recorder(tmp_path, loop=asyncio.get_running_loop(), queue_bytes=2 << 20)
    recorder.start()
    for _ in range(50 * BATCH):
        recorder.end(flowkit.http())
        assert len(recorder._ended) < BATCH
    assert recorder.status().waiting < 2 << 20 and recorder.bytes > 0
    recorder.close()
    assert recorder.dropped == 0
    with Store(tmp_path) as store:
        assert len(list(store.rows())) == 50 * BATCH


async def test_what_cannot_be_written_is_not_tried_with_each_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be 32 MiB that wait. It is tried by the timer, and all of it comes then."""
    recorder = Recorder(tmp_path, loop=asyncio.get_running_loop())
    recorder.start()
    tries = 0

    def full(fd: int, parts: list[bytes], at: int) -> None:
        nonlocal tries
        tries += 1
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("appliance.store.segment.write", full)
        for _ in range(20 * BATCH):
            recorder.end(flowkit.http())
            assert len(recorder._ended) < BATCH
        assert tries == 1 and recorder.fault
    await until(lambda: not recorder.fault and not recorder._batch.rows)
    recorder.close()
    assert recorder.dropped == 0
    with Store(tmp_path) as store:
        assert len(list(store.rows())) == 20 * BATCH


async def test_a_segment_that_has_become_too_old_by_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut although nothing comes any more, and is not kept for the hour that was allowed when it was begun."""
    monkeypatch.setattr("appliance.store.writer.GLANCE_SECONDS", 0.2)
    recorder = Recorder(tmp_path, loop=asyncio.get_running_loop())
    full: list[bool] = []
    recorder.sealed = lambda: full.append(True)
    recorder.start()
    recorder.end(flowkit.http())
    recorder.sync()
    recorder.segment_seconds = 0.1
    await until(lambda: full)
    recorder.close()
