"""pcapng: packets of flows, checked by an own small reader and by tshark; secrets put into captures."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.connection import Server
from appliance.flow import Error, Flow
from appliance.http import Headers, HTTPFlow
from appliance.io import pcapng
from appliance.io.pcapng import merge, wire
from appliance.io.pcapng.merge import NoCapture
from appliance.test import tflow
from appliance.udp import UDPMessage
from appliance.websocket import WebSocketMessage

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
CLIENT, SERVER = ("10.0.0.2", 40000), ("10.0.0.1", 8080)
CLIENT6, SERVER6 = ("fd00::2%eth0", 40001, 0, 3), ("fd00::1", 8080, 0, 0)


def between(flow: Flow, client: Any = CLIENT, server: Any = SERVER) -> Any:
    flow.client_conn.peername, flow.server_conn.peername = client, server
    return flow


def blocks(data: bytes, order: str = "<") -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, at)
        assert length % 4 == 0 and data[at + length - 4 : at + length] == data[at + 4 : at + 8]
        yield kind, data[at + 8 : at + length - 4]
        at += length
    assert at == len(data)


def frames(*flows: Flow) -> list[tuple[float, bytes, bytes]]:
    """(time, Ethernet frame, options) of each packet."""
    data = pcapng.header() + b"".join(block for flow in flows for block in pcapng.packets(flow))
    (first, section), (second, interface), *rest = blocks(data)
    assert (first, second) == (0x0A0D0D0A, 1) and section[:4] == b"\x4d\x3c\x2b\x1a" and interface[:2] == b"\1\0"
    found = []
    for kind, body in rest:
        number, high, low, size, length = struct.unpack_from("<IIIII", body)
        assert (kind, number, size) == (6, 0, length)
        end = 20 + size + -size % 4
        found.append(((high << 32 | low) / 1e6, body[20 : 20 + size], body[end:]))
    return found


def ones_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def opened(frame: bytes) -> tuple[int, bytes, bytes, bytes]:
    """(protocol, source, target, payload) of IP, every checksum checked."""
    if frame[12:14] == b"\x08\x00":
        head, payload = frame[14:34], frame[34:]
        assert ones_sum(head) == 0xFFFF and int.from_bytes(head[2:4], "big") == len(frame) - 14
        protocol, source, target = head[9], head[12:16], head[16:20]
    else:
        assert frame[12:14] == b"\x86\xdd"
        head, payload = frame[14:54], frame[54:]
        assert int.from_bytes(head[4:6], "big") == len(payload)
        protocol, source, target = head[6], head[8:24], head[24:40]
    pseudo = source + target + len(payload).to_bytes(4, "big") + bytes((0, 0, 0, protocol))
    assert ones_sum(pseudo + payload) == 0xFFFF
    return protocol, source, target, payload


def said(*flows: Flow) -> tuple[bytes, bytes]:
    """What a TCP receiver makes of it: (from the client, from the server). Sequence numbers are checked."""
    streams: dict[bytes, bytearray] = {}
    expected: dict[bytes, int] = {}
    client = b""
    for _, frame, _ in frames(*flows):
        protocol, source, _, segment = opened(frame)
        assert protocol == 6
        _, _, sequence, acknowledged, offset, flags = struct.unpack_from(">HHIIBB", segment)
        data = segment[(offset >> 4) * 4 :]
        other = next((known for known in expected if known != source), None)
        if flags & 2:
            client = client or source
            expected[source] = sequence
            streams[source] = bytearray()
        assert sequence == expected[source]
        if flags & 16 and other is not None:
            assert acknowledged == expected[other]
        streams[source] += data
        expected[source] = (sequence + len(data) + bool(flags & 3)) & 0xFFFFFFFF
    server = next(known for known in streams if known != client)
    return bytes(streams[client]), bytes(streams[server])


def tshark(tmp_path: Path, data: bytes, *arguments: str) -> list[list[str]]:
    """Fields of packets, tab-separated."""
    path = tmp_path / "shown.pcapng"
    path.write_bytes(data)
    checks = ("ip", "tcp", "udp")
    done = subprocess.run(
        ["tshark", "-r", str(path), *(word for name in checks for word in ("-o", f"{name}.check_checksum:TRUE")),
         "-T", "fields", *arguments], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def file_of(*flows: Flow) -> bytes:
    return pcapng.header() + b"".join(block for flow in flows for block in pcapng.packets(flow))


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6), (CLIENT, SERVER6)])
def test_http(client: Any, server: Any) -> None:
    flow = between(tflow.tflow(resp=True), client, server)
    flow.request.headers = Headers(host="a.test", te="trailers")
    flow.request.content = b"q"
    flow.response.content = bytes(100_000)
    up, down = said(flow)
    assert up == b"GET /path HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\nContent-Length: 1\r\n\r\nq"
    head, _, body = down.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and head.endswith(b"Content-Length: 100000")
    assert body == bytes(100_000)
    assert max(len(frame) for _, frame, _ in frames(flow)) <= 1514


def test_http2_is_written_as_http1() -> None:
    flow = between(tflow.tflow(resp=True))
    flow.request.http_version = flow.response.http_version = "HTTP/2.0"
    flow.request.headers = Headers(accept="*/*")
    flow.request.authority = "a.test:444"
    flow.request.content = b""
    flow.response.reason = ""
    flow.response.headers = Headers()
    flow.response.trailers = Headers(grpc_status="0")
    up, down = said(flow)
    assert up == b"GET /path HTTP/1.1\r\nHost: a.test:444\r\naccept: */*\r\n\r\n"
    assert down == (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nmessage\r\n0\r\ngrpc-status: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "status", "end"),
    [("HEAD", 200, b"content-length: 7\r\n\r\n"), ("GET", 304, b"content-length: 7\r\n\r\n"),
     ("GET", 200, b"Content-Length: 7\r\n\r\nmessage")],
)  # fmt: skip
def test_responses_without_a_body(method: str, status: int, end: bytes) -> None:
    flow = between(tflow.tflow(resp=True))
    flow.request.method, flow.response.status_code = method, status
    assert said(flow)[1].endswith(end)


def test_a_body_that_was_not_kept() -> None:
    flow = between(tflow.tflow(resp=True))
    flow.request.raw_content = flow.response.raw_content = None
    flow.response.moved = 12345
    up, down = said(flow)
    assert up.endswith(b"X-Lockgate-Body-Not-Kept: unknown\r\nContent-Length: 0\r\n\r\n")
    assert down.endswith(b"X-Lockgate-Body-Not-Kept: 12345\r\nContent-Length: 0\r\n\r\n")


def test_what_would_break_the_framing() -> None:
    flow = between(tflow.tflow(resp=True))
    flow.request.raw_path = b"/a b\r\nX: y"
    flow.request.headers.fields = ((b"host", b"a"), (b"bad name", b"one\r\n\r\ntwo"))
    flow.request.content = b""
    assert said(flow)[0] == b"GET /a?b??X:?y HTTP/1.1\r\nhost: a\r\nbad?name: one    two\r\n\r\n"


def test_websocket() -> None:
    flow = between(tflow.twebsocketflow())
    flow.websocket.messages.append(WebSocketMessage(1, False, b"never", dropped=True))
    up, down = said(flow)
    assert b"\x82\x8c" in up and b"\x81\x8a" in up and up[-20:-18] != b""
    assert down.partition(b"\r\n\r\n")[2] == b"\x81\x07it's me\x88\x0e\x03\xe8Close Reason"
    assert b"never" not in down


def test_tcp_udp_and_dns() -> None:
    assert said(between(tflow.ttcpflow())) == (b"hello", b"it's me")
    udp = between(tflow.tudpflow())
    udp.messages.append(UDPMessage(True, bytes(70_000)))
    found = [opened(frame) for _, frame, _ in frames(udp)]
    assert [(protocol, payload[8:]) for protocol, _, _, payload in found][:2] == [(17, b"hello"), (17, b"it's me")]
    assert len(found[2][3]) == 8 + 65507
    query = between(tflow.tdnsflow(resp=True), server=("10.0.0.1", 53))
    assert said(query)[0] == len(query.request.packed).to_bytes(2, "big") + query.request.packed
    query.client_conn.transport_protocol = "udp"
    found = [opened(frame) for _, frame, _ in frames(query)]
    assert [payload[8:] for _, _, _, payload in found] == [query.request.packed, query.response.packed]


def test_ports_addresses_and_comments() -> None:
    flow = between(tflow.tflow(resp=True), server=("10.0.0.1", 443))
    flow.request.scheme = "https"
    flow.server_conn.tls, flow.server_conn.tls_version = True, "TLSv1.3"
    first, *rest = frames(flow)
    assert struct.unpack_from(">HH", opened(first[1])[3]) == (40000, 80)
    assert f"flow {flow.id}".encode() in first[2] and b"TLSv1.3 with the server" in first[2]
    assert all(not options for _, _, options in rest)
    flow.client_conn.peername = flow.server_conn.peername = flow.client_conn.sockname = None
    flow.server_conn = Server(address=("name.test", 8443))
    _, source, target, payload = opened(frames(flow)[0][1])
    assert (source, target) == (b"\xc0\0\2\1", b"\xc0\0\2\2") and struct.unpack_from(">H", payload, 2) == (8443,)


def test_times_never_go_back() -> None:
    flow = between(tflow.tflow(resp=True))
    flow.request.timestamp_end = flow.request.timestamp_start - 5
    flow.response.timestamp_end = None
    times = [time for time, _, _ in frames(flow)]
    assert times == sorted(times) and times[0] == flow.request.timestamp_start


def test_a_failed_exchange_ends_in_a_reset() -> None:
    flow = between(tflow.tflow(err=True))
    assert opened(frames(flow)[-1][1])[3][13] & 4
    flow.error = Error("x", 1e10)
    assert frames(flow)[-1][0] == 1e10


def test_nothing_said_is_nothing_written() -> None:
    flow = tflow.ttcpflow(messages=[])
    flow.messages = []
    assert list(pcapng.packets(flow)) == []
    empty = HTTPFlow(flow.client_conn, flow.server_conn)
    assert list(pcapng.packets(empty)) == []


def test_odd_flows_cost_the_others_nothing() -> None:
    odd, good = between(tflow.ttcpflow()), between(tflow.ttcpflow())
    odd.messages[1].content = "no bytes"
    odd.messages[0].timestamp = float("nan")
    file = io.BytesIO()
    count, faults = pcapng.write([odd, good], file)
    assert count == 2 and len(faults) == 1 and odd.id in faults[0]
    assert len(list(blocks(file.getvalue()))) > 2 + len(frames(good))


@pytest.mark.parametrize("time", [float("inf"), float("nan"), -1.0, 1e300])
def test_odd_times(time: float) -> None:
    flow = between(tflow.tudpflow())
    flow.messages[0].timestamp = time
    assert frames(flow)[0][0] == 0


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3001), st.booleans(), st.booleans())
def test_checksums(data: bytes, six: bool, from_client: bool) -> None:
    a, b = ("fd00::1", "fd00::2") if six else ("10.0.0.1", "10.0.0.2")
    path = wire.Path(wire.address(a), 1, wire.address(b), 2)  # type: ignore[arg-type]
    opened(path.datagram(from_client, data))
    opened(path.segment(from_client, 2**32 - 1, 5, 16, data))


def test_a_udp_checksum_is_never_zero() -> None:
    path = wire.Path(wire.address("10.0.0.1"), 1, wire.address("10.0.0.2"), 2)  # type: ignore[arg-type]
    for filling in range(65536):
        datagram = path.datagram(True, filling.to_bytes(2, "big"))
        assert datagram[40:42] != b"\0\0"


# -- by tshark


@needs_tshark
def test_tshark_reads_what_was_said(tmp_path: Path) -> None:
    http = between(tflow.tflow(resp=True))
    http.request.content, http.response.content = b"", b"x" * 200_000
    tls = between(tflow.tflow(resp=True), CLIENT6, ("fd00::1", 443, 0, 0))
    tls.request.scheme, tls.request.path = "https", "/over-tls"
    tls.request.http_version = "HTTP/2.0"
    socket = between(tflow.twebsocketflow(), ("10.0.0.2", 40009))
    socket.response.headers = Headers(upgrade="websocket", connection="Upgrade")
    socket.request.content = socket.response.content = b""
    query = between(tflow.tdnsflow(resp=True), server=("10.0.0.1", 53))
    query.client_conn.transport_protocol = "udp"
    data = file_of(http, tls, socket, query)
    bad = tshark(tmp_path, data, "-Y", "ip.checksum.status==0 || tcp.checksum.status==0 || udp.checksum.status==0 || "
                 "tcp.analysis.flags || _ws.malformed", "-e", "frame.number", "-e", "_ws.col.Info")  # fmt: skip
    assert bad == []
    requests = tshark(tmp_path, data, "-Y", "http.request", "-e", "http.request.method", "-e", "http.request.full_uri")
    assert [method for method, _ in requests] == ["GET", "GET", "GET"]
    assert requests[1][1].endswith("/over-tls")
    found = tshark(tmp_path, data, "-Y", "http.response", "-e", "http.response.code", "-e", "http.content_length")
    assert ["200", "200000"] in found and ["101", ""] in found
    spoken = tshark(tmp_path, data, "-Y", "websocket", "-e", "websocket.payload.text")
    assert any("it's me" in one[0] for one in spoken), spoken
    names = tshark(tmp_path, data, "-Y", "dns.flags.response==1", "-e", "dns.qry.name", "-e", "dns.a")
    assert names == [["dns.google", "8.8.8.8,8.8.4.4"]]
    comments = tshark(tmp_path, data, "-Y", "frame.comment", "-e", "frame.comment")
    assert len(comments) == 4 and "over-tls" in comments[1][0]


# -- secrets

KEYS = [b"# a comment\n", b"CLIENT_RANDOM " + b"ab" * 32 + b" " + b"cd" * 48 + b"\n", b"nonsense\n", b"\n"]


def old(order: str = "<", nano: bool = False, cut: int = 0) -> bytes:
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
    frame = frames(between(tflow.ttcpflow()))[0][1]
    fraction = 123456789 if nano else 123456
    record = struct.pack(f"{order}IIII", 1_700_000_000, fraction, len(frame), len(frame)) + frame
    data = head + record * 3
    return data[: len(data) - cut]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_secrets_into_pcap(order: str, nano: bool) -> None:
    data = b"".join(pcapng.with_secrets(io.BytesIO(old(order, nano)), lambda: KEYS))
    kinds = [kind for kind, _ in blocks(data)]
    assert kinds == [0x0A0D0D0A, 10, 1, 6, 6, 6]
    (_, _), (_, keys), (_, interface), (_, packet), *_ = blocks(data)
    assert keys.rstrip(b"\0") == struct.pack("<II", 0x544C534B, len(KEYS[1])) + KEYS[1]
    resolution = 9 if nano else 6
    assert bytes((9, 0, 1, 0, resolution)) in interface
    _, high, low = struct.unpack_from("<III", packet)
    assert (high << 32 | low) // 10**resolution == 1_700_000_000


def test_a_capture_that_was_cut() -> None:
    data = b"".join(pcapng.with_secrets(io.BytesIO(old(cut=5)), lambda: KEYS))
    assert [kind for kind, _ in blocks(data)].count(6) == 2
    whole = file_of(between(tflow.ttcpflow()))
    cut = b"".join(pcapng.with_secrets(io.BytesIO(whole[:-5]), lambda: KEYS))
    assert [kind for kind, _ in blocks(cut)].count(6) == len(frames(between(tflow.ttcpflow()))) - 1


def test_secrets_into_pcapng() -> None:
    """In each section, in its byte order; the rest stays as it is."""
    whole = file_of(between(tflow.ttcpflow()))
    data = b"".join(pcapng.with_secrets(io.BytesIO(whole * 2), lambda: KEYS))
    keys = next(pcapng.secrets(KEYS))
    assert data.replace(keys, b"") == whole * 2 and data.count(keys) == 2
    from appliance.io.pcapng.blocks import interface, section

    big = section(">") + interface(1, order=">")
    data = b"".join(pcapng.with_secrets(io.BytesIO(big), lambda: KEYS))
    assert [kind for kind, _ in blocks(data, ">")] == [0x0A0D0D0A, 10, 1]


def test_many_secrets_are_several_blocks() -> None:
    lines = (KEYS[1] for _ in range(12_000))
    made = list(pcapng.secrets(lines))
    assert len(made) == 3 and max(map(len, made)) < 1_100_000


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=100), st.sampled_from([b"", b"\n\r\r\n", b"\xd4\xc3\xb2\xa1", file_of(), old()[:60]]))
def test_any_bytes_are_refused_or_read(data: bytes, before: bytes) -> None:
    try:
        found = b"".join(pcapng.with_secrets(io.BytesIO(before + data), lambda: KEYS))
    except NoCapture:
        return
    assert found


def test_no_capture() -> None:
    with pytest.raises(NoCapture, match="neither"):
        list(pcapng.with_secrets(io.BytesIO(b"hello"), lambda: KEYS))
    assert merge.is_capture(b"\n\r\r\n") and not merge.is_capture(json.dumps({}).encode())
