"""What a check says, and what it is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any


class Level(IntEnum):
    """How bad it is: a fault keeps interception from working, a warning breaks a part or some clients of it."""

    OK = 0
    NOTE = 1
    WARNING = 2
    FAULT = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """check: `group.name`. seen, why, remedy: one sentence each; the remedy is a command where one exists."""

    check: str
    level: Level
    seen: str
    why: str = ""
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For `--json`; the level by its name."""
        return {**asdict(self), "level": self.level.name.lower()}


@dataclass(frozen=True, slots=True)
class Subject:
    """lan: interfaces whose clients are intercepted; wan: the one towards the servers, "" if not said.

    ports: (host, port) that the gateway will listen on. confdir: the configuration folder, absolute.
    plans: what lays the redirect, to be tried in a scratch namespace (scratch.rules.Plans).
    store: folder of the flow store, None = nothing is recorded; store_bytes: how large it may become. recording: what
    the gateway that runs says of it (appliance.store.writer.Status), None = none runs.
    """

    lan: tuple[str, ...] = ()
    wan: str = ""
    ports: tuple[tuple[str, int], ...] = (("", 8080),)
    confdir: Path = field(default_factory=lambda: Path.home() / ".lockgate")  # not every user has a home
    plans: Mapping[str, Any] = field(default_factory=dict)
    store: Path | None = None
    store_bytes: int | None = None
    recording: Mapping[str, Any] | None = None

    @property
    def interfaces(self) -> tuple[str, ...]:
        """All that were named, the wan last."""
        return (*self.lan, *([self.wan] if self.wan else []))


def ok(check: str, seen: str) -> Finding:
    return Finding(check, Level.OK, seen)


def note(check: str, seen: str, why: str = "", remedy: str = "") -> Finding:
    return Finding(check, Level.NOTE, seen, why, remedy)


def warning(check: str, seen: str, why: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, seen, why, remedy)


def fault(check: str, seen: str, why: str, remedy: str) -> Finding:
    return Finding(check, Level.FAULT, seen, why, remedy)
