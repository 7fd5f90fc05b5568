"""Flow files: round trips, old versions, broken ones, and mitmproxy 11 at the other end."""

from __future__ import annotations

import ast
import io
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import flowfilter
from appliance.exceptions import FlowReadException
from appliance.flow import Flow
from appliance.http import HTTPFlow
from appliance.io import FilteredFlowWriter, FlowReader, FlowWriter, read_flows_from_paths
from appliance.io.tnetstring import dumps
from appliance.test import tflow
from tests.flowkit import http, several, tcp

MITMDUMP = os.environ.get("LOCKGATE_MITMDUMP", "")


def written(*flows: Flow) -> bytes:
    file = io.BytesIO()
    writer = FlowWriter(file)
    for flow in flows:
        writer.add(flow)
    return file.getvalue()


def read(data: bytes) -> list[Flow]:
    return list(FlowReader(io.BytesIO(data)).stream())


def partly(data: bytes) -> tuple[list[Flow], str]:
    """The flows that came before the error, and the error."""
    flows = []
    with pytest.raises(FlowReadException) as raised:
        for flow in FlowReader(io.BytesIO(data)).stream():
            flows.append(flow)
    return flows, str(raised.value)


def plain(state: Any) -> Any:
    """Tuples are lists, once they have been in a file."""
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return [plain(item) for item in state] if isinstance(state, (list, tuple)) else state


def test_round_trip_of_every_kind() -> None:
    flows = several()
    again = read(written(*flows))
    assert [plain(flow.get_state()) for flow in again] == [plain(flow.get_state()) for flow in flows]
    assert [type(flow) for flow in again] == [type(flow) for flow in flows]
    assert again[0].client_conn.peername == ("10.61.1.2", 40000)
    assert again[0].server_conn.address == (
        "srv.example",
        443,
    )
    assert not again[0].live


def test_an_edited_flow_can_still_be_reverted() -> None:
    flow = http()
    flow.backup()
    unchanged = read(written(flow))[0]
    assert not unchanged.modified()
    flow.request.path = "/edited"
    again = read(written(flow))[0]
    assert isinstance(again, HTTPFlow) and again.modified() and again.request.path == "/edited"
    again.revert()
    assert again.request.path == "/foo?q=1"


def test_filtered_writer() -> None:
    file = io.BytesIO()
    writer = FilteredFlowWriter(file, flowfilter.parse("~tcp"))
    for flow in several():
        writer.add(flow)
    assert [flow.type for flow in read(file.getvalue())] == ["tcp"]
    everything = FilteredFlowWriter(file, None)
    everything.add(http())
    assert len(read(file.getvalue())) == 2


def test_metadata_that_is_not_plain_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    flow = http()
    flow.metadata.update(kept=[1, "two"], socket=object())
    flow.backup()
    again = read(written(flow))[0]
    assert again.metadata == {"kept": [1, "two"]}
    assert "metadata socket is not saved" in caplog.text


def test_a_truncated_file_gives_what_is_whole() -> None:
    all_of_them = several()
    data = written(*all_of_them)
    flows, error = partly(data[:-10])
    assert len(flows) == len(all_of_them) - 1
    at = len(written(*all_of_them[:-1]))
    assert error == f"flow 6 (at byte {at}): the file ends in the middle of it (5 flows were read)"


def test_a_broken_flow_among_others_is_named_and_left_out() -> None:
    first, second = written(http()), written(tcp())
    odd = dumps({"version": 21, "type": "http"})
    flows, error = partly(first + b"1:x#" + odd + dumps(5) + dumps({"a": 1}) + second)
    assert [flow.type for flow in flows] == ["http", "tcp"]
    assert error.count("; flow") == 3 and error.startswith(f"flow 2 (at byte {len(first)}): no integer")
    flows, error = partly(first + b"garbage" + second)
    assert len(flows) == 1 and "a length was expected" in error


@pytest.mark.parametrize(("version", "why"), [
    (22, "version 22 cannot be read: a newer program"), ([0, 10], "version 0.10 cannot be read, only 0.11"),
    (None, "its version is None"),
    ("x", "its version"), (21, "no 'alien' flow"), (20, "no 'alien' flow"), (3, "a mitmproxy of that time"),
])  # fmt: skip
def test_unknown_versions(version: object, why: str) -> None:
    flows, error = partly(dumps({"version": version, "type": "alien"}))
    assert not flows and (why in error or "'alien' are unknown" in error or "KeyError" in error)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_bytes(written(http(), tcp()))
    (tmp_path / "b").write_bytes(b"")
    assert [flow.type for flow in read_flows_from_paths(["~/a", tmp_path / "b"])] == ["http", "tcp"]
    with pytest.raises(FlowReadException, match="c: No such file"):
        read_flows_from_paths([tmp_path / "c"])
    (tmp_path / "d").write_bytes(b"12:")
    with pytest.raises(FlowReadException, match=r"d: flow 1 \(at byte 0\): the file ends"):
        read_flows_from_paths([tmp_path / "d"])


