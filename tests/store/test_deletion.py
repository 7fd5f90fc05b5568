"""What is left on the disk of a flow that was deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.headers import Headers
from appliance.store import segment
from appliance.store.deletion import delete
from appliance.store.recorder import Recorder
from appliance.store.store import Store
from tests import flowkit
from tests.store.storekit import put


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
        assert delete(tmp_path, [row for row in store.rows() if row.id == flow.id]) == 1
    assert b"-secret-" not in path.read_bytes()
    with Store(tmp_path) as store:
        assert [flow.id for flow in store.flows()] == [other.id] and store.unreadable == 0


def test_one_that_cannot_be_read(tmp_path: Path) -> None:
    """It goes from the list; without its file as well."""
    recorder = Recorder(tmp_path)
    recorder.start()
    put(recorder, flowkit.http())
    recorder.close()
    with Store(tmp_path) as store:
        rows = list(store.rows())
        path = segment.plain_path(tmp_path, 1)
        content = path.read_bytes()
        path.write_bytes(content[: rows[0].offset + 8] + b"\xff" + content[rows[0].offset + 9 :])
        assert delete(tmp_path, rows) == 1
        path.unlink()
        assert delete(tmp_path, rows) == 0
