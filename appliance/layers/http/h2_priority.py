"""Which of several streams goes first when not all can (RFC 9218): by urgency, then in order or side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable

Turn = tuple[int, bool, int]
"""Sorts: urgency 0 (first) to 7, whether its parts are of use one by one, and for those that are not the stream."""

_URGENCY = re.compile(rb"(?:^|,)[ \t]*u=([0-7])[ \t]*(?=[,;]|$)")
_INCREMENTAL = re.compile(rb"(?:^|,)[ \t]*i(?:=\?([01]))?[ \t]*(?=[,;]|$)")
SAID_MOST = 256
"""Bytes of a Priority field that are looked at."""


def turn(number: int, told: Iterable[bytes]) -> Turn:
    """From Priority field values, the later ones counting where they speak; what cannot be read counts as unsaid."""
    urgency, incremental = 3, False
    for value in told:
        value = value[:SAID_MOST]
        if found := _URGENCY.findall(value):
            urgency = int(found[-1])
        if found := _INCREMENTAL.findall(value):
            incremental = found[-1] != b"0"
    return urgency, incremental, 0 if incremental else number
