"""Command lines that were given before, over restarts: for the prompt of a console."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance import command, ctx
from appliance.home import expanded

logger = logging.getLogger(__name__)

FILE: Final = "command_history"
MOST: Final = 1024
"""Lines of the file; beyond them it is cut to the latest `KEPT` at the end."""
KEPT: Final = 512


class CommandHistory:
    """Reads its file (in confdir, mode 600) when it is first asked, and writes each line at once."""

    name = "commandhistory"

    def __init__(self) -> None:
        self._lines: list[str] | None = None
        self._choice = [""]  # what matches the filter, the oldest first, then what is being typed
        self._at = 0

    @property
    def path(self) -> Path:
        return expanded(ctx.options.confdir, "confdir") / FILE

    @property
    def history(self) -> list[str]:
        if self._lines is None:
            self._lines = self._read() if ctx.options.command_history else []
            self.set_filter("")
        return self._lines

    def done(self) -> None:
        if self._lines is not None and len(self._lines) > MOST and ctx.options.command_history:
            self._write(self._lines[-KEPT:], "w")

    @command.command("commands.history.add")
    def add_command(self, command: str) -> None:
        """Keep a command line."""
        if command.strip():
            self.history.append(command)
            if ctx.options.command_history:
                self._write([command], "a")
        self.set_filter("")

    @command.command("commands.history.get")
    def get_history(self) -> Sequence[str]:
        """All command lines that are kept, the oldest first."""
        return list(self.history)

    @command.command("commands.history.clear")
    def clear_history(self) -> None:
        """Forget all command lines, and empty the file."""
        self._lines = []
        if ctx.options.command_history:
            self._write([], "w")
        self.set_filter("")

    @command.command("commands.history.filter")
    def set_filter(self, prefix: str) -> None:
        """Have next and prev go through the lines that begin so; they start behind the latest."""
        self._choice = [line for line in self.history if line.startswith(prefix)] + [prefix]
        self._at = len(self._choice) - 1

    @command.command("commands.history.next")
    def get_next(self) -> str:
        """The line given after this one; at the end, what the filter says."""
        return self._move(1)

    @command.command("commands.history.prev")
    def get_prev(self) -> str:
        """The line given before this one; the oldest again where there is none."""
        return self._move(-1)

    def _move(self, by: int) -> str:
        if self._lines is None:
            self.set_filter("")
        self._at = min(max(self._at + by, 0), len(self._choice) - 1)
        return self._choice[self._at]

    def _read(self) -> list[str]:
        try:
            return self.path.read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.warning("command_history: %s: cannot be read: %s", self.path, error.strerror)
            return []

    def _write(self, lines: Sequence[str], mode: str) -> None:
        try:
            self.path.touch(0o600)
            with self.path.open(mode, encoding="utf-8") as file:
                file.writelines(f"{' '.join(line.splitlines())}\n" for line in lines)
        except OSError as error:
            logger.warning("command_history: %s: cannot be written: %s", self.path, error.strerror)
