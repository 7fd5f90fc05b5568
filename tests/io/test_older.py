"""Flow files of old mitmproxy releases, as those releases wrote them: tests/io/samples/README.md says how."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.dns import DNSFlow
from appliance.exceptions import FlowReadException
from appliance.flow import Flow
from appliance.http import HTTPFlow
from appliance.io import FlowWriter, tnetstring
from appliance.io.older import MAX_HANDSHAKES, is_older
from appliance.tcp import TCPFlow
from appliance.udp import UDPFlow
from tests.io.test_flow_files import MITMDUMP, partly, plain, read, written

SAMPLES = Path(__file__).parent / "samples"
CAPTURED = ("0.11.3", "0.13", "0.14.0", "0.15", "0.18.1")
"""Releases that real exchanges went through; the others wrote the flows of their own test kit."""
VERSIONS = {
    "0.11.3": [0, 11, 3], "0.13": [0, 13], "0.14.0": [0, 14, 0], "0.15": [0, 15], "0.18.1": [0, 18, 1],
    "1.0.2": [1, 0, 2], "2.0.2": [2, 0, 2], "3.0.4": 7, "4.0.4": 7, "5.2": 8, "5.3.0": 9, "6.0.2": 10, "7.0.4": 14,
    "8.0.0": 15, "8.1.1": 17, "9.0.1": 18, "10.4.2": 20,
}  # fmt: skip
MADE = [name for name in VERSIONS if name not in CAPTURED]


def sample(release: str) -> bytes:
    return gzip.decompress((SAMPLES / f"mitmproxy-{release}.gz").read_bytes())


def states(data: bytes) -> list[Any]:
    file, found = io.BytesIO(data), []
    while True:
        try:
            found.append(tnetstring.load(file))
        except EOFError:
            return found


def packed(*found: Any) -> bytes:
    return b"".join(map(tnetstring.dumps, found))


@pytest.mark.parametrize(("release", "version"), VERSIONS.items())
def test_every_flow_is_read_and_stays_what_it_is(release: str, version: Any) -> None:
    data = sample(release)
    old = states(data)
    assert {repr(state.get("version", state.get(b"version"))) for state in old} == {repr(version)}
    flows = read(data)
    assert len(flows) == len(old) and not any(flow.live for flow in flows)
    assert [plain(flow.get_state()) for flow in read(written(*flows))] == [plain(flow.get_state()) for flow in flows]
    for flow in flows:
        assert flow.copy().get_state().keys() == flow.get_state().keys()


def urls(flows: list[Flow]) -> list[str]:
    return [flow.request.url for flow in flows if isinstance(flow, HTTPFlow)]


@pytest.mark.parametrize("release", CAPTURED)
def test_what_was_captured(release: str) -> None:
    flows = read(sample(release))
    expected = ["http://127.0.0.1:38050/index.txt", "http://127.0.0.1:38050/post?q=1"]
    assert urls(flows)[:2] == expected
    first, post, *others = flows
    assert isinstance(first, HTTPFlow) and isinstance(post, HTTPFlow) and first.response and post.response
    assert (first.response.status_code, first.response.reason, first.response.text) == (200, "OK", "hello\n")
    assert (first.request.http_version, first.response.http_version) == ("HTTP/1.1", "HTTP/1.0")
    assert (post.request.method, post.request.text, post.request.headers["x-test"]) == ("POST", "a=b", "1")
    assert first.client_conn.peername and first.client_conn.peername[0] == "127.0.0.1" and not first.client_conn.tls
    assert first.server_conn.address == ("127.0.0.1", 38050) and first.server_conn.sockname
    assert first.timestamp_created == first.request.timestamp_start > 1.7e9
    last = next(flow for flow in others if flow.client_conn.tls)
    assert isinstance(last, HTTPFlow) and last.response
    assert last.server_conn.tls and last.response.text == "hello\n"
    assert last.server_conn.certificate_list[0].cn == "srv.example"
    if release == "0.18.1":
        refused = next(flow for flow in others if flow.error)
        assert refused.error and "Connection refused" in refused.error.msg


@pytest.mark.parametrize("release", MADE)
def test_what_their_test_kit_made(release: str) -> None:
    flows = read(sample(release))
    first = flows[0]
    assert isinstance(first, HTTPFlow) and first.response and first.response.text == "message"
    assert (first.request.host, first.request.port, first.request.method) == ("address", 22, "GET")
    assert first.request.headers["header"] == "qvalue" and first.request.text == "content"
    cert = first.server_conn.certificate_list[0]
    assert cert.cn == "srv.example" and cert.altnames
    assert first.server_conn.address == ("address", 22)
    assert first.client_conn.peername is not None and first.client_conn.proxy_mode.full_spec == "regular"
    failed = flows[1]
    assert failed.error and (failed.error.msg, failed.is_replay) == ("error", "request")
    newer = VERSIONS[release]
    if isinstance(newer, int) and newer >= 8:
        assert first.metadata == {"key": ["a", 1]} and first.marked
        assert first.modified() and first.request.path == "/edited"
        first.revert()
        assert first.request.path == "/path"
        assert first.response is not None and first.response.trailers is not None
        assert first.response.trailers.fields == ((b"sum", b"1"),)
    if isinstance(newer, int) and newer >= 14:
        assert (first.comment, first.marked) == ("a comment ü", ":red_circle:")
    talks = [flow for flow in flows if isinstance(flow, HTTPFlow) and flow.websocket]
    if newer != [1, 0, 2]:
        assert len(talks) == 1 and talks[0].websocket
        said = [(int(one.type), one.from_client, one.content) for one in talks[0].websocket.messages]
        assert said[0] == (2, True, b"hello binary")
        assert said[-1] == ((1, False, b"it's me") if len(said) > 2 else (1, False, b"hello text"))
        assert isinstance(talks[0].websocket.close_code, int)
    tcp = [flow for flow in flows if isinstance(flow, TCPFlow)]
    assert [(one.from_client, one.content) for one in tcp[0].messages] == [(True, b"hello"), (False, b"it's me")]
    udp = [flow for flow in flows if isinstance(flow, UDPFlow)]
    dns = [flow for flow in flows if isinstance(flow, DNSFlow)]
    if isinstance(newer, int) and newer >= 18:
        assert udp[0].messages[0].content == b"hello"
        # from 19 on files say it themselves, and the test kit of 10 says tcp
        assert udp[0].client_conn.transport_protocol == ("udp" if newer == 18 else "tcp")
    if isinstance(newer, int) and newer >= 17:
        question = dns[0].request.question
        assert question and question.name == "dns.google" and dns[0].response and dns[0].response.answers


def test_a_websocket_flow_takes_the_request_of_its_handshake() -> None:
    first, _, talk, _ = states(sample("5.3.0"))
    first["backup"] = None
    first["response"]["status_code"] = 101
    first["id"] = talk["metadata"]["websocket_handshake"]
    flows = read(packed(first, talk))
    assert isinstance(flows[1], HTTPFlow) and flows[1].websocket and flows[1].response
    assert (flows[1].request.path, flows[1].response.status_code) == ("/edited", 101)
    assert flows[0].id != flows[1].id
    other = [{**first, "id": str(number)} for number in range(MAX_HANDSHAKES)]
    flows = read(packed(first, *other, talk))  # too long ago
    assert isinstance(flows[-1], HTTPFlow) and flows[-1].response is None and flows[-1].request.host == "address"
    own = states(sample("2.0.2"))[2]
    assert own["handshake_flow"]["request"]["path"] == b"/ws"
    assert urls(read(packed(own))) == ["http://example.com:80/ws".replace(":80", "")]


def test_a_backup_of_an_older_version_inside_a_newer_flow() -> None:
    """mitmdump leaves it as it was when it converts a file."""
    old = states(sample("7.0.4"))[0]
    new = read(packed(old))[0].get_state() | {"backup": old["backup"]}
    flow = read(packed(new))[0]
    assert isinstance(flow, HTTPFlow) and flow.modified() and flow.request.path == "/edited"
    flow.revert()
    assert flow.request.path == "/path" and flow.client_conn.peername == ("127.0.0.1", 22)


@pytest.mark.parametrize("version", [4, 5, 6, 11, 12, 13, 16, 19, [0, 12], [0, 16], [0, 17, 1], [0, 19], [3, 0, 0]])
def test_versions_between(version: Any) -> None:
    """No release that wrote them was to be had; they hold what those around them hold."""
    near = "5.3.0" if isinstance(version, int) else "1.0.2"
    flows = read(packed(*({**state, "version": version} for state in states(sample(near)))))
    assert len(flows) == len(states(sample(near)))


def test_what_is_not_known_is_an_error() -> None:
    state = states(sample("5.3.0"))[-1]
    for change, told in (
        ({"alien": 1}, "alien"),
        ({"client_conn": {**state["client_conn"], "odd": 1}}, "not a Client state: ['odd']"),
        ({"server_conn": 5}, "a part of it|no 'tcp' flow"),
        ({"id": 5}, "a text was expected, not 5"),
        ({"messages": [[True]]}, "no 'tcp' flow"),
    ):
        flows, error = partly(packed({**state, **change}))
        assert not flows and any(one in error for one in told.split("|")), error
    assert not is_older([0, 10]) and not is_older([3]) and not is_older(True) and not is_older(21) and not is_older("5")


@settings(max_examples=70, deadline=None)
@given(st.sampled_from(sorted(VERSIONS)), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=3))
def test_any_damage(release: str, at: int, piece: bytes) -> None:
    data = sample(release)
    at %= len(data)
    try:
        read(data[:at] + piece + data[at + len(piece) :])
    except FlowReadException:
        return


_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=4) | st.text(max_size=4)


@settings(max_examples=70, deadline=None)
@given(st.sampled_from(sorted(VERSIONS)), st.data())
def test_any_value_in_any_place(release: str, data: st.DataObject) -> None:
    state = data.draw(st.sampled_from(states(sample(release))))
    part: Any = state
    while True:
        key = data.draw(st.sampled_from(list(part)))
        if not isinstance(part[key], dict) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    part[key] = data.draw(_PLAIN | st.lists(_PLAIN, max_size=3))
    try:
        for flow in read(packed(state)):
            FlowWriter(io.BytesIO()).add(flow)
    except FlowReadException:
        return


@pytest.mark.skipif(not MITMDUMP, reason="LOCKGATE_MITMDUMP does not name a mitmdump 11")
def test_mitmdump_reads_what_we_made_of_them(tmp_path: Path) -> None:
    flows = [flow for release in VERSIONS for flow in read(sample(release))]
    (tmp_path / "ours").write_bytes(written(*flows))
    command = [MITMDUMP, "-n", "-q", "-r", tmp_path / "ours", "-w", tmp_path / "theirs", "--set", f"confdir={tmp_path}"]
    environment = {**os.environ, "TZ": "UTC"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0 and not done.stderr
    theirs = {flow.id: plain(flow.get_state()) for flow in read((tmp_path / "theirs").read_bytes())}
    for flow in flows:
        if flow.id in theirs:  # what has neither response nor error, it does not write
            assert theirs[flow.id] == plain(flow.get_state())
    assert len(theirs) > 50
