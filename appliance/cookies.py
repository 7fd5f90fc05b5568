"""Cookie and Set-Cookie (RFC 6265). Values stay as written, quotes included: what is read is what is sent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import formatdate, mktime_tz, parsedate_tz
from typing import Any

from .multidict import MultiDict

_PAIR = re.compile(r"([^=;]*+)(=?+)([^;]*+)")


class CookieAttrs(MultiDict[str, str | None]):
    """The attributes of a Set-Cookie field; names compare without case; one without "=" (Secure) has the value None."""

    __slots__ = ()

    @staticmethod
    def _fold_key(key: Any) -> Any:
        return key.lower()

    @staticmethod
    def _fold_values(values: Any) -> Any:
        return values[-1]  # RFC 6265 §5.3: the last one counts


Cookie = tuple[str, str]
SetCookie = tuple[str, str, CookieAttrs]


def _pairs(line: str) -> list[tuple[str, str | None]]:
    found = (_PAIR.fullmatch(part) for part in line.split(";"))
    return [(m[1].strip(), m[3].strip() if m[2] else None) for m in found if m and m[0].strip()]


def parse_cookie_header(line: str) -> list[Cookie]:
    """`a=1; b=2` -> [("a", "1"), ("b", "2")]; a piece without "=" is a name with the value ""."""
    return [(name, value or "") for name, value in _pairs(line)]


def parse_cookie_headers(lines: Iterable[str]) -> list[Cookie]:
    return [cookie for line in lines for cookie in parse_cookie_header(line)]


def format_cookie_header(cookies: Iterable[Cookie]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies)


def set_cookie(line: str) -> SetCookie | None:
    """Name, value and attributes of one Set-Cookie field; None when it is empty."""
    pairs = _pairs(line)
    if not pairs:
        return None
    name, value = pairs[0]
    return name, value or "", CookieAttrs(pairs[1:])


def parse_set_cookie_header(line: str) -> list[SetCookie]:
    """The same as a list of one or none. A comma, which some servers once put between two, is part of the value."""
    cookie = set_cookie(line)
    return [cookie] if cookie else []


def parse_set_cookie_headers(lines: Iterable[str]) -> list[SetCookie]:
    return [cookie for line in lines if (cookie := set_cookie(line))]


def format_set_cookie_header(name: str, value: str, attrs: MultiDict[str, str | None]) -> str:
    written = (key if text is None else f"{key}={text}" for key, text in attrs.items(multi=True))
    return "; ".join([f"{name}={value}", *written])


def expiry(attrs: CookieAttrs, now: float | None = None) -> float | None:
    """When the cookie ends, in seconds since the epoch; None for a session cookie. Max-Age beats Expires."""
    age = attrs.get("max-age")
    if age and re.fullmatch(r"-?[0-9]{1,15}", age):
        return (time.time() if now is None else now) + int(age)
    return http_date(attrs.get("expires") or "")


def get_expiration_ts(cookie_attrs: CookieAttrs) -> float | None:
    """`expiry` under its older name."""
    return expiry(cookie_attrs)


def is_expired(attrs: CookieAttrs, now: float | None = None) -> bool:
    now = time.time() if now is None else now
    ends = expiry(attrs, now)
    return ends is not None and ends <= now


def refresh_set_cookie_header(line: str, delta: float) -> str:
    """Move Expires by `delta` seconds; all else stays as it is."""
    cookie = set_cookie(line)
    moved = cookie and shift_date(cookie[2].get("expires") or "", delta)
    if not (cookie and moved):
        return line
    name, value, attrs = cookie
    attrs["expires"] = moved
    return format_set_cookie_header(name, value, attrs)


def http_date(text: str) -> float | None:
    """An HTTP date (RFC 9110 §5.6.7) as seconds since the epoch; None when it is none."""
    try:
        parsed = parsedate_tz(text)
        return None if parsed is None else float(mktime_tz(parsed))
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def shift_date(text: str, delta: float) -> str | None:
    """The HTTP date `delta` seconds later; None when `text` is none or the result is out of range."""
    moment = http_date(text)
    try:
        return None if moment is None else formatdate(moment + delta, usegmt=True)
    except (ValueError, OverflowError, OSError):
        return None
