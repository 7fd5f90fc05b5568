"""Threads that nobody waits for at the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path

import pytest

from appliance.threads import DaemonThreads

ROOT = Path(__file__).parents[1]


def test_results_and_errors() -> None:
    threads = DaemonThreads()
    assert threads.submit(pow, 2, 3).result(10) == 8
    with pytest.raises(SystemExit, match="7"):
        threads.submit(sys.exit, 7).result(10)
    assert threads.submit(pow, 2, 4).result(10) == 16, "it goes on after that"
    assert list(threads.map(str, range(100))) == list(map(str, range(100)))


def test_as_many_at_once_as_there_may_be_and_idle_ones_are_used_again() -> None:
    threads, both = DaemonThreads(2), threading.Barrier(2)
    names = {threads.submit(threading.current_thread).result(10).name for _ in range(5)}
    assert len(names) <= 2
    assert sorted(threads.map(lambda _: both.wait(10), range(2))) == [0, 1]
    at_once, most, lock = 0, 0, threading.Lock()

    def count() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.002)
        with lock:
            at_once -= 1

    for future in [threads.submit(count) for _ in range(40)]:
        future.result(10)
    assert most == 2


def test_one_that_was_called_off_is_not_begun() -> None:
    threads, go, begun = DaemonThreads(1), threading.Event(), threading.Event()
    first, second = threads.submit(go.wait, 10), threads.submit(begun.set)
    assert second.cancel()
    go.set()
    assert first.result(10) and threads.submit(lambda: True).result(10) and not begun.is_set()


async def test_asyncio_takes_it_as_the_loops_own() -> None:
    where = ContextVar("where", default="nowhere")
    where.set("here")
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    assert await asyncio.to_thread(where.get) == "here"
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)


def test_the_interpreter_does_not_wait_for_them() -> None:
    program = "import time; from appliance.threads import DaemonThreads; DaemonThreads().submit(time.sleep, 60)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=30)
