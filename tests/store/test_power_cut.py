"""What a power cut leaves: an index that knows of more than has reached the segments."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.store import recovery, segment
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from appliance.store.upkeep import Upkeep, compress_one
from tests import flowkit
from tests.store.storekit import cut_off, fill, put


def shorten(path: Path, count: int, zeros: bool) -> None:
    """Its last bytes did not come to the disk, or only that there are some."""
    os.truncate(path, path.stat().st_size - count)
    if zeros:
        os.truncate(path, path.stat().st_size + count)


@pytest.mark.parametrize(("sealed", "zeros"), [(False, False), (False, True), (True, False)])
def test_only_what_is_not_in_the_file_is_lost(
    tmp_path: Path, sealed: bool, zeros: bool, caplog: pytest.LogCaptureFixture
) -> None:
    flows = [flowkit.http(f"http://a.example/{number}") for number in range(40)]
    recorder = Recorder(tmp_path)
    recorder.start()
    for flow in flows:
        put(recorder, flow)
    recorder.sync()
    if sealed:
        recorder.close()
    else:
        cut_off(recorder)
    shorten(segment.plain_path(tmp_path, 1), 10, zeros)
    with Store(tmp_path) as store:
        assert [flow.id for flow in store.flows()] == [flow.id for flow in flows[:-1]]
        assert store.unreadable == 0
        stats = store.stats()
    assert (stats["dropped"], stats["set_aside"]) == (1, [])
    assert "1 flows are lost" in caplog.text
    assert list(segment.Segment(tmp_path, 1).records())  # to the end, without a fault
    fill(tmp_path, [flowkit.http()])
    with Store(tmp_path) as store:
        assert len(list(store.flows())) == 40 and store.unreadable == 0


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_conversation_keeps_what_was_said_before(tmp_path: Path, elsewhere: bool) -> None:
    """Its last head is lost; the one before stands in this segment, or in one that was sealed since."""
    flow = flowkit.tcp()
    recorder = Recorder(tmp_path)
    recorder.start()
    talk = recorder.talk(flow)
    talk.say(flow.messages[0])
    recorder.sync()
    if elsewhere:
        put(recorder, flowkit.http())
        recorder.segment_bytes = 1
        recorder.sync()
        recorder.segment_bytes = 1 << 20
    recorder.over(talk)
    recorder.sync()
    cut_off(recorder)
    shorten(segment.plain_path(tmp_path, 2 if elsewhere else 1), 10, False)
    with Store(tmp_path) as store:
        (row,), (back,) = store.rows("~tcp"), store.flows("~tcp")
    assert (row.id, row.segment, row.going_on) == (flow.id, 1, False)
    assert [m.content for m in back.messages] == [b"foo"]  # type: ignore[attr-defined]


def test_segments_reach_the_disk_before_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.store.upkeep.CHECKPOINT_BYTES", 0)
    done: list[str] = []
    sync = os.fdatasync

    def fdatasync(fd: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    fill(tmp_path, [flowkit.http()])
    recorder = Recorder(tmp_path)
    recorder.start()
    put(recorder, flowkit.http())
    recorder.sync()
    upkeep = Upkeep(tmp_path, None, None, lambda: 1 << 30)
    with closing(recovery.open_index(tmp_path, busy_ms=1000)) as db:

        class Db:
            file = (0, 0)

            def execute(self, sql: str, *params: object) -> sqlite3.Cursor:
                if "checkpoint" in sql:
                    done.append("checkpoint")
                return db.execute(sql, *params)

        upkeep._tick(Db(), False)  # type: ignore[arg-type]
        assert sorted(done[:2]) == ["0000000001.seg", "0000000002.seg"] and done[2:] == ["checkpoint"] * 3
        put(recorder, flowkit.http())
        recorder.sync()
        upkeep._tick(Db(), False)  # type: ignore[arg-type]
        assert done[5:] == ["0000000002.seg", *["checkpoint"] * 3], "what has not grown is not synced again"
    recorder.close()


def test_what_cannot_be_compressed_is_read_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Zeros in the middle, where the file has grown and its content has not come."""
    flows = [flowkit.http(f"http://a.example/{number}") for number in range(10)]
    fill(tmp_path, flows)
    with Store(tmp_path) as store:
        (row,) = store.rows("~u /5$")
    with segment.plain_path(tmp_path, 1).open("r+b") as file:
        file.seek(row.offset)
        file.write(bytes(20))
    with closing(recovery.open_index(tmp_path, busy_ms=1000)) as db:
        assert compress_one(tmp_path, db) == 1 and compress_one(tmp_path, db) is None
    assert "is not compressed" in caplog.text
    with Store(tmp_path) as store:
        assert len(list(store.flows())) == 9 and store.unreadable == 1
