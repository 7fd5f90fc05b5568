"""HTTP/1 heads, sans-I/O (RFC 9112): blocks of bytes to heads and back, and what is refused on the way.

The usual head takes a fast path of possessive patterns. Any other is first searched for what we never forward, then
h11 has the say whether it is HTTP at all; both readings must agree, so no head passes that two parsers read apart.
`strict` False (validate_inbound_headers off) drops our refusals of the merely odd — control characters that h11
accepts, fragments, bad Host values, unknown expectations, status 600..998 — and none that touches framing or routing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import h11

from appliance.layers.http import h1_framing
from appliance.layers.http.h1_chunked import ChunkedDecoder, encode_chunk, last_chunk
from appliance.layers.http.h1_fields import (
    TCHAR,
    TEXT,
    Fields,
    Refused,
    check_characters,
    is_token,
    quoted,
    unusual_fields,
    usual_fields,
)
from appliance.layers.http.h1_framing import CHUNKED, EOF, NONE, Framing, framing, hop_names, scan, strip_hop
from appliance.layers.http.h1_target import Target, check_host, parse_host_header, parse_target

__all__ = [
    "CHUNKED",
    "EOF",
    "NONE",
    "ChunkedDecoder",
    "Fields",
    "Framing",
    "Refused",
    "RequestHead",
    "ResponseHead",
    "Target",
    "body_of_request",
    "body_of_response",
    "check_head",
    "check_partial",
    "encode_chunk",
    "framing",
    "hop_names",
    "last_chunk",
    "parse_host_header",
    "parse_request",
    "parse_response",
    "serialize_request",
    "serialize_response",
    "split_target",
    "strip_hop",
]

_REQUEST_LINE: Final = re.compile(rb"(" + TCHAR + rb'++) ([!"$-~]++) (HTTP/1\.[01])\r\n')
_STATUS_LINE: Final = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9][0-9])(?: (" + TEXT + rb"*+))?\r\n")
_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_colon = b": ".join


class RequestHead:
    """A request's start line and fields, bytes as they came. `host` is the Host field's value or None."""

    __slots__ = ("_split", "fields", "framing", "host", "method", "names", "target", "version")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        version: bytes,
        fields: Fields,
        framing: Framing,
        host: bytes | None,
        split: Target | None = None,
        names: tuple[bytes, ...] | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.framing = framing
        self.host = host
        self._split = split
        self.names = names  # of fields, in lower case

    @property
    def persistent(self) -> bool:
        """Whether the sender keeps the connection open behind this message (RFC 9112 §9.3)."""
        return _persistent(self.version, self.framing)


class ResponseHead:
    """A response's start line and fields, bytes as they came; `reason` is b"" when there is none."""

    __slots__ = ("fields", "framing", "names", "reason", "status", "version")

    def __init__(
        self,
        version: bytes,
        status: int,
        reason: bytes,
        fields: Fields,
        framing: Framing,
        names: tuple[bytes, ...] | None = None,
    ) -> None:
        self.version = version
        self.status = status
        self.reason = reason
        self.fields = fields
        self.framing = framing
        self.names = names  # of fields, in lower case

    @property
    def persistent(self) -> bool:
        """Whether the sender keeps the connection open behind this message (RFC 9112 §9.3)."""
        return _persistent(self.version, self.framing)


def _persistent(version: bytes, framing: Framing) -> bool:
    return not framing.close and (version == b"HTTP/1.1" or framing.keep_alive)


_Usual = tuple[Fields, tuple[bytes, ...], Framing, bytes | None, bytes | None]
_REMEMBERED: Final = 2048


def _usual(lines: bytes, version: bytes) -> _Usual | None:
    """(fields, their lower-case names, framing, Host, odd Expect) of field lines of the usual shape, None for others.

    `lines` starts with the LF of the start line. Raises Refused.
    """
    # A client or server sends much the same lines again and again on a connection: then only a look-up is paid.
    return _remembered(lines, version) if len(lines) <= _REMEMBERED else _read(lines, version)


