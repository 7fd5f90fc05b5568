"""The process that owns an interception namespace. Run as a file, `python -I -S helper.py FD OWNER`, by standard
library alone: unsharing a user namespace needs a process of one thread, and the gateway has several.

FD is one end of a SOCK_SEQPACKET pair; messages are JSON, descriptors come along as SCM_RIGHTS. When the other end or
the process OWNER, which started us, is gone this process ends, and with it all it has started. (The end alone does not
say: a process forked off by an add-on has it too.)

Each question has a "number", and its answer the same; 0: nobody asked. What is too large for a datagram comes in a file
(a program's arguments and environment may have 2 MB). Besides that they are

    -> {"tun": name | null, "port": n, "setup": [line of `ip -batch`], "steps": [[argv, input]]}
    <- {"ready": [name]} + a descriptor for each name
    -> {"sockets": kind, "count": n}    <- {"sockets": kind} + n descriptors, see KINDS
    -> {"second": true}                 <- {"second": true} + another such pair's end, which answers for sockets alone:
                                           for a gateway that did not start us
    -> {"netlink": true}                <- {"netlink": true} + the network namespace, and sockets for its rtnetlink
                                           and generic netlink
    -> {"capture": interface}           <- {"capture": interface} + a packet socket that sees its frames
    -> {"program": {...}}               <- {"program": pid, "listening", "notes"}; see `Program`
    -> {"go": true}                     <- {"going": true}, and when it has ended {"exit": wait status}
    -> {"signal": n}                    sent on to the program
    <- {"error": [stage, errno, text]}  instead of any of these answers
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from modes.netns import system
    from modes.netns.program import Program
    from modes.netns.system import Failed
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import system
    from program import Program
    from system import Failed

_IP_TRANSPARENT, _IPV6_TRANSPARENT, _IP_RECVORIGDSTADDR, _IPV6_RECVORIGDSTADDR = 19, 75, 20, 74
_SO_RCVBUFFORCE = 33
_NETLINK_ROUTE, _NETLINK_GENERIC = 0, 16
_RECEIVE_BUFFER, _CAPTURE_BUFFER = 4 << 20, 32 << 20
_ETH_P_ALL = 3
_BACKLOG = 4096
_MOST_AT_ONCE = 64
_FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SAME_SECONDS = 10.0
_GRACE_SECONDS = 2.0
KINDS = {
    "udp4": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    "raw4": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "raw6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
}


def transparent(family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that may have an address which is not ours."""
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    return sock


def listeners(port: int) -> dict[str, socket.socket]:
    """One for TCP and UDP of each family, at any address. :raises Failed: not even IPv4 can be had."""
    found = {}
    for family, version, host in ((socket.AF_INET, "4", "0.0.0.0"), (socket.AF_INET6, "6", "::")):
        try:
            tcp, udp = transparent(family, socket.SOCK_STREAM), transparent(family, socket.SOCK_DGRAM)
            for sock in (tcp, udp):
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind((host, port))
            if family == socket.AF_INET6:
                udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
            else:
                udp.setsockopt(socket.SOL_IP, _IP_RECVORIGDSTADDR, 1)
            with contextlib.suppress(OSError):
                udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
            tcp.listen(_BACKLOG)
        except OSError as e:
            if version == "6":
                break  # a kernel without IPv6
            raise Failed("listen", e.errno or 0) from None
        found["tcp" + version], found["udp" + version] = tcp, udp
    return found


def _needs_ipv6(line: str) -> bool:
    """Whether `ip` would refuse that without it."""
    return "::" in line or "addrgenmode" in line


