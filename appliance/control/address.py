"""Where the socket is, how it is claimed and how it is found. Its file's permissions say who may use it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.control.protocol import ControlError
from appliance.exceptions import OptionsError
from appliance.home import expanded

if TYPE_CHECKING:
    from appliance.options import Options

NAME = "control.sock"
NONE = "none"
BACKLOG = 16
_PEER_GROUPS = 59  # SO_PEERGROUPS, Linux 4.13
_UCRED = struct.Struct("3i")
_MAX_GROUPS = 256  # what getsockopt() of Python can take
LOCK_SECONDS = 1.0
"""Who may read the folder may lock it, for ever; we look for a moment only."""


def socket_path(options: Options) -> Path | None:
    """Of the option `control_socket`; None if there is to be none."""
    if options.control_socket == NONE:
        return None
    path = options.path("control_socket") or expanded(options.confdir, "confdir") / NAME
    return Path(os.path.abspath(path))


@contextlib.contextmanager
def _reachable(path: Path, how: int = os.O_RDONLY) -> Iterator[tuple[str, int]]:
    """A name of the socket that fits into sun_path (108 bytes) however deep its folder lies, and the folder's
    descriptor. Raises OSError.
    """
    folder = os.open(path.parent, how | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}", folder
    finally:
        os.close(folder)


class CannotBeMade(OptionsError):
    """The folder does not allow it."""


class Claimed:
    """A listening socket and its file. Raises OptionsError: another gateway has it, or it cannot be made."""

    def __init__(self, path: Path, group: str = "") -> None:
        self.path = path
        gid = group_number(group) if group else -1
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _reachable(path) as (name, folder):
                # Two that start at once: the second looks when the first has made its own.
                _lock(folder, LOCK_SECONDS)
                self._make_way(name)
                self.sock = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                try:
                    os.fchmod(sock.fileno(), 0o600)  # what bind() makes the file with
                    sock.bind(name)
                    if group:
                        self._share(name, gid, group)
                    sock.listen(BACKLOG)
                    made = os.stat(name)
                except BaseException:
                    sock.close()
                    raise
        except OSError as error:
            raise CannotBeMade(
                f"the control socket {path} cannot be made: {error.strerror}; "
                "name another place with --set control_socket=PATH, or none"
            ) from None
        self._made = made.st_dev, made.st_ino

    def _make_way(self, name: str) -> None:
        """Remove what a killed gateway has left. Raises OptionsError when it was not killed."""
        try:
            mode = os.lstat(name).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise OptionsError(f"{self.path} is there and is no socket; move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(name) == errno.ECONNREFUSED:
                os.unlink(name)
                return
        raise OptionsError(
            f"another gateway uses {self.path.parent} (its control socket {self.path.name} answers); stop it with "
            "`lockgate stop`, or give this one a folder of its own: --set confdir=DIR"
        )

    def _share(self, name: str, gid: int, group: str) -> None:
        try:
            os.chown(name, -1, gid)
            os.chmod(name, 0o660)
        except PermissionError:
            os.unlink(name)
            raise OptionsError(
                f"control_group: the socket cannot be given to {group}; run as root or as a member of that group"
            ) from None

    def closed_to(self, gid: int) -> Path | None:
        """The first folder on the way that members of this group cannot pass."""
        for folder in reversed(self.path.parents):
            found = folder.stat()
            if not (found.st_mode & 0o001 or (found.st_gid == gid and found.st_mode & 0o010)):
                return folder
        return None

    def close(self) -> None:
        """Idempotent; the file goes too, unless it is another's by now."""
        if self.sock.fileno() < 0:
            return
        with contextlib.suppress(OSError), _reachable(self.path) as (name, folder):
            _lock(folder, 0.0)
            found = os.lstat(name)
            if (found.st_dev, found.st_ino) == self._made:
                os.unlink(name)
        self.sock.close()


def _lock(folder: int, seconds: float) -> None:
    """As far as that can be had in this time."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                return
            time.sleep(0.01)


def group_number(name: str) -> int:
    """Raises OptionsError for a group that is not there. Numbers are taken as they are."""
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OptionsError(f"control_group: there is no group {name!r}; `groupadd --system {name}` makes it") from None


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """Process, user and group at the other end (SO_PEERCRED), as they were when it connected."""
    process, user, group = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return process, user, group


def permitted(sock: socket.socket, gid: int | None) -> bool:
    """Root, our own user, and members of the group: also where somebody has opened up the file's permissions."""
    _, user, group = peer(sock)
    if user in (0, os.geteuid()):
        return True
    return gid is not None and (gid == group or gid in _groups(sock))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, _MAX_GROUPS * 4)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)


def connect(path: Path, timeout: float) -> socket.socket:
    """A connection to a running gateway. Raises ControlError naming the remedy."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        with _reachable(path, os.O_PATH) as (name, _):
            sock.connect(name)
    except OSError as error:
        sock.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
            raise ControlError(
                "not_found",
                f"no gateway runs with {path.parent} (nothing answers at {path})",
                "start one with `lockgate run`, or name its folder: --set confdir=DIR",
            ) from None
        if isinstance(error, PermissionError):
            raise ControlError(
                "refused",
                f"{path}: the control socket is closed to this user",
                "use sudo, or let the gateway open it to a group: --set control_group=GROUP",
            ) from None
        raise ControlError("failed", f"{path}: {error.strerror or 'no answer'}", "is the gateway hanging?") from None
    return sock
