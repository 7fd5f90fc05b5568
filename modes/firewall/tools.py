"""The programs and the library by which rules are laid, and what this process may."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

from appliance.exceptions import ModeError
from modes.firewall import nfnetlink, undo
from modes.firewall.plan import Plan, Redirect, Step, beat, iptables, nftables

_COMMAND_SECONDS = 10
_NET_ADMIN = 12
_NETFILTER = 12
WITHOUT = "or lay the rules yourself and use the bare listener (--set firewall=none, or transparent@PORT)"


class Failed(Exception):
    """A step that did not work, and what its program said."""


def chosen(backend: str) -> str:
    """The firewall to use. :raises ModeError: there is none."""
    if backend == "auto":
        if library() is not None or shutil.which("nft"):
            return "nftables"
        if shutil.which("iptables-restore"):
            return "iptables"
        raise ModeError(f"neither nftables nor iptables is installed: apt install nftables, {WITHOUT}")
    if backend == "nftables":
        if library() is None and not shutil.which("nft"):
            raise ModeError(f"nftables is not installed: apt install nftables, {WITHOUT}")
    elif not shutil.which(f"{backend}-restore"):
        raise ModeError(f"{backend}-restore is not installed: apt install iptables, {WITHOUT}")
    return backend


def made(backend: str, want: Redirect) -> Plan:
    """The plan of a backend."""
    return nftables(want) if backend == "nftables" else iptables(want, backend.removeprefix("iptables"))


def library() -> Any:
    """A new context of libnftables, None where it is missing."""
    try:
        import nftables as bindings

        return bindings.Nftables()
    except (ImportError, OSError, AttributeError):
        return None


class Nft:
    """Carries out nft commands: by libnftables, whose socket owns what it makes with `flags owner`, or by `nft`."""

    def __init__(self) -> None:
        before = netfilter_sockets()
        self._library = library()
        new = netfilter_sockets() - before
        for number in new:  # inheritable: a program that an add-on starts would keep our table alive
            fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        # The same socket to the kernel, the owner of what the library makes, for what is done often.
        self._socket = socket.socket(fileno=os.dup(new.pop())) if self._library and len(new) == 1 else None

    @property
    def can_own(self) -> bool:
        return self._socket is not None

    def renew(self, table: str, interfaces: Sequence[str]) -> None:
        """The set `alive` of an inet table holds on for longer. :raises Failed: it is not there."""
        if self._library is None:
            self.run(beat(table, interfaces))
            return
        with nfnetlink.socket_of_its_own() if self._socket is None else contextlib.nullcontext(self._socket) as sock:
            try:
                nfnetlink.renew(sock, table, "alive", interfaces)
            except OSError as e:
                raise Failed(f"table {table}: {e.strerror}") from None

    def delete(self, table: str) -> None:
        """An inet table, ours or nobody's. No error."""
        with contextlib.suppress(OSError):
            nfnetlink.delete_table("inet", table, self._socket)

    def close(self) -> None:
        """What is owned goes."""
        self._library = None
        if self._socket is not None:
            self._socket.close()

    def run(self, text: str) -> None:
        """One transaction. :raises Failed: the kernel did not take it, or the program is not there."""
        if self._library is None:
            run(Step(("nft", "-f", "-"), text))
            return
        code, _, error = self._library.cmd(text)
        if code:
            raise Failed(f"nftables: {error.strip().splitlines()[0] if error.strip() else code}")


def netfilter_sockets() -> set[int]:
    """This process's descriptors that are sockets of netlink to netfilter."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family == socket.AF_NETLINK and sock.proto == _NETFILTER:
                    found.add(int(name))
    return found


def ipv6_off() -> bool:
    with contextlib.suppress(OSError):
        return undo.sysctl("net.ipv6.conf.lo.disable_ipv6") != "0"
    return False


def may_administer() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _NET_ADMIN & 1)
    return False


def run(step: Step) -> None:
    try:
        done = subprocess.run(
            step.argv, input=step.input, capture_output=True, text=True, errors="replace", timeout=_COMMAND_SECONDS
        )
    except FileNotFoundError:
        raise Failed(f"{step.argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(step.argv)}: no answer within {_COMMAND_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed(f"{' '.join(step.argv)}: {lines[0]}")
