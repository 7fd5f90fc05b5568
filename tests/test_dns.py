"""DNS messages: wire form, text, what add-ons read and write. Real captures are in hex."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import dns
from appliance.connection import Client, Server
from appliance.dns import DNSError, DNSFlow, DNSMessage, HTTPSRecord, Question, ResourceRecord, classes, types
from appliance.net.dns import names, rdata, response_codes, svcb

QUERY = bytes.fromhex(
    "1234 0120 0001 0000 0000 0001 07 6578616d706c65 03 636f6d 00 0001 0001 00 0029 04d0 0000 8000 0000"
)


def answer(*records: bytes, counts: tuple[int, int, int] | None = None, query: bytes = QUERY) -> bytes:
    """A response to QUERY made of these raw records."""
    an, ns, ar = counts or (len(records), 0, 0)
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, an, ns, ar) + query[12:29] + b"".join(records)


def record(kind: int, data: bytes, owner: bytes = b"\xc0\x0c") -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, 300, len(data)) + data


def test_a_query_is_read_and_kept() -> None:
    message = DNSMessage.unpack(QUERY)
    assert (message.id, message.query, message.recursion_desired, message.reserved) == (0x1234, True, True, 2)
    assert message.question == Question("example.com", types.A, classes.IN)
    assert message.edns is not None
    assert (message.edns.class_, message.edns.ttl) == (1232, 0x8000)
    assert message.packed is message._wire
    assert not message.changed
    message.additionals[0].ttl = 0
    assert message.changed
    assert message.packed == QUERY[:-6] + bytes(6)


def test_names_in_data_are_whole_and_packed_right_after_a_change() -> None:
    soa = b"\xc0\x0c" + b"\x0ahostmaster\xc0\x0c" + struct.pack("!5I", 1, 2, 3, 4, 5)
    wire = answer(record(types.CNAME, b"\x03www\xc0\x0c"), record(types.SOA, soa), record(types.MX, b"\0\x0a\xc0\x29"))
    message = DNSMessage.unpack(wire)
    assert [str(one) for one in message.answers] == [
        "www.example.com.",
        "example.com. hostmaster.example.com. 1 2 3 4 5",
        "10 www.example.com.",
    ]
    assert message.answers[0].domain_name == "www.example.com"
    message.answers.insert(0, ResourceRecord.A("a-longer-name.example.com", "192.0.2.1"))
    again = DNSMessage.unpack(message.packed)
    assert again.answers == message.answers
    assert again.packed.count(b"example") == 1  # the rest is pointers
    assert again.get_state() == {**message.get_state(), "timestamp": again.timestamp}


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (types.A, bytes([192, 0, 2, 1]), "192.0.2.1"),
        (types.A, b"\1\2\3", r"\# 3 010203"),
        (types.AAAA, ipaddress.ip_address("2001:db8::1").packed, "2001:db8::1"),
        (types.NS, b"\2ns\0", "ns."),
        (types.TXT, b"\3a\"b\2\0\xff", r'"a\"b" "\000\255"'),
        (types.TXT, b"\5ab", r"\# 3 056162"),
        (types.SRV, struct.pack("!3H", 1, 2, 443) + b"\1a\0", "1 2 443 a."),
        (types.CAA, b"\0\5issueca.test", '0 "issue" "ca.test"'),
        (types.DS, struct.pack("!HBB", 60485, 5, 1) + b"\x2b\xb1", "60485 5 1 2BB1"),
        (types.DNSKEY, struct.pack("!HBB", 257, 3, 8) + b"key", "257 3 8 a2V5"),
        (types.RRSIG, struct.pack("!HBBIIIH", 1, 8, 2, 300, 0, 86400, 7) + b"\1a\0sig",
         "A 8 2 300 19700101000000 19700102000000 7 a. c2ln"),
        (types.NSEC, b"\1b\0" + b"\0\1\x40", "b. A"),
        (types.NSEC3, b"\1\0\0\1\1\xab\2\0\1\0\1\x40", "1 0 1 ab 000G A"),
        (types.NAPTR, struct.pack("!HH", 1, 2) + b"\1u\3E2U\0\0", '1 2 "u" "E2U" "" .'),
        (types.SSHFP, b"\1\1\xaa", "1 1 AA"),
        (types.TLSA, b"\3\1\1\xbb", "3 1 1 BB"),
        (types.EUI48, bytes(range(6)), "00-01-02-03-04-05"),
        (types.URI, struct.pack("!HH", 1, 2) + b"https://a/", '1 2 "https://a/"'),
        (types.OPT, b"\0\x0a\0\2\1\2", "10:0102"),
        (types.LOC, b"\1", r"\# 1 01"),
        (65280, b"", r"\# 0"),
        (types.A, b"", r"\# 0"),
    ],
)  # fmt: skip
def test_text(kind: int, data: bytes, text: str) -> None:
    assert str(ResourceRecord("x", kind, data=data)) == text
    message = DNSMessage.unpack(answer(record(kind, data)))
    assert message.answers[0].data == data
    message.id = 1
    assert DNSMessage.unpack(message.packed).answers == message.answers


def test_https_records() -> None:
    params = {
        svcb.IPV6HINT: ipaddress.ip_address("2001:db8::1").packed,
        svcb.ALPN: b"\2h3\2h2",
        svcb.PORT: b"\x01\xbb",
        svcb.IPV4HINT: bytes([192, 0, 2, 1]),
        svcb.ECH: b"\1\2\3",
        svcb.MANDATORY: b"\0\1",
        svcb.NO_DEFAULT_ALPN: b"",
        667: b'he"o',
    }
    one = ResourceRecord.HTTPS("example.com", HTTPSRecord(1, "svc.example.net", params))
    assert str(one) == (
        '1 svc.example.net. mandatory="alpn" alpn="h3,h2" no-default-alpn port="443" ipv4hint="192.0.2.1" '
        r'ech="AQID" ipv6hint="2001:db8::1" key667="he\"o"'
    )
    assert (one.https_alpn, one.https_ech) == ((b"h3", b"h2"), "AQID")
    assert one.https_record.params == params
    one.https_ech = None
    one.https_alpn = (b"h2",)
    assert (one.https_alpn, one.https_ech) == ((b"h2",), None)
    one.https_alpn = None
    assert one.https_alpn is None
    for data in (b"\0", b"\0\1\0\0\3\0\0\0\1\0\0", b"\0\1\0\0\1\0\3\2h", b"\0\1\0\0\1\0"):
        with pytest.raises(DNSError):
            svcb.unpack(data)


def test_constructors_and_properties() -> None:
    one = ResourceRecord.TXT("x", "ä" * 200)
    assert one.text == "ä" * 200
    assert one.data[0] == 255
    one.text = ""
    assert (one.text, one.data) == ("", b"\0")
    one = ResourceRecord.A("x", "192.0.2.1", ttl=5)
    assert (one.ipv4_address, one.ttl) == (ipaddress.ip_address("192.0.2.1"), 5)
    one.ipv4_address = "192.0.2.2"
    assert str(one) == "192.0.2.2"
    with pytest.raises(ValueError, match="IPv6"):
        _ = one.ipv6_address
    one = ResourceRecord.AAAA("x", "::1")
    one.ipv6_address = ipaddress.IPv6Address("::2")
    assert str(one) == "::2"
    assert ResourceRecord.PTR("1.2.0.192.in-addr.arpa", "host.test").domain_name == "host.test"
    one = ResourceRecord.CNAME("a.test", "b.test")
    one.domain_name = "münchen.test"
    assert one.domain_name == "xn--mnchen-3ya.test"


def test_responses() -> None:
    query = DNSMessage.unpack(QUERY)
    response = DNSMessage.unpack(query.succeed([ResourceRecord.A("example.com", "192.0.2.9")]).packed)
    assert (response.id, response.query, response.recursion_available) == (0x1234, False, True)
    assert response.questions == query.questions
    assert response.edns is not None
    assert response.edns.ttl == 0x8000
    assert query.fail(response_codes.NXDOMAIN).response_code == 3
    with pytest.raises(ValueError, match="NOERROR"):
        query.fail(0)
    with pytest.raises(ValueError, match="only a query"):
        response.succeed([])
    assert "example.com A NOERROR" in repr(response)
    assert response.to_json()["answers"] == [
        {"name": "example.com", "type": "A", "class": "IN", "ttl": 60, "data": "192.0.2.9"}
    ]
    copy = query.copy()
    copy.id = query.id
    assert copy.packed == QUERY


def test_a_flow_has_state() -> None:
    flow = DNSFlow(Client(peername=None, sockname=None), Server(address=("192.0.2.53", 53)))
    flow.request = DNSMessage.unpack(QUERY)
    assert DNSFlow.from_state(flow.get_state()).get_state() == flow.get_state()
    flow.backup()
    flow.response = flow.request.succeed([])
    assert flow.modified()
    again = DNSFlow.from_state(flow.get_state())
    assert again.response is not None
    assert again.response.packed == flow.response.packed
    flow.revert()
    assert flow.response is None


def test_codes() -> None:
    assert dns.types.to_str(1) == "A"
    assert dns.types.to_str(65535) == "TYPE65535"
    assert dns.types.from_str("https") == 65
    assert dns.types.from_str("TYPE77") == dns.types.from_str("TYPE(77)") == 77
    assert dns.classes.to_str(1) == "IN"
    assert dns.op_codes.to_str(9) == "OPCODE9"
    assert dns.response_codes.to_str(3) == "NXDOMAIN"
    for text in ("NONSENSE", "TYPE99999", ""):
        with pytest.raises(ValueError, match="is not one of"):
            dns.types.from_str(text)


@pytest.mark.parametrize("wire", [
    QUERY[:11],  # no header
    QUERY[:20],  # in the name
    QUERY[:27],  # in the question
    QUERY[:35],  # in the record
    QUERY + b"x",  # more
    QUERY[:12] + b"\xc0\x0c" + QUERY[25:],  # a pointer to itself
    QUERY[:12] + b"\xc0\xff" + QUERY[25:],  # forward
    QUERY[:12] + b"\x41" + QUERY[13:],  # an unknown kind of label
    answer(record(types.CNAME, b"\3www")),
    answer(record(types.CNAME, b"\0\0")),
    answer(record(types.MX, b"\0")),
    answer(record(types.A, b"abcd"), counts=(2, 0, 0)),
    answer(record(types.A, b"abcd"), counts=(65535, 65535, 65535)),
    answer(record(types.A, b"", owner=(b"\x3f" + b"a" * 63) * 4 + b"\0")),  # 257 bytes
])  # fmt: skip
def test_malformed(wire: bytes) -> None:
    with pytest.raises(DNSError):
        DNSMessage.unpack(wire)
    lazy = DNSMessage.over_wire(wire)
    for _ in range(2):
        with pytest.raises(DNSError):
            _ = lazy.questions
    assert "malformed" in repr(lazy)
    assert lazy.packed == wire


def test_what_does_not_fit_is_refused() -> None:
    query = DNSMessage.unpack(QUERY)
    for change in (
        {"id": 65536},
        {"response_code": 16},
        {"reserved": 8},
        {"op_code": -1},
        {"questions": [Question("a..b")]},
        {"questions": [Question("a" * 64)]},
        {"questions": [Question("a.b", 65536)]},
        {"questions": [Question("a\\")]},
        {"questions": [Question("\\999")]},
        {"questions": [Question(None)]},  # type: ignore[arg-type]
        {"answers": [ResourceRecord("a", 1, data="text")]},  # type: ignore[arg-type]
        {"answers": [ResourceRecord("a", types.MX, data=b"\0")]},
        {"answers": [ResourceRecord("a", 1, data=bytes(65536))]},
        {"answers": [ResourceRecord("a", 1, data=bytes(40000)), ResourceRecord("a", 1, data=bytes(40000))]},
        {"answers": [ResourceRecord("a", 1, ttl=-1)]},
        {"answers": ["nonsense"]},
    ):
        message = DNSMessage.from_state({**query.get_state(), **{"questions": query.get_state()["questions"]}})
        for name, value in change.items():
            setattr(message, name, value)
        with pytest.raises(DNSError):
            _ = message.packed


def test_a_bomb_of_pointers_is_read_soon() -> None:
    chain = b"".join((0xC000 | 29 + 2 * max(0, i - 1)).to_bytes(2, "big") for i in range(8000))
    first = record(types.NULL, b"\0\0" + chain[2:])
    owner = (0xC000 | 29 + 12 + 15000).to_bytes(2, "big")
    wire = answer(first, *[record(types.A, b"abcd", owner)] * 2800)
    with pytest.raises(DNSError):
        DNSMessage.unpack(wire)


# -- properties

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=5).filter(lambda found: sum(map(len, found)) < 240)


@given(LABELS)
def test_any_name_goes_there_and_back(labels: list[bytes]) -> None:
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    name, end = names.unpack(wire, 0)
    assert (names.labels(name), names.pack(name), end) == (labels, wire, len(wire))
    assert names.skip(wire, 0) == end
    assert name.isascii()
    assert name.isprintable()
    assert " " not in name


NAME = LABELS.map(lambda labels: names.unpack(b"".join(bytes([len(x)]) + x for x in labels) + b"\0", 0)[0])
SMALL = st.integers(0, 0xFFFF)
RECORD = st.one_of(
    st.builds(ResourceRecord, NAME, SMALL.filter(lambda k: k not in rdata.WITH_NAMES), SMALL, st.integers(0, 2**32 - 1),
              st.binary(max_size=40)),
    st.builds(ResourceRecord, NAME, st.sampled_from([types.NS, types.CNAME, types.PTR, types.DNAME]), SMALL, SMALL,
              NAME.map(names.pack)),
    st.builds(ResourceRecord, NAME, st.just(types.SOA), SMALL, SMALL,
              st.builds(lambda a, b: names.pack(a) + names.pack(b) + bytes(20), NAME, NAME)),
    st.builds(ResourceRecord, NAME, st.just(types.SRV), SMALL, SMALL, NAME.map(lambda n: bytes(6) + names.pack(n))),
)  # fmt: skip
MESSAGE = st.builds(
    DNSMessage, SMALL, st.booleans(), st.integers(0, 15), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
    st.integers(0, 7), st.integers(0, 15), st.lists(st.builds(Question, NAME, SMALL, SMALL), max_size=2),
    *[st.lists(RECORD, max_size=4)] * 3,
)  # fmt: skip


@given(MESSAGE)
@settings(max_examples=100, deadline=None)
def test_any_message_goes_there_and_back(message: DNSMessage) -> None:
    again = DNSMessage.unpack(message.packed, message.timestamp)
    assert again.get_state() == message.get_state()
    assert DNSMessage.unpack_from(b"xx" + message.packed + b"yy", 2)[0] == len(message.packed)
    for part in (again.answers, again.authorities, again.additionals):
        for one in part:
            assert str(one).isprintable()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_bytes_of_any_kind_raise_nothing_else(data: st.DataObject) -> None:
    wire = bytearray(
        data.draw(st.binary(max_size=80))
        if data.draw(st.booleans())
        else answer(record(types.SOA, b"\xc0\x0c\xc0\x0c" + bytes(20)), record(types.HTTPS, b"\0\1\0\0\1\0\3\2h2"))
    )
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)):
        if at < len(wire):
            wire[at] = byte
    del wire[data.draw(st.integers(0, 200)) :]
    try:
        message = DNSMessage.unpack(bytes(wire))
    except DNSError:
        return
    assert message.packed == wire
    message.id ^= 1
    again = DNSMessage.unpack(message.packed)
    assert again.get_state() == {**message.get_state(), "timestamp": again.timestamp}
    repr(message)
