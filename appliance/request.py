"""HTTP requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

from . import cookies, multipart, url
from .encoding import supported
from .headers import Field, Headers, to_bytes, to_str
from .message import HeaderSource, Message, as_headers, fill
from .multidict import MultiDict, MultiDictView

T = TypeVar("T", str, bytes)
FirstLineFormat = Literal["authority", "absolute", "relative"]
_URLENCODED = "application/x-www-form-urlencoded"


class Request(Message):
    """An HTTP request (RFC 9110 §7). `host` and `port` are where it goes; Host and :authority what the client wrote."""

    raw_host: str
    raw_port: int
    raw_method: bytes
    raw_scheme: bytes
    raw_authority: bytes
    raw_path: bytes

    _raw = Message._raw | {"host", "port", "method", "scheme", "authority", "path"}

    def __init__(
        self,
        host: str | bytes,
        port: int,
        method: bytes | str,
        scheme: bytes | str,
        authority: bytes | str,
        path: bytes | str,
        http_version: bytes | str,
        headers: Headers | Iterable[Field],
        content: bytes | None,
        trailers: Headers | Iterable[Field] | None,
        timestamp_start: float,
        timestamp_end: float | None,
    ) -> None:
        """Bytes and ready Headers are taken over as they are. Raises TypeError."""
        if not type(method) is type(scheme) is type(authority) is type(path) is type(http_version) is bytes:
            method, scheme, path = to_bytes(method), to_bytes(scheme), to_bytes(path)
            authority, http_version = _authority_bytes(authority), to_bytes(http_version)
        if type(host) is not str:
            host = _authority_str(to_bytes(host))
        if not isinstance(headers, Headers):
            headers = Headers(headers)
        if trailers is not None and not isinstance(trailers, Headers):
            trailers = Headers(trailers)
        if isinstance(content, str):
            raise TypeError("content must be bytes, not str")
        self.raw_host = host
        self.raw_port = port
        self.raw_method = method
        self.raw_scheme = scheme
        self.raw_authority = authority
        self.raw_path = path
        self.raw_http_version = http_version
        self.headers = headers
        self.raw_content = content
        self.trailers = trailers
        self.timestamp_start = timestamp_start
        self.timestamp_end = timestamp_end

    @classmethod
    def trusted(
        cls, host: str, port: int, method: bytes, scheme: bytes, authority: bytes, path: bytes, version: bytes,
        headers: Headers, begun: float,
    ) -> Request:  # fmt: skip
        """What a parser made of a head that has just come: nothing is checked, and there is no body yet."""
        new = cls.__new__(cls)
        new.raw_host = host
        new.raw_port = port
        new.raw_method = method
        new.raw_scheme = scheme
        new.raw_authority = authority
        new.raw_path = path
        new.raw_http_version = version
        new.headers = headers
        new.raw_content = new.trailers = new.timestamp_end = None
        new.timestamp_start = begun
        return new

    @classmethod
    def make(
        cls, method: str, url: str | bytes, content: bytes | str | None = "", headers: HeaderSource = ()
    ) -> Request:
        """A request by hand, with its Content-Length. Raises ValueError for a URL that is none, TypeError."""
        now = time.time()
        request = cls("", 0, method, b"", b"", b"", b"HTTP/1.1", Headers(), None, None, now, now)
        request.url = url
        request.headers = as_headers(headers)  # after the URL: a Host header given here stays
        fill(request, content)
        return request

    def __repr__(self) -> str:
        return f"Request({self.method} {self.pretty_url})"

    # Request line

    @property
    def first_line_format(self) -> FirstLineFormat:
        """The form of the request target (RFC 9112 §3.2): CONNECT's authority, a whole URL, or the path alone."""
        if self.method == "CONNECT":
            return "authority"
        return "absolute" if self.raw_authority else "relative"

    @property
    def method(self) -> str:
        """In upper case; `raw_method` is as sent."""
        return to_str(self.raw_method).upper()

    @method.setter
    def method(self, value: str | bytes) -> None:
        self.raw_method = to_bytes(value)

    @property
    def scheme(self) -> str:
        return to_str(self.raw_scheme)

    @scheme.setter
    def scheme(self, value: str | bytes) -> None:
        self.raw_scheme = to_bytes(value)

    @property
    def path(self) -> str:
        """Path and query as sent; empty with CONNECT, "*" with OPTIONS of the server itself."""
        return to_str(self.raw_path)

    @path.setter
    def path(self, value: str | bytes) -> None:
        self.raw_path = to_bytes(value)

    # Destination

    @property
    def authority(self) -> str:
        """What the request line or :authority names, A-labels decoded; empty when there is none."""
        return _authority_str(self.raw_authority)

    @authority.setter
    def authority(self, value: str | bytes) -> None:
        self.raw_authority = _authority_bytes(value)

    @property
    def host(self) -> str:
        """Name or address to connect to. Setting it also rewrites the Host header and authority that are present."""
        return self.raw_host

    @host.setter
    def host(self, value: str | bytes) -> None:
        self.raw_host = _authority_str(to_bytes(value)) if isinstance(value, bytes) else value
        self._follow_destination()

    @property
    def port(self) -> int:
        """Setting it has the effect of setting `host`. Raises ValueError for anything but an int in 0..65535."""
        return self.raw_port

    @port.setter
    def port(self, value: int) -> None:
        _check_port(value)
        self.raw_port = value
        self._follow_destination()

    def _follow_destination(self) -> None:
        written = url.hostport(self.raw_scheme, self.raw_host, self.raw_port)
        if "host" in self.headers:
            self.headers["host"] = _authority_bytes(written)
        if self.raw_authority:
            self.authority = written

    @property
    def host_header(self) -> str | None:
        """What the client asked for: Host, or :authority in HTTP/2 and 3. None when absent; set None to remove it."""
        if self.raw_authority and (self.is_http2 or self.is_http3):
            return self.authority
        return self.headers.get("host")

    @host_header.setter
    def host_header(self, value: str | bytes | None) -> None:
        pseudo = self.is_http2 or self.is_http3
        if pseudo:
            self.authority = value or b""
        if value is None:
            self.headers.pop("host", None)
        elif not pseudo or "host" in self.headers:
            self.headers["Host"] = value

    @property
    def url(self) -> str:
        """By `host` and `port`: where it goes. `host:port` with CONNECT. Setting it raises ValueError if malformed."""
        if self.first_line_format == "authority":
            return f"{url.bracketed(self.raw_host)}:{self.raw_port}"
        return url.unparse(self.scheme, self.raw_host, self.raw_port, "" if self.raw_path == b"*" else self.path)

    @url.setter
    def url(self, value: str | bytes) -> None:
        self.scheme, self.raw_host, self.raw_port, self.path = url.parse(value)
        self._follow_destination()

    @property
    def pretty_host(self) -> str:
        """By the Host header, where there is one: what the client meant. It may lie; route by `host`."""
        asked = self.host_header
        if not asked:
            return self.raw_host
        return url.parse_authority(asked, check=False)[0] if ":" in asked else asked

    @property
    def pretty_url(self) -> str:
        """`url` with the host and port of the Host header, where there is one."""
        if self.raw_method.upper() == b"CONNECT":
            return self.authority
        asked = self.host_header
        if not asked:
            return self.url
        path = "" if self.raw_path == b"*" else self.path
        scheme = self.scheme
        if ":" not in asked:
            return f"{scheme}://{asked}{path}"
        host, port = url.parse_authority(asked, check=False)
        if host == asked:  # no valid authority: shown as it is
            return f"{scheme}://{asked}{path}"
        if port is None:
            return f"{scheme}://{url.bracketed(host)}{path}"
        return url.unparse(scheme, host, port, path)

    # Parts of the path

    def _get_query(self) -> list[tuple[str, str]]:
        return url.decode(url.split_path(self.path)[1][1:])

    def _set_query(self, pairs: Iterable[tuple[str, str]]) -> None:
        path, query, fragment = url.split_path(self.path)
        written = url.encode(pairs, similar_to=query[1:])
        self.path = path + (f"?{written}" if written else "") + fragment

    @property
    def query(self) -> MultiDictView[str, str]:
        return MultiDictView(self._get_query, self._set_query)

    @query.setter
    def query(self, pairs: Iterable[tuple[str, str]] | Mapping[str, str]) -> None:
        self._set_query(_pairs(pairs))

    @property
    def path_components(self) -> tuple[str, ...]:
        """The non-empty segments of the path, unquoted."""
        return tuple(url.unquote(part) for part in url.split_path(self.path)[0].split("/") if part)

    @path_components.setter
    def path_components(self, components: Iterable[str]) -> None:
        _, query, fragment = url.split_path(self.path)
        self.path = "/" + "/".join(url.quote(part, safe="") for part in components) + query + fragment

    # Cookies and forms

    def _get_cookies(self) -> list[tuple[str, str]]:
        return cookies.parse_cookie_headers(self.headers.get_all("cookie"))

    def _set_cookies(self, pairs: Iterable[tuple[str, str]]) -> None:
        written = cookies.format_cookie_header(pairs)
        self.headers.set_all("cookie", [written] if written else [])

    @property
    def cookies(self) -> MultiDictView[str, str]:
        return MultiDictView(self._get_cookies, self._set_cookies)

    @cookies.setter
    def cookies(self, pairs: Iterable[tuple[str, str]] | Mapping[str, str]) -> None:
        self._set_cookies(_pairs(pairs))

    def _get_urlencoded(self) -> list[tuple[str, str]]:
        if _URLENCODED not in self.headers.get("content-type", "").lower():
            return []
        return url.decode(self.get_text(strict=False) or "")

    def _set_urlencoded(self, pairs: Iterable[tuple[str, str]]) -> None:
        similar_to = self.get_text(strict=False)
        self.headers["content-type"] = _URLENCODED
        self.set_content(url.encode(pairs, similar_to).encode())

    @property
    def urlencoded_form(self) -> MultiDictView[str, str]:
        """Empty unless the content type says so; setting it sets the content type."""
        return MultiDictView(self._get_urlencoded, self._set_urlencoded)

    @urlencoded_form.setter
    def urlencoded_form(self, pairs: Iterable[tuple[str, str]] | Mapping[str, str]) -> None:
        self._set_urlencoded(_pairs(pairs))

    def _get_multipart(self) -> list[tuple[bytes, bytes]]:
        content = self.get_content(strict=False)
        return multipart.decode_multipart(self.headers.get("content-type", ""), content) if content else []

    def _set_multipart(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        declared = self.headers.get("content-type", "")
        if not (declared.lower().startswith("multipart/form-data") and multipart.boundary_of(declared)):
            declared = f"multipart/form-data; boundary={multipart.new_boundary()}"
        content = multipart.encode_multipart(declared, pairs)
        self.headers["content-type"] = declared
        self.set_content(content)

    @property
    def multipart_form(self) -> MultiDictView[bytes, bytes]:
        """Names and values of multipart/form-data. Setting it writes each part anew, without file names and types."""
        return MultiDictView(self._get_multipart, self._set_multipart)

    @multipart_form.setter
    def multipart_form(self, pairs: Iterable[tuple[bytes, bytes]] | Mapping[bytes, bytes]) -> None:
        self._set_multipart(_pairs(pairs))

    # What the server may answer with

    def anticache(self) -> None:
        """Remove what could make the server answer 304."""
        for name in ("if-modified-since", "if-none-match"):
            self.headers.pop(name, None)

    def anticomp(self) -> None:
        """Ask for an unencoded body."""
        self.headers["accept-encoding"] = "identity"

    def constrain_encoding(self) -> None:
        """Leave only the content codings in Accept-Encoding that can be decoded here."""
        if accepted := self.headers.get("accept-encoding"):
            parts = (part.strip() for part in accepted.split(","))
            known = (part for part in parts if part and supported(part.partition(";")[0]))
            self.headers["accept-encoding"] = ", ".join(known) or "identity"


def _pairs(source: Iterable[tuple[T, T]] | Mapping[T, T]) -> Iterable[tuple[T, T]]:
    if isinstance(source, MultiDict):
        return source.items(multi=True)
    return source.items() if isinstance(source, Mapping) else source


def _check_port(value: int) -> None:
    if type(value) is not int or not 0 <= value <= 65535:
        raise ValueError(f"a port is an int from 0 to 65535, not {value!r}")


def _authority_str(raw: bytes) -> str:
    if b"xn--" in raw:
        try:
            return raw.decode("idna")
        except UnicodeError:
            pass
    return to_str(raw)


def _authority_bytes(value: str | bytes) -> bytes:
    if isinstance(value, str) and not value.isascii():
        try:
            return value.encode("idna")
        except UnicodeError:
            pass
    return to_bytes(value)
