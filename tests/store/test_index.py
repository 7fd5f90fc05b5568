"""Numbers of flows, and an index of the first version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from appliance.store import index as ix
from appliance.store.deletion import delete
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from tests import flowkit
from tests.store.storekit import cut_off, fill, put


def numbers(folder: Path) -> list[int]:
    with Store(folder) as store:
        return [row.n for row in store.rows(newest=False)]


def test_a_number_is_not_given_twice(tmp_path: Path) -> None:
    fill(tmp_path, [flowkit.http() for _ in range(5)])
    with Store(tmp_path) as store:
        delete(tmp_path, list(store.rows(limit=2)))
    assert numbers(tmp_path) == [1, 2, 3]
    fill(tmp_path, [flowkit.http(), flowkit.tcp(), flowkit.http()])
    assert numbers(tmp_path) == [1, 2, 3, 6, 7, 8]
    with Store(tmp_path) as store:
        delete(tmp_path, list(store.rows()))
    fill(tmp_path, [flowkit.tcp()])
    assert numbers(tmp_path) == [9]


def test_nor_after_its_segment_is_gone(tmp_path: Path) -> None:
    fill(tmp_path, [flowkit.http() for _ in range(3)])
    with closing(ix.connect(tmp_path / ix.FILE)) as db:
        (number,) = db.execute("SELECT number FROM segment").fetchone()
        for _ in ix.forget(db, number):
            pass
    for path in tmp_path.glob("*.seg"):
        path.unlink()
    fill(tmp_path, [flowkit.http()])
    assert numbers(tmp_path) == [4]


def moved(folder: Path, over: bool) -> Recorder:
    """Segment 2 holds the head of a conversation that has a lower number than all other flows there."""
    recorder = Recorder(folder)
    recorder.start()
    flow = flowkit.tcp()
    talk = recorder.talk(flow)
    talk.say(flow.messages[0])
    recorder.sync()
    put(recorder, flowkit.http())
    recorder.segment_bytes = 1
    recorder.sync()
    recorder.segment_bytes = 1 << 20
    put(recorder, flowkit.http())
    recorder.sync()
    talk.say(flow.messages[1])
    recorder.sync()
    if over:
        recorder.over(talk)
    return recorder


def test_a_conversation_goes_with_the_segment_of_its_head(tmp_path: Path) -> None:
    moved(tmp_path, True).close()
    with closing(ix.connect(tmp_path / ix.FILE)) as db:
        for number, left in ((1, [(1, 2), (3, 2)]), (2, [])):
            for _ in ix.forget(db, number):
                pass
            assert db.execute("SELECT n, seg FROM flow ORDER BY n").fetchall() == left
        assert db.execute("SELECT count(*) FROM part").fetchone() == (0,)


def test_a_kill_ends_one_that_began_in_an_earlier_segment(tmp_path: Path) -> None:
    cut_off(moved(tmp_path, False))
    with Store(tmp_path) as store:
        (row,) = store.rows("~tcp")
    assert (row.n, row.segment, row.going_on) == (1, 2, False)


def test_two_writers_do_not_share_numbers(tmp_path: Path) -> None:
    one, other = Recorder(tmp_path), Recorder(tmp_path)
    for recorder in (one, other):
        recorder.start()
    for _ in range(3):
        put(one, flowkit.http())
        put(other, flowkit.http())
        put(other, flowkit.tcp())
        other.sync()
        one.sync()
    for recorder in (one, other):
        recorder.close()
    assert numbers(tmp_path) == list(range(1, 10))


def test_an_index_of_version_1(tmp_path: Path) -> None:
    """It counted its flows itself; it is read as it is, and written to as the others are."""
    fill(tmp_path, [flowkit.http() for _ in range(3)])
    with closing(sqlite3.connect(tmp_path / ix.FILE, isolation_level=None)) as db:
        columns = db.execute("SELECT sql FROM sqlite_master WHERE name = 'flow'").fetchone()[0]
        db.execute("ALTER TABLE flow RENAME TO old")
        db.execute(columns.replace("INTEGER PRIMARY KEY,", "INTEGER PRIMARY KEY AUTOINCREMENT,", 1))
        db.execute("INSERT INTO flow SELECT * FROM old")
        db.execute("DROP TABLE old")
        db.execute("DROP TABLE gone")
        db.execute("DELETE FROM flow WHERE n = 3")
        db.execute("PRAGMA user_version = 1")
    with Store(tmp_path, recover=False) as store:
        assert [row.n for row in store.rows()] == [2, 1]
    fill(tmp_path, [flowkit.http(), flowkit.tcp()])
    assert numbers(tmp_path) == [1, 2, 4, 5]
    assert not (tmp_path / "damaged").exists()
    with closing(ix.read_only(tmp_path / ix.FILE)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (ix.VERSION,)
