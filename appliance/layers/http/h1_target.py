"""Request targets and the Host field (RFC 9112 §3.2, RFC 9110 §4.2 and §7.2)."""

from __future__ import annotations

import re
import socket
from typing import Final, Literal, NamedTuple

from appliance.layers.http.h1_fields import Refused, quoted

Form = Literal["origin", "absolute", "authority", "asterisk"]

# Names are unreserved or sub-delims without the comma: no userinfo, no percent, no zone, nothing that a resolver or a
# log could read in two ways.
_NAME: Final = rb"[A-Za-z0-9\-._~!$&'()*+;=]{1,255}+"
_HOST: Final = rb"(?:(" + _NAME + rb")|\[([0-9A-Fa-f:.]{2,45}+)\])(?::([0-9]{0,5}+))?+"
_AUTHORITY: Final = re.compile(_HOST)
_ABSOLUTE: Final = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://(" + _HOST + rb")([/?][!-~]*+)?+")
_PLAIN_HOST: Final = re.compile(_NAME + rb"(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}))?")


class Target(NamedTuple):
    """Where a request wants to go. `host` is as it came (no brackets), "" in origin and asterisk form; `port` is the
    scheme's own when none is written, 0 where there is no host; `scheme` is lower-case; `path` is b"" for CONNECT."""

    form: Form
    scheme: bytes
    host: str
    port: int
    authority: bytes
    path: bytes


def parse_target(method: bytes, target: bytes) -> Target:
    """Take a target apart; Refused (400) when the form does not go with the method or is none at all."""
    if method == b"CONNECT":
        found = _AUTHORITY.fullmatch(target)
        if found is None or not found[3]:
            raise Refused(400, f"CONNECT wants host:port, not {quoted(target)}")
        return Target("authority", b"", _host(found[1], found[2]), _port(found[3]), target, b"")
    if target[:1] == b"/":
        return Target("origin", b"", "", 0, b"", target)
    if target == b"*":
        if method != b"OPTIONS":
            raise Refused(400, "the target * is for OPTIONS only")
        return Target("asterisk", b"", "", 0, b"", target)
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Refused(400, f"bad request target: {quoted(target)}")
    scheme, authority, name, literal, port, path = found.groups()
    scheme = scheme.lower()
    number = _port(port) if port else 80 if scheme == b"http" else 443
    if path is None:  # RFC 9112 §3.2.4: OPTIONS without a path asks about the server as a whole
        path = b"*" if method == b"OPTIONS" else b"/"
    elif path[:1] == b"?":
        path = b"/" + path
    return Target("absolute", scheme, _host(name, literal), number, authority, path)


def parse_host_header(value: bytes) -> tuple[str, int | None]:
    """Host field to (host as it came, without brackets; port or None). An empty field is legal and gives ("", None).

    Raises Refused (400) for userinfo, bad characters, broken IPv6 literals and ports outside 1..65535.
    """
    if not value:
        return "", None
    found = _AUTHORITY.fullmatch(value)
    if found is None:
        raise Refused(400, f"bad Host: {quoted(value)}")
    return _host(found[1], found[2]), _port(found[3]) if found[3] else None


def check_host(value: bytes) -> None:
    """As parse_host_header, for the verdict only (the quick look of every request)."""
    if _PLAIN_HOST.fullmatch(value) is None:
        parse_host_header(value)


def _host(name: bytes | None, literal: bytes | None) -> str:
    if name is not None:
        return name.decode("ascii")
    text = (literal or b"").decode("ascii")
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        raise Refused(400, f"bad IPv6 literal: {text}") from None
    return text


def _port(digits: bytes) -> int:
    port = int(digits)
    if not 0 < port < 65536 or digits[:1] == b"0":
        raise Refused(400, f"bad port: {quoted(digits)}")
    return port
