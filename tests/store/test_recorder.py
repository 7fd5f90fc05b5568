"""What the recorder holds, and for how long."""

from __future__ import annotations

import weakref
from pathlib import Path

from appliance.store.recorder import BATCH, TOGETHER, Recorder
from appliance.store.store import Store
from tests import flowkit


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
