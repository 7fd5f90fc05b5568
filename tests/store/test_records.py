"""What is recorded comes back as it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.connection import Client
from appliance.dns import DNSFlow, DNSMessage, Question, ResourceRecord
from appliance.headers import Headers
from appliance.http import HTTPFlow, Request, Response
from appliance.store import records
from appliance.store.recorder import Recorder
from appliance.store.records import Kept
from appliance.store.store import Store
from appliance.tcp import TCPFlow, TCPMessage
from tests import flowkit
from tests.harness import TestPki
from tests.store.storekit import facts, fill


def test_every_kind_of_flow(tmp_path: Path) -> None:
    flows = flowkit.several()
    fill(tmp_path / "s", flows)
    with Store(tmp_path / "s") as store:
        back = list(store.flows())
    assert [facts(flow) for flow in back] == [facts(flow) for flow in flows]


def test_dns(tmp_path: Path) -> None:
    flow = flowkit.ends(DNSFlow)
    query = DNSMessage(7, True, questions=[Question("srv.example", 1, 1)], timestamp=5.0)
    flow.request = DNSMessage.over_wire(query.packed, 5.0)  # as the engine carries it where nobody listens
    flow.response = query.succeed([ResourceRecord.A("srv.example", "192.0.2.1")])
    fill(tmp_path / "s", [flow])
    with Store(tmp_path / "s") as store:
        (row,) = store.rows()
        (back,) = store.flows()
    assert (row.url, row.method, row.status) == ("srv.example", "A", 0)
    assert facts(back) == facts(flow)


def test_tls_facts_and_certificates(tmp_path: Path, pki: TestPki) -> None:
    from cryptography import x509

    certs = x509.load_pem_x509_certificates(pki.good.cert.read_bytes())
    flow = flowkit.http()
    client, server = flow.client_conn, flow.server_conn
    client.mitmcert, client.tls, client.tls_version, client.sni = certs[0], True, "TLSv1.3", "srv.example"
    client.alpn_offers, client.cipher = (b"h2", b"http/1.1"), "TLS_AES_128_GCM_SHA256"
    server.chain, server.alpn, server.via = certs, b"h2", ("http", ("proxy.example", 3128))
    other = flowkit.http()
    other.client_conn, other.server_conn = client, server
    fill(tmp_path / "s", [flow, other])
    with Store(tmp_path / "s") as store:
        row, _ = store.rows()
        first, second = store.flows()
    assert (row.tls, row.sni) == ("TLSv1.3", "srv.example")
    assert facts(first) == facts(flow)
    assert first.client_conn is second.client_conn  # recorded once


class Score(float):
    """As numpy's: a float of another type."""


def test_numbers_of_another_type_and_keys_that_are_no_text(tmp_path: Path) -> None:
    flow = flowkit.http()
    flow.request.timestamp_start = Score(100.0)
    flow.metadata = {"score": Score(0.5), "lone \ud800": 1}
    fill(tmp_path / "s", [flow])
    with Store(tmp_path / "s") as store:
        (back,) = store.flows()
    assert back.metadata == {"score": 0.5, "lone \\ud800": 1}


def test_texts_that_are_none(tmp_path: Path) -> None:
    """An add-on's: an exception as what went wrong, bytes as a name."""
    flow = flowkit.failed()
    assert flow.error is not None
    flow.error.msg = ValueError("too odd")  # type: ignore[assignment]
    flow.client_conn.sni = b"\xff"  # type: ignore[assignment]
    fill(tmp_path / "s", [flow])
    with Store(tmp_path / "s") as store:
        (row,) = store.rows()
        assert store.load(row).id == flow.id
    assert (row.error, row.sni) == ("too odd", repr(b"\xff"))


