"""The program of `lockgate exec`: what it is given, what is sent on to it, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from appliance.exceptions import ModeError
from appliance.io.pcapng.live import Capture
from appliance.net.trust import STORE_FOLDER, Trust
from modes.local import DNS, WIRE, Wire
from modes.netns import system

if TYPE_CHECKING:
    import socket

    from cryptography import x509

    from appliance.options import Options

logger = logging.getLogger(__name__)

_FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_RESOLV_CONF = Path("/etc/resolv.conf")
_BESIDE_DNS = (
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve.hook/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
)
"""Sockets by which the C library asks a daemon outside of the namespace instead of a name server."""


class Program:
    """inherited: descriptors that whoever started us meant for it. files: the limits of open files, as they were.
    folder: for what it is shown, readable by it.

    status: how it has ended, as wait(2) has it; `ended` is called then. capture: of its packets, if one is asked for.
    """

    def __init__(
        self, options: Options, argv: Sequence[str], folder: Path, inherited: Sequence[int], files: tuple[int, int]
    ) -> None:
        """:raises OptionsError: the capture's file cannot be made."""
        self.argv = list(argv)
        self.inherited = inherited
        self.status = 1 << 8
        self.ended: Callable[[], object] = lambda: None
        self.capture = Capture(options.exec_pcap, WIRE) if options.exec_pcap else None
        self._options = options
        self._folder = folder
        self._files = files
        self._ignored = [number for number in _FORWARDED if signal.getsignal(number) == signal.SIG_IGN]
        self._wire: Wire

    def launch(self, wire: Wire, ca: x509.Certificate, listen: Callable[[list[socket.socket]], None]) -> None:
        """Start it in the wire's namespace. listen: takes the listeners at its loopback. :raises ModeError: it cannot
        be.
        """
        self._wire = wire
        wire.namespace.heard = self._heard
        wire.namespace.ended = self._lost
        try:
            want = self._want(ca)
        except OSError as error:
            raise ModeError(f"{self._folder}: cannot be written: {error.strerror}") from None
        notes, loopback = wire.ready(want)
        if loopback:
            listen(loopback)
        for note in notes:
            logger.warning("the program has no private view of %s; it may not trust our CA, or not ask our DNS", note)
        for name in filter(os.environ.get, _PROXIES):
            text = "%s is set: what goes to that proxy under TLS is not decrypted; `env -u %s` in front takes it away"
            logger.warning(text, name, name)
        for number in _FORWARDED:
            if number not in self._ignored:
                signal.signal(number, self._forward)
        if self.capture is not None:
            self.capture.start(wire.packets())
        wire.go()

    def close(self) -> None:
        """After its end."""
        if (capture := self.capture) is not None:
            capture.stop()
            if capture.dropped:
                text = "%s: %d packets are missing, they came too fast"
                logger.warning(text, self._options.exec_pcap, capture.dropped)

    def _want(self, ca: x509.Certificate) -> dict[str, Any]:
        trust = Trust(self._folder, ca)
        files: dict[str, str] = {}
        resolv_conf = self._folder / "resolv.conf"
        resolv_conf.write_text(_our_resolv_conf(DNS))
        resolv_conf.chmod(0o644)  # the program may become another user
        files[str(_RESOLV_CONF)] = str(resolv_conf)  # where there is none, that is told
        store: list[str] = []
        if self._options.exec_trust_store:
            bundle = str(trust.with_ours(trust.roots))
            if os.path.dirname(trust.roots) == STORE_FOLDER:
                ours = str(trust.with_ours(""))
                store = [STORE_FOLDER, os.path.basename(trust.roots), bundle, ours, trust.hashed()]
            elif trust.roots.startswith("/etc/"):
                files[trust.roots] = bundle
        return {
            "argv": self.argv,
            "env": {**os.environ, **trust.variables(os.environ)},
            "ignore": [int(number) for number in self._ignored],
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
            "nofile": list(self._files),
            "ports": [int(port) for port in self._options.exec_host_ports],
            "files": files,
            "store": store,
            "hide": list(_BESIDE_DNS),
            "folder": str(self._folder),
        }

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._wire.namespace.tell({"signal": number})

    def _heard(self, said: dict[str, Any]) -> None:
        if "exit" in said:
            self.status = said["exit"]
            self.ended()

    def _lost(self) -> None:
        """Orphans of the helper's are our children now."""
        logger.error("the helper process was killed, and the program with it")
        system.end_descendants(0)
        self.status = 1 << 8
        self.ended()


def inherited() -> list[int]:
    """Descriptors that whoever started us meant for the program: what Python opens is never inheritable."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if (fd := int(name)) > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def _our_resolv_conf(servers: Sequence[str]) -> str:
    """Our name servers, and of the machine's own file what is not a server."""
    try:
        lines = _RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kept = [line for line in lines if line.split()[:1] in (["search"], ["domain"], ["options"], ["sortlist"])]
    return "\n".join([*(f"nameserver {server}" for server in servers), *kept, ""])
