from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import ctx
from appliance.hooks import Hooks
from appliance.log import ALERT, AddLog, LogEntry, RateLimited, escape, level_name, level_number, setup


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


# -- the terminal


def test_verbosity_says_what_is_shown() -> None:
    shown = {}
    for verbosity in ("error", "warn", "alert", "info", "debug"):
        out = io.StringIO()
        setup(verbosity, out)
        log = logging.getLogger("test")
        for level in (logging.ERROR, logging.WARNING, ALERT, logging.INFO, logging.DEBUG):
            log.log(level, "%s", level_name(level))
        shown[verbosity] = [line.split()[-1] for line in out.getvalue().splitlines()]
    order = ["error", "warn", "alert", "info", "debug"]
    assert shown == {verbosity: order[: n + 1] for n, verbosity in enumerate(order)}
    with pytest.raises(KeyError):
        setup("loud")


def test_setup_again_replaces_the_terminal() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup("info", first)
    terminal = setup("error", second)
    logging.error("one")
    logging.info("two")
    terminal.setLevel(level_number("info"))
    logging.info("three")
    assert first.getvalue() == ""
    assert [line.split()[-1] for line in second.getvalue().splitlines()] == ["one", "three"]


def test_logged_text_can_neither_steer_the_terminal_nor_pass_for_a_line() -> None:
    out = io.StringIO()
    setup("info", out)
    logging.info("GET %s", "/\x1b[2J\r\x07\x9b31m\n[12:00:00] all is well\u202e\x00\t\ud800")
    first, second = out.getvalue().splitlines()
    assert first.endswith(r"GET /\x1b[2J\r\x07\x9b31m")
    assert second == r"    [12:00:00] all is well\u202e\x00\t\ud800"


def test_a_traceback_is_escaped_too() -> None:
    out = io.StringIO()
    setup("info", out)
    try:
        raise ValueError("\x1b[31m\nred")
    except ValueError:
        logging.exception("failed")
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert "ValueError: \\x1b[31m" in out.getvalue()
    assert all(line.startswith("    ") for line in lines[1:])


@given(st.text())
def test_escaped_text_is_printable_in_one_line(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F for char in shown)
    shown.encode()
    assert escape(shown) == shown


