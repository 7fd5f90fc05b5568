"""Questions and records as add-ons read and write them; `test_dns.py` has the wire."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.dns import DNSError, DNSMessage, HTTPSRecord, Question, ResourceRecord, classes, op_codes, types
from appliance.net.dns import rdata, response_codes, svcb
from appliance.test import tflow, tutils


def test_question() -> None:
    question = Question("a.example", types.AAAA)
    assert str(question) == "a.example" and repr(question) == "Question('a.example', AAAA, IN)"
    assert question.to_json() == {"name": "a.example", "type": "AAAA", "class": "IN"}
    assert Question.from_json(question.to_json()) == question == Question.from_state(question.get_state())
    assert question != Question("a.example") and question != "a.example"
    with pytest.raises(ValueError):
        Question.from_json({"name": "a", "type": "NONSENSE", "class": "IN"})
    with pytest.raises(TypeError):
        hash(question)


RECORDS = [
    (ResourceRecord.A("a.example", "192.0.2.1", ttl=5), "192.0.2.1"),
    (ResourceRecord.AAAA("a.example", "2001:db8::1"), "2001:db8::1"),
    (ResourceRecord.CNAME("a.example", "b.example"), "b.example."),
    (ResourceRecord.PTR("1.2.0.192.in-addr.arpa", "a.example"), "a.example."),
    (ResourceRecord.TXT("a.example", 'say "x" \\ and \x07'), '"say \\"x\\" \\\\ and \\007"'),
    (ResourceRecord("a.example", types.MX, data=b"\0\x0a\0"), "10 ."),
    (ResourceRecord("a.example", 65280, data=b"\1\2"), "\\# 2 0102"),
    (ResourceRecord("a.example", types.A, data=b"\1"), "\\# 1 01"),
    (ResourceRecord("a.example", types.TXT, data=b""), "\\# 0"),
    (ResourceRecord.HTTPS("a.example", HTTPSRecord(1, "", {svcb.ALPN: b"\2h2"})), '1 . alpn="h2"'),
]


@pytest.mark.parametrize("record, text", RECORDS)
def test_record(record: ResourceRecord, text: str) -> None:
    assert str(record) == text and text in repr(record)
    assert record.to_json()["data"] == text
    assert ResourceRecord.from_state(record.get_state()) == record
    if record.type in (types.MX, types.HTTPS):
        with pytest.raises(ValueError, match="cannot be read"):
            ResourceRecord.from_json(record.to_json())
    else:
        assert ResourceRecord.from_json(record.to_json()) == record


def test_properties() -> None:
    record = ResourceRecord.A("a.example", "192.0.2.1")
    record.ipv4_address = "192.0.2.9"  # type: ignore[assignment]
    assert str(record.ipv4_address) == "192.0.2.9"
    with pytest.raises(ValueError):
        _ = record.ipv6_address
    long = ResourceRecord.TXT("a.example", "x" * 600)
    assert long.text == "x" * 600 and len(long.data) == 603
    name = ResourceRecord.CNAME("a.example", "b.example")
    name.domain_name = "c.example"
    assert name.domain_name == "c.example"
    name.data += b"more"
    with pytest.raises(DNSError, match="no name alone"):
        _ = name.domain_name
    https = ResourceRecord.HTTPS("a.example", HTTPSRecord(1, "b.example"))
    assert https.https_alpn is None and https.https_ech is None
    https.https_alpn = [b"h2", b"h3"]  # type: ignore[assignment]
    https.https_ech = "AQID"
    assert (https.https_alpn, https.https_ech) == ((b"h2", b"h3"), "AQID")
    assert https.https_record.params[svcb.ECH] == b"\1\2\3"
    record2 = https.https_record
    record2.priority = 7
    https.https_record = record2
    assert https.https_record.priority == 7
    https.https_alpn = https.https_ech = None
    assert https.https_record.params == {}


@pytest.mark.parametrize(
    "kind, text",
    [
        (types.A, "1.2.3"),
        (types.AAAA, "1.2.3.4"),
        (types.CNAME, "a..b"),
        (types.TXT, "no quotes"),
        (types.TXT, '"' + "x" * 256 + '"'),
        (types.TXT, '"\\999"'),
        (types.TXT, '"ü"'),
        (types.A, "\\# 3 01"),
        (types.A, "\\# 1 0g"),
        (types.SOA, "a. b. 1 2 3 4 5"),
    ],
)
def test_texts_that_are_refused(kind: int, text: str) -> None:
    with pytest.raises(ValueError):
        rdata.from_text(kind, text)


@given(st.sampled_from([types.A, types.AAAA, types.TXT, types.CNAME, types.NS, 65280]), st.binary(max_size=40))
def test_any_data_goes_to_text_and_back(kind: int, data: bytes) -> None:
    assert rdata.from_text(kind, rdata.to_text(kind, data)) == data


@given(st.sampled_from([types.A, types.AAAA, types.TXT, types.CNAME, types.MX]), st.text(max_size=40))
def test_any_text_is_read_or_refused(kind: int, text: str) -> None:
    with contextlib.suppress(ValueError):
        rdata.from_text(kind, text)


def test_message_as_json() -> None:
    for message in (tutils.tdnsreq(), tutils.tdnsresp(reserved=2, authoritative_answer=True)):
        found = message.to_json()
        assert found["op_code"] == "QUERY" and found["size"] == message.size
        again = DNSMessage.from_json(found)
        assert again.get_state() == message.get_state()
    with pytest.raises(KeyError):
        DNSMessage.from_json({})
    with pytest.raises(ValueError):
        DNSMessage.from_json({**tutils.tdnsreq().to_json(), "response_code": "NONSENSE"})


def test_numbers_with_names() -> None:
    for module, number, name in (
        (types, 28, "AAAA"), (classes, 3, "CH"), (op_codes, 5, "UPDATE"), (response_codes, 3, "NXDOMAIN"),
    ):  # fmt: skip
        assert module.to_str(number) == name and module.from_str(name.lower()) == number
    assert types.to_str(65280) == "TYPE65280"
    assert types.from_str("TYPE65280") == types.from_str("type(65280)") == 65280
    with pytest.raises(ValueError, match="is not one of"):
        types.from_str("TYPE70000")


def test_a_message_that_is_malformed_stays_unparsed() -> None:
    message = DNSMessage.over_wire(b"\0" * 5)
    with pytest.raises(DNSError, match="shorter"):
        message.parse()
    assert "malformed" in repr(message) and message.packed == b"\0" * 5
    good = DNSMessage.over_wire(tutils.tdnsreq().packed)
    good.parse()
    good.parse()
    assert good.question == Question("dns.google")
    flow = tflow.tdnsflow(resp=True)
    assert repr(flow) == f"<DNSFlow {flow.request!r} -> {flow.response!r}>" and "8.8.8.8" in repr(flow)
