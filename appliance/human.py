"""Sizes and times as people read them."""

from __future__ import annotations


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
