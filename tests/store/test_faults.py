"""Disk full, index locked: traffic goes on, what is lost is counted, what was complete is there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from appliance.store import segment
from appliance.store.recorder import Recorder
from appliance.store.store import Store, StoreError
from appliance.store.upkeep import Upkeep
from tests import flowkit
from tests.harness import Make, answering, until
from tests.store.storekit import fill, put


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root (mount)")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "lockgate-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


async def test_the_disk_is_full_in_the_middle_of_a_download(
    rigs: Make, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB
    rig = await rigs()
    recorder = rig.worker.recorder = Recorder(small_disk / "s", loop=asyncio.get_running_loop(), queue_bytes=2 << 20)
    recorder.start()
    origin = await rig.origin(answering(data))
    client = await rig.connect(await rig.transparent(origin))
    for _ in range(3):
        begun = time.monotonic()
        await client.say(b"GET /big HTTP/1.1\r\nHost: o.test\r\n\r\n")
        await client.head()
        assert await client.exactly(len(data)) == data
        assert time.monotonic() - begun < 10
    await until(lambda: recorder.status().fault, 5, "the disk did not become full")
    small = await rig.connect(await rig.transparent(await rig.origin(answering(b"x" * 60_000))))
    for _ in range(60):  # 3.6 MB more than there is room for, on the disk and in the queue
        await small.say(b"GET /small HTTP/1.1\r\nHost: o.test\r\n\r\n")
        await small.head()
        await small.exactly(60_000)
    status = recorder.status()
    assert status.dropped > 0 and status.waiting < 3 << 20
    assert "No space left on device" in status.fault
    assert sum("flows cannot be recorded" in line for line in caplog.messages) == 1  # told once, not for each flow
    # There is room again: recording goes on by itself.
    kept = recorder.flows
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,size=40m", small_disk], check=True)
    await until(lambda: not recorder.status().fault, 5, "recording did not go on")
    await small.say(b"GET /after HTTP/1.1\r\nHost: o.test\r\n\r\n")
    await small.head()
    await small.exactly(60_000)
    await until(lambda: recorder.flows > kept)
    recorder.close()
    with Store(small_disk / "s") as store:
        rows = list(store.rows())
        assert len(rows) == recorder.flows and rows[0].url == "http://o.test/after"
        assert len(list(store.flows())) == len(rows) and store.unreadable == 0
        assert store.stats()["dropped"] == status.dropped
        assert all(row.cut for row in rows if row.url == "http://o.test/big")  # and said so
    assert "flows are recorded again" in caplog.text


def test_a_full_disk_costs_no_time(small_disk: Path) -> None:
    recorder = Recorder(small_disk / "s", queue_bytes=1 << 20)
    recorder.start()
    flow = flowkit.http(answer=b"x" * 2000)
    for _ in range(3000):
        put(recorder, flow)
    recorder.sync()
    assert recorder.fault
    begun = time.process_time()
    for _ in range(20_000):
        put(recorder, flow)
    assert time.process_time() - begun < 1.0  # 50 µs each would be ten times what recording costs
    assert recorder.dropped >= 20_000
    recorder.close()


LOCKER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def locked_by_another(index: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, index], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            other.stdin.close()


async def test_the_index_is_locked_by_another_process(
    rigs: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await rigs()
    recorder = rig.worker.recorder = Recorder(tmp_path / "s", loop=asyncio.get_running_loop())
    recorder.start()
    client = await rig.connect(await rig.transparent(await rig.origin(answering(b"hello"))))

    async def get(path: str) -> None:
        await client.say(f"GET {path} HTTP/1.1\r\nHost: o.test\r\n\r\n".encode())
        await client.until(b"hello")

    await get("/before")
    await until(lambda: (tmp_path / "s" / "index.db").exists())
    recorder.sync()
    with locked_by_another(tmp_path / "s" / "index.db"):
        begun = time.monotonic()
        for number in range(50):
            await get(f"/meanwhile/{number}")
        assert time.monotonic() - begun < 5
        await until(lambda: "locked" in recorder.status().fault)
        with Store(tmp_path / "s") as store:  # it can be read all the same
            assert len(list(store.rows())) == 1
    await until(lambda: not recorder.status().fault)
    recorder.close()
    assert recorder.dropped == 0
    with Store(tmp_path / "s") as store:
        assert len(list(store.flows())) == 51
    assert "none was lost" in caplog.text


def test_an_index_locked_for_long_is_counted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "s", queue_bytes=200_000)
    recorder.start()
    put(recorder, flowkit.http())
    recorder.sync()
    with locked_by_another(tmp_path / "s" / "index.db"):
        for _ in range(2000):
            put(recorder, flowkit.http())
        recorder.sync()
        status = recorder.status()
        assert status.waiting < 250_000 and 0 < status.dropped < 2000
    recorder.sync()
    recorder.close()
    with Store(tmp_path / "s") as store:
        assert len(list(store.rows())) == 2001 - status.dropped
        assert store.stats()["dropped"] == status.dropped


@pytest.mark.parametrize("locked", [False, True])
def test_rows_that_wait_at_the_end_are_not_lost(tmp_path: Path, locked: bool) -> None:
    """They are in the segment: the last commit brings them into the index, or whoever opens the store next."""
    recorder = Recorder(tmp_path)
    recorder.start()
    put(recorder, flowkit.http())
    recorder.sync()
    with locked_by_another(tmp_path / "index.db"):
        for _ in range(3000):
            put(recorder, flowkit.http())
        recorder.flush()
        if locked:
            recorder.close()
    recorder.close()
    assert recorder.dropped == 0
    with Store(tmp_path) as store:
        assert store.last() == 3001 and store.stats()["dropped"] == 0


def test_the_end_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the segment is in the index, and what is lost is counted there, conversations too."""
    recorder = Recorder(tmp_path)
    recorder.start()
    put(recorder, flowkit.http())
    recorder.sync()
    monkeypatch.setattr(segment, "write", Mock(side_effect=OSError(28, os.strerror(28))))
    put(recorder, flowkit.http())
    talk = recorder.talk(flowkit.tcp())
    talk.say(talk.flow.messages[0])  # type: ignore[attr-defined]
    recorder.close()
    assert recorder.dropped == 2
    with Store(tmp_path) as store:
        assert len(list(store.flows())) == 1 and store.unreadable == 0
        assert store.stats()["dropped"] == 2