def test_one_flow_at_a_time(tmp_path: Path) -> None:
    """A file of 40 MB is read with the memory of one flow."""
    import tracemalloc

    path = tmp_path / "flows"
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for _ in range(40):
            writer.add(http(answer=b"x" * (1 << 20)))
    tracemalloc.start()
    with path.open("rb") as file:
        assert sum(1 for _ in FlowReader(file).stream()) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


_MESSAGES = st.lists(st.tuples(st.booleans(), st.binary(max_size=9)), max_size=3)


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=30),
    st.binary(max_size=30),
    _MESSAGES,
    st.text(max_size=5),
    st.integers(0, 1 << 30),
    st.binary(min_size=1, max_size=1),
)
def test_any_flow_and_any_damage(body: bytes, answer: bytes, said: Any, comment: str, at: int, byte: bytes) -> None:
    flow = http(method="POST", body=body, answer=answer)
    flow.comment = comment.encode("utf-8", "replace").decode()
    talk = tcp()
    talk.messages = [type(talk.messages[0])(*message) for message in said]
    whole = written(flow, talk)
    assert [plain(f.get_state()) for f in read(whole)] == [plain(flow.get_state()), plain(talk.get_state())]
    at %= len(whole)
    damaged = whole[:at] + byte + whole[at + 1 :]
    try:
        read(damaged)
    except FlowReadException:
        return


# -- mitmproxy itself

_SHOW = """
from mitmproxy import io as files

class Show:
    def __init__(self): self.out = open({out!r}, "wb")
    def write(self, flow): files.FlowWriter(self.out).add(flow)
    def response(self, flow):
        if flow.websocket is None: self.write(flow)
    def error(self, flow): self.write(flow)
    def websocket_end(self, flow): self.write(flow)
    def tcp_end(self, flow): self.write(flow)
    def udp_end(self, flow): self.write(flow)
    def dns_response(self, flow): self.write(flow)
    def dns_error(self, flow): self.write(flow)
    def done(self): self.out.close()

addons = [Show()]
"""


@pytest.mark.skipif(not MITMDUMP, reason="LOCKGATE_MITMDUMP does not name a mitmdump 11")
def test_mitmdump_reads_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    """Its own copy of each flow, written by mitmdump while it read ours, has the state that ours had."""
    flows: list[Flow] = [flow for flow in several() if flow.type != "http" or flow.error or flow.response]  # type: ignore[attr-defined]
    flows += [tflow.tdnsflow(resp=True), tflow.tdnsflow(err=True)]
    (tmp_path / "ours").write_bytes(written(*flows))
    (tmp_path / "show.py").write_text(_SHOW.format(out=str(tmp_path / "theirs")))
    command = [
        MITMDUMP,
        "-n",
        "-q",
        "-r",
        tmp_path / "ours",
        "-s",
        tmp_path / "show.py",
        "--set",
        f"confdir={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    theirs = read_flows_from_paths([tmp_path / "theirs"])
    ours = {flow.id: plain(flow.get_state()) for flow in flows}
    assert {flow.id: plain(flow.get_state()) for flow in theirs} == ours
    assert len(theirs) == len(flows) and {flow.type for flow in theirs} == {"http", "tcp", "udp", "dns"}


_MAKE = """
from mitmproxy import ctx, io as files
from mitmproxy.test import tflow

def running():
    flows = [tflow.tflow(resp=True), tflow.tflow(err=True), tflow.twebsocketflow(), tflow.ttcpflow(), tflow.tudpflow(),
             tflow.tdnsflow(resp=True), tflow.tdnsflow(err=True), tflow.tflow(resp=True), tflow.ttcpflow(err=True)]
    edited = flows[-2]
    edited.backup()
    edited.request.path, edited.comment, edited.marked = "/edited", "gr\\xfc\\xdfe", ":red_circle:"
    edited.metadata["key"] = ["a", 1, 2.5, None, b"bytes"]
    with open({out!r}, "wb") as out, open({states!r}, "w") as states:
        for flow in flows:
            files.FlowWriter(out).add(flow)
            print(ascii(flow.get_state()), file=states)
    ctx.master.shutdown()
"""


@pytest.mark.skipif(not MITMDUMP, reason="LOCKGATE_MITMDUMP does not name a mitmdump 11")
def test_flows_that_mitmdump_made_have_the_states_it_says(tmp_path: Path) -> None:
    out, states, script = tmp_path / "flows", tmp_path / "states", tmp_path / "make.py"
    script.write_text(_MAKE.format(out=str(out), states=str(states)))
    command = [MITMDUMP, "-n", "-q", "-s", script, "--set", "keepserving=true", "--set", f"confdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    said = [ast.literal_eval(line) for line in states.read_text().splitlines()]
    flows = read_flows_from_paths([out])
    assert [plain(flow.get_state()) for flow in flows] == [plain({"backup": None, **state}) for state in said]
    assert {flow.type for flow in flows} == {"http", "tcp", "udp", "dns"} and len(flows) == 9
