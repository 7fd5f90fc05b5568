"""Compression, the budget, recovery after a crash, and what is damaged."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.flow import Flow
from appliance.store import index as ix
from appliance.store import recovery, segment
from appliance.store.recorder import Recorder
from appliance.store.segment import Damaged, Segment
from appliance.store.store import Store
from appliance.store.upkeep import CHECKPOINT_BYTES, GLANCE, LITTLE, QUIET, TICK, Upkeep, compress_one, keep_budget
from tests import flowkit
from tests.harness import until
from tests.store.storekit import facts, fill, put


def opened(folder: Path) -> sqlite3.Connection:
    return recovery.open_index(folder, busy_ms=1000)


def ids(folder: Path) -> list[str]:
    with Store(folder) as store:
        return [row.id for row in store.rows(newest=False)]


def recover(folder: Path) -> int:
    with closing(opened(folder)) as db:
        return recovery.recover(folder, db)


def many(count: int) -> list[Flow]:
    return [flowkit.http(f"http://a.example/{number}", answer=b"%d " % number * 200) for number in range(count)]


def test_compression_gives_way_to_traffic(tmp_path: Path) -> None:
    """Nothing of it is left, and it is done when there is time."""
    fill(tmp_path, many(900))
    recorded = 0
    upkeep = Upkeep(tmp_path, None, None, lambda: recorded)
    between = upkeep._while_quiet()
    between()
    time.sleep(GLANCE)
    between()
    recorded += QUIET
    time.sleep(GLANCE)
    with closing(opened(tmp_path)) as db:
        with pytest.raises(segment.Later):
            compress_one(tmp_path, db, between)
        assert [path.name for path in tmp_path.glob("*seg*")] == [segment.plain_path(tmp_path, 1).name]
        assert compress_one(tmp_path, db, upkeep._while_quiet()) == 1


def test_the_log_begins_anew_while_a_writer_never_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit in the middle of each checkpoint, as when many flows end, leaves something in the log for ever."""
    monkeypatch.setattr("appliance.store.upkeep.CHECKPOINT_BYTES", 64 << 10)
    recorder = Recorder(tmp_path)
    recorder.start()
    upkeep = Upkeep(tmp_path, None, None)

    def write() -> None:
        for _ in range(256):
            recorder.end(flowkit.http())

    class Db:
        file = (0, 0)

        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def execute(self, sql: str, *params: object) -> sqlite3.Cursor:
            if "PASSIVE" not in sql:
                return self._db.execute(sql, *params)
            with closing(sqlite3.connect(tmp_path / ix.FILE)) as reader:  # it holds back what is written from here on
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM flow").fetchone()
                write()
                return self._db.execute(sql, *params)

    with closing(opened(tmp_path)) as db:
        for _ in range(12):
            write()
            upkeep._tick(Db(db), False)  # type: ignore[arg-type]
        _, frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    recorder.close()
    assert recorder.dropped == 0 and len(ids(tmp_path)) == recorder.flows >= 13 * 256
    assert frames * 4096 < 200 << 10, "what two of them write is about 100 kB, what all do 600"


