"""From flows to rows of the index. Where a row is not exact its flags say so, and the record is asked."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, NamedTuple

import msgspec

from appliance.connection import Client, Server
from appliance.dns import DNSFlow, types
from appliance.flow import Flow
from appliance.headers import Headers, to_str
from appliance.http import HTTPFlow, Message, Request
from appliance.store import index as ix

MAX_PATH: Final = 500
MAX_TEXT: Final = 300
"""Characters of a path, and of any other text, that the index keeps."""
encode: Final = msgspec.msgpack.Encoder().encode
SEVERAL: Final = -2
"""In place of a field's index: there are several such fields. -1: there is none."""
_REMEMBERED: Final = 4096
_LINES: Final = 256
_SHAPE: Final = 40
_SHAPE_BYTES: Final = 1000
_KEY_BYTES: Final = 600
"""Keys that are remembered, names in a list of field names, and the bytes of these and of other keys."""
PRINTABLE: Final = bytes(range(33, 127))
"""What a path is made of where a search for a text finds what a search for an expression does."""
INEXACT: Final = "\ufffd"
"""The end of a text that is not quite what it was: it is no UTF-8."""
_NUMBERS: Final = {name: number for number, name in enumerate(ix.KINDS)}
_VERDICTS: Final = {name: number for number, name in enumerate(ix.VERDICTS)}


class Facts(NamedTuple):
    """What a row says of the client's connection. number: of `names` (client, device, reason, tls, sni) in its `Names`.
    port: the client's. bits: of `flags`."""

    number: int
    port: int | None
    bits: int
    names: tuple[int | None, ...]


Lines = tuple[Any, bytes | None, bytes | None, Any]
"""What is known of a list of header fields: (itself, Host, Content-Type, what is encoded in its place); the last is
None where a Host or a Content-Type is not the only one. The HTTP/1 parser gives the same object for lines that come
again, so it is remembered by its identity, from the second time on."""


class Combinations:
    """Texts that come together in one segment, by their numbers, and the number of each such combination.

    `fresh`: those that the index has not got yet, number first.
    """

    def __init__(self, segment: int) -> None:
        self._last = segment << ix.SHIFT
        self._numbers: dict[tuple[int | None, ...], int] = {}
        self.fresh: list[tuple[int | None, ...]] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def known(self, id: int, *combination: int | None) -> None:
        """One that the index has already."""
        self._numbers[combination] = id
        self._last = max(self._last, id)

    def number(self, combination: tuple[int | None, ...]) -> int:
        found = self._numbers.get(combination)
        if found is None:
            self._last += 1
            found = self._numbers[combination] = self._last
            self.fresh.append((found, *combination))
        return found


