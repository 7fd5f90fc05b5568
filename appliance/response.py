"""HTTP responses."""

from __future__ import annotations

import time
from collections.abc import Iterable

from . import cookies
from .cookies import CookieAttrs
from .headers import Field, Headers
from .message import HeaderSource, Message, as_headers, fill
from .multidict import MultiDict, MultiDictView
from .status_codes import RESPONSES


class Response(Message):
    """An HTTP response (RFC 9110 §15)."""

    status_code: int
    raw_reason: bytes

    _raw = Message._raw | {"reason"}
    _plain = (*Message._plain, "status_code")

    def __init__(
        self,
        http_version: bytes | str,
        status_code: int,
        reason: bytes | str,
        headers: Headers | Iterable[Field],
        content: bytes | None,
        trailers: Headers | Iterable[Field] | None,
        timestamp_start: float,
        timestamp_end: float | None,
    ) -> None:
        """Bytes and ready Headers are taken over as they are. Raises TypeError."""
        if not type(http_version) is type(reason) is bytes:
            http_version = http_version.encode() if isinstance(http_version, str) else http_version
            reason = reason.encode("latin-1") if isinstance(reason, str) else reason
        if not isinstance(headers, Headers):
            headers = Headers(headers)
        if trailers is not None and not isinstance(trailers, Headers):
            trailers = Headers(trailers)
        if isinstance(content, str):
            raise TypeError("content must be bytes, not str")
        self.raw_http_version = http_version
        self.status_code = status_code
        self.raw_reason = reason
        self.headers = headers
        self.raw_content = content
        self.trailers = trailers
        self.timestamp_start = timestamp_start
        self.timestamp_end = timestamp_end

    @classmethod
    def trusted(cls, version: bytes, status: int, reason: bytes, headers: Headers, begun: float) -> Response:
        """What a parser made of a head that has just come: nothing is checked, and there is no body yet."""
        new = cls.__new__(cls)
        new.raw_http_version = version
        new.status_code = status
        new.raw_reason = reason
        new.headers = headers
        new.raw_content = new.trailers = new.timestamp_end = None
        new.timestamp_start = begun
        return new

    @classmethod
    def make(cls, status_code: int = 200, content: bytes | str | None = b"", headers: HeaderSource = ()) -> Response:
        """A response by hand, with its Content-Length and the usual reason. Raises TypeError."""
        now = time.time()
        reason = RESPONSES.get(status_code, "").encode()
        response = cls(b"HTTP/1.1", status_code, reason, as_headers(headers), None, None, now, now)
        fill(response, content)
        return response

    def __repr__(self) -> str:
        size = "no content" if self.raw_content is None else f"{len(self.raw_content)} B"
        return f"Response({self.status_code}, {self.headers.get('content-type', 'no content type')}, {size})"

    @property
    def reason(self) -> str:
        """The reason phrase; empty in HTTP/2 and 3."""
        return self.raw_reason.decode("latin-1")

    @reason.setter
    def reason(self, value: str | bytes) -> None:
        self.raw_reason = value.encode("latin-1") if isinstance(value, str) else value

    # Cookies

    def _get_cookies(self) -> list[tuple[str, tuple[str, CookieAttrs]]]:
        read = cookies.parse_set_cookie_headers(self.headers.get_all("set-cookie"))
        return [(name, (value, attrs)) for name, value, attrs in read]

    def _set_cookies(self, pairs: Iterable[tuple[str, tuple[str, MultiDict[str, str | None]]]]) -> None:
        self.headers.set_all(
            "set-cookie",
            [cookies.format_set_cookie_header(name, value, attrs) for name, (value, attrs) in pairs],
        )

    @property
    def cookies(self) -> MultiDictView[str, tuple[str, CookieAttrs]]:
        """Set-Cookie as name -> (value, attributes). Assign the pair again to make changed attributes last."""
        return MultiDictView(self._get_cookies, self._set_cookies)

    @cookies.setter
    def cookies(self, pairs: Iterable[tuple[str, tuple[str, CookieAttrs]]]) -> None:
        self._set_cookies(pairs.items(multi=True) if isinstance(pairs, MultiDict) else pairs)

    def refresh(self, now: float | None = None) -> None:
        """Move Date, Expires, Last-Modified and cookie expiry as if this response had been sent at `now`."""
        delta = (time.time() if now is None else now) - self.timestamp_start
        for name in ("date", "expires", "last-modified"):
            if moved := cookies.shift_date(self.headers.get(name, ""), delta):
                self.headers[name] = moved
        if lines := self.headers.get_all("set-cookie"):
            self.headers.set_all("set-cookie", [cookies.refresh_set_cookie_header(line, delta) for line in lines])
