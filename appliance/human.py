"""Sizes and times as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Any


def pretty_size(size: int) -> str:
    """Bytes in at most four characters and a unit of 1024: ``0b``, ``1.2k``, ``34k``, ``2.0m``."""
    if size < 1024:
        return f"{size}b"
    value = float(size)
    for unit in "kmgt":
        value /= 1024
        if value < 1023.5 or unit == "t":
            break
    return f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def pretty_duration(seconds: float) -> str:
    """``34ms``, ``2.3s``, ``95s``, ``12min``."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    return f"{seconds:.0f}s" if seconds < 600 else f"{seconds / 60:.0f}min"


def parse_size(text: str | None) -> int | None:
    """``1m`` -> 1048576; None for None. Raises ValueError."""
    from appliance.optiontable import parse_size as read

    return None if text is None else read(text)


def parse_age(text: str | None) -> float | None:
    """Seconds of ``90s``, ``15m``, ``12h``, ``30d``, ``2w``; None for None. Raises ValueError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip().lower(), re.ASCII)
    if match is None or not int(match[1]):
        raise ValueError(f"{text!r} is not an age: write a number and s, m, h, d or w, such as 12h or 30d")
    return float(int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]])


def format_timestamp(seconds: float) -> str:
    """Local time, to the second; what is no time of a calendar as a number."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def format_timestamp_with_milli(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def format_address(address: Sequence[Any] | None) -> str:
    """``host:port``, IPv6 in brackets, an IPv4 address in an IPv6 one as itself; ``<no address>`` for None."""
    if address is None:
        return "<no address>"
    try:
        host = ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return f"{address[0]}:{address[1]}"
    if host.version == 6 and host.ipv4_mapped:
        host = host.ipv4_mapped
    if host.is_unspecified:
        return f"*:{address[1]}"
    return f"[{host}]:{address[1]}" if host.version == 6 else f"{host}:{address[1]}"
