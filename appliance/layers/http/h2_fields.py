"""Fields of HTTP/2 (RFC 9113 §8): what a peer may send, checked once and by us, and their way to and from our model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from appliance.headers import Headers
from appliance.layers.http.h1_fields import Refused, is_token, quoted
from appliance.layers.http.h1_framing import framing, strip_hop
from appliance.layers.http.h1_target import parse_host_header
from appliance.request import Request
from appliance.response import Response
from appliance.url import hostport

Field = tuple[bytes, bytes]

NAME_CHARS: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_SPECIFIC: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
"""Connection-specific fields (RFC 9113 §8.2.2)."""
_HOP: Final = _SPECIFIC | {b"http2-settings", b"te", b"host"}
_LOOKED_AT: Final = _SPECIFIC | {b"te", b"host", b"content-length", b"cookie", b"expect"}
_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
_FATAL: Final = b"\0\r\n"
_BLANK: Final = b" \t"


class Malformed(Exception):
    """A message that is none (RFC 9113 §8.1.1): a stream error of type PROTOCOL_ERROR."""


class RequestHead(NamedTuple):
    """A request's head. host is "" and port 0 where :authority is missing. length: what content-length says.

    headers: without pseudo-headers, the cookie in one piece. protocol: of an extended CONNECT (RFC 8441), or None.
    """

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    protocol: bytes | None
    host: str
    port: int
    headers: Headers
    length: int | None
    expect_continue: bool


def read_request(fields: Sequence[Field], strict: bool = True) -> RequestHead:
    """:raises Malformed: by RFC 9113 §8.3.1 or §8.2."""
    method = scheme = authority = path = protocol = None
    count = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        count += 1
        if name == b":method" and method is None:
            method = value
        elif name == b":scheme" and scheme is None:
            scheme = value
        elif name == b":authority" and authority is None:
            authority = value
        elif name == b":path" and path is None:
            path = value
        elif name == b":protocol" and protocol is None:
            protocol = value
        else:
            raise Malformed(f"repeated or unknown pseudo-header {quoted(name)}")
    headers, length, host, expect = _read(fields[count:], strict)
    if not method or not (method.isalpha() or is_token(method)):
        raise Malformed("no :method, or one that is none")
    if method == b"CONNECT" and protocol is None:
        if scheme is not None or path is not None or not authority:
            raise Malformed("CONNECT wants :authority, and neither :scheme nor :path")
        scheme = path = b""
    elif not scheme or not path:
        raise Malformed(":scheme or :path is missing or empty")
    elif protocol is not None and (method != b"CONNECT" or not authority):
        raise Malformed(":protocol is for CONNECT with an :authority")
    elif path[:1] != b"/" and (path != b"*" or method != b"OPTIONS") and scheme in (b"http", b"https"):
        raise Malformed(f"bad :path {quoted(path)}")
    elif not scheme.isalnum() and not is_token(scheme):
        raise Malformed("bad :scheme")
    pseudo = b" ".join((path, authority or b""))
    if pseudo.translate(None, _CONTROLS) != pseudo or b" " in path or b"\t" in pseudo:
        raise Malformed("bad character in :path or :authority")
    if authority is None:
        authority = host or b""
    elif host is not None and host.lower() != authority.lower():
        raise Malformed("Host contradicts :authority")
    where, port = "", 0
    if authority:
        try:
            where, given = parse_host_header(authority)
        except Refused as e:
            raise Malformed(e.why) from None
        if given is None and method == b"CONNECT" and protocol is None:
            raise Malformed("CONNECT wants host:port")
        port = given or (80 if scheme == b"http" else 443)
    return RequestHead(method, scheme, authority, path, protocol, where, port, headers, length, expect)


def read_response(fields: Sequence[Field], strict: bool = True) -> tuple[int, Headers, int | None]:
    """(status, headers, content-length or None). :raises Malformed: by RFC 9113 §8.3.2 or §8.2."""
    status = fields[0][1] if fields and fields[0][0] == b":status" else b""
    if len(status) != 3 or not status.isdigit() or status[:1] == b"0":
        raise Malformed(":status is missing or no status")
    headers, length, _, _ = _read(fields[1:], strict)
    code = int(status)
    if code == 101:
        raise Malformed("101 does not exist in HTTP/2")
    return code, headers, length


def read_trailers(fields: Sequence[Field], strict: bool = True) -> Headers:
    """:raises Malformed: pseudo-headers in it, or §8.2."""
    headers, _, _, _ = _read(fields, strict)
    return headers


def _read(fields: Sequence[Field], strict: bool) -> tuple[Headers, int | None, bytes | None, bool]:
    """Regular fields: (headers, content-length, Host, whether a 100 is expected)."""
    names = tuple([name for name, _ in fields])
    if b"" in names or b"".join(names).translate(None, NAME_CHARS):
        raise Malformed("a field name with an upper-case or forbidden character, or a pseudo-header in the wrong place")
    values = [value for _, value in fields]
    joined = b" ".join(values)
    if len(joined.translate(None, _CONTROLS if strict else _FATAL)) != len(joined):
        raise Malformed("a control character in a field value")
    if strict and [value for value in values if value != value.strip(_BLANK)]:
        raise Malformed("a field value that begins or ends with a blank")
    if _LOOKED_AT.isdisjoint(names):
        return Headers.trusted(tuple(fields), names), None, None, False
    length: int | None = None
    host: bytes | None = None
    expect = False
    cookies = 0
    for name, value in fields:
        if name not in _LOOKED_AT:
            continue
        if name == b"cookie":
            cookies += 1
        elif name == b"content-length":
            if not value.isdigit() or len(value) > 18 or (length is not None and length != int(value)):
                raise Malformed(f"bad content-length {quoted(value)}")
            if length is not None:
                raise Malformed("more than one content-length")
            length = int(value)
        elif name == b"host":
            if host is not None:
                raise Malformed("more than one Host")
            host = value
        elif name == b"expect":
            expect = value.lower() == b"100-continue"
        elif name != b"te":
            raise Malformed(f"connection-specific field {quoted(name)}")
        elif value.lower() != b"trailers":
            raise Malformed("TE may only say trailers")
    if cookies > 1:
        return Headers.trusted(_one_cookie(fields)), length, host, expect
    return Headers.trusted(tuple(fields), names), length, host, expect


def _one_cookie(fields: Sequence[Field]) -> tuple[Field, ...]:
    """RFC 9113 §8.2.3: crumbs are one field anywhere else."""
    whole = b"; ".join([value for name, value in fields if name == b"cookie"])
    kept: list[Field] = []
    for field in fields:
        if field[0] != b"cookie":
            kept.append(field)
        elif whole:
            kept.append((b"cookie", whole))
            whole = b""
    return tuple(kept)


# -- outgoing


def write_request(request: Request, path: bytes, length: int | None) -> list[Field]:
    """The head to send. length: of the body when it is whole, None when it streams.

    :raises Refused: what add-ons made of it cannot be said in HTTP/2.
    """
    headers, method = request.headers, request.raw_method
    if not (method.isalpha() or is_token(method)):
        raise Refused(500, f"bad method to send: {quoted(method)}")
    if method == b"CONNECT":
        raise Refused(500, "CONNECT is said to proxies; a server cannot be sent it")
    authority = request.raw_authority if request.raw_http_version == b"HTTP/2.0" else b""
    if not authority:
        said = headers.raw("host")
        authority = hostport(request.raw_scheme, request.raw_host, request.raw_port).encode() if said is None else said
    pseudo = b"".join((path, authority))
    if pseudo.translate(None, _CONTROLS) != pseudo or b" " in pseudo or b"\t" in pseudo:
        raise Refused(500, f"bad target to send: {quoted(authority + path)}")
    return [
        (b":method", method),
        (b":scheme", request.raw_scheme or b"http"),
        (b":authority", authority),
        (b":path", path),
        *_write(headers, length),
    ]


def write_response(response: Response, length: int | None) -> list[Field]:
    """The head to send. length: of the body; None when it streams, or there is none and the fields speak of another.

    :raises Refused: as write_request.
    """
    status = response.status_code
    if not 99 < status < 1000 or status == 101:
        raise Refused(500, f"status {status} cannot be sent")
    fields = _write(response.headers, length)
    if status == 204 or status < 200:
        fields = [field for field in fields if field[0] != b"content-length"]
    return [(b":status", b"%d" % status), *fields]


def write_trailers(trailers: Headers) -> list[Field]:
    """:raises Refused: as write_request."""
    return [field for field in _write(trailers, None) if field[0] != b"content-length"]


def _write(headers: Headers, length: int | None) -> list[Field]:
    names = headers.names()
    fields = headers.fields
    if b"" in names or b"".join(names).translate(None, NAME_CHARS):
        raise Refused(500, "a header name that is none")
    joined = b" ".join([value for _, value in fields])
    if len(joined.translate(None, _FATAL)) != len(joined):
        raise Refused(500, "a line break or NUL in a header value")
    if b"connection" in names:
        fields = strip_hop(fields, framing(fields, names=names), upgrading=False)
        names = tuple([name.lower() for name, _ in fields])
    # A field that came over HTTP/2 goes on as the object it is: HPACK's "never indexed" is kept on it.
    out = [field if field[0] == name else (name, field[1]) for name, field in zip(names, fields, strict=True)]
    if not _HOP.isdisjoint(names):
        trailers = any(name == b"te" and b"trailers" in value.lower() for name, value in out)
        out = [field for field in out if field[0] not in _HOP]
        if trailers:
            out.append((b"te", b"trailers"))
    if length is not None and b"content-length" in names:
        said = (b"content-length", b"%d" % length)
        out = [said if field[0] == b"content-length" else field for field in out]
    return out


def for_http1(headers: Headers, request: Request) -> Headers:
    """The fields of an HTTP/2 request as HTTP/1 wants them: with a Host (RFC 9113 §8.3.1)."""
    authority = request.raw_authority
    said = headers.raw("host")
    if said is not None and (said == authority or not authority):
        return headers
    rest = tuple([field for field in headers.fields if field[0].lower() != b"host"])
    name = authority or hostport(request.raw_scheme, request.raw_host, request.raw_port).encode()
    return Headers.trusted(((b"Host", name), *rest))