class Names:
    """The texts of one segment, each with its number, and their combinations.

    `fresh`: those that the index has not got yet. `lines`: by the identity of a list of fields. `shared`: numbers in
    `common` and `forms` for what an exchange has in the raw; `remember` adds to it.
    """

    def __init__(self, segment: int) -> None:
        self._last = segment << ix.SHIFT
        self._facts = 0
        self._known: dict[Hashable, int] = {}
        self.common = Combinations(segment)
        self.forms = Combinations(segment)
        self._numbers: dict[Hashable, int] = {}
        self._shapes: dict[tuple[bytes, ...], tuple[int, int]] = {}
        self._sites: dict[Hashable, tuple[int, int]] = {}
        self._once: dict[int, Any] = {}
        self.lines: dict[int, Lines] = {}
        self.shared: dict[Hashable, tuple[int, int]] = {}
        self.fresh: list[tuple[int, int, str, str | None]] = []

    def __len__(self) -> int:
        return max(len(self._known), len(self.common), len(self.forms))

    def known(self, id: int, kind: int, text: str, alias: str | None) -> None:
        """A text that the index has already."""
        self._known[kind, text, alias] = id
        self._last = max(self._last, id)

    def hand_over(self, batch: ix.Batch) -> int:
        """All that is fresh, to be inserted; how many."""
        count = len(self.fresh) + len(self.common.fresh) + len(self.forms.fresh)
        if count:
            batch.names += self.fresh
            batch.common += self.common.fresh
            batch.forms += self.forms.fresh
            self.fresh, self.common.fresh, self.forms.fresh = [], [], []
        return count

    def get(self, kind: int, text: str, alias: str | None = None) -> int:
        key = (kind, clean(text), alias if alias is None else clean(alias))
        found = self._known.get(key)
        if found is None:
            self._last += 1
            found = self._known[key] = self._last
            self.fresh.append((found, *key))
        return found

    def number(self, names: tuple[int | None, ...]) -> int:
        """See `Facts`."""
        found = self._numbers.get(names)
        if found is None:
            self._facts += 1
            found = self._facts
            _remember(self._numbers, names, found)
        return found

    def remember(self, key: tuple[Any, ...], found: tuple[int, int]) -> None:
        if sum([len(part) for part in key if isinstance(part, bytes | str)]) <= _KEY_BYTES:
            _remember(self.shared, key, found)

    def look(self, headers: Headers) -> Lines:
        """What `lines` is to have for these; where they come again, it has. Raises what encoding raises."""
        fields = headers.fields
        host, kind = self.places(headers.names())
        if host == SEVERAL or kind == SEVERAL:
            return fields, None, None, None
        if again := self._once.pop(id(fields), None) is fields:
            written: Any = msgspec.Raw(encode(fields))
        else:
            written = fields
        found = fields, fields[host][1] if host >= 0 else None, fields[kind][1] if kind >= 0 else None, written
        if again:
            _remember(self.lines, id(fields), found, _LINES)
        elif len(fields) <= _SHAPE:
            _remember(self._once, id(fields), fields, _LINES)
        return found

    def method(self, raw: bytes) -> int:
        return self.get(ix.METHOD, raw.decode("latin-1"))

    def type(self, raw: bytes) -> int:
        return self.get(ix.TYPE, to_str(raw))

    def places(self, fields: tuple[bytes, ...]) -> tuple[int, int]:
        """Where Host and Content-Type are among these names in lower case; SEVERAL, -1. The same often come again."""
        found = self._shapes.get(fields)
        if found is None:
            found = _place(fields, b"host"), _place(fields, b"content-type")
            if len(fields) <= _SHAPE and sum(map(len, fields)) <= _SHAPE_BYTES:
                _remember(self._shapes, fields, found)
        return found

    def site(self, request: Request) -> tuple[int, int]:
        """(site, host): what stands before the path in the URL, and where it went."""
        key = (
            first(request.headers, b"host"), request.raw_authority, request.raw_scheme, request.raw_host,
            request.raw_port, request.raw_http_version,
        )  # fmt: skip
        found = self._sites.get(key)
        if found is None:
            url, path = request.pretty_url, request.path
            if request.raw_path == b"*":
                path = ""
            before = url.removesuffix(path) if path else url
            found = (self.get(ix.SITE, before, request.pretty_host), self.get(ix.HOST, request.host))
            if len(key[0] or b"") + len(key[1]) + len(key[3]) <= _KEY_BYTES:
                _remember(self._sites, key, found)
        return found


def _remember(memo: dict[Any, Any], key: Hashable, found: Any, most: int = _REMEMBERED) -> None:
    if len(memo) >= most:
        memo.clear()
    memo[key] = found


def _place(fields: tuple[bytes, ...], name: bytes) -> int:
    count = fields.count(name)
    return fields.index(name) if count == 1 else SEVERAL if count else -1


def first(headers: Headers, name: bytes) -> bytes | None:
    """`headers.raw`, where there is one such field a little faster. name: in lower case."""
    names = headers.names()
    if name not in names:
        return None
    at = names.index(name)
    return headers.raw(name) if name in names[at + 1 :] else headers.fields[at][1]


def clean(text: str) -> str:
    """As SQLite takes it, and no longer than it should be."""
    text = str(text)[:MAX_TEXT]  # add-ons set what is none, too
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()[: MAX_TEXT - 1] + INEXACT
    return text


def client_facts(client: Client, names: Names) -> Facts:
    peer, verdict, device = client.peername, client.verdict, getattr(client, "device", None)
    tls = client.tls_version
    found = (
        None if peer is None else names.get(ix.CLIENT, peer[0]),
        None if device is None else names.get(ix.DEVICE, str(getattr(device, "name", device)),
                                              str(getattr(device, "label", "") or "") or None),
        None if verdict is None else names.get(ix.REASON, verdict.reason, verdict.rule),
        None if tls is None else names.get(ix.TLS, tls, client.cipher),
        None if client.sni is None else names.get(ix.SNI, client.sni),
    )  # fmt: skip
    bits = 0 if verdict is None else _VERDICTS.get(verdict.action, 0) << ix.VERDICT
    return Facts(names.number(found), None if peer is None else peer[1], bits, found)


def server_name(server: Server, names: Names) -> int | None:
    address = server.address
    return None if address is None else names.get(ix.SERVER, f"{address[0]}:{address[1]}")


Count = tuple[int, int, float]
"""Of a conversation's messages: bytes up and down, and when it ended."""


