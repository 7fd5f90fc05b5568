"""Where the flow store is, and whose."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from appliance.options import Options


NOTHING: Final = "no flows have been recorded there (options store_dir, confdir)"


def folder_of(options: Options) -> Path:
    """`store_dir`, else `flows` in the configuration folder, so that each configuration has a store of its own."""
    chosen = options.path("store_dir")
    if chosen is not None:
        return chosen
    confdir = options.path("confdir")
    assert confdir is not None
    return confdir / "flows"


def closed(folder: Path) -> str | None:
    """Why no store can be read there, for people; None: there is one, and it is open to us."""
    try:
        info = folder.stat()
        if not stat.S_ISDIR(info.st_mode):
            return f"{folder} is not a folder, so no store (options store_dir, confdir)"
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return f"{folder}: {NOTHING}"
    except PermissionError:
        return f"{folder} is {_owner(folder)}; run this as its owner (sudo)"
    except OSError as error:
        return f"{folder}: {error.strerror}"
    index = folder / "index.db"
    if not os.access(folder, os.X_OK) or (index.name in names and not os.access(index, os.R_OK)):
        return f"{folder} is {_owner(folder)}; run this as its owner (sudo)"
    if not any(name == index.name or ".seg" in name for name in names):
        return f"{folder}: {NOTHING}"
    return None


def _owner(folder: Path) -> str:
    with contextlib.suppress(OSError, KeyError):
        return f"{pwd.getpwuid(folder.stat().st_uid).pw_name}'s"
    return "closed to us"


def give(path: Path | int, folder: Path) -> None:
    """What root makes in somebody's store is his, or his gateway could not use it. path: or a descriptor."""
    if os.geteuid() == 0:
        owner = folder.stat()
        if owner.st_uid != 0:
            os.chown(path, owner.st_uid, owner.st_gid)