async def test_a_segment_that_is_full_while_the_index_is_locked(tmp_path: Path) -> None:
    """It is sealed as soon as that can be, also when nothing comes any more."""
    recorder = Recorder(tmp_path, loop=asyncio.get_running_loop(), segment_bytes=200_000)
    recorder.start()
    flow = flowkit.http()
    put(recorder, flow)
    recorder.sync()
    with locked_by_another(tmp_path / "index.db"):
        recorder.segment_bytes = 1
        put(recorder, flow)  # on a connection that is recorded already
        recorder._committed = time.monotonic()  # its row is not due yet
        recorder.flush()
    await until(lambda: recorder.number == 2, 3, "the segment was not sealed")
    with Store(tmp_path, recover=False) as store:
        assert store.last() == 2
    recorder.close()


@pytest.mark.parametrize("full", ["queue", "disk"])
def test_a_conversation_that_ends_while_there_is_no_room(
    tmp_path: Path, full: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row does not say for ever that it goes on."""
    recorder = Recorder(tmp_path, **({"segment_bytes": 1} if full == "disk" else {}))
    recorder.start()
    talks = [recorder.talk(flowkit.tcp()) for _ in range(50)]
    for talk in talks:
        talk.say(talk.flow.messages[0])  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        if full == "disk":  # no segment can be made after this one
            patch.setattr(segment, "create", Mock(side_effect=OSError(28, os.strerror(28))))
        recorder.sync()
        with Store(tmp_path, recover=False) as store:
            assert [row.going_on for row in store.rows()] == [True] * 50
        if full == "queue":
            patch.setattr(recorder, "queue_bytes", 0)
        for talk in talks:
            recorder.over(talk)
    recorder._reopen = 0.0
    recorder.sync()
    with Store(tmp_path, recover=False) as store:
        assert [row.going_on for row in store.rows()] == [False] * 50
        assert all(len(flow.messages) == 1 for flow in store.flows())  # type: ignore[attr-defined]
    assert recorder.dropped == 0
    recorder.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = Recorder(tmp_path / "file")
    recorder.start()
    put(recorder, flowkit.http())
    assert recorder.dropped == 1 and recorder.status().fault
    assert "store_dir" in caplog.text
    recorder.close()


def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, [flowkit.http()])
    with contextlib.closing(sqlite3.connect(tmp_path / "index.db")) as db:
        db.execute("PRAGMA user_version = 99")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.seg")}
    for _ in range(2):
        with pytest.raises(StoreError, match="newer lockgate"):
            Store(tmp_path)
    recorder = Recorder(tmp_path)
    recorder.start()
    put(recorder, flowkit.http())
    upkeep = Upkeep(tmp_path, 1, 1.0)
    upkeep.start()
    time.sleep(0.1)
    upkeep.stop()
    assert recorder.dropped == 1 and "newer lockgate" in recorder.status().fault and "newer lockgate" in caplog.text
    recorder.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert db.execute("SELECT count(*) FROM flow").fetchone() == (1,)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.seg")} == before
    assert not (tmp_path / "damaged").exists()


def test_modes_of_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        recorder = Recorder(tmp_path / "s")
        recorder.start()
        put(recorder, flowkit.http())
        recorder.sync()
        assert os.stat(tmp_path / "s").st_mode & 0o777 == 0o700
        for path in (tmp_path / "s").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
        recorder.close()
    finally:
        os.umask(before)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_memory_is_flat_at_5000_flows_a_second(tmp_path: Path) -> None:
    """For a short while; tests/bench/store.py sustain does it for ten minutes."""
    bench = Path(__file__).parents[1] / "bench" / "store.py"
    run = await asyncio.create_subprocess_exec(
        sys.executable, str(bench), "sustain", str(tmp_path / "s"), "--seconds", "20", "--rate", "5000",
        stdout=subprocess.PIPE, cwd=bench.parents[2], env=os.environ | {"PYTHONPATH": str(bench.parents[2])},
    )  # fmt: skip
    out, _ = await run.communicate()
    lines = [line.split() for line in out.decode().splitlines() if " MB " in line]
    memory = [float(words[words.index("MB") - 1]) for words in lines]
    assert max(memory[5:]) - min(memory[5:]) < 8, out.decode()
    assert b"dropped 0" in out.splitlines()[-1]
    shutil.rmtree(tmp_path / "s")