def test_a_log_that_was_worked_in_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each look would keep the writer out, from the first full log on."""
    monkeypatch.setattr("appliance.store.upkeep.CHECKPOINT_BYTES", 64 << 10)
    recorder = Recorder(tmp_path)
    recorder.start()
    upkeep, asked = Upkeep(tmp_path, None, None), list[str]()
    with closing(opened(tmp_path)) as db:
        db.set_trace_callback(asked.append)
        for count, worked in ((600, True), (1, False), (1, False), (600, True), (1, False)):
            for flow in many(count):
                recorder.end(flow)
            recorder.sync()
            asked.clear()
            upkeep._tick(db, False)
            assert any("checkpoint" in sql for sql in asked) == worked
    recorder.close()
    assert recorder.dropped == 0


@pytest.mark.parametrize(
    ("budget", "log"),
    ((None, CHECKPOINT_BYTES), (1, LITTLE), (64 << 20, LITTLE), (256 << 20, 16 << 20), (10 << 30, CHECKPOINT_BYTES)),
)
def test_where_little_may_be_kept_the_log_is_short(tmp_path: Path, budget: int | None, log: int) -> None:
    assert Upkeep(tmp_path, budget, None)._enough() == log


async def test_a_full_segment_is_looked_at_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not each of them, when they become full fast."""
    monkeypatch.setattr("appliance.store.upkeep.OFTEN", 0.2)
    recorder, upkeep = Recorder(tmp_path, segment_bytes=10_000), Upkeep(tmp_path, None, None)
    recorder.sealed = upkeep.look
    recorder.start()
    looks: list[float] = []
    monkeypatch.setattr(upkeep, "_tick", lambda db, last: looks.append(time.monotonic()))
    began = time.monotonic()
    upkeep.start()
    await until(lambda: looks)
    for _ in range(20):
        for flow in many(30):
            recorder.end(flow)
        recorder.flush()
        await asyncio.sleep(0.03)
    await until(lambda: len(looks) > 1)
    took = time.monotonic() - began
    assert took < TICK and recorder.number >= 20 > took / 0.2 + 1 >= len(looks)
    upkeep.stop()
    recorder.close()
    assert time.monotonic() - began - took < 2, "nor is the end waited for"


def test_compressed_segments_read_the_same(tmp_path: Path) -> None:
    flows = [*flowkit.several(), *many(900)]  # several blocks
    fill(tmp_path, flows)
    with closing(opened(tmp_path)) as db, Store(tmp_path) as store:
        before = [facts(flow) for flow in store.flows()]
        size = segment.plain_path(tmp_path, 1).stat().st_size
        assert compress_one(tmp_path, db) == 1 and compress_one(tmp_path, db) is None
        assert [facts(flow) for flow in store.flows()] == before == [facts(flow) for flow in flows]
    assert not segment.plain_path(tmp_path, 1).exists()
    assert segment.packed_path(tmp_path, 1).stat().st_size < size / 3
    assert os.stat(segment.packed_path(tmp_path, 1)).st_mode & 0o777 == 0o600
    with Store(tmp_path) as store:
        assert [facts(flow) for flow in store.flows()] == before


def test_a_reader_that_was_there_before(tmp_path: Path) -> None:
    """It holds the old file open, or finds the new one."""
    fill(tmp_path, many(20))
    with Store(tmp_path) as store:
        rows = list(store.rows())
        with closing(opened(tmp_path)) as db:
            compress_one(tmp_path, db)
        assert store.load(rows[0]).id == rows[0].id


def test_the_oldest_go_when_there_is_too_much(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, segment_bytes=50_000)
    recorder.start()
    with closing(opened(tmp_path)) as db:
        for number, flow in enumerate(many(1500)):
            put(recorder, flow)
            if number % 40 == 0:
                recorder.flush()
                keep_budget(tmp_path, db, 400_000, None)
        recorder.flush()
        keep_budget(tmp_path, db, 400_000, None)
        assert sum(path.stat().st_size for path in tmp_path.glob("*.seg")) < 450_000
        assert recorder.dropped == 0
        left = [row[0] for row in db.execute("SELECT number FROM segment ORDER BY number")]
        assert left == segment.numbers(tmp_path) and left[0] > 1
        for table, column in (
            ("flow", "seg"),
            ("name", f"id >> {ix.SHIFT}"),
            ("common", f"id >> {ix.SHIFT}"),
            ("form", f"id >> {ix.SHIFT}"),
        ):
            assert {row[0] for row in db.execute(f"SELECT DISTINCT {column} FROM {table}")} <= set(left)
    with Store(tmp_path) as store:
        flows = list(store.flows())
        assert store.unreadable == 0 and 50 < len(flows) < 1500
        assert flows[-1].request.path == "/1499"  # type: ignore[attr-defined]
    recorder.close()


