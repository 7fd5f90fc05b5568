"""How a message is delimited and what belongs to one hop only (RFC 9112 §6 and §9, RFC 9110 §7.6.1 and §7.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from appliance.layers.http.h1_fields import Fields, Refused, is_token, quoted

# What a body is: a positive number is a length in bytes.
NONE: Final = 0
CHUNKED: Final = -1
EOF: Final = -2

_LENGTH, _CODING, _HOST, _CONNECTION, _UPGRADE, _EXPECT, _HOP = range(7)
KNOWN: Final[dict[bytes, int]] = {
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"expect": _EXPECT,
    b"keep-alive": _HOP,
    b"proxy-connection": _HOP,
    b"te": _HOP,
}
_HOP_NAMES: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"})
# Nobody may have these taken away by naming them in Connection: they route and delimit the message.
_NEVER_NOMINATED: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"close"})
_KEEP_ALIVE: Final = frozenset({b"keep-alive"})
_CLOSE: Final = frozenset({b"close"})
USUAL_CONNECTION: Final = {
    b"keep-alive": _KEEP_ALIVE,
    b"Keep-Alive": _KEEP_ALIVE,
    b"close": _CLOSE,
    b"Close": _CLOSE,
}


class Framing:
    """What the fields say about the message and its connection.

    `length`: declared Content-Length in bytes, or None. `chunked`: Transfer-Encoding is chunked.
    `close`, `keep_alive`: Connection options. `upgrade`: the Upgrade field if Connection says so, else None.
    `expect_continue`: Expect: 100-continue. `connection_tokens`: all Connection options, lower-case, or None.
    `hop`: some field must not be forwarded (see strip_hop).
    """

    # Class defaults: most messages set one or two of these.
    length: int | None = None
    chunked: bool = False
    close: bool = False
    keep_alive: bool = False
    upgrade: bytes | None = None
    expect_continue: bool = False
    connection_tokens: frozenset[bytes] | None = None
    hop: bool = False
    _only: tuple[bytes, bytes] | None = None
    """The one field that strip_hop takes out, when it is as simple as that, and where it stands."""
    _at: int = 0


def framing(fields: Fields, version: bytes = b"HTTP/1.1", names: Sequence[bytes] | None = None) -> Framing:
    """The framing of fields that were changed since they were parsed; raises Refused like the parser."""
    return scan(fields, version, names)[0]


def scan(
    fields: Fields, version: bytes, names: Sequence[bytes] | None = None
) -> tuple[Framing, bytes | None, bytes | None]:
    """One pass over the fields: (framing, Host, Expect other than 100-continue).

    names: theirs in lower case, if at hand.

    Raises Refused: 400 for repeated or malformed Content-Length, both framing fields, Transfer-Encoding repeated or in
    HTTP/1.0, repeated Host; 501 for a transfer coding other than exactly `chunked`.
    """
    length: int | None = None
    coding: bytes | None = None
    host: bytes | None = None
    connection: bytes | None = None
    upgrade: bytes | None = None
    expect: bytes | None = None
    hops = 0
    only: tuple[bytes, bytes] | None = None
    only_at = 0
    if names is None:
        names = [name.lower() for name, _ in fields]
    for at, name in enumerate(names):
        if name not in KNOWN:
            continue
        kind = KNOWN[name]
        field = fields[at]
        value = field[1]
        if kind == _HOST:
            if host is not None:
                raise Refused(400, "more than one Host")
            host = value
        elif kind == _LENGTH:
            if length is not None:
                raise Refused(400, "more than one Content-Length")
            length = _content_length(value)
        elif kind == _CODING:
            if coding is not None:
                raise Refused(400, "more than one Transfer-Encoding")
            coding = value
        elif kind == _EXPECT:
            expect = value if expect is None else expect + b", " + value
        else:
            hops += 1
            if kind == _CONNECTION:
                only, only_at = field, at
                connection = value if connection is None else connection + b"," + value
            elif kind == _UPGRADE:
                upgrade = value if upgrade is None else upgrade + b", " + value
    if coding is not None:
        if length is not None:
            raise Refused(400, "both Content-Length and Transfer-Encoding")
        if version != b"HTTP/1.1":
            raise Refused(400, "Transfer-Encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise Refused(501, f"transfer coding is not just chunked: {quoted(coding)}")
    if connection is None and expect is None:
        frame = Framing()
        frame.length = length
        if coding is not None:
            frame.chunked = True
        if hops:
            frame.hop = True
        return frame, host, None

    tokens = None
    close = keep_alive = False
    if connection is not None:
        tokens = USUAL_CONNECTION.get(connection)
        if tokens is None or hops != 1:
            only = None
        if tokens is None:
            tokens = _tokens(connection)
        close = b"close" in tokens
        keep_alive = b"keep-alive" in tokens
    if upgrade is not None and (
        tokens is None or b"upgrade" not in tokens or version != b"HTTP/1.1" or b"h2c" in upgrade.lower()
    ):
        # RFC 9110 §7.8: not asked for on this hop, or from HTTP/1.0. To HTTP/2 nobody is upgraded (RFC 9113 §3.1).
        upgrade = None
    expect_continue = False
    if expect is not None:
        if version != b"HTTP/1.1":
            expect = None  # RFC 9110 §10.1.1: ignored in HTTP/1.0
        elif expect.lower() == b"100-continue":
            expect_continue, expect = True, None
    frame = Framing()
    frame.length = length
    frame.chunked = coding is not None
    frame.close = close
    frame.keep_alive = keep_alive
    frame.upgrade = upgrade
    frame.expect_continue = expect_continue
    frame.connection_tokens = tokens
    frame.hop = hops > 0
    if only is not None:
        frame._only, frame._at = only, only_at
    return frame, host, expect


def _content_length(value: bytes) -> int:
    if value.isdigit() and len(value) < 20 and (value[0] != 48 or len(value) == 1):
        length = int(value)
        if length < 1 << 63:
            return length
    raise Refused(400, f"bad Content-Length: {quoted(value)}")


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset([token for part in value.lower().split(b",") if is_token(token := part.strip(b" \t"))])


def hop_names(framing: Framing) -> frozenset[bytes]:
    """Lower-case names of the fields that belong to this hop: the fixed ones and those nominated in Connection, except
    Host, Content-Length and Transfer-Encoding, which cannot be nominated away."""
    tokens = framing.connection_tokens
    return _HOP_NAMES if tokens is None else _HOP_NAMES | (tokens - _NEVER_NOMINATED)


def strip_hop(fields: Fields, framing: Framing, *, upgrading: bool = True) -> Fields:
    """The fields as they may be forwarded (RFC 9110 §7.6.1); the same tuple when there is nothing to take out.

    An asked-for Upgrade stays if `upgrading`, TE stays as `trailers` if it says so; Connection is then written anew,
    in its place, with just these options. Host, Content-Length and Transfer-Encoding are never touched.
    """
    if not framing.hop:
        return fields
    only = framing._only
    if only is not None:
        at = framing._at
        if at >= len(fields) or fields[at] is not only:  # fields were added or taken out since
            at = fields.index(only) if only in fields else -1
        if at >= 0:
            return fields[:at] + fields[at + 1 :]
    drop = hop_names(framing)
    upgrade = framing.upgrade is not None and upgrading
    if not upgrade and (framing.connection_tokens is None or b"te" not in framing.connection_tokens):
        kept = tuple([field for field in fields if field[0].lower() not in drop])
        return kept + _te_trailers(fields)
    options = [b"Upgrade"] if upgrade else []
    te = _te_trailers(fields)
    if te:
        options.append(b"TE")
    out: list[tuple[bytes, bytes]] = []
    for field in fields:
        lower = field[0].lower()
        if lower not in drop or (lower == b"upgrade" and upgrade):
            out.append(field)
        elif lower == b"connection" and options:
            out.append((field[0], b", ".join(options)))
            options = []
    return (*out, *te)


def _te_trailers(fields: Fields) -> Fields:
    for name, value in fields:
        if len(name) == 2 and name.lower() == b"te" and b"trailers" in _tokens(value):
            return ((name, b"trailers"),)
    return ()


def body_of_request(method: bytes, framing: Framing) -> int:
    """NONE, a length or CHUNKED (RFC 9112 §6.3); a request body never runs to the end of the connection."""
    if method == b"CONNECT":
        return NONE
    return CHUNKED if framing.chunked else framing.length or NONE


def body_of_response(status: int, framing: Framing, request_method: bytes) -> int:
    """NONE, a length, CHUNKED or EOF (RFC 9112 §6.3): no body for HEAD, 1xx, 204, 304 and a 2xx to CONNECT."""
    if status < 200 or status in (204, 304) or request_method == b"HEAD":
        return NONE
    if request_method == b"CONNECT" and status < 300:
        return NONE
    if framing.chunked:
        return CHUNKED
    return EOF if framing.length is None else framing.length
