"""A head that is written again because the last one was the same: never another than a fresh connection would write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple, cast

import pytest

from appliance.headers import Headers
from appliance.layers.http.h1_client import H1Client
from appliance.layers.http.h1_fields import Fields, Refused
from appliance.layers.http.h1_grammar import parse_request
from appliance.layers.http.h1_server import H1Inbound, H1Server
from appliance.net.stream import Stream
from appliance.request import Request
from appliance.response import Response

X, CHUNKED, FIVE = (b"X", b"1"), (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5")
PLAIN, LENGTH = (X,), (X, FIVE)
FIELDS: list[Fields] = [
    PLAIN, LENGTH, (), (X, CHUNKED), (X, FIVE, (b"Connection", b"close")), (X, (b"Connection", b"keep-alive")),
    ((b"Connection", b"x"), X), ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")), ((b"X", b"1\r\nY: 2"),),
    ((b"X", b"2"), FIVE), ((b"x" * 5000, b""),), tuple([*LENGTH]), ((b"bad name", b""),),
]  # fmt: skip
CONTENTS = [b"", b"hello", b"hi", b"x" * 65536, b"x" * 65537]
TRAILERS = [None, (), ((b"T", b"1"),)]


class Said(NamedTuple):
    """One message. `asked`, `http10` and `cut`: what a response answers, and how."""

    fields: Any
    content: bytes = b""
    trailers: Any = None
    method: bytes = b"GET"
    path: bytes = b"/"
    version: bytes = b"HTTP/1.1"
    status: int = 200
    reason: bytes = b"OK"
    asked: bytes = b""
    http10: bool = False
    cut: bool = False


EITHER: dict[str, list[Any]] = {
    "fields": FIELDS, "content": CONTENTS, "trailers": TRAILERS, "version": [b"HTTP/1.0", b"HTTP/2.0"],
}  # fmt: skip
ASKED: dict[str, list[Any]] = EITHER | {
    "method": [b"POST", b"HEAD", b"DELETE", b"get", b"G T", b"X-Y"], "path": [b"/a", b"/a b", b"/\n", b"*"],
}  # fmt: skip
ANSWERED: dict[str, list[Any]] = EITHER | {
    "method": [b"POST", b"HEAD"], "status": [404, 204, 304, 205, 101, 99, 999], "reason": [b"", b"So", b"A\r\nB: C"],
    "asked": [b"Connection: close\r\n", b"Content-Length: 3\r\n", b"Connection: keep-alive\r\n"],
    "http10": [True], "cut": [True],
}  # fmt: skip


def variations(values: dict[str, list[Any]]) -> Iterator[Said]:
    for base in (
        Said(PLAIN), Said(PLAIN, b"hello"), Said(LENGTH, b"hello"), Said(PLAIN, version=b"HTTP/2.0"),
        Said(PLAIN, reason=b"", version=b"HTTP/2.0"), Said(PLAIN, asked=b"Connection: keep-alive\r\n", http10=True),
    ):  # fmt: skip
        yield base
        for name, others in values.items():
            yield from (base._replace(**{name: other}) for other in others)


class Wire:
    """As much of a stream as is written to."""

    tls = None

    def __init__(self) -> None:
        self.buf, self.out = bytearray(), b""

    def write(self, data: bytes) -> bool:
        self.out += data
        return True


def request(client: H1Client, said: Said) -> object:
    """What the connection writes, and what is to be known behind it."""
    wire, outbound = cast("Wire", client.stream), client.open()
    wire.out = b""
    authority = b"a.example" if said.version == b"HTTP/2.0" else b""
    made = Request("", 80, said.method, b"", authority, said.path, said.version, Headers(), None, said.trailers, 0, 0)
    made.headers.fields = said.fields
    try:
        outbound.request(made, said.content, said.path)
    except Refused as e:
        return str(e)
    return wire.out, outbound._sent, outbound._method


def respond(server: H1Server, said: Said) -> object:
    wire = cast("Wire", server.stream)
    wire.out = b""
    line = b"%b / HTTP/1.%d\r\nHost: a\r\n%b\r\n" % (said.method, not said.http10, said.asked)
    inbound = H1Inbound(server, parse_request(line))
    if said.cut:
        inbound.cut()
    made = Response(said.version, said.status, said.reason, Headers(), None, said.trailers, 0, 0)
    made.headers.fields = said.fields
    try:
        inbound.respond(made, said.content)
    except Refused as e:
        return str(e)
    return wire.out, inbound.head_sent, inbound.persistent


Fresh = Callable[[], Any]
Write = Callable[[Any, Said], object]
CLIENT: tuple[Fresh, Write] = (lambda: H1Client(cast("Stream", Wire()), 65536)), request
SERVER: tuple[Fresh, Write] = (lambda: H1Server(cast("Stream", Wire()), 65536, 10)), respond


@pytest.mark.parametrize(("fresh", "write", "values"), [(*CLIENT, ASKED), (*SERVER, ANSWERED)])
def test_as_a_fresh_connection(fresh: Fresh, write: Write, values: dict[str, list[Any]]) -> None:
    """Only the last head is remembered, so pairs are all the sequences there are."""
    every = list(dict.fromkeys(variations(values)))
    alone = {id(said): write(fresh(), said) for said in every}
    again = 0
    for first, second in product(every, every):
        kept = fresh()
        write(kept, first)
        before = kept.said
        assert write(kept, second) == alone[id(second)], (first, second)
        again += before is not None and kept.said is before
    assert again > len(every), "little is remembered, so little was tested"


@pytest.mark.parametrize(("fresh", "write"), [CLIENT, SERVER])
def test_fields_that_change_in_place(fresh: Fresh, write: Write) -> None:
    """An add-on may set a list, and go on with it."""
    kept, fields = fresh(), [X, FIVE]
    said = Said(fields, b"hello")
    for value in (b"1", b"2", b"3"):
        fields[0] = (b"X", value)
        assert write(kept, said) == write(fresh(), said)
