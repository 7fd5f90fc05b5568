"""Numbers of flows, what they share, and an index of an older version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from appliance.store import index as ix
from appliance.store.deletion import delete
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from tests import flowkit
from tests.store.storekit import cut_off, fill, put


def numbers(folder: Path) -> list[int]:
    with Store(folder) as store:
        return [row.n for row in store.rows(newest=False)]


class Talk:
    n = 0


def row(number: int) -> tuple[object, ...]:
    """One that says which number it should get, as its offset."""
    values: dict[str, object] = {"off": number, "uid": str(number), "path": None, "error": None}
    return tuple(values.get(name, 0) for name in ix.COLUMNS)


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


@pytest.mark.parametrize("gone", (0, 3))
@pytest.mark.parametrize("count", (0, 1, 31, 32, 33, 63, 64, 65, 97))
def test_numbers_have_no_gaps_whatever_comes_together(tmp_path: Path, count: int, gone: int) -> None:
    """In turns with another writer, and with conversations in the same transaction."""
    with closing(ix.connect(tmp_path / "other.db")) as db:
        for number in range(1, gone + 1):
            db.execute(ix.INSERT_NEXT, row(number))
        db.execute("DELETE FROM flow")
        assert db.execute("SELECT n FROM gone").fetchone() == (gone,)
        with closing(ix.connect(tmp_path / "other.db")) as other:
            for turn in range(4):
                first = gone + turn * (count + 2) + 1
                batch = ix.Batch()
                batch.rows = [row(first + at) for at in range(count)]
                batch.opened = [(Talk(), row(first + count + at)) for at in range(2)]
                assert batch.commit((db, other)[turn % 2], turn, 0, 0, 0.0, 0.0) == 0
                assert [talk.n for talk, _ in batch.opened] == [first + count, first + count + 1]
                found = db.execute("SELECT first_n, last_n, flows FROM segment WHERE number = ?", (turn,)).fetchone()
                assert found == (first, first + count + 1, count + 2)
        assert db.execute("SELECT count(*) FROM flow WHERE n = off").fetchone()[0] == 4 * (count + 2)


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


@pytest.mark.parametrize("another", [False, True])
def test_a_kill_ends_one_whose_segment_was_whole(tmp_path: Path, another: bool) -> None:
    """Nothing was said any more after the next segment had begun. Where another gateway runs it may be that one's."""
    recorder, other = Recorder(tmp_path), Recorder(tmp_path)
    recorder.start()
    flow = flowkit.tcp()
    talk = recorder.talk(flow)
    talk.say(flow.messages[0])
    recorder.segment_bytes = 1
    recorder.sync()
    recorder.segment_bytes = 1 << 20
    put(recorder, flowkit.http())
    recorder.sync()
    if another:
        other.start()
    cut_off(recorder)
    with Store(tmp_path) as store:
        (row,) = store.rows("~tcp")
    assert (row.n, row.segment, row.going_on) == (1, 1, another)
    other.close()


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


def test_an_index_of_an_older_version_is_made_anew(tmp_path: Path) -> None:
    flows = [flowkit.http(), flowkit.tcp(), flowkit.http()]
    fill(tmp_path, flows)
    with closing(sqlite3.connect(tmp_path / ix.FILE, isolation_level=None)) as db:
        db.execute("DROP TABLE flow")
        db.execute(f"PRAGMA user_version = {ix.VERSION - 1}")
    with Store(tmp_path) as store:
        assert [row.id for row in store.rows(newest=False)] == [flow.id for flow in flows]
    assert [path.name.startswith(ix.FILE) for path in (tmp_path / "damaged").iterdir()]


def test_what_flows_share_is_there_once(tmp_path: Path) -> None:
    """A combination goes with its segment."""
    fill(tmp_path, [flowkit.http() for _ in range(50)])
    fill(tmp_path, [flowkit.http() for _ in range(50)])
    with closing(ix.connect(tmp_path / ix.FILE)) as db:
        assert db.execute("SELECT seg, count(*) FROM flow GROUP BY seg").fetchall() == [(1, 50), (2, 50)]
        count = "SELECT count(*) FROM common"
        assert db.execute(count).fetchone()[0] <= 2 * len({flowkit.http().client_conn.peername for _ in range(50)})
        for _ in ix.forget(db, 1):
            pass
        assert db.execute(f"{count} WHERE id >> {ix.SHIFT} = 1").fetchone() == (0,)
        assert db.execute(f"{count} WHERE id >> {ix.SHIFT} = 2").fetchone() > (0,)
