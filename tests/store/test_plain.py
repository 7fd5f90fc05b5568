"""The short way makes of a flow what the long way makes of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.flow import Error
from appliance.headers import Headers
from appliance.http import HTTPFlow
from appliance.store import plain, records, rows
from appliance.websocket import WebSocketData
from tests import flowkit

LIMIT = 100


def both(flow: HTTPFlow) -> tuple[Any, Any]:
    """(short way, long way): (payload, row, texts)."""
    names = rows.Names(3)
    facts = rows.client_facts(flow.client_conn, names)
    short = plain.made(flow, 16, 48, LIMIT, 99, facts, 7, names)
    others = rows.Names(3)
    facts = rows.client_facts(flow.client_conn, others)
    payload = records.encode(records.flow(flow, 16, 48, LIMIT))
    row = rows.row(flow, 99, len(payload), facts, 7, others, limit=LIMIT)
    made = None if short is None else (short[0], named(list(short[1]), names), len(short[1]))
    return made, (payload, named(row, others), len(row))


def named(row: list[Any], names: rows.Names) -> list[Any]:
    """Numbers of texts depend on who asked first: the texts instead."""
    texts: dict[int | None, Any] = {number: rest for number, *rest in names.fresh}
    found = []
    for at, of in enumerate((names.common, names.forms)):
        (one,) = [one for number, *one in of.fresh if number == row[at]]
        found.append([texts.get(number, number) for number in one])
    return [*found, *row[2:]]


def set_fields(flow: HTTPFlow, *fields: tuple[bytes, bytes]) -> None:
    flow.request.headers = Headers.trusted(fields)


ORDINARY: dict[str, Callable[[HTTPFlow], object]] = {
    "as it is": lambda flow: None,
    "no fields": lambda flow: set_fields(flow),
    "host": lambda flow: set_fields(flow, (b"A", b"1"), (b"hOSt", b"other.example"), (b"Content-TYPE", b"text/x")),
    "odd bytes": lambda flow: set_fields(flow, (b"Host", b"\xff\xfe"), (b"Content-Type", b"\xff")),
    "a body": lambda flow: setattr(flow.request, "raw_content", b"x" * LIMIT),
    "no end": lambda flow: setattr(flow.response, "timestamp_end", None),
    "another method": lambda flow: setattr(flow.request, "raw_method", b"\xc3\xa4"),
    "a long path": lambda flow: setattr(flow.request, "raw_path", b"/" + b"x" * (rows.MAX_PATH - 1)),
    "letters": lambda flow: setattr(flow.request, "raw_path", "/straße".encode()),
    "an authority": lambda flow: setattr(flow.request, "raw_authority", b"a.example:81"),
}
OTHER: dict[str, Callable[[HTTPFlow], object]] = {
    "no response": lambda flow: setattr(flow, "response", None),
    "error": lambda flow: setattr(flow, "error", Error("gone")),
    "websocket": lambda flow: setattr(flow, "websocket", WebSocketData()),
    "noted": lambda flow: flow.metadata.update(a=1),
    "marked": lambda flow: setattr(flow, "marked", ":red_circle:"),
    "comment": lambda flow: setattr(flow, "comment", "look"),
    "replayed": lambda flow: setattr(flow, "is_replay", "request"),
    "no body": lambda flow: setattr(flow.response, "raw_content", None),
    "body streamed up": lambda flow: setattr(flow.request, "raw_content", None),
    "a large body": lambda flow: setattr(flow.response, "raw_content", b"x" * (LIMIT + 1)),
    "a large request": lambda flow: setattr(flow.request, "raw_content", b"x" * (LIMIT + 1)),
    "trailers": lambda flow: setattr(flow.response, "trailers", Headers([(b"a", b"b")])),
    "request trailers": lambda flow: setattr(flow.request, "trailers", Headers([(b"a", b"b")])),
    "too long a path": lambda flow: setattr(flow.request, "raw_path", b"/" + b"x" * rows.MAX_PATH),
    "the server itself": lambda flow: setattr(flow.request, "raw_path", b"*"),
    "a path that is no UTF-8": lambda flow: setattr(flow.request, "raw_path", b"/\xff"),
    "two hosts": lambda flow: set_fields(flow, (b"Host", b"a"), (b"Host", b"b")),
    "two types": lambda flow: set_fields(flow, (b"Content-Type", b"a"), (b"content-type", b"b")),
    "a host that is no text": lambda flow: setattr(flow.request, "raw_host", "\udcff"),
    "a status that is no number": lambda flow: setattr(flow.response, "status_code", object()),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_the_same_by_the_short_way(name: str) -> None:
    flow = flowkit.http(content_type="text/plain")
    ORDINARY[name](flow)
    short, long = both(flow)
    assert short == long
    names = rows.Names(3)
    facts = rows.client_facts(flow.client_conn, names)
    again = [plain.made(flow, 16, 48, LIMIT, 99, facts, 7, names) for _ in range(4)]
    assert again == [again[0]] * 4 and again[0] is not None and again[0][0] == long[0]
    assert len(names.lines) == 2 and not names._once


def test_lines_that_come_again_are_told_by_what_they_are() -> None:
    """One that has the identity of another that is gone is not taken for it; what is remembered is bounded."""
    names = rows.Names(3)
    for number in range(3000):
        headers = Headers.trusted(((b"Host", b"%d" % number), (b"Content-Type", b"text/plain")))
        for _ in range(number % 4):
            found = names.lines.get(id(headers.fields))
            if found is None or found[0] is not headers.fields:
                found = names.look(headers)
            assert found[:3] == (headers.fields, b"%d" % number, b"text/plain")
    assert 0 < len(names.lines) <= 256 and 0 < len(names._once) <= 256
    wide = Headers.trusted(tuple((b"%d" % number, b"x" * 1000) for number in range(64)))
    for _ in range(3):
        assert names.look(wide)[3] is wide.fields and id(wide.fields) not in names._once, "nor is what is large"


@pytest.mark.parametrize("name", OTHER)
def test_left_to_the_long_way(name: str) -> None:
    flow = flowkit.http(content_type="text/plain")
    OTHER[name](flow)
    short, _ = both(flow)
    assert short is None


def test_what_is_shared_is_remembered_within_bounds() -> None:
    names = rows.Names(1)
    facts = rows.client_facts(flowkit.http().client_conn, names)

    def row(host: bytes, status: int = 200) -> Any:
        flow = flowkit.http(status=status)
        set_fields(flow, (b"Host", host))
        made = plain.made(flow, 16, 48, LIMIT, 99, facts, 7, names)
        assert made is not None
        return made[1]

    first = row(b"a.example")
    assert len(names.common.fresh) == len(names.shared) == 1
    assert row(b"a.example", 404)[0] == first[0] and row(b"b.example")[0] != first[0]
    assert len(names.common.fresh) == len(names.shared) == 2
    for number in range(5000):
        row(b"%d.example" % number)
    assert len(names.shared) <= 4096 and len(names.common.fresh) == 5002
    assert row(b"a.example")[0] == first[0], "what is forgotten has its number all the same"
    for number in range(20):
        row(b"x" * 60_000 + b"%d" % number)
    held = [part for memo in (names.shared, names._known, names._sites) for key in memo for part in key]  # type: ignore[attr-defined]
    assert max(len(part) for part in held if isinstance(part, str | bytes)) <= 600, "what is large is not remembered"


def test_places_of_fields() -> None:
    names = rows.Names(1)
    assert names.places((b"a", b"host", b"content-type")) == (1, 2)
    assert names.places((b"host", b"host")) == (rows.SEVERAL, -1)
    assert names.places(()) == (-1, -1)
    for number in range(5000):
        assert names.places((b"%d" % number, b"content-type")) == (-1, 1)
    assert len(names._shapes) <= 4096
    assert names.places((b"x" * 5000, b"host")) == (1, -1)
    assert not any(b"x" * 5000 in shape for shape in names._shapes), "what is large is not remembered"