def row(
    flow: Flow,
    offset: int,
    size: int,
    facts: Facts,
    server: int | None,
    names: Names,
    count: Count | None = None,
    bits: int = 0,
    limit: int = 1 << 62,
) -> list[Any]:
    """A row in the order of `index.COLUMNS`. limit: bytes of a body that are kept. bits: of `flags`."""
    bits |= facts.bits | _NUMBERS[flow.type] << ix.KIND
    error = None
    if flow.error is not None:
        bits |= ix.FAILED
        error = names.get(ix.ERROR, flow.error.msg)
    if flow.is_replay:
        bits |= ix.REPLAYED_REQUEST if flow.is_replay == "request" else ix.REPLAYED_RESPONSE
    if flow.marked:
        bits |= ix.MARKED
    if flow.comment:
        bits |= ix.COMMENTED
    if flow._metadata:
        bits |= ix.NOTED
    if isinstance(flow, HTTPFlow):
        more = _http(flow, names, count, bits, limit)
    elif isinstance(flow, DNSFlow):
        more = _dns(flow, names, bits)
    else:
        up, down, ended = count or (0, 0, flow.timestamp_created)
        begun = flow.timestamp_created
        more = begun, ended, bits, None, None, None, None, None, None, None, up, down
    begun, over, bits, site, host, method, path, status, kind_of, qtype, sent, got = more
    common = names.common.number((*facts.names, server, site, host))
    return [
        common, names.forms.number((method, kind_of, qtype)), bits, status, path, facts.port, offset, size, begun,
        None if over is None else over - begun, sent, got, flow.id, error,
    ]  # fmt: skip


_More = tuple[
    float, float | None, int, int | None, int | None, int | None, str | None, int | None, int | None, int | None,
    int | None, int | None,
]  # fmt: skip
"""begun, ended, flags, site, host, method, path, status, type, qtype, up, down"""


def _http(flow: HTTPFlow, names: Names, count: Count | None, bits: int, limit: int) -> _More:
    request, response = flow.request, flow.response
    site, host = names.site(request)
    path = request.raw_path
    if len(path) > MAX_PATH:
        bits |= ix.LONG_PATH
        path = path[:MAX_PATH]
    if path.translate(None, PRINTABLE):
        bits |= ix.ODD_PATH
    if path == b"*":
        text = ""
    else:
        try:
            text = path.decode()
        except UnicodeDecodeError:
            bits |= ix.LONG_PATH
            text = path.decode("utf-8", "backslashreplace")
    asked = first(request.headers, b"content-type")
    up, cut = _size(request, limit)
    status = kind_of = down = None
    ended = request.timestamp_end
    if response is not None:
        bits |= ix.ANSWERED
        status = response.status_code
        found = first(response.headers, b"content-type")
        kind_of = None if found is None else names.type(found)
        down, cut_down = _size(response, limit)
        cut = cut or cut_down
        ended = response.timestamp_end
    if cut:
        bits |= ix.CUT
    if flow.websocket is not None:
        bits |= ix.WEBSOCKET
    if count is not None:
        up, down, ended = (up or 0) + count[0], (down or 0) + count[1], count[2]
    elif ended is None and flow.error is not None:
        ended = flow.error.timestamp
    return (
        request.timestamp_start, ended, bits, site, host, names.method(request.raw_method), text, status, kind_of,
        None if asked is None else names.type(asked), up, down,
    )  # fmt: skip


def _dns(flow: DNSFlow, names: Names, bits: int) -> _More:
    text, kind = _question(flow)
    if text is not None and not (text.isascii() and text.isprintable()):
        bits |= ix.ODD_PATH
    ended = status = down = None
    if (response := flow.response) is not None:
        bits |= ix.ANSWERED
        wire = response._wire
        status = wire[3] & 15 if wire is not None and len(wire) > 3 else response.response_code
        down = _length(response)
        ended = response.timestamp
    elif flow.error is not None:
        ended = flow.error.timestamp
    return (
        flow.request.timestamp, ended, bits, None, None, None if kind is None else names.get(ix.METHOD, kind), text,
        status, None, None, _length(flow.request), down,
    )  # fmt: skip


def _size(message: Message, limit: int) -> tuple[int | None, bool]:
    """Bytes of the body as it was transferred, and whether not all of it is kept."""
    raw = message.raw_content
    if raw is not None:
        return len(raw), len(raw) > limit
    tee = message.tee
    if tee is not None:
        return tee.size, bool(getattr(tee, "cut", True))
    return message.moved, message.moved is not None


def _question(flow: DNSFlow) -> tuple[str | None, str | None]:
    """The (first) name asked for and the type; read off the wire where nobody has parsed the query."""
    from appliance.net.dns import names as dns_names

    request = flow.request
    wire = request._wire
    try:
        if wire is not None and request._key is None:
            if wire[4:6] == b"\0\0":
                return None, None
            name, at = dns_names.unpack(wire, 12)
            return name, types.to_str(wire[at] << 8 | wire[at + 1])
        if not request.questions:
            return None, None
        return request.questions[0].name, types.to_str(request.questions[0].type)
    except (ValueError, IndexError):
        return None, None


def _length(message: Any) -> int:
    wire = message._wire
    return len(wire) if wire is not None else 0