def test_a_narrow_encoding_and_a_reader_that_left_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    raw = io.BytesIO()
    setup("info", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    logging.info("grüße")
    assert rb"gr\xfc\xdfe" in raw.getvalue()

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    setup("info", Gone())
    logging.info("anybody?")
    assert capsys.readouterr().err == ""


def test_color_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    colored, plain, unwanted = Tty(), io.StringIO(), Tty()
    for out in (colored, plain):
        setup("info", out)
        logging.error("bad")
    monkeypatch.setenv("NO_COLOR", "1")
    setup("info", unwanted)
    logging.error("bad")
    assert "\x1b[31mbad\x1b[0m" in colored.getvalue()
    assert "\x1b" not in plain.getvalue() + unwanted.getvalue()


# -- what repeats


def test_rate_limit_by_key_tells_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    limited = RateLimited(logging.getLogger("test"), 2, clock=lambda: now)
    assert [limited.log(logging.WARNING, "a", "a %d", n) for n in range(5)] == [True, True, False, False, False]
    assert limited.log(logging.WARNING, "b", "b")
    now += 59
    assert not limited.log(logging.WARNING, "a", "a %d", 5)
    now += 1
    assert limited.log(logging.WARNING, "a", "a %d", 6)
    assert limited.log(logging.WARNING, "a", "a %d", 7)
    now += 60
    assert limited.log(logging.WARNING, "a", "a %d", 8)
    assert caplog.messages == ["a 0", "a 1", "b", "a 6 (4 more like this were left out)", "a 7", "a 8"]


def test_rate_limit_remembers_a_bounded_number_of_keys() -> None:
    limited = RateLimited(logging.getLogger("test"), 1, max_keys=10)
    for n in range(1000):
        assert limited.log(logging.DEBUG, n, "x")
    assert len(limited._windows) == 10
    assert not limited.log(logging.DEBUG, 999, "x")
    assert limited.log(logging.DEBUG, 0, "x")


# -- add_log


class Listening:
    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.threads: set[int] = set()

    def add_log(self, entry: LogEntry) -> None:
        self.entries.append(entry)
        self.threads.add(threading.get_ident())

    @property
    def messages(self) -> list[str]:
        return [entry.msg for entry in self.entries]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def logs() -> AsyncIterator[list[AddLog]]:
    """AddLog handlers put in here are taken off again."""
    logging.getLogger().setLevel(logging.INFO)
    handlers: list[AddLog] = []
    yield handlers
    for handler in handlers:
        handler.uninstall()


def install(logs: list[AddLog], *addons: object, limit: int = 1000) -> AddLog:
    handler = AddLog(Hooks(*addons), asyncio.get_running_loop(), limit=limit)
    handler.install()
    logs.append(handler)
    return handler


async def test_records_reach_add_log_on_the_loop(logs: list[AddLog]) -> None:
    listening = Listening()
    install(logs, listening)
    logging.warning("from %s", "here")
    await asyncio.to_thread(logging.info, "from a thread")
    logging.log(ALERT, "loud")
    await settle()
    assert [(entry.msg, entry.level) for entry in listening.entries] == [
        ("from here", "warn"),
        ("from a thread", "info"),
        ("loud", "alert"),
    ]
    assert listening.threads == {threading.get_ident()}


async def test_arguments_that_do_not_fit_hurt_nobody_who_logs(logs: list[AddLog]) -> None:
    listening = Listening()
    handler = install(logs, listening)
    handler.handle(logging.LogRecord("x", logging.INFO, __file__, 1, "%d", ("text",), None))
    await settle()
    assert listening.messages == ["'%d' (TypeError: its arguments do not fit)"]


async def test_nobody_listens_nothing_is_kept(logs: list[AddLog]) -> None:
    handler = install(logs)
    logging.warning("one")
    await settle()
    assert not handler._queue and handler._draining is None


class Chatty(Listening):
    name = "chatty"

    def add_log(self, entry: LogEntry) -> None:
        super().add_log(entry)
        logging.error("heard %s", entry.msg)


class AsyncChatty(Chatty):
    async def add_log(self, entry: LogEntry) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().add_log(entry)
        await asyncio.to_thread(logging.error, "heard in a thread")
        asyncio.get_running_loop().call_soon(logging.error, "heard later")


class Failing(Chatty):
    def add_log(self, entry: LogEntry) -> None:
        super().add_log(entry)
        raise ValueError("oops")


@pytest.mark.parametrize("kind", [Chatty, AsyncChatty, Failing])
async def test_logging_inside_add_log_does_not_loop(
    kind: type[Chatty], logs: list[AddLog], caplog: pytest.LogCaptureFixture
) -> None:
    addon = kind()
    install(logs, addon)
    logging.warning("one")
    logging.warning("two")
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert addon.messages == ["one", "two"]
    assert "heard one" in caplog.text  # but the log has it


async def test_logging_goes_on_outside_while_add_log_waits(logs: list[AddLog]) -> None:
    seen: list[str] = []
    gate = asyncio.Event()

    class Waiting:
        async def add_log(self, entry: LogEntry) -> None:
            seen.append(entry.msg)
            await gate.wait()

    install(logs, Waiting())
    logging.info("one")
    await settle()
    logging.info("two")
    gate.set()
    await settle()
    assert seen == ["one", "two"]


async def test_the_queue_is_bounded(logs: list[AddLog]) -> None:
    listening = Listening()
    handler = install(logs, listening, limit=5)
    for n in range(12):
        logging.info("%d", n)
    await settle()
    assert listening.messages == ["0", "1", "2", "3", "4", "7 log entries were left out: add_log is too slow"]
    logging.info("again")
    await settle()
    assert listening.messages[-1] == "again"
    handler.uninstall()
    logging.info("after")
    await settle()
    assert listening.messages[-1] == "again"


def test_a_closed_loop_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    loop = asyncio.new_event_loop()
    handler = AddLog(Hooks(Listening()), loop)
    handler.install()
    loop.close()
    logging.warning("late")
    handler.uninstall()
    assert capsys.readouterr().err == ""


# -- ctx.log


def test_ctx_log_is_a_shim_over_logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("debug", "info", "alert", "warn", "error"):
        getattr(ctx.log, name)(f"%s {name}")
    ctx.log("called", "warn")
    ctx.log({"any": "object"})
    assert [(level_name(record.levelno), record.getMessage()) for record in caplog.records] == [
        *((name, f"%s {name}") for name in ("debug", "info", "alert", "warn", "error")),
        ("warn", "called"),
        ("info", "{'any': 'object'}"),
    ]
    assert all(record.filename == "test_log.py" for record in caplog.records)
