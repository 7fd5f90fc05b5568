"""What is left on the disk of a flow that was deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.headers import Headers
from appliance.store import segment
from appliance.store.deletion import delete
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from tests import flowkit
from tests.store.storekit import cut_off, fill, put


def pieces(recorder: Recorder, secret: bytes) -> object:
    """A body that streamed, larger than what waits in memory."""
    tee = recorder.tee()
    for _ in range(300):
        tee(secret * 100)
    return tee


@pytest.mark.parametrize("fields", [0, 4, 5, 8])
def test_bodies_go_with_their_flow(tmp_path: Path, fields: int) -> None:
    """However many header fields there are."""
    recorder = Recorder(tmp_path)
    recorder.start()
    flow = flowkit.http()
    assert flow.response is not None
    for message, secret in ((flow.request, b"up-secret-"), (flow.response, b"down-secret-")):
        message.headers = Headers([(b"h%d" % number, b"value") for number in range(fields)])
        message.raw_content = None
        message.tee = pieces(recorder, secret)
    put(recorder, flow)
    put(recorder, other := flowkit.http(answer=b"mine"))
    recorder.close()
    path = segment.plain_path(tmp_path, 1)
    assert path.read_bytes().count(b"-secret-") == 60_000
    with Store(tmp_path) as store:
        assert delete(tmp_path, [row for row in store.rows() if row.id == flow.id]) == (1, 0, 0)
    assert b"-secret-" not in path.read_bytes()
    with Store(tmp_path) as store:
        assert [flow.id for flow in store.flows()] == [other.id] and store.unreadable == 0


def spoiled(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_one_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It goes from the list, and from the file where one can see how far it goes; without its file as well."""
    fill(tmp_path, [flowkit.http(answer=b"secret"), flowkit.http(answer=b"hidden")])
    path = segment.plain_path(tmp_path, 1)
    with Store(tmp_path) as store:
        first, second = store.rows(newest=False)
    spoiled(path, first.offset + 8)
    assert delete(tmp_path, [first]) == (1, 0, 0) and not caplog.text
    assert b"secret" not in path.read_bytes() and b"hidden" in path.read_bytes()
    spoiled(path, second.offset + 8)
    spoiled(path, second.offset)  # its length
    assert delete(tmp_path, [second]) == (0, 1, 0)
    assert "is damaged, and could not be overwritten" in caplog.text and str(path) in caplog.text
    assert b"hidden" in path.read_bytes()
    with Store(tmp_path) as store:
        assert not [*store.rows()]
    path.unlink()
    assert delete(tmp_path, [first, second]) == (0, 0, 0)


def test_where_the_bodies_of_a_damaged_record_are_cannot_be_told(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.start()
    flow = flowkit.http(answer=None)
    assert flow.response is not None
    flow.response.tee = tee = recorder.tee()
    for _ in range(300):
        tee(b"secret" * 200)
    flow.response.moved = 300 * 1200
    put(recorder, flow)
    recorder.close()
    with Store(tmp_path) as store:
        (row,) = store.rows()
    spoiled(segment.plain_path(tmp_path, 1), row.offset + 8)
    assert delete(tmp_path, [row]) == (0, 1, 0)


def test_damage_in_another_block_of_a_compressed_segment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each block is by itself; only what is in the damaged one stays, and is told."""
    fill(tmp_path, [flowkit.http(answer=b"secret%d" % n + os.urandom(200_000)) for n in range(6)])
    segment.compress(tmp_path, 1)
    path = segment.packed_path(tmp_path, 1)
    with Store(tmp_path) as store:
        rows = [*store.rows(newest=False)]
    source = segment.Segment(tmp_path, 1)
    assert len(source._starts) == 3
    spoiled(path, source._places[1])  # the second: the flows 3 and 4
    source.close()
    assert delete(tmp_path, [rows[0], rows[2], rows[5]]) == (2, 1, 0)
    assert "the block at" in caplog.text and "could not be overwritten" in caplog.text
    with Store(tmp_path) as store:
        assert [row.n for row in store.rows(newest=False)] == [2, 4, 5]
        assert [flow.id for flow in store.flows()] == [rows[1].id, rows[4].id] and store.unreadable == 1
    source = segment.Segment(tmp_path, 1)
    blocks = source._frame(source._starts[0])[1], source._frame(source._starts[2])[1]
    assert [block.count(b"secret") for block in blocks] == [1, 1]


def test_a_damaged_record_in_a_compressed_segment_is_overwritten(tmp_path: Path) -> None:
    noise = [os.urandom(5000) for _ in range(3)]
    fill(tmp_path, [flowkit.http(answer=b"secret" + one) for one in noise])
    segment.compress(tmp_path, 1)
    path = segment.packed_path(tmp_path, 1)
    with Store(tmp_path) as store:
        rows = [*store.rows(newest=False)]
    spoiled(path, path.read_bytes().index(noise[1][2000:2100]))  # where nothing was compressed
    with Store(tmp_path) as store:
        assert len([*store.flows()]) == 2 and store.unreadable == 1
    assert delete(tmp_path, rows[:2]) == (2, 0, 0)
    with Store(tmp_path) as store:
        assert [flow.id for flow in store.flows()] == [rows[2].id] and store.unreadable == 0
    source = segment.Segment(tmp_path, 1)
    assert source._frame(source._starts[0])[1].count(b"secret") == 1


def test_a_conversation_that_goes_on_is_left(tmp_path: Path) -> None:
    """What is said in it later could be listed by nobody, and would be in the files."""
    recorder = Recorder(tmp_path)
    recorder.start()
    talk = recorder.talk(flow := flowkit.tcp())
    talk.say(flow.messages[0])
    recorder.sync()
    with Store(tmp_path) as store:
        (row,) = store.rows()
    assert row.going_on and delete(tmp_path, [row]) == (0, 0, 1)
    talk.say(flow.messages[1])
    recorder.over(talk)
    recorder.sync()
    with Store(tmp_path) as store:
        (row,) = store.rows()
        assert len(store.load(row).messages) == 2  # type: ignore[attr-defined]
        assert delete(tmp_path, [row]) == (1, 0, 0)
        assert not [*store.rows()]
    talk = recorder.talk(flow)
    talk.say(flow.messages[0])
    recorder.sync()
    cut_off(recorder)
    with Store(tmp_path, recover=False) as store:
        (row,) = store.rows()
    assert row.going_on and delete(tmp_path, [row]) == (1, 0, 0)  # nobody writes any more