def _read(lines: bytes, version: bytes) -> _Usual | None:
    fields = usual_fields(lines, 1)
    if fields is None:
        return None
    names = tuple([name.lower() for name, _ in fields])
    return (fields, names, *scan(fields, version, names))


_remembered = lru_cache(maxsize=256)(_read)


def parse_request(block: bytes, strict: bool = True) -> RequestHead:
    """A request head from the bytes up to and including the empty line.

    Leading empty lines and the HTTP/2 preface are the caller's. Raises Refused: 400, 417 (unknown expectation), 501
    (transfer coding), 505 (version).
    """
    match = _REQUEST_LINE.match(block)
    usual = _usual(block[match.end() - 1 :], match[3]) if match is not None else None
    if match is None or usual is None:
        method, target, version, fields = _unusual_request(block, strict)
        names = tuple([name.lower() for name, _ in fields])
        frame, host, expect = scan(fields, version, names)
    else:
        method, target, version = match.groups()
        fields, names, frame, host, expect = usual
    if host is None:
        if version == b"HTTP/1.1":
            raise Refused(400, "no Host")
    elif strict:
        check_host(host)
    if expect is not None and strict:
        raise Refused(417, f"unknown expectation: {quoted(expect)}")
    if target[0] == 47 and method != b"CONNECT":
        return RequestHead(method, target, version, fields, frame, host, None, names)
    if method == b"CONNECT" and (frame.chunked or frame.length):
        raise Refused(400, "CONNECT with a body")
    return RequestHead(method, target, version, fields, frame, host, parse_target(method, target), names)


def parse_response(block: bytes, strict: bool = True) -> ResponseHead:
    """A response head from the bytes up to and including the empty line; raises Refused like parse_request.

    A missing reason phrase, and the missing blank before it, are accepted. Status is 100..599, or 999.
    """
    match = _STATUS_LINE.match(block)
    usual = _usual(block[match.end() - 1 :], match[1]) if match is not None else None
    if match is None or usual is None:
        version, code, reason, fields = _unusual_response(block, strict)
        names = tuple([name.lower() for name, _ in fields])
        frame = scan(fields, version, names)[0]
    else:
        version, code, reason = match.groups(b"")
        fields, names, frame, _, _ = usual
    status = int(code)
    if status >= 600 and status != 999 and strict:
        raise Refused(400, f"status {status} is out of range")
    if frame.chunked and (status < 200 or status == 204):
        raise Refused(400, f"Transfer-Encoding on a {status}")
    return ResponseHead(version, status, reason, fields, frame, names)


def split_target(head: RequestHead) -> Target:
    """(form, scheme, host, port, authority, path) of the request's target; see Target.

    In absolute form the target counts and Host does not (RFC 9112 §3.2.2): the caller writes Host anew from it.
    """
    return head._split or parse_target(head.method, head.target)


def body_of_request(head: RequestHead) -> int:
    """NONE (0), a length in bytes or CHUNKED."""
    return h1_framing.body_of_request(head.method, head.framing)


def body_of_response(head: ResponseHead, request_method: bytes) -> int:
    """NONE (0), a length in bytes, CHUNKED or EOF."""
    return h1_framing.body_of_response(head.status, head.framing, request_method)


def serialize_request(method: bytes, target: bytes, version: bytes, fields: Fields) -> bytes:
    """The head as bytes, empty line included. Nothing is checked: see check_head for fields that were changed."""
    return b"\r\n".join([b"%b %b %b" % (method, target, version), *map(_colon, fields), b"", b""])


def serialize_response(version: bytes, status: int, reason: bytes, fields: Fields) -> bytes:
    """The head as bytes, empty line included. Nothing is checked: see check_head for fields that were changed."""
    return b"\r\n".join([b"%b %d %b" % (version, status, reason), *map(_colon, fields), b"", b""])