def test_the_oldest_go_when_they_are_too_old(tmp_path: Path) -> None:
    fill(tmp_path, many(5))
    fill(tmp_path, many(5))
    with closing(opened(tmp_path)) as db:
        assert keep_budget(tmp_path, db, None, 3600.0) == []
        db.execute("UPDATE segment SET last = last - 7200 WHERE number = 1")
        assert keep_budget(tmp_path, db, None, 3600.0) == [1]
    assert len(ids(tmp_path)) == 5


def test_what_is_being_written_is_never_deleted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.start()
    for flow in many(50):
        put(recorder, flow)
    recorder.flush()
    with closing(opened(tmp_path)) as db:
        assert keep_budget(tmp_path, db, 1, 0.0, time.time() + 1e6) == []
    recorder.close()
    assert len(ids(tmp_path)) == 50


async def test_the_thread_does_all_of_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, segment_bytes=30_000)
    recorder.start()
    upkeep = Upkeep(tmp_path, 300_000, None, lambda: 0)
    upkeep.start()
    for number, flow in enumerate(many(3000)):
        put(recorder, flow)
        if number % 50 == 0:
            recorder.flush()
    recorder.flush()
    await until(lambda: upkeep.deleted and list(tmp_path.glob("*.zst")), 20, "nothing was deleted or compressed")
    recorder.close()
    upkeep.stop()
    assert recorder.dropped == 0
    with Store(tmp_path) as store:
        found = list(store.flows())
        assert store.unreadable == 0 and found[-1].request.path == "/2999"  # type: ignore[attr-defined]


def test_several_writers(tmp_path: Path) -> None:
    writers = [Recorder(tmp_path) for _ in range(3)]
    flows = many(300)
    for writer in writers:
        writer.start()
    for number, flow in enumerate(flows):
        put(writers[number % 3], flow)
        if number % 10 == 0:
            writers[number % 3].flush()
    for writer in writers:
        writer.close()
    assert len({writer.number for writer in writers}) == 3
    assert sorted(ids(tmp_path)) == sorted(flow.id for flow in flows)
    with Store(tmp_path) as store:
        assert len(list(store.flows("~d a.example"))) == 300 and store.unreadable == 0


# -- after a crash


def crashed(folder: Path, flows: list[Flow], indexed: int) -> None:
    """As a kill leaves it: all in the segment, the first `indexed` in the index, nothing sealed."""
    recorder = Recorder(folder)
    recorder.start()
    for flow in flows[:indexed]:
        put(recorder, flow)
    recorder.flush()
    for flow in flows[indexed:]:
        put(recorder, flow)
    recorder._encode()
    segment.write(recorder._fd, recorder._parts, recorder._written)
    os.close(recorder._fd)
    if recorder._db is not None:
        recorder._db.close()


def test_the_tail_is_indexed(tmp_path: Path) -> None:
    flows = flowkit.several() + many(30)
    crashed(tmp_path, flows, 10)
    with Store(tmp_path) as store:
        assert [facts(flow) for flow in store.flows()] == [facts(flow) for flow in flows]
        rows = [row for row in store.rows(newest=False)]
    fill(tmp_path / "whole", flows)
    with Store(tmp_path / "whole") as store:  # and the rows are what the writer would have made
        for ours, theirs in zip(rows, store.rows(newest=False), strict=True):
            assert (ours.url, ours.client, ours.status, ours.up, ours.down, ours.flags, ours.reason) == (
                theirs.url, theirs.client, theirs.status, theirs.up, theirs.down, theirs.flags, theirs.reason
            )  # fmt: skip


