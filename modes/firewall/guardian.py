"""Outlives the gateway by a moment: woken by its end, whatever that was, it replays the undo list.

Run as `python -I -S guardian.py LIST OWNER` in a session of its own. Standard input is a pipe that the gateway
holds open, and writes a byte to at each beat. OWNER is `process`, or `unit`: then the gateway is expected back.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

HANG_MS = 2500
"""After the last beat: more than the rules' own timeout (plan.BEAT_TIMEOUT), or new entries would be marked again."""


def main(path: str, owner: str) -> None:
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    if owner == "unit":
        signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import undo  # type: ignore[import-not-found]  # by path: -I -S knows no packages

    whose = undo.identity(path)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    # The pipe may have been inherited by a fork of an add-on; the process itself cannot be.
    with contextlib.suppress(OSError):
        poll.register(os.pidfd_open(os.getppid()), select.POLLIN)
    with contextlib.suppress(OSError):  # it has ended already: then there is the more to do
        os.write(1, b"ready\n")
    patience = None  # until the first beat
    while True:
        ready = poll.poll(patience)
        if not ready:
            # It hangs, and its rules have let go: what it had been delivered must flow by translated.
            undo.forget_intercepted(path, whose)
            patience = None
        elif all(descriptor == 0 for descriptor, _ in ready) and os.read(0, 512):
            patience = HANG_MS
        else:
            break
    # A unit's next process replays the list itself once its own rules lie; until then ours let go by themselves. A unit
    # that is being stopped or restarted waits for all of its processes, so then there is no time for that.
    end = time.monotonic() + HANG_MS / 1000
    while owner == "unit" and undo.identity(path) == whose and time.monotonic() < end:
        if told:
            return
        time.sleep(0.05)
    if os.path.exists(path):
        undo.replay(path, routing=False, whose=whose)


if __name__ == "__main__":
    main(*sys.argv[1:])