def test_odd_text_and_metadata_of_addons(tmp_path: Path) -> None:
    flow = flowkit.http("http://example/\udcfe")
    flow.request.raw_host = "ex\udcffample"
    flow.request.headers = Headers([(b"X-\xff", b"\x00\xfe")])
    flow.comment = "lone \ud800"
    flow.metadata = {"kept": [1, {"a": b"b"}], "left": object(), "big": 1 << 80}
    fill(tmp_path / "s", [flow])
    with Store(tmp_path / "s") as store:
        (back,) = store.flows()
    assert isinstance(back, HTTPFlow)
    assert back.request.raw_host == "ex\udcffample"
    assert back.request.headers.fields == flow.request.headers.fields
    assert back.metadata == {"kept": [1, {"a": b"b"}], "big": str(1 << 80)}
    assert len(back.comment) >= len("lone ")


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000, 1_000_000])
def test_a_body_that_streamed(tmp_path: Path, size: int) -> None:
    flow, data = flowkit.http(answer=None), bytes(range(256)) * (size // 256 + 1)
    assert flow.response is not None
    recorder = Recorder(tmp_path / "s", body_limit=1 << 20)
    recorder.start()
    tee = flow.response.tee = recorder.tee()
    for at in range(0, size, 70_000):
        tee(memoryview(data)[at : min(at + 70_000, size)])
    recorder.end(flow)
    recorder.close()
    with Store(tmp_path / "s") as store:
        (back,) = store.flows()
        (row,) = store.rows()
    assert isinstance(back, HTTPFlow) and back.response is not None
    assert back.response.raw_content == data[:size]
    assert (row.down, row.cut) == (size, False)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_body_over_the_limit_is_marked(tmp_path: Path, streamed: bool) -> None:
    data = bytes(range(256)) * 4000
    flow = flowkit.http(answer=None if streamed else data)
    assert flow.response is not None
    recorder = Recorder(tmp_path / "s", body_limit=400_000)
    recorder.start()
    if streamed:
        tee = flow.response.tee = recorder.tee()
        for at in range(0, len(data), 30_000):
            tee(data[at : at + 30_000])
    recorder.end(flow)
    recorder.close()
    with Store(tmp_path / "s") as store:
        (back,) = store.flows()
        (row,) = store.rows()
    assert isinstance(back, HTTPFlow) and back.response is not None
    kept = back.response.tee
    assert back.response.raw_content is None and back.response.moved == len(data)  # never taken for the whole
    assert isinstance(kept, Kept)
    assert (kept.size, kept.content) == (len(data), data[:400_000])
    assert kept.sha256 == hashlib.sha256(data).digest()
    assert (row.down, row.cut) == (len(data), True)


def test_a_long_conversation_is_written_as_it_goes_on(tmp_path: Path) -> None:
    flow = flowkit.ends(TCPFlow)
    recorder = Recorder(tmp_path / "s", segment_bytes=20_000)
    recorder.start()
    talk = recorder.talk(flow)
    said = [TCPMessage(at % 2 == 0, b"%d" % at * 300, float(at)) for at in range(100)]
    for message in said[:60]:
        talk.say(message)
        recorder.flush()
    with Store(tmp_path / "s") as store:
        (row,) = store.rows()
        (open_now,) = store.flows()
        assert row.going_on and len(open_now.messages) == 60  # type: ignore[attr-defined]
        for message in said[60:]:
            talk.say(message)
            recorder.flush()
        recorder.over(talk)
        recorder.close()
        assert recorder.number > 2  # it goes over several segments
        (row,) = store.rows()
        (whole,) = store.flows()
    assert not row.going_on and not row.cut
    assert (row.up, row.down) == tuple(sum(len(m.content) for m in said if m.from_client == up) for up in (True, False))
    assert [m.get_state() for m in whole.messages] == [m.get_state() for m in said]  # type: ignore[attr-defined]


def test_messages_over_the_limit_are_counted(tmp_path: Path) -> None:
    flow = flowkit.ends(TCPFlow)
    recorder = Recorder(tmp_path / "s", messages_limit=1000)
    recorder.start()
    talk = recorder.talk(flow)
    for _ in range(20):
        talk.heard(True, b"x" * 100)
    recorder.over(talk)
    recorder.close()
    with Store(tmp_path / "s") as store:
        (row,) = store.rows()
        (back,) = store.flows()
    assert (row.up, row.cut, len(back.messages)) == (2000, True, 10)  # type: ignore[attr-defined]


def test_a_passed_connection(tmp_path: Path) -> None:
    from appliance.verdict import Verdict

    flow = flowkit.tcp()
    client = Client(peername=("10.0.0.9", 1), sockname=None, timestamp_start=50.0, timestamp_end=60.0)
    client.verdict, client.sni = Verdict("pass", "matches ignore_hosts", "ignore_hosts bank", "hello"), "bank.example"
    recorder = Recorder(tmp_path / "s")
    recorder.start()
    recorder.connection(client, flow.server_conn, (10, 2000))
    recorder.close()
    with Store(tmp_path / "s") as store:
        (row,) = store.rows("~verdict pass & ~reason bank & ~tcp")
        (back,) = store.flows()
    assert (row.bare, row.up, row.down, row.took, row.sni) == (True, 10, 2000, 10.0, "bank.example")
    assert back.client_conn.verdict == client.verdict and back.moved == (10, 2000)  # type: ignore[attr-defined]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_plain_values_survive(value: object) -> None:
    assert records.decode(records.encode(["f", value])) == ["f", value]


@given(st.text(st.characters(), max_size=20).map(lambda t: t + "\udc80"))
def test_bytes_that_are_no_utf8_survive_as_text(text: str) -> None:
    safe = text.encode("utf-8", "replace").decode() + "\udcff"
    assert records.decode(records.encode([safe])) == [safe]


fields = st.lists(st.tuples(st.binary(min_size=1), st.binary()), max_size=5).map(tuple)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.binary(), st.binary(), st.binary(), st.binary(), fields, st.none() | st.binary(max_size=3000)),
    st.none() | st.tuples(st.integers(100, 999), st.binary(), fields, st.none() | st.binary(max_size=3000)),
)
def test_any_exchange(tmp_path: Path, asked: tuple, answered: tuple | None) -> None:  # type: ignore[type-arg]
    flow = flowkit.http(status=None)
    method, scheme, authority, path, headers, body = asked
    flow.request = Request(
        b"h", 1, method, scheme, authority, path, b"HTTP/1.1", Headers(headers), body, None, 1.0, 2.0
    )
    if answered is not None:
        status, reason, headers, body = answered
        flow.response = Response(b"HTTP/1.1", status, reason, Headers(headers), body, Headers(headers), 3.0, None)
    recorder = Recorder(tmp_path / "s")
    recorder.start()
    recorder.end(flow)
    recorder.close()
    assert recorder.dropped == 0
    with Store(tmp_path / "s", recover=False) as store:
        (back,) = store.flows(newest=True, limit=1)
    assert facts(back) == facts(flow)
