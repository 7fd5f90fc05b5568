"""The flow store: who may read it, whether it has room, what it lost."""

from __future__ import annotations

import shlex
import shutil
import stat
from collections.abc import Iterator
from typing import Final

from appliance.doctor.finding import Finding, Subject, note, ok, warning
from appliance.exceptions import LockgateError
from appliance.human import pretty_size

LITTLE: Final = 32 << 20
"""Bytes that are left on the disk of the store, below which it is about to be full."""


def store(subject: Subject) -> Iterator[Finding]:
    """Reads the index, and changes nothing."""
    folder = subject.store
    if folder is None:
        yield note("store", "flows are not recorded (store=false)")
        return
    named = shlex.quote(str(folder))
    if subject.recording is not None and (why := subject.recording["fault"]):
        lost = subject.recording["dropped"]
        yield warning(
            "store.fault", f"the gateway cannot record flows now: {why}; {lost} are lost so far",
            "traffic goes on, and nobody can see afterwards what it was", f"df -h {named}; lockgate log",
        )  # fmt: skip
    from appliance.store.folder import NOTHING, closed
    from appliance.store.store import Store

    if (why := closed(folder)) is not None:
        if why.endswith(NOTHING):
            yield note("store", f"no flows in {folder} yet", "the first `lockgate run` makes the store")
        else:
            yield warning("store", why, "flows that are in it are not shown", "sudo lockgate doctor")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        yield warning(
            "store.mode", f"{folder} has mode {mode:o}", "passwords and cookies of all devices are in it",
            f"chmod 700 {named}",
        )  # fmt: skip
    try:
        with Store(folder, recover=False) as opened:
            found = opened.stats()
    except (LockgateError, OSError) as error:
        yield warning("store", f"the flow store cannot be read: {error}", "flows that are in it are not shown",
                      "lockgate run")  # fmt: skip
        return
    used = found["segment_bytes"] + found["index_bytes"]
    yield ok("store", f"{found['flows']} flows, {pretty_size(used)} in {folder}")
    if found["dropped"]:
        yield warning(
            "store.dropped", f"{found['dropped']} flows could not be recorded",
            "the disk was full, or another process held the index", f"df -h {named}; lockgate flows stats",
        )  # fmt: skip
    if found["set_aside"]:
        yield warning(
            "store.damaged", f"{len(found['set_aside'])} damaged files were set aside",
            "their flows are not shown", f"ls -l {folder / 'damaged'}; delete them when they are of no use",
        )  # fmt: skip
    free = shutil.disk_usage(folder).free
    if free < LITTLE:
        yield warning(
            "store.full", f"{pretty_size(free)} are left on the disk of {folder}",
            "flows are dropped, and counted, when nothing is left",
            f"df -h {named}; lockgate flows delete; --set store_max_bytes={max(used >> 20, 1)}m",
        )  # fmt: skip
    elif subject.store_bytes is not None and used + free < subject.store_bytes:
        yield warning(
            "store.room", f"store_max_bytes is {pretty_size(subject.store_bytes)}, of which {pretty_size(used + free)} "
            "can be had", "the disk will be full before the oldest flows go",
            f"--set store_max_bytes={max((used + free) // 2 >> 20, 1)}m",
        )  # fmt: skip