def check_head(block: bytes, fields: Fields) -> None:
    """That a serialised head is one head with these fields: what an add-on wrote must not smuggle in lines or names.

    Raises Refused (500) otherwise.
    """
    match = _REQUEST_LINE.match(block) or _STATUS_LINE.match(block)
    if match is None:
        line = block.partition(b"\r\n")[0]
        raise Refused(500, f"bad start line to send: {quoted(line)}")
    found = usual_fields(block, match.end())
    if found is None:
        try:
            check_characters(block, strict=False)
            found = unusual_fields(block, match.end())
        except Refused as error:
            raise Refused(500, f"bad head to send: {error.why}") from None
    if len(found) != len(fields):
        raise Refused(500, "bad head to send: a line break inside a field")
    if [name for name, _ in found] != [name for name, _ in fields]:
        raise Refused(500, "bad head to send: a colon inside a name")


def check_partial(data: bytes | bytearray, start: int = 0, strict: bool = True) -> None:
    """Refuse early (400) what can never become a head, while its end has not come: otherwise lines that end in a bare
    LF, or plain garbage, would be waited for until a timeout. `start` is where the last look ended."""
    check_characters(data, strict, max(0, start - 1), whole=False)
    if data[:1].isspace() and data[:1] != b"\r":
        raise Refused(400, "the head starts with a blank")


def _unusual_request(block: bytes, strict: bool) -> tuple[bytes, bytes, bytes, Fields]:
    check_characters(block, strict)
    line = block[: block.find(b"\r\n")]
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[1] or not is_token(parts[0]) or b"\t" in line:
        raise Refused(400, f"bad request line: {quoted(line)}")
    method, target, version = parts
    _check_version(version)
    if b"#" in target and strict:
        raise Refused(400, "fragment in the request target")
    fields = unusual_fields(block, len(line) + 2)
    scan(fields, version)  # so that what smuggles is named by us, whatever h11 would say
    event = _ask_h11(h11.Connection(h11.SERVER, len(block)), block)
    if not isinstance(event, h11.Request) or event.method != method or event.target != target:
        raise Refused(400, "ambiguous request line")
    _agree(fields, event)
    return method, target, version, fields


def _unusual_response(block: bytes, strict: bool) -> tuple[bytes, bytes, bytes, Fields]:
    check_characters(block, strict)
    line = block[: block.find(b"\r\n")]
    version, _, rest = line.partition(b" ")
    _check_version(version)
    code, _, reason = rest.partition(b" ")
    if len(code) != 3 or not code.isdigit() or code < b"100":
        raise Refused(400, f"bad status line: {quoted(line)}")
    fields = unusual_fields(block, len(line) + 2)
    scan(fields, version)
    client = h11.Connection(h11.CLIENT, len(block))
    # h11 reads a response only behind a request; this one allows any, a 101 included.
    client.send(h11.Request(method="GET", target="/", headers=_ASKING))
    event = _ask_h11(client, block)
    if not isinstance(event, h11.Response | h11.InformationalResponse) or (event.status_code, event.reason) != (
        int(code),
        reason,
    ):
        raise Refused(400, "ambiguous status line")
    _agree(fields, event)
    return version, code, reason, fields


_ASKING: Final = [("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "x")]


def _check_version(version: bytes) -> None:
    if version in (b"HTTP/1.1", b"HTTP/1.0"):
        return
    if _VERSION.fullmatch(version):
        raise Refused(505, f"version {version.decode('ascii')}")
    raise Refused(400, f"not HTTP: {quoted(version)}")


def _ask_h11(connection: h11.Connection, block: bytes) -> object:
    """h11's reading of one head; its refusal becomes ours."""
    try:
        connection.receive_data(block)
        return connection.next_event()
    except h11.ProtocolError as error:
        raise Refused(error.error_status_hint, quoted(str(error).encode())) from None


def _agree(ours: Fields, theirs: h11.Request | h11.Response | h11.InformationalResponse) -> None:
    # h11 writes the transfer coding in lower case, and nothing else differently in what got past scan().
    if [(name, value.lower()) for name, value in ours] != [(n, v.lower()) for n, v in theirs.headers.raw_items()]:
        raise Refused(400, "ambiguous header lines")
