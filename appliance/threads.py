"""Threads for what blocks, such as `@concurrent` hooks, that the end of the program does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Work = tuple["Future[Any]", Callable[[], Any]]

MOST: Final = 64
"""Python's own pools have four more than there are processors: a few slow hooks would hold up all others."""


class DaemonThreads(ThreadPoolExecutor):
    """Python's own pool joins its threads, at the loop's end and again at the interpreter's: one hook that waits for a
    dead server would keep `lockgate stop` waiting as long, and `lockgate exec` after its program has ended.

    A subclass because asyncio takes no other executor as a loop's own.
    """

    def __init__(self, most: int = MOST) -> None:
        super().__init__(most, "lockgate")
        self._most = most
        self._work: SimpleQueue[_Work] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._started = 0
        self._starting = threading.Lock()

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        future: Future[_T] = Future()
        self._work.put((future, lambda: fn(*args, **kwargs)))
        if not self._idle.acquire(blocking=False):
            with self._starting:
                if self._started < self._most:
                    self._started += 1
                    threading.Thread(target=self._run, name=f"lockgate_{self._started}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing is waited for."""

    def _run(self) -> None:
        while True:
            future, work = self._work.get()
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del future, work  # what they hold must not live until there is more to do
            self._idle.release()
