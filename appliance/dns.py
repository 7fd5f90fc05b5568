"""DNS queries and answers as add-ons see them."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from .connection import State
from .dnsrecord import DEFAULT_TTL, Question, ResourceRecord
from .flow import Flow
from .net.dns import DNSError, classes, names, op_codes, rdata, response_codes, types
from .net.dns.svcb import HTTPSRecord

if TYPE_CHECKING:
    pass

__all__ = [
    "DEFAULT_TTL",
    "DNSError",
    "DNSFlow",
    "DNSMessage",
    "HTTPSRecord",
    "Question",
    "ResourceRecord",
    "classes",
    "op_codes",
    "response_codes",
    "types",
]

UDP_PAYLOAD = 1232
"""Bytes we say we can take in one datagram (EDNS), as DNS servers have agreed on since 2020."""
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_PAIR = struct.Struct("!HH")


_FIELDS = (
    "id",
    "query",
    "op_code",
    "authoritative_answer",
    "truncation",
    "recursion_desired",
    "recursion_available",
    "reserved",
    "response_code",
    "questions",
    "answers",
    "authorities",
    "additionals",
)


class DNSMessage:
    """A query or a response. reserved: the three bits that were free in RFC 1035 (Z, AD, CD).

    One that came over the wire is parsed when somebody first looks; until it is changed, `packed` is what came.
    """

    __slots__ = (*_FIELDS, "_key", "_wire", "timestamp")
    id: int
    query: bool
    op_code: int
    authoritative_answer: bool
    truncation: bool
    recursion_desired: bool
    recursion_available: bool
    reserved: int
    response_code: int
    questions: list[Question]
    answers: list[ResourceRecord]
    authorities: list[ResourceRecord]
    additionals: list[ResourceRecord]

    def __init__(
        self,
        id: int,
        query: bool,
        op_code: int = op_codes.QUERY,
        authoritative_answer: bool = False,
        truncation: bool = False,
        recursion_desired: bool = True,
        recursion_available: bool = False,
        reserved: int = 0,
        response_code: int = response_codes.NOERROR,
        questions: Iterable[Question] = (),
        answers: Iterable[ResourceRecord] = (),
        authorities: Iterable[ResourceRecord] = (),
        additionals: Iterable[ResourceRecord] = (),
        timestamp: float | None = None,
    ) -> None:
        """timestamp: seconds since the epoch, now unless given."""
        self.id = id
        self.query = query
        self.op_code = op_code
        self.authoritative_answer = authoritative_answer
        self.truncation = truncation
        self.recursion_desired = recursion_desired
        self.recursion_available = recursion_available
        self.reserved = reserved
        self.response_code = response_code
        self.questions = list(questions)
        self.answers = list(answers)
        self.authorities = list(authorities)
        self.additionals = list(additionals)
        self.timestamp = time.time() if timestamp is None else timestamp
        self._wire: bytes | None = None
        self._key: tuple[object, ...] | None = None

    # -- the wire

    @classmethod
    def over_wire(cls, wire: bytes, timestamp: float | None = None) -> Self:
        """As `unpack`, but parsed at the first look, which then raises DNSError if it is malformed."""
        self = cls.__new__(cls)
        self._wire = wire
        self._key = None
        self.timestamp = time.time() if timestamp is None else timestamp
        return self

    def __getattr__(self, name: str) -> Any:
        # Only for what is not set: a field of a message that was not parsed yet.
        if name in _FIELDS and self._wire is not None and self._key is None:
            self.parse()
            return getattr(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def parse(self) -> None:
        """Now, unless it was already. :raises DNSError: it is malformed; then it stays unparsed."""
        buf = self._wire
        if buf is None or self._key is not None:
            return
        end, found = _unpack(buf)
        if end != len(buf):
            raise DNSError(f"{len(buf) - end} bytes follow the message")
        self._take(found)
        self._key = self._now()

    def _take(self, found: tuple[Any, ...]) -> None:
        (
            self.id,
            flags,
            self.questions,
            self.answers,
            self.authorities,
            self.additionals,
        ) = found
        self.query = not flags & 0x8000
        self.op_code = flags >> 11 & 15
        self.authoritative_answer = bool(flags & 0x400)
        self.truncation = bool(flags & 0x200)
        self.recursion_desired = bool(flags & 0x100)
        self.recursion_available = bool(flags & 0x80)
        self.reserved = flags >> 4 & 7
        self.response_code = flags & 15

    def _now(self) -> tuple[object, ...]:
        """All that a change could change; records may be changed in place."""
        return (
            self.id,
            self._flags(),
            [q._key() for q in self.questions],
            [r._key() for r in self.answers],
            [r._key() for r in self.authorities],
            [r._key() for r in self.additionals],
        )

    @classmethod
    def unpack(cls, buffer: bytes, timestamp: float | None = None) -> Self:
        """:raises DNSError: malformed, or bytes follow."""
        self = cls.over_wire(bytes(buffer), timestamp)
        self.parse()
        return self

    @classmethod
    def unpack_from(cls, buffer: bytes, offset: int, timestamp: float | None = None) -> tuple[int, Self]:
        """The length of the message at `offset`, and it. :raises DNSError: malformed."""
        buffer = bytes(buffer[offset:])
        end, _ = _unpack(buffer)
        return end, cls.unpack(buffer[:end], timestamp)

    @property
    def changed(self) -> bool:
        """Whether `packed` is made anew: it did not come over the wire, or was changed since."""
        if self._wire is None:
            return True
        return self._key is not None and self._key != self._now()

    @property
    def packed(self) -> bytes:
        """The wire form: as it came, or with names compressed. :raises DNSError: a value does not fit."""
        if self._wire is not None and not self.changed:
            return self._wire
        try:
            return self._pack()
        except (struct.error, OverflowError, TypeError, AttributeError) as e:
            raise DNSError(f"this message cannot be put on the wire: {e}") from None

    content = packed

    @property
    def size(self) -> int:
        """Bytes of the answers' data, of authorities' and additionals' too."""
        return sum(len(r.data) for part in (self.answers, self.authorities, self.additionals) for r in part)

    def _flags(self) -> int:
        return (
            (0 if self.query else 0x8000)
            | self.op_code << 11
            | (0x400 if self.authoritative_answer else 0)
            | (0x200 if self.truncation else 0)
            | (0x100 if self.recursion_desired else 0)
            | (0x80 if self.recursion_available else 0)
            | self.reserved << 4
            | self.response_code
        )

    def _pack(self) -> bytes:
        for what, value, most in (
            ("op_code", self.op_code, 15),
            ("reserved", self.reserved, 7),
            ("response_code", self.response_code, 15),
        ):
            if not 0 <= value <= most:
                raise DNSError(f"{what} {value} does not fit: 0 to {most}")
        sections = (self.answers, self.authorities, self.additionals)
        out = bytearray(_HEADER.pack(self.id, self._flags(), len(self.questions), *map(len, sections)))
        known: dict[tuple[bytes, ...], int] = {}
        for question in self.questions:
            names.pack_into(out, question.name, known)
            out += _PAIR.pack(question.type, question.class_)
        for section in sections:
            for record in section:
                names.pack_into(out, record.name, known)
                start = len(out) + 8
                out += _RECORD.pack(record.type, record.class_, record.ttl, 0)
                rdata.pack_into(out, record.type, record.data, known)
                size = len(out) - start - 2
                if size > 0xFFFF:
                    raise DNSError(f"a record's data has {size} bytes")
                out[start : start + 2] = size.to_bytes(2, "big")
        if len(out) > 0xFFFF:
            raise DNSError(f"the message has {len(out)} bytes, more than 65535")
        return bytes(out)

    # -- for add-ons

    @property
    def question(self) -> Question | None:
        """The one question, None when there are none or several."""
        return self.questions[0] if len(self.questions) == 1 else None

    @property
    def edns(self) -> ResourceRecord | None:
        """The OPT record (RFC 6891), if there is one."""
        return next((record for record in self.additionals if record.type == types.OPT), None)

    def succeed(self, answers: Sequence[ResourceRecord]) -> DNSMessage:
        """A response to this query with these answers. ValueError for a response."""
        return self._respond(response_codes.NOERROR, answers)

    def fail(self, response_code: int) -> DNSMessage:
        """A response to this query with this error. ValueError for NOERROR, and for a response."""
        if response_code == response_codes.NOERROR:
            raise ValueError("NOERROR is no failure")
        return self._respond(response_code, ())

    def _respond(self, code: int, answers: Sequence[ResourceRecord]) -> DNSMessage:
        if not self.query:
            raise ValueError("only a query has a response")
        opt = self.edns
        return DNSMessage(
            self.id,
            False,
            self.op_code,
            recursion_desired=self.recursion_desired,
            recursion_available=True,
            response_code=code,
            questions=[Question(q.name, q.type, q.class_) for q in self.questions],
            answers=answers,
            # Whoever speaks EDNS is answered in it; the DO bit is repeated (RFC 6891 §6.1.1, RFC 3225 §3).
            additionals=[ResourceRecord("", types.OPT, UDP_PAYLOAD, opt.ttl & 0x8000)] if opt is not None else (),
        )

    def copy(self) -> Self:
        """The same under a new random id."""
        new = self.from_state(self.get_state())
        new.id = int.from_bytes(os.urandom(2), "big")
        return new

    def __repr__(self) -> str:
        try:
            asked = ", ".join(f"{q.name or '.'} {types.to_str(q.type)}" for q in self.questions)
            told = "" if self.query else f" {response_codes.to_str(self.response_code)} {self.answers!r}"
        except DNSError as e:
            return f"<DNSMessage, malformed: {e}>"
        return f"<DNSMessage {asked}{told}>"

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: getattr(self, name) for name in _FIELDS[:9]}
        found["op_code"] = op_codes.to_str(self.op_code)
        found["response_code"] = response_codes.to_str(self.response_code)
        for name in _FIELDS[9:]:
            found[name] = [one.to_json() for one in getattr(self, name)]
        return {**found, "size": self.size, "timestamp": self.timestamp}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`, of records whose text says all (see `ResourceRecord.from_json`).

        Raises KeyError for a key too few, ValueError for a text that cannot be read.
        """
        values: dict[str, Any] = {name: data[name] for name in _FIELDS[:9]}
        values["op_code"] = op_codes.from_str(data["op_code"])
        values["response_code"] = response_codes.from_str(data["response_code"])
        values["questions"] = [Question.from_json(one) for one in data["questions"]]
        for name in _FIELDS[10:]:
            values[name] = [ResourceRecord.from_json(one) for one in data[name]]
        return cls(**values, timestamp=data.get("timestamp"))

    def get_state(self) -> State:
        state: State = {name: getattr(self, name) for name in _FIELDS[:9]}
        for name in _FIELDS[9:]:
            state[name] = [one.get_state() for one in getattr(self, name)]
        return {**state, "timestamp": self.timestamp}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Raises TypeError for a key too many, KeyError for one too few."""
        parts: State = {"questions": [Question.from_state(one) for one in state["questions"]]}
        for name in _FIELDS[10:]:
            parts[name] = [ResourceRecord.from_state(one) for one in state[name]]
        return cls(**{**state, **parts})


def _unpack(buf: bytes) -> tuple[int, tuple[Any, ...]]:
    """Where the message ends, and (id, flags, questions, answers, authorities, additionals). :raises DNSError: …"""
    if len(buf) < 12:
        raise DNSError("shorter than a DNS header")
    number, flags, *counts = _HEADER.unpack_from(buf)
    at, size = 12, len(buf)
    known: dict[int, str] = {}
    questions = []
    for _ in range(counts[0]):
        start = at
        name, at = names.unpack(buf, at)
        known[start] = name
        if at + 4 > size:
            raise DNSError("a question is cut short")
        questions.append(Question(name, *_PAIR.unpack_from(buf, at)))
        at += 4
    sections = []
    for count in counts[1:]:
        records = []
        for _ in range(count):
            try:
                if buf[at] >= 0xC0:  # nearly always; and nearly always to the question
                    target = (buf[at] & 0x3F) << 8 | buf[at + 1]
                    found = known.get(target)
                    if found is None:
                        found = known[target] = names.unpack(buf, at)[0]
                    name, at = found, at + 2
                else:
                    name, at = names.unpack(buf, at)
                kind, class_, ttl, length = _RECORD.unpack_from(buf, at)
            except (IndexError, struct.error):
                raise DNSError("a record is cut short") from None
            at += 10
            end = at + length
            if end > size:
                raise DNSError("a record is cut short")
            data = rdata.whole(kind, buf, at, end) if kind in rdata.WITH_NAMES else buf[at:end]
            records.append(ResourceRecord(name, kind, class_, ttl, data))
            at = end
        sections.append(records)
    return at, (number, flags, questions, *sections)


class DNSFlow(Flow):
    """One query and its response. `request.succeed([...])` assigned to `response` answers it here."""

    type = "dns"
    response: DNSMessage | None = None
    request: DNSMessage
    _content_keys = frozenset({"request", "response"})

    def __repr__(self) -> str:
        return f"<DNSFlow {self.request!r} -> {self.response!r}>"

    def _get_content(self) -> State:
        return {
            "request": self.request.get_state(),
            "response": self.response.get_state() if self.response is not None else None,
        }

    def _set_content(self, state: State) -> None:
        self.request = DNSMessage.from_state(state["request"])
        self.response = DNSMessage.from_state(state["response"]) if state["response"] else None
