"""What an option is, how it is written down in a table, and what its values may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")
Kind = Literal["plain", "size", "path", "certs", "recording"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `typespec` is bool, int, float, str, an Optional of these, or Sequence[str]; `default` is of that
    type.
    """

    name: str
    typespec: Any
    default: Any
    help: str
    choices: tuple[str, ...] | None = None
    kind: Kind = "plain"
    """size: text such as 64k, read by `Options.size`. path, certs, recording (a path, or store:FILTER): relative to
    config.yaml when it stands there.
    """
    check: Callable[[Any], None] | None = None
    """Raises ValueError saying what is wrong with a value of the right type."""
    flag: str = ""
    """Long flag of `lockgate run` ("" = only --set)."""
    short: str = ""
    example: str = ""


def parse_size(text: str) -> int:
    """Bytes of `text`: a whole number with an optional suffix b, k, m, g or t (powers of 1024, any case). Raises
    ValueError.
    """
    match = re.fullmatch(r"(\d{1,15})([bkmgt]?)", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: write a whole number of bytes, or with a suffix, such as 500k, 1m or 2g"
        )
    return int(match[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2].lower()]


def port(value: int | None) -> None:
    if value is not None and not 0 <= value <= 65535:
        raise ValueError(f"{value} is not a port: write 0 to 65535 (0 = any free one)")


def positive(value: int | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"{value} is too small: write 1 or more")


def rsa_bits(value: int | None) -> None:
    if value is not None and not 2048 <= value <= 8192:
        raise ValueError(f"{value} bits: write 2048 (clients take no less) to 8192")


def not_negative(value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"{value} is negative: write 0 or more")


def detail(value: int) -> None:
    if not 0 <= value <= 4:
        raise ValueError(f"{value} is not a level: write 0 (nothing) to 4 (everything)")


def one_or_all(value: int) -> None:
    if value not in (1, -1):
        raise ValueError(f"{value} is neither 1 (one after another) nor -1 (side by side)")


def regexes(value: Iterable[str]) -> None:
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def name_servers(value: Sequence[str]) -> None:
    from appliance.net.hosts import parse_server

    for text in value:
        parse_server(text)


def interface(value: str) -> None:
    if value and re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}", value) is None:
        raise ValueError(f"{value!r} is not the name of an interface, such as wan0 (`ip link` lists them)")


def port_ranges(value: Sequence[str]) -> None:
    if value:
        from modes.firewall.plan import ports

        ports(value)


def single_ports(value: Sequence[str]) -> None:
    for text in value:
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise ValueError(f"{text!r} is no port: write one from 1 to 65535, such as 5432")


def age(value: str | None) -> None:
    from appliance.human import parse_age

    parse_age(value)


def some_mode(value: Sequence[str]) -> None:
    if not value:
        raise ValueError("no mode is left: name at least one, such as regular@8080")


def option(default: T, help: str, **extra: Any) -> T:
    """Entry of a table; to a type checker it is the value itself."""
    return cast(T, Option("", None, default, help, **extra))
