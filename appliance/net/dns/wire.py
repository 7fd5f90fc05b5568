"""What must be known of a message before anybody looks into it: cheap checks on the wire form."""

from __future__ import annotations

from appliance.net.dns import DNSError, names, op_codes, response_codes, types

PORT = 53
HEADER = 12
SMALLEST = 512
"""Bytes that every client takes in one datagram (RFC 1035 §2.3.4)."""
_OPT = b"\0\0\x29"
_PLAIN_COUNTS = (b"\0\1\0\0\0\0\0\0", b"\0\1\0\0\0\0\0\1")
TRANSFERS = frozenset((types.AXFR, types.IXFR))
_KINDS = frozenset((op_codes.QUERY, op_codes.NOTIFY, op_codes.UPDATE))


def looks_like_query(head: bytes | bytearray) -> bool:
    """Whether these first bytes (12 are enough) can be a query with one question: what else runs on port 53 is not."""
    return (
        len(head) >= HEADER
        and not head[2] & 0x80
        and head[2] >> 3 in _KINDS
        and head[4:6] == b"\0\1"
        and not head[6] | head[8] | head[10]  # fewer than 256 records of each kind
    )


def looks_like_framed_query(data: bytes | bytearray) -> bool | None:
    """The same over TCP, where a length stands before it (RFC 1035 §4.2.2); None: too little to tell.

    A zone transfer is not: its answer is many messages, which are best relayed as they are.
    """
    if len(data) < 2 + HEADER:
        return None if data and (len(data) < 2 or data[0] << 8 | data[1] > HEADER) else False
    if not looks_like_query(data[2:14]):
        return False
    size = data[0] << 8 | data[1]
    if data[4] >> 3 or size > SMALLEST:
        return size > HEADER
    if len(data) < 2 + size:
        return None
    try:
        end, _ = scan(bytes(data[2 : 2 + size]))
    except DNSError:
        return True  # malformed, and to be told so
    return question_type(data[2:], end) not in TRANSFERS


def scan(wire: bytes) -> tuple[int, int]:
    """Of a query: where its questions end, and the bytes its sender takes in one datagram.

    :raises DNSError: it is no well-formed query. Names inside the data of records, rare in queries, are not looked at.
    """
    size = len(wire)
    if size < HEADER:
        raise DNSError("shorter than a DNS header")
    if wire[2] & 0x80:
        raise DNSError("it is a response, not a query")
    at = HEADER
    counts = wire[4:12]
    if counts in _PLAIN_COUNTS:
        at = _question(wire, at)
        if counts[7] == 0:
            if at != size:
                raise DNSError("bytes follow the message")
            return at, SMALLEST
        if wire[at : at + 3] == _OPT:
            if at + 11 > size or at + 11 + int.from_bytes(wire[at + 9 : at + 11], "big") != size:
                raise DNSError("the OPT record is cut short, or bytes follow it")
            return at, max(SMALLEST, wire[at + 3] << 8 | wire[at + 4])
    else:
        for _ in range(wire[4] << 8 | wire[5]):
            at = _question(wire, at)
    return at, _records(wire, at, sum(wire[i] << 8 | wire[i + 1] for i in (6, 8, 10)))


def _question(wire: bytes, at: int) -> int:
    start, size = at, len(wire)
    while at < size and (length := wire[at]):
        if length > names.MAX_LABEL:
            raise DNSError("a name in a question is malformed or compressed")
        at += length + 1
    at += 5
    if at > size:
        raise DNSError("a question is cut short")
    if at - start - 4 > names.MAX_NAME:
        raise DNSError("a name is longer than 255 bytes")
    return at


def _records(wire: bytes, at: int, count: int) -> int:
    limit = SMALLEST
    for _ in range(count):
        start = at
        at = names.skip(wire, at)
        if at + 10 > len(wire):
            raise DNSError("a record is cut short")
        kind = wire[at] << 8 | wire[at + 1]
        if kind == types.OPT and at == start + 1:
            limit = max(SMALLEST, wire[at + 2] << 8 | wire[at + 3])
        at += 10 + (wire[at + 8] << 8 | wire[at + 9])
    if at != len(wire):
        raise DNSError("the message is cut short, or bytes follow it")
    return limit


def answers(response: bytes, query: bytes, end: int) -> bool:
    """Whether `response` can be the answer to `query`, whose questions end at `end`. Ids are not compared.

    The question must come back (RFC 5452 §9.1), in whatever case; it may be missing where the server could not read it.
    """
    if len(response) < HEADER or (response[2] ^ query[2]) & 0xF8 != 0x80:
        return False
    if response[4:6] == query[4:6]:
        asked, told = query[HEADER:end], response[HEADER:end]
        return asked == told or (asked[-4:] == told[-4:] and asked.lower() == told.lower())
    return response[4:6] == b"\0\0" and response[3] & 15 in (1, 2, 4, 5) and not any(response[6:10])


def question_type(wire: bytes | bytearray, end: int) -> int:
    """Of the last question, which ends at `end`."""
    return wire[end - 4] << 8 | wire[end - 3]


def refusal(query: bytes, end: int, code: int) -> bytes:
    """A response to `query` that says `code`, with its question (up to `end`; 12 = without). No OPT: for when it was
    not understood."""
    flags = bytes((0x80 | query[2] & 0x79, 0x80 | code))
    return query[:2] + flags + (query[4:6] if end > HEADER else b"\0\0") + bytes(6) + query[HEADER:end]


def not_understood(data: bytes) -> bytes | None:
    """FORMERR, for a message that is malformed; None: too short for a reply, or an answer, which never gets one."""
    return refusal(data, HEADER, response_codes.FORMERR) if len(data) >= HEADER and not data[2] & 0x80 else None


def truncated(response: bytes, query: bytes, end: int) -> bytes:
    """`response` as a client sees it that must ask again by TCP: the question and EDNS, TC set."""
    opt = _own_opt(response)
    counts = query[4:6] + bytes(4) + (b"\0\1" if opt else b"\0\0")
    return response[:2] + bytes((response[2] | 2, response[3])) + counts + query[HEADER:end] + opt


def _own_opt(response: bytes) -> bytes:
    """The OPT record without its options, b"" where there is none to be found."""
    try:
        at = HEADER
        for _ in range(response[4] << 8 | response[5]):
            at = names.skip(response, at) + 4
        for _ in range(sum(response[i] << 8 | response[i + 1] for i in (6, 8, 10))):
            after = names.skip(response, at)
            if response[at : at + 3] == _OPT:
                return response[at : at + 9] + b"\0\0"
            at = after + 10 + (response[after + 8] << 8 | response[after + 9])
    except (DNSError, IndexError):
        pass
    return b""
