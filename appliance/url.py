"""URLs as requests carry them (RFC 3986): scheme, host, port and the rest, without user information."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from urllib.parse import parse_qsl, quote_plus
from urllib.parse import quote as _quote
from urllib.parse import unquote as _unquote

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*+)://([^/?#]*+)(.*+)", re.DOTALL)
_AUTHORITY = re.compile(r"(\[[^\[\]]*+\]|[^:\[\]]++)(?::([0-9]*+))?+")
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*+\.?")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PRINTABLE = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"  # everything but space, controls and what is not ASCII


def default_port(scheme: str | bytes) -> int | None:
    return _DEFAULT_PORTS.get(scheme.decode("latin-1") if isinstance(scheme, bytes) else scheme)


def hostport(scheme: str | bytes, host: str, port: int) -> str:
    """`host:port`, without the port where it is the scheme's own; IPv6 addresses in brackets."""
    shown = bracketed(host)
    return shown if default_port(scheme) == port else f"{shown}:{port}"


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def unparse(scheme: str, host: str, port: int, path: str = "") -> str:
    return f"{scheme}://{hostport(scheme, host, port)}{path}"


def valid_host(host: str) -> bool:
    """An IPv4 address, an IPv6 address without brackets, or a name of at most 253 ASCII characters."""
    if ":" in host and "%" not in host:  # no zone: it means nothing on another machine
        try:
            IPv6Address(host)
        except ValueError:
            return False
        return True
    return len(host.rstrip(".")) <= 253 and _HOST.fullmatch(host) is not None


def to_ascii(host: str) -> str:
    """The A-label form of a host name. Raises ValueError when there is none."""
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"not a host name: {host!r}") from error


def parse_authority(authority: str | bytes, check: bool) -> tuple[str, int | None]:
    """`a.example:8080` -> ("a.example", 8080); brackets are taken off.

    With `check`, what is no valid authority raises ValueError; else it comes back whole, with None as the port.
    """
    text = authority.decode("utf-8", "surrogateescape") if isinstance(authority, bytes) else authority
    found = _AUTHORITY.fullmatch(text)
    if found:
        host = found[1].removeprefix("[").removesuffix("]")
        port = int(found[2]) if found[2] and len(found[2]) <= 5 else None
        in_range = not found[2] or (port is not None and port < 65536)
        try:
            if in_range and text.startswith("[") == (":" in host) and valid_host(to_ascii(host)):
                return host, port
        except ValueError:
            pass
    if check:
        raise ValueError(f"not a valid authority: {text!r}")
    return text, None


def parse(url: str | bytes) -> tuple[str, str, int, str]:
    """`https://a.example/b?c` -> ("https", "a.example", 443, "/b?c").

    Scheme and host are lower-cased, the host is in A-labels, user information is dropped, an empty path becomes
    "/", and in the path spaces, controls and non-ASCII characters are percent-encoded. Raises ValueError.
    """
    text = url.decode("utf-8", "surrogateescape") if isinstance(url, bytes) else url
    found = _URL.fullmatch(text)
    if not found:
        raise ValueError(f"not an absolute URL: {text!r}")
    scheme = found[1].lower()
    host, port = parse_authority(found[2].rpartition("@")[2], check=True)
    if port is None:
        port = default_port(scheme)
        if port is None:
            raise ValueError(f"no port given, and none known for the scheme {scheme!r}")
    path = _quote(found[3], safe=_PRINTABLE, errors="surrogateescape")
    return scheme, to_ascii(host).lower(), port, path if path.startswith("/") else "/" + path


def split_path(path: str) -> tuple[str, str, str]:
    """`/a?b#c` -> ("/a", "?b", "#c"); together they are `path` again."""
    rest, mark, fragment = path.partition("#")
    base, question, query = rest.partition("?")
    return base, question + query, mark + fragment


def quote(text: str, safe: str = "/") -> str:
    return _quote(text, safe=safe, errors="surrogateescape")


def unquote(text: str) -> str:
    return _unquote(text, errors="surrogateescape")


def decode(query: str) -> list[tuple[str, str]]:
    """The pairs of a query or a urlencoded form; a bare key has the value ""."""
    return parse_qsl(query, keep_blank_values=True, errors="surrogateescape")


def encode(pairs: Iterable[tuple[str, str]], similar_to: str | None = None) -> str:
    """The inverse of decode. Keys without a value stay bare ("a&b") when `similar_to` has such keys."""
    bare = bool(similar_to) and any("=" not in part for part in (similar_to or "").split("&"))
    return "&".join(
        quote_plus(key, errors="surrogateescape")
        + ("" if bare and not value else "=" + quote_plus(value, errors="surrogateescape"))
        for key, value in pairs
    )
