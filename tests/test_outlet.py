"""Readers that do not read, or have gone."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from appliance import outlet
from appliance.outlet import Outlet
from tests.harness import until

LINE = "x" * 999 + "\n"


def pipe() -> tuple[int, int]:
    return os.pipe()


def terminal() -> tuple[int, int]:
    master, slave = pty.openpty()
    modes = termios.tcgetattr(slave)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    return master, slave


def pair() -> tuple[int, int]:
    left, right = socket.socketpair()
    return left.detach(), right.detach()


@pytest.fixture(params=[pipe, terminal, pair])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, TextIO]]:
    make: Callable[[], tuple[int, int]] = request.param
    read, write = make()
    with open(write, "w", encoding="ascii") as stream:
        yield read, stream
    os.close(read)


async def test_who_does_not_read_holds_nobody_up_and_is_told(
    ends: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "MOST_WAITING", 100_000)
    read, stream = ends
    stream.write("before\n")
    out = Outlet(stream)
    if os.isatty(stream.fileno()):
        termios.tcflow(stream.fileno(), termios.TCOOFF)  # as by Ctrl-S
    for _ in range(3000):  # 3 MB: none of these takes so much
        out.write(LINE)
    assert len(out._waiting) <= 100_000
    if os.isatty(stream.fileno()):
        termios.tcflow(stream.fileno(), termios.TCOON)
    assert not fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK  # others have it too
    os.set_blocking(read, False)
    found = bytearray()

    def told() -> bool:
        while True:
            try:
                found.extend(os.read(read, 1 << 16))
            except BlockingIOError:
                return b"left out here" in found

    await until(told, 10, "nothing is told of what was left out")
    lines = found.decode().splitlines()
    assert lines[0] == "before" and set(lines[1:-1]) == {LINE[:-1]}
    lost = int(lines[-1].removeprefix("(").partition(" ")[0])
    assert len(lines) - 2 + lost == 3000
    out.write("last ü\n")
    await until(lambda: told() and found.endswith(b"last \\xfc\n"))


@pytest.mark.parametrize("make", [pipe, pair])
def test_a_reader_that_has_gone_is_an_error(make: Callable[[], tuple[int, int]]) -> None:
    read, write = make()
    with open(write, "w") as stream:
        out = Outlet(stream)
        out.write("x")
        os.close(read)
        with pytest.raises(BrokenPipeError):
            out.write("y")


def test_files_and_what_is_none_are_written_as_ever(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        out = Outlet(file)
        for _ in range(2000):
            out.write(LINE)
        out.write("ü\n")
        assert (tmp_path / "log").read_text() == LINE * 2000 + "\\xfc\n"
    text = io.StringIO()
    Outlet(text).write("ü")
    assert text.getvalue() == "ü"


def test_at_the_end_a_slow_reader_is_waited_for() -> None:
    read, write = pipe()
    with open(write, "w") as stream, open(read, "rb") as reader:
        out = Outlet(stream)
        for _ in range(500):
            out.write(LINE)
        assert out._waiting
        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(reader.read(500 * len(LINE))))
        thread.start()
        out.drain(10)
        thread.join()
        assert found == [LINE.encode() * 500] and not out._waiting
        for _ in range(500):
            out.write(LINE)
        out.drain(0.01)
        assert out._waiting