def test_a_writer_that_ends_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has put into the index itself is not put there again."""
    recorder = Recorder(tmp_path)
    recorder.start()
    flows = many(4)
    put(recorder, flows[0])
    recorder.sync()
    lock = segment.lock_abandoned

    def late(path: Path) -> int | None:
        for flow in flows[1:]:
            put(recorder, flow)
        recorder.close()
        return lock(path)

    monkeypatch.setattr(segment, "lock_abandoned", late)
    assert recover(tmp_path) == 0
    monkeypatch.undo()
    assert ids(tmp_path) == [flow.id for flow in flows]


def test_half_a_record_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flows = many(12)
    crashed(tmp_path, flows, 4)
    path = segment.plain_path(tmp_path, 1)
    with path.open("ab") as file:
        file.write(struct.pack("<II", 5000, 1) + b"half a record")
    assert ids(tmp_path) == [flow.id for flow in flows]
    assert "are cut off" in caplog.text
    assert list(Segment(tmp_path, 1).records())  # to the end, without a fault


@pytest.mark.parametrize("count", [4, 8, 4096])
def test_zeros_at_the_end_are_no_records(tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture) -> None:
    flows = many(12)
    crashed(tmp_path, flows, 4)
    path = segment.plain_path(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(count))
    assert ids(tmp_path) == [flow.id for flow in flows]
    assert path.read_bytes() == whole
    assert caplog.text.count("WARNING") == 1 and f"{count} bytes at its end" in caplog.text


def test_a_conversation_that_a_kill_has_ended(tmp_path: Path) -> None:
    flow = flowkit.tcp()
    recorder = Recorder(tmp_path)
    recorder.start()
    talk = recorder.talk(flow)
    for message in flow.messages:  # type: ignore[attr-defined]
        talk.say(message)
        recorder.flush()
    talk.say(flow.messages[0])  # type: ignore[attr-defined]
    talk.flush()
    recorder._encode()
    segment.write(recorder._fd, recorder._parts, recorder._written)
    os.close(recorder._fd)
    assert recorder._db is not None
    recorder._db.close()
    with Store(tmp_path) as store:
        (row,), (back,) = store.rows(), store.flows()
    assert not row.going_on
    assert [m.content for m in back.messages] == [b"foo", b"BAR\xff", b"foo"]  # type: ignore[attr-defined]


def test_an_index_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    flows = flowkit.several() + many(700)
    fill(tmp_path, flows[:400])
    with closing(opened(tmp_path)) as db:
        compress_one(tmp_path, db)
    fill(tmp_path, flows[400:])
    for path in tmp_path.glob("index.db*"):
        path.unlink()
    assert recover(tmp_path) == len(flows)
    with Store(tmp_path) as store:
        assert [facts(flow) for flow in store.flows()] == [facts(flow) for flow in flows]
        assert len(list(store.rows("~d a.example"))) == 700


def test_conversations_are_looked_for_once(tmp_path: Path) -> None:
    """Ten times as many cost ten times as much; reading through all of them for each, a hundred times."""
    recorder = Recorder(tmp_path)
    recorder.start()
    for _ in range(300):
        talk = recorder.talk(flow := flowkit.tcp())
        talk.say(flow.messages[0])
        talk.flush()
        recorder.over(talk)
    recorder.close()
    for path in tmp_path.glob("index.db*"):
        path.unlink()
    with closing(opened(tmp_path)) as db:
        done: list[str] = []
        db.set_trace_callback(done.append)
        recovery.recover(tmp_path, db)
        db.set_trace_callback(None)
        asked = [sql for sql in done if "uid" in sql and sql.startswith("SELECT")]
        assert 0 < len(asked) <= 300, "of each once"
        db.execute("CREATE TEMP TABLE talk (uid TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID")  # it left nothing
        for sql in set(asked):
            plan = " ".join(str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {sql}"))
            assert "SCAN" not in plan, plan
    with Store(tmp_path) as store:
        assert len([flow for flow in store.flows() if len(flow.messages) == 1]) == 300  # type: ignore[attr-defined]


def test_one_that_goes_on_through_segments_has_one_row(tmp_path: Path) -> None:
    """Also when the index is made anew, and its messages are in order."""
    recorder = Recorder(tmp_path)
    recorder.start()
    flow = flowkit.tcp()
    talk = recorder.talk(flow)
    for _ in range(3):
        for message in flow.messages:  # type: ignore[attr-defined]
            talk.say(message)
        recorder.segment_bytes = 1
        recorder.sync()
        recorder.segment_bytes = 1 << 20
        put(recorder, flowkit.http())
    recorder.over(talk)
    recorder.close()
    for path in tmp_path.glob("index.db*"):
        path.unlink()
    with Store(tmp_path) as store:
        (row,), (back,) = store.rows("~tcp"), store.flows("~tcp")
    assert row.segment == 4
    assert [m.content for m in back.messages] == [b"foo", b"BAR\xff"] * 3  # type: ignore[attr-defined]


def test_a_damaged_index_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flows = many(30)
    fill(tmp_path, flows)
    (tmp_path / "index.db").write_bytes(b"no database" * 1000)
    (tmp_path / "index.db-wal").unlink(missing_ok=True)
    assert ids(tmp_path) == [flow.id for flow in flows]
    assert "set aside" in caplog.text
    assert [path.name.split(".")[0] for path in (tmp_path / "damaged").iterdir()] == ["index"]


@pytest.mark.parametrize(
    ("harm", "packed"), [("head", False), ("gone", False), ("head", True), ("gone", True), ("short", True)]
)
def test_a_damaged_segment_does_not_harm_the_rest(
    tmp_path: Path, harm: str, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        fill(tmp_path, many(10))
    with closing(opened(tmp_path)) as db:
        if packed:
            compress_one(tmp_path, db)
            compress_one(tmp_path, db)
    path = (segment.packed_path if packed else segment.plain_path)(tmp_path, 2)
    if harm == "gone":
        path.unlink()
    elif harm == "head":
        path.write_bytes(b"?" * 16 + path.read_bytes()[16:])
    else:
        os.truncate(path, path.stat().st_size - 20)
    recorder = Recorder(tmp_path)
    recorder.start()  # a gateway comes and writes
    put(recorder, many(1)[0])
    recorder.close()
    with Store(tmp_path) as store:
        assert len(list(store.flows())) == 21
        assert store.unreadable == 0
    if harm != "gone":
        assert "the segment is set aside" in caplog.text
        assert [p.name.split(".")[0] for p in (tmp_path / "damaged").iterdir()] == ["0000000002"]


def test_a_flipped_bit_costs_one_flow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flows = many(10)
    fill(tmp_path, flows)
    with Store(tmp_path) as store:
        (row,) = store.rows("~u /5$")
    path = segment.plain_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[row.offset + 40] ^= 4
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING), Store(tmp_path) as store:
        assert [flow.id for flow in store.flows()] == [flow.id for flow in flows if flow.id != row.id]
        assert store.unreadable == 1
    assert f"flow {row.n} cannot be read" in caplog.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_any_damage_is_noticed(tmp_path: Path, payloads: list[bytes], data: st.DataObject) -> None:
    """Whatever a file holds: reading gives whole records and then ends, or says Damaged."""
    folder = tmp_path / "f"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    whole = segment.HEAD.pack(segment.MAGIC, 1) + b"".join(map(segment.framed, payloads))
    at = data.draw(st.integers(0, len(whole)))
    harmed = whole[:at] + data.draw(st.binary(max_size=20)) + whole[at + data.draw(st.integers(0, 20)) :]
    segment.plain_path(folder, 1).write_bytes(harmed)
    found = []
    try:
        for _, payload in Segment(folder, 1).records():
            found.append(payload)
    except Damaged:
        pass
    if harmed == whole:
        assert found == payloads
    untouched = [payload for n, payload in enumerate(payloads)
                 if segment.HEAD.size + sum(8 + len(p) for p in payloads[: n + 1]) <= at]  # fmt: skip
    assert found[: len(untouched)] == untouched or at < segment.HEAD.size
