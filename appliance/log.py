"""Logging: the terminal's handler, the ALERT level, the `add_log` event, and a limit on what repeats."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TextIO, get_args

from appliance.outlet import LAST_SECONDS, Outlet

if TYPE_CHECKING:
    from types import TracebackType

#: Above INFO, below WARNING: for the user to see even when little is shown.
ALERT: Final = logging.INFO + 1
logging.addLevelName(ALERT, "ALERT")

Verbosity = Literal["error", "warn", "info", "alert", "debug"]
_LEVELS: Final[dict[str, int]] = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "alert": ALERT,
    "debug": logging.DEBUG,
}
assert set(_LEVELS) == set(get_args(Verbosity))

#: C0, DEL, C1, line and paragraph separators, bidirectional controls, lone surrogates: what could move the cursor,
#: reorder the line or fail to encode.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def level_number(verbosity: str) -> int:
    """KeyError for what is no verbosity."""
    return _LEVELS[verbosity]


def level_name(number: int) -> Verbosity:
    """The verbosity a record of this level belongs to."""
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    if number >= ALERT:
        return "alert"
    return "info" if number >= logging.INFO else "debug"


def text_of(record: logging.LogRecord) -> str:
    """What a record says. Never raises: arguments that do not fit their text are told by the terminal's handler, and
    hurt nobody who logs while others listen.
    """
    try:
        return record.getMessage()
    except Exception as error:
        return f"{record.msg!r} ({type(error).__name__}: its arguments do not fit)"


def escape(text: str) -> str:
    """`text` with control characters spelt out (``\\x1b``): captured content cannot steer a terminal."""
    return _CONTROL.sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


# -- the terminal ------------------------------------------------------------------------------------------------------

_COLORS: Final = {"error": "31", "warn": "33", "alert": "35", "debug": "2"}


class TerminalFormatter(logging.Formatter):
    """``[hh:mm:ss] text``, further lines indented, so that no logged text can pass for a line of its own."""

    def __init__(self, color: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self.color = color

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        shown = "\n    ".join(map(escape, text.split("\n")))
        style = _COLORS.get(level_name(record.levelno)) if self.color else None
        if style:
            shown = f"\x1b[{style}m{shown}\x1b[0m"
        return f"[{self.formatTime(record, self.datefmt)}] {shown}"


class Terminal(logging.StreamHandler[Outlet]):
    """Writes records to a terminal; a reader that went away or reads nothing, or a narrow encoding, is no error."""

    def __init__(self, stream: Outlet, level: int, color: bool) -> None:
        super().__init__(stream)
        self.setLevel(level)
        self.setFormatter(TerminalFormatter(color))

    def close(self) -> None:
        self.stream.drain(LAST_SECONDS)
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def setup(verbosity: str, stream: TextIO | None = None, *, color: bool | None = None) -> Terminal:
    """Send the log to `stream` (stderr) instead of an earlier call's. Returns the handler; its level may be changed.

    KeyError for an unknown verbosity. `color` defaults to: a terminal, and no NO_COLOR.
    Records under INFO are not even made unless asked for; `add_log` gets INFO and up whatever the terminal shows.
    """
    level = level_number(verbosity)
    out = stream if stream is not None else sys.stderr
    if color is None:
        color = out.isatty() and not os.environ.get("NO_COLOR")
    root = logging.getLogger()
    outlet: Outlet | None = None
    for handler in [handler for handler in root.handlers if isinstance(handler, Terminal)]:
        root.removeHandler(handler)
        if isinstance(handler.stream, Outlet) and handler.stream.stream is out:
            outlet = handler.stream
    terminal = Terminal(outlet or Outlet(out), level, color)
    root.addHandler(terminal)
    root.setLevel(min(level, logging.INFO))
    return terminal


# -- what repeats ------------------------------------------------------------------------------------------------------

_MINUTE: Final = 60.0


class RateLimited:
    """Logs at most `per_minute` records a minute for each key, and says how many were left out.

    At most `max_keys` keys are remembered; the longest silent is forgotten first.
    """

    def __init__(
        self,
        logger: logging.Logger,
        per_minute: int = 10,
        *,
        max_keys: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.logger = logger
        self.per_minute = per_minute
        self.max_keys = max_keys
        self._clock = clock
        self._windows: dict[Hashable, list[float]] = {}  # key: [start of its minute, records asked for since]

    def log(
        self,
        level: int,
        key: Hashable,
        message: str,
        *args: object,
        exc_info: tuple[type[BaseException], BaseException, TracebackType | None] | None = None,
    ) -> bool:
        """Log, or count as left out. True if it was logged."""
        now = self._clock()
        window = self._windows.pop(key, None)
        left_out = 0
        if window is None or now - window[0] >= _MINUTE:
            left_out = max(0, int(window[1]) - self.per_minute) if window else 0
            window = [now, 0]
            if len(self._windows) >= self.max_keys:
                del self._windows[next(iter(self._windows))]
        self._windows[key] = window  # at the end: the order is that of last use
        window[1] += 1
        if window[1] > self.per_minute:
            return False
        if left_out:
            message, args = f"{message} (%d more like this were left out)", (*args, left_out)
        self.logger.log(level, message, *args, exc_info=exc_info, stacklevel=2)
        return True


# -- add_log -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class LogEntry:
    """What `add_log` is given."""

    msg: str
    level: Verbosity

    def __str__(self) -> str:
        return f"{self.level}: {self.msg}"


class _Fires(Protocol):
    def wants(self, event: str) -> bool: ...
    def fire(self, event: str, *args: object) -> Awaitable[None] | None: ...


#: True in whatever runs on behalf of an add_log listener: its tasks and threads inherit it.
_inside: ContextVar[bool] = ContextVar("inside_add_log", default=False)


class AddLog(logging.Handler):
    """Gives log records to the add-ons' `add_log`, from any thread, on the loop.

    What is logged on behalf of `add_log` is not given back to it. At most `limit` entries wait; those that find the
    queue full are counted, and the count is told as an entry of its own.
    """

    def __init__(self, hooks: _Fires, loop: asyncio.AbstractEventLoop, *, limit: int = 1000) -> None:
        super().__init__()
        self.hooks = hooks
        self.loop = loop
        self.limit = limit
        self._queue: deque[LogEntry] = deque()
        self._left_out = 0
        self._draining: asyncio.Task[None] | None = None
        self._scheduled = False

    def install(self) -> None:
        logging.getLogger().addHandler(self)

    def uninstall(self) -> None:
        """Stop listening; what waits is dropped."""
        logging.getLogger().removeHandler(self)
        self._queue.clear()
        if self._draining is not None:
            self._draining.cancel()

    def emit(self, record: logging.LogRecord) -> None:  # called with the handler's lock held
        if _inside.get() or not self.hooks.wants("add_log") or self.loop.is_closed():
            return
        if len(self._queue) >= self.limit:
            self._left_out += 1
            return
        self._queue.append(LogEntry(text_of(record), level_name(record.levelno)))
        if not self._scheduled:
            context = copy_context()
            context.run(_inside.set, True)
            try:
                self.loop.call_soon_threadsafe(self._start, context=context)
            except RuntimeError:  # the loop was closed meanwhile
                self._queue.clear()
            else:
                self._scheduled = True

    def _start(self) -> None:
        self._draining = self.loop.create_task(self._drain(), name="add_log")

    async def _drain(self) -> None:
        try:
            for _ in range(len(self._queue)):
                if self._queue:  # an uninstall() may have come between
                    await self._give(self._queue.popleft())
            if left_out := self._left_out:
                self._left_out = 0
                await self._give(LogEntry(f"{left_out} log entries were left out: add_log is too slow", "warn"))
        finally:
            self._scheduled = False
            if self._queue:
                self._scheduled = True
                self.loop.call_soon(self._start)

    async def _give(self, entry: LogEntry) -> None:
        if (pending := self.hooks.fire("add_log", entry)) is not None:
            await pending


# -- ctx.log -----------------------------------------------------------------------------------------------------------


class Log:
    """`ctx.log` of old add-ons. New ones use the standard `logging`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, text: object) -> None:
        self._log(logging.DEBUG, text)

    def info(self, text: object) -> None:
        self._log(logging.INFO, text)

    def alert(self, text: object) -> None:
        self._log(ALERT, text)

    def warn(self, text: object) -> None:
        self._log(logging.WARNING, text)

    warning = warn

    def error(self, text: object) -> None:
        self._log(logging.ERROR, text)

    def __call__(self, text: object, level: Verbosity = "info") -> None:
        self._log(level_number(level), text)

    def _log(self, level: int, text: object) -> None:
        self._logger.log(level, "%s", text, stacklevel=3)
