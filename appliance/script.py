"""For scripts: `@concurrent`."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from appliance.events import EVENTS


def concurrent(hook: Callable[..., object]) -> Callable[..., Coroutine[Any, Any, object]]:
    """Run a blocking hook in a thread, so that other connections go on; this one waits for it.

    Raises NotImplementedError if `hook` is not named after an event, is `load` or `configure`, or is async already.
    """
    event = EVENTS.get(hook.__name__)
    if event is None or event.sync_only:
        raise NotImplementedError(f"@concurrent is not possible for {hook.__name__}")
    if inspect.iscoroutinefunction(hook):
        raise NotImplementedError(f"@concurrent is for sync hooks; {hook.__name__} is async already")

    @functools.wraps(hook)
    def in_thread(*args: object) -> Coroutine[Any, Any, object]:
        return asyncio.to_thread(hook, *args)

    return in_thread
