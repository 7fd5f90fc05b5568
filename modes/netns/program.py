"""The program of `lockgate exec`: a network namespace of its own on a wire to the interception namespace, a private
view of a few files, and then exec. Standard library only (`helper.py` says why).
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import signal
import socket
import stat
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from modes.netns import system
    from modes.netns.system import Failed
else:
    import system
    from system import Failed

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 0x1000, 0x4000, 0x80000
_LARGEST_COPY = 1 << 20
_BACKLOG = 128
_DEFAULTED = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE", "SIGXFSZ")


class Program:
    """want: "argv", "env" as for exec; "ignore", "blocked" signals and "nofile" limits, as they were; "link" lines of
    `ip -batch` that lay the wire (PID: its process), "setup" those run inside; "ports" of its loopback at which we
    listen; "files" {path: source}: it sees the source there; "store": see `_store`; "hide": sockets not to be found.

    listening: of `sockets`, as [port, family]. notes: what it could not be given.
    """

    def __init__(self, want: dict[str, Any], keep: list[int]) -> None:
        """Returns once all is laid; `go` executes it. keep: descriptors it inherits. :raises Failed: it cannot be."""
        self._want = want
        self._mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self._mine.close()
            self._become(theirs, keep)
        theirs.close()
        self._hear()
        system.run(["ip", "-batch", "-"], "\n".join(want["link"]).replace("PID", str(self.pid)))
        self._mine.send(b"wired")
        said, self.sockets = self._hear()
        self.listening: list[list[int]] = said["listening"]
        self.notes: list[str] = said["notes"]

    def go(self) -> None:
        """:raises Failed: there is no such program, or it cannot be executed."""
        self._mine.send(b"go")
        try:
            self._hear()
        except EOFError:
            return  # executed: the other end is closed by that

    def _hear(self) -> tuple[dict[str, Any], list[int]]:
        """:raises Failed: what the child could not do. :raises EOFError: it has nothing more to say."""
        data, ancillary, _, _ = self._mine.recvmsg(65536, socket.CMSG_SPACE(253 * 4))
        fds = array.array("i")
        for _, _, more in ancillary:
            fds.frombytes(more[: len(more) // 4 * 4])
        if not data:
            raise EOFError
        said: dict[str, Any] = json.loads(data)
        if "error" in said:
            raise Failed(*said["error"])
        return said, list(fds)

    # -- in the child

    def _become(self, tell: socket.socket, keep: list[int]) -> NoReturn:
        try:
            self._prepare(tell, keep)
        except Failed as e:
            told = e.told
        except OSError as e:
            told = ["program", e.errno or 0, e.filename or ""]
        except Exception as e:
            told = ["program", 0, repr(e)]
        with contextlib.suppress(OSError):
            tell.send(json.dumps({"error": told}).encode())
        os._exit(127)

    def _prepare(self, tell: socket.socket, keep: list[int]) -> None:
        want = self._want
        system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
        system.unshare(system.CLONE_NEWNET, "program")
        system.lo_up()
        system.use_ipv6()
        tell.send(b"{}")
        if tell.recv(16) != b"wired":
            os._exit(127)
        system.run(["ip", "-batch", "-"], "\n".join(want["setup"]))
        sockets = _loopback(want["ports"])
        notes = self._view()
        system.keep_capabilities(False)
        fds = array.array("i", [sock.fileno() for sock in sockets])
        said = {"notes": notes, "listening": [[s.getsockname()[1], int(s.family)] for s in sockets]}
        tell.sendmsg([json.dumps(said).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
        for sock in sockets:
            sock.close()
        if tell.recv(16) != b"go":
            os._exit(127)
        for name in _DEFAULTED:
            number = getattr(signal, name)
            signal.signal(number, signal.SIG_IGN if number in want["ignore"] else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, want["blocked"])
        for fd in keep:
            os.set_inheritable(fd, True)
        soft, hard = want["nofile"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        try:
            os.execvpe(want["argv"][0], want["argv"], want["env"])
        except OSError as e:
            raise Failed("exec", e.errno or 0, want["argv"][0]) from None

    def _view(self) -> list[str]:
        """The private view of files. What cannot be given is told: the program runs all the same."""
        want, notes = self._want, []
        try:
            system.unshare(system.CLONE_NEWNS, "mount")
            system.mount("none", "/", None, _MS_REC | _MS_SLAVE)
        except (Failed, OSError):
            return ["no mount namespace"]
        for path, source in want["files"].items():
            try:
                system.mount(source, os.path.realpath(path), None, _MS_BIND)
            except OSError as e:
                notes.append(f"{path}: {e.strerror}")
        for path in want["hide"]:
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    system.mount("/dev/null", os.path.realpath(path), None, _MS_BIND)
        if want["store"]:
            try:
                _store(*want["store"])
            except OSError as e:
                notes.append(f"{want['store'][0]}: {e.strerror}")
        return notes


def _loopback(ports: list[int]) -> list[socket.socket]:
    """Listeners at the program's own loopback. :raises Failed: one cannot be bound."""
    found = []
    for port in ports:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
                sock.listen(_BACKLOG)
            except OSError as e:
                sock.close()
                if family == socket.AF_INET6:
                    continue
                raise Failed("loopback", e.errno or 0, str(port)) from None
            found.append(sock)
    return found


def _store(folder: str, name: str, bundle: str, added: str, hashed: str) -> None:
    """In place of `folder` one that holds the same, with `bundle` as the file `name`, and the certificate `added` under
    the name `hashed` by which OpenSSL looks for it. :raises OSError: it cannot be laid.
    """
    folder = os.path.realpath(folder)
    links: dict[str, str] = {}
    files: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    others: dict[str, bool] = {}  # whether it is a folder, such as java/ with the store that JDKs of Debian's look into
    for entry in os.scandir(folder):
        if entry.is_symlink():
            links[entry.name] = os.readlink(entry.path)
        elif entry.is_dir():
            others[entry.name] = True
        elif entry.name != name and entry.is_file():
            if entry.stat().st_size > _LARGEST_COPY:
                others[entry.name] = False
                continue
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                files[entry.name] = file.read()
                modes[entry.name] = stat.S_IMODE(entry.stat().st_mode)
    contents = []
    for source in (bundle, added):
        with open(source, "rb") as file:
            contents.append(file.read())
    covered = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    system.mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=32m")
    links.pop(name, None)
    for link, target in links.items():  # relative ones too: the folder has the same place
        os.symlink(target, os.path.join(folder, link))
    number = 0
    while f"{hashed}.{number}" in links or f"{hashed}.{number}" in files:
        number += 1
    files[name], files[f"{hashed}.{number}"] = contents
    for file_name, data in files.items():
        with open(os.path.join(folder, file_name), "wb") as file:
            os.fchmod(file.fileno(), modes.get(file_name, 0o644))  # whatever the umask; and a key remains its owner's
            file.write(data)
    for other, is_folder in others.items():
        target = os.path.join(folder, other)
        if is_folder:
            os.mkdir(target)
        else:
            os.mknod(target)
        with contextlib.suppress(OSError):
            system.mount(f"/proc/self/fd/{covered}/{other}", target, None, _MS_BIND | _MS_REC)
    os.close(covered)
