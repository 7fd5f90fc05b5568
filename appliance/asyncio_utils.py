"""Tasks, for scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_kept: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks weakly


def create_task(
    coro: Coroutine[Any, Any, _T], *, name: str, keep_ref: bool = True, client: object = None
) -> asyncio.Task[_T]:
    """A task of the running loop. `keep_ref`: it is held until it is done, as a task that nobody awaits must be.

    `client` is taken for compatibility: who works for whom is not kept.
    """
    task = asyncio.get_running_loop().create_task(coro, name=name)
    if keep_ref:
        _kept.add(task)
        task.add_done_callback(_kept.discard)
    return task