def _packets(interface: str) -> socket.socket:
    """All frames of an interface, both ways."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _CAPTURE_BUFFER)
    sock.bind((interface, _ETH_P_ALL))
    return sock


class Helper:
    """Answers the gateway until it is gone."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._number = 0  # of the question that is being answered
        self._seconds: dict[int, socket.socket] = {}
        self._program: Program | None = None
        self.folder = ""  # removed at the end
        self._got: dict[int, tuple[int, float]] = {}  # how often a signal came to us, and when it last did

    def _say(self, said: dict[str, Any], fds: list[int] | None = None, to: socket.socket | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        (to or self._control).sendmsg([json.dumps({**said, "number": self._number}).encode()], rights)

    def serve(self, owner: int) -> None:
        """Until the other end is gone, or the process `owner`, our parent."""
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        # A terminal sends these to us as well; they are the program's. (A handler, unlike SIG_IGN, is not inherited.)
        for number in (signal.SIGCHLD, *_FORWARDED):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        self._poll = poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        died = -1
        with contextlib.suppress(OSError):  # none in kernels before 5.3
            died = os.pidfd_open(owner)
            poll.register(died, select.POLLIN)
        if os.getppid() != owner:
            return  # it was gone before, and by now that number may be another's
        while True:
            for fd, _ in poll.poll():
                if (second := self._seconds.get(fd)) is not None:
                    self._serve_second(second)
                    continue
                if fd == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 512)
                    self._reap()
                    continue
                if fd == died:
                    return
                data, files, _, _ = socket.recv_fds(self._control, 1 << 20, 1, socket.MSG_CMSG_CLOEXEC)
                if not data:
                    return
                asked = json.loads(data)
                for file in files:
                    with open(file, "rb") as whole:
                        asked |= json.load(whole)
                self._number = asked.get("number", 0)
                try:
                    self._answer(asked)
                except Failed as e:
                    self._say({"error": e.told})
                except OSError as e:
                    self._say({"error": ["helper", e.errno or 0, str(e)]})
                self._number = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._got[number] = self._got.get(number, (0, 0.0))[0] + 1, time.monotonic()

    def _answer(self, asked: dict[str, Any]) -> None:
        if "steps" in asked:
            self._lay(asked)
        elif "sockets" in asked:
            self._sockets(asked, self._control)
        elif "second" in asked:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setblocking(False)
            self._seconds[ours.fileno()] = ours
            self._poll.register(ours, select.POLLIN)
            with theirs:
                self._say({"second": True}, [theirs.fileno()])
        elif "netlink" in asked:
            self._netlink()
        elif "capture" in asked:
            with _packets(asked["capture"]) as sock:
                self._say({"capture": asked["capture"]}, [sock.fileno()])
        elif "program" in asked:
            self.folder = asked["program"]["folder"]
            self._program = program = Program(asked["program"], asked["keep"])
            said = {"program": program.pid, "listening": program.listening, "notes": program.notes}
            self._say(said, program.sockets)
            for fd in (*program.sockets, *asked["keep"]):
                os.close(fd)
        elif "go" in asked and self._program is not None:
            self._program.go()
            self._say({"going": True})
        elif "signal" in asked and self._program is not None:
            number = asked["signal"]
            # One that was meant for the whole process group, as a terminal does it, has reached the program by itself.
            # It is told of when the gateway comes to it, which may be late.
            count, at = self._got.get(number, (0, 0.0))
            if count and time.monotonic() - at < _SAME_SECONDS:
                self._got[number] = count - 1, at
                return
            self._got.pop(number, None)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._program.pid, number)

    def _sockets(self, asked: dict[str, Any], to: socket.socket) -> None:
        made = [transparent(*KINDS[asked["sockets"]]) for _ in range(min(asked["count"], _MOST_AT_ONCE))]
        self._say({"sockets": asked["sockets"]}, [sock.fileno() for sock in made], to)

    def _serve_second(self, second: socket.socket) -> None:
        """Whatever it says or does, this process goes on: it may be another user's. Who does not read is let go of."""
        try:
            if data := second.recv(1 << 16):
                asked = json.loads(data)
                self._number = asked["number"]
                self._sockets(asked, second)
                return
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        finally:
            self._number = 0
        del self._seconds[second.fileno()]
        self._poll.unregister(second)
        second.close()

    def _lay(self, asked: dict[str, Any]) -> None:
        system.enter()
        system.lo_up()
        if os.geteuid():
            system.keep_capabilities(True)
        # Nothing here routes: what is not ours is dropped.
        # Answers come from any port, and a gateway that has adopted the sockets may be another user's.
        settings = {"ipv4/ip_forward": "0", "ipv4/conf/all/rp_filter": "0", "ipv4/ip_unprivileged_port_start": "0"}
        for name, value in settings.items():
            system.sysctl(name, value)
        system.use_ipv6()
        fds: dict[str, int] = {}
        if asked["tun"]:
            fds["tun"] = system.make_tun(asked["tun"])
        setup = asked["setup"] if system.has_ipv6() else [line for line in asked["setup"] if not _needs_ipv6(line)]
        if setup:
            system.run(["ip", "-batch", "-"], "\n".join(setup))
        found = listeners(asked["port"])
        for argv, input in asked["steps"]:
            if "-6" not in argv or "tcp6" in found:
                system.run(argv, input)
        fds |= {name: sock.fileno() for name, sock in found.items()}
        self._say({"ready": list(fds)}, list(fds.values()))
        for fd in fds.values():
            os.close(fd)
        for sock in found.values():
            sock.detach()

    def _netlink(self) -> None:
        """What the gateway needs to manage a network that it cannot enter: that takes CAP_SYS_ADMIN."""
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with (
                socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_ROUTE) as route,
                socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_GENERIC) as generic,
            ):
                self._say({"netlink": True}, [namespace, route.fileno(), generic.fileno()])
        finally:
            os.close(namespace)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if self._program is not None and pid == self._program.pid:
                    self._say({"exit": status})


def main(fd: int, owner: int) -> None:
    try:
        control = socket.socket(fileno=fd)
    except OSError:
        return  # who started us has thought better of it
    control.set_inheritable(False)
    helper = Helper(control)
    try:
        helper.serve(owner)
    except (BrokenPipeError, ConnectionResetError):
        pass
    except Failed as e:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"error": e.told, "number": 1}).encode())
    system.end_descendants(_GRACE_SECONDS)
    if helper.folder:
        shutil.rmtree(helper.folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
